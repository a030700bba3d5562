// The file inspector of inspect_files on whole directory trees: a pool of workers parses one file after another, a bar
// shows how far it is, and a file that kills its worker costs itself alone.
//
//     inspect_tree [DIRECTORY...]
//
// Without directories: this machine's configuration, and a directory with a poisonous file in it.

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <vector>

#include <fmt/format.h>

#include <pynisher/pynisher.hpp>

#include "inspect_files/parsers.hpp"

using namespace std::chrono_literals;
using namespace pynisher::literals;

namespace {

namespace fs = std::filesystem;

/// A small tree in which one file overflows the stack of whoever reads it the usual way. It goes with this object.
class poisonous_tree {
 public:
  poisonous_tree() : root_((fs::temp_directory_path() / "inspect_tree.XXXXXX").string()) {
    if (::mkdtemp(root_.data()) == nullptr) throw std::system_error(errno, std::generic_category(), root_);
    fs::create_directories(fs::path(root_) / "etc" / "default");
    write("etc/harmless.conf", "NAME=\"a value\"\n");
    write("etc/default/poison.conf", "NAME=" + std::string(1 << 20, 'x') + "\n");
    write("etc/default/also_harmless.conf", "OTHER=1\n");
  }
  poisonous_tree(const poisonous_tree&) = delete;
  poisonous_tree& operator=(const poisonous_tree&) = delete;
  ~poisonous_tree() {
    std::error_code ignored;
    fs::remove_all(root_, ignored);
  }
  [[nodiscard]] const std::string& root() const { return root_; }

 private:
  void write(const char* name, const std::string& content) const {
    std::ofstream file(fs::path(root_) / name, std::ios::binary);
    if (!(file << content << std::flush)) throw std::runtime_error(fmt::format("cannot write {}/{}", root_, name));
  }
  std::string root_;
};

struct tree {
  std::vector<std::string> files;
  std::size_t others = 0;  ///< links, pipes, sockets
};

tree collect(const std::vector<std::string>& directories) {
  tree all;
  for (const auto& directory : directories) {
    for (const auto& entry : fs::recursive_directory_iterator(directory)) {
      if (entry.is_symlink() || !(entry.is_regular_file() || entry.is_directory())) {
        ++all.others;
      } else if (entry.is_regular_file()) {
        all.files.push_back(entry.path().string());
      }
    }
  }
  std::ranges::sort(all.files);
  return all;
}

int run(std::vector<std::string> directories) {
  const poisonous_tree poison;
  const bool own_tree = directories.empty();
  if (own_tree) directories = {"/etc", "/usr/share/doc/base-files", poison.root()};
  const tree found = collect(directories);
  fmt::print("{} files; {} links and other things are left out\n", found.files.size(), found.others);

  pynisher::options limits{.name = "inspector", .cpu_time = 10s, .wall_time = 60s};
  if (pynisher::supports(pynisher::feature::memory)) limits.memory = 256_MiB;
  auto pool = pynisher::make_pool({.workers = 2, .limits = limits}, inspector::inspect);

  std::vector<std::string> failed;
  std::size_t well = 0;
  for (auto&& result : pynisher::progress_bar(pool.map(found.files), {.label = "inspecting"})) {
    if (result.ok()) {
      ++well;
    } else {
      failed.push_back(found.files[result.index()]);
      fmt::print("{}: {}\n", failed.back(), result.what());
    }
  }
  fmt::print("{} files inspected, {} failed\n", well, failed.size());
  if (!own_tree) return 0;
  // The poison, nothing that stood beside it, and whatever else this machine has that its parser objects to.
  const auto has_failed = [&failed](const std::string& name) {
    return std::ranges::any_of(failed, [&name](const std::string& path) { return path.ends_with(name); });
  };
  return has_failed("/poison.conf") && !has_failed("/harmless.conf") && !has_failed("/also_harmless.conf") ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  pynisher::init(argc, argv);
  try {
    return run(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const std::exception& e) {
    fmt::print(stderr, "inspect_tree: {}\n", e.what());
    return 2;
  }
}
