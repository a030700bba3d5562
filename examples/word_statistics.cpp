// Word statistics of a collection of texts, by workers that prepare themselves once and then read one document after
// another.
//
//     word_statistics [DIRECTORY...]
//
// Without directories: the licences that this machine's software stands under. What cannot be read is named, not passed
// over.

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <system_error>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include <pynisher/pynisher.hpp>

using namespace std::chrono_literals;
using namespace pynisher::literals;

namespace {

struct document {
  std::size_t words = 0;
  std::map<std::string, std::size_t> counts;  ///< of those that are not too common to tell anything
  std::size_t read_before = 0;                ///< documents that the same worker had read already

  template <class Archive>
  void serialize(Archive& archive) {
    archive(words, counts, read_before);
  }
};

/// Made in each worker, and kept there.
class tokenizer {
 public:
  tokenizer(const std::vector<std::string>& common_words, std::size_t shortest)
      : common_(common_words.begin(), common_words.end()), shortest_(shortest) {}

  document operator()(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::system_error(errno, std::generic_category(), path);
    document found;
    found.read_before = documents_++;
    std::string word;
    for (char c = 0; file.get(c);) {
      if (std::isalpha(static_cast<unsigned char>(c)) != 0) {
        word += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      } else {
        note(word, found);
      }
    }
    note(word, found);
    if (file.bad()) throw std::system_error(errno, std::generic_category(), path);
    return found;
  }

 private:
  void note(std::string& word, document& in) {
    if (!word.empty()) ++in.words;
    if (word.size() >= shortest_ && !common_.contains(word)) ++in.counts[word];
    word.clear();
  }

  std::unordered_set<std::string> common_;
  std::size_t shortest_;
  std::size_t documents_ = 0;
};

struct collection {
  std::vector<std::string> documents;
  std::size_t links = 0;  ///< to documents that are there themselves
};

collection collect(const std::vector<std::string>& directories) {
  collection all;
  for (const auto& directory : directories) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
      if (entry.is_symlink()) {
        ++all.links;
      } else if (entry.is_regular_file()) {
        all.documents.push_back(entry.path().string());
      }
    }
  }
  std::ranges::sort(all.documents);
  return all;
}

struct statistics {
  std::size_t words = 0;
  std::unordered_map<std::string, std::size_t> counts;

  void add(const document& one) {
    words += one.words;
    for (const auto& [word, count] : one.counts) counts[word] += count;
  }
};

void print_most_frequent(const statistics& all, std::size_t most) {
  std::vector<std::pair<std::string, std::size_t>> ranking(all.counts.begin(), all.counts.end());
  std::ranges::sort(ranking, [](const auto& a, const auto& b) {
    return a.second != b.second ? a.second > b.second : a.first < b.first;
  });
  ranking.resize(std::min(ranking.size(), most));
  for (const auto& [word, count] : ranking) std::printf("%8zu  %s\n", count, word.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  pynisher::init(argc, argv);
  std::vector<std::string> directories(argv + 1, argv + argc);
  if (directories.empty()) directories = {"/usr/share/common-licenses", "/usr/share/doc/base-files"};
  const std::vector<std::string> common{"the", "of", "and", "to", "or", "in", "a", "you", "that", "is", "for", "this"};

  const collection texts = collect(directories);
  std::printf("%zu documents; %zu links to some of them are left out\n", texts.documents.size(), texts.links);

  // Every worker makes its own tokenizer, from these arguments.
  pynisher::worker_pool<tokenizer> pool({.workers = 2, .limits = {.wall_time = 60s}, .chunk = 4},
                                        pynisher::shared(common, std::size_t{4}));
  statistics all;
  std::size_t failed = 0;
  std::map<unsigned, std::size_t> by_worker;
  for (auto&& result : pynisher::progress_bar(pool.map(texts.documents), {.label = "documents"})) {
    if (result.ok()) {
      all.add(result.value());
      ++by_worker[result.worker()];
    } else {
      ++failed;
      std::printf("%s: %s\n", texts.documents[result.index()].c_str(), result.what().c_str());
    }
  }
  print_most_frequent(all, 10);
  for (const auto& [worker, count] : by_worker) std::printf("worker %u has read %zu documents\n", worker, count);
  std::printf("%zu words, %zu different ones; %zu documents failed\n", all.words, all.counts.size(), failed);

  // The same, without a pool.
  statistics expected;
  std::size_t unreadable = 0;
  tokenizer here(common, 4);
  for (const auto& path : texts.documents) {
    try {
      expected.add(here(path));
    } catch (const std::system_error&) {
      ++unreadable;
    }
  }
  const bool right = all.words == expected.words && all.counts == expected.counts && failed == unreadable;
  return right && all.words > 0 ? 0 : 1;
}
