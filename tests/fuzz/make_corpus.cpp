// Writes the seeds: real values, real exceptions, real replies. Made and not kept, because the names of types in them
// are the compiler's.
//
//     make_corpus <directory>     fills <directory>/archive, .../exception, .../reply

#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>

#include "fuzz/archive_shapes.hpp"
#include "fuzz/reply_program.hpp"
#include "fuzz/thrown_samples.hpp"
#include "reply_region.hpp"
#include "unit/archive_bytes.hpp"
#include "unit/exception_bytes.hpp"

namespace {

using pynisher::testing::bytes;
using pynisher::testing::packed;

class seed_writer {
 public:
  explicit seed_writer(std::filesystem::path directory) : directory_(std::move(directory)) {
    std::filesystem::create_directories(directory_);
  }
  void write(const bytes& seed) {
    std::ofstream file(directory_ / ("seed_" + std::to_string(count_++)), std::ios::binary);
    file.exceptions(std::ios::failbit | std::ios::badbit);
    file.write(reinterpret_cast<const char*>(seed.data()), static_cast<std::streamsize>(seed.size()));
  }

 private:
  std::filesystem::path directory_;
  int count_ = 0;
};

fuzz::record sample_record() {
  fuzz::record r;
  r.yes = true;
  r.paint = fuzz::colour::blue;
  r.name = "record";
  r.values.assign(10, 0.5);
  r.flags[2] = true;
  r.path = "/a/b";
  r.time = std::chrono::seconds(5);
  return r;
}

/// A value of each shape that is not empty where it can be helped.
template <class T>
T sample() {
  if constexpr (std::is_same_v<T, fuzz::record>) {
    return sample_record();
  } else if constexpr (std::is_same_v<T, std::vector<fuzz::record>>) {
    return {sample_record(), {}};
  } else if constexpr (std::is_same_v<T, std::map<std::string, fuzz::record>>) {
    return {{"key", sample_record()}};
  } else if constexpr (std::is_same_v<T, fuzz::chain>) {
    return {1, std::make_unique<fuzz::chain>(fuzz::chain{2, nullptr})};
  } else if constexpr (std::is_same_v<T, fuzz::tree>) {
    return {std::vector<fuzz::tree>{{true}, {std::string("leaf")}, {std::map<std::string, fuzz::tree>{{"k", {}}}}}};
  } else if constexpr (requires(T t) { t.resize(std::size_t{3}); }) {
    T value;
    value.resize(3);
    return value;
  } else if constexpr (std::is_same_v<T, std::unordered_map<int, std::string>> ||
                       std::is_same_v<T, std::multimap<int, std::string>>) {
    return {{1, "one"}, {2, "two"}};
  } else if constexpr (std::is_same_v<T, std::set<std::pair<int, std::string>>>) {
    return {{1, "one"}, {2, "two"}};
  } else if constexpr (std::is_same_v<T, std::unordered_set<std::string>>) {
    return {"one", "two"};
  } else {
    return T{};
  }
}

void write_archive_seeds(seed_writer seeds) {
  for (std::size_t number = 0; number < fuzz::shape_count; ++number) {
    fuzz::with_shape(number, [&]<class T>() {
      for (const bytes& value : {packed(sample<T>()), packed(T{})}) {
        bytes seed{static_cast<std::byte>(number), std::byte{0}};
        seed.insert(seed.end(), value.begin(), value.end());
        seeds.write(seed);
      }
    });
  }
}

void write_exception_seeds(seed_writer seeds) {
  for (const auto& throwing : fuzz::throwing_samples()) {
    seeds.write(pynisher::testing::packed_exception(pynisher::testing::thrown_by(throwing)));
  }
}

class program {
 public:
  program& then(fuzz::act what, std::uint64_t value, const bytes& behind = {}) {
    text_.push_back(static_cast<std::byte>(what));
    const bytes number = packed(value);
    text_.insert(text_.end(), number.begin(), number.end());
    text_.insert(text_.end(), behind.begin(), behind.end());
    return *this;
  }
  /// All that an honest child does.
  program& reply(pynisher::detail::reply_kind kind, const bytes& value) {
    return then(fuzz::act::write_bytes, value.size(), value)
        .then(fuzz::act::set_kind, static_cast<std::uint64_t>(kind))
        .then(fuzz::act::set_end, value.size())
        .then(fuzz::act::commit, 1);
  }
  [[nodiscard]] const bytes& text() const { return text_; }

 private:
  bytes text_;
};

void write_reply_seeds(seed_writer seeds) {
  using fuzz::act;
  using pynisher::detail::reply_kind;
  using pynisher::detail::reply_region;
  seeds.write(program().reply(reply_kind::value, packed(sample<fuzz::tree>())).text());
  seeds.write(program().reply(reply_kind::unsendable, packed(std::string("too deep"))).text());
  seeds.write(program().reply(reply_kind::out_of_memory, {}).text());
  for (const auto& throwing : fuzz::throwing_samples()) {
    const auto packed_one = pynisher::testing::packed_exception(pynisher::testing::thrown_by(throwing));
    seeds.write(program().reply(reply_kind::exception, packed_one).text());
  }
  const std::uint64_t nearly_all = reply_region::ring_size - 10;
  seeds.write(program()
                  .then(act::skip_bytes, nearly_all)
                  .then(act::parent_takes, 0)
                  .then(act::set_begin, nearly_all)
                  .reply(reply_kind::value, packed(sample<fuzz::tree>()))
                  .text());
  seeds.write(program().then(act::set_written, reply_region::ring_size + 1).then(act::parent_takes, 0).text());
  seeds.write(program().then(act::set_written, 100).then(act::parent_takes, 0).then(act::set_written, 99).text());
  seeds.write(program().then(act::set_consumed, ~std::uint64_t{0}).then(act::set_waits, ~std::uint64_t{0}).text());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_corpus <directory>\n");
    return 2;
  }
  const std::filesystem::path directory = argv[1];
  write_archive_seeds(seed_writer(directory / "archive"));
  write_exception_seeds(seed_writer(directory / "exception"));
  write_reply_seeds(seed_writer(directory / "reply"));
}
