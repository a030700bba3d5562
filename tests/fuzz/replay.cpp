// Feeds the fuzzed function with files, and with mutations of them that are the same on every machine: what libFuzzer
// does without its search, for every compiler and every run of the tests.
//
//     replay_<target> <file or directory>...

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <set>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using input = std::vector<std::uint8_t>;

constexpr int mutations_per_seed = 300;

std::vector<input> seeds_of(int argc, char** argv) {
  std::set<std::filesystem::path> files;  // sorted, so that every run is the same
  for (int i = 1; i < argc; ++i) {
    if (std::filesystem::is_directory(argv[i])) {
      for (const auto& entry : std::filesystem::recursive_directory_iterator(argv[i])) {
        if (entry.is_regular_file()) files.insert(entry.path());
      }
    } else if (std::filesystem::exists(argv[i])) {
      files.insert(argv[i]);
    }
  }
  std::vector<input> seeds;
  for (const auto& path : files) {
    std::ifstream file(path, std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return seeds;
}

void overwrite(input& bytes, std::size_t at, std::uint64_t value, std::size_t width) {
  for (std::size_t i = 0; i < width && at + i < bytes.size(); ++i) {
    bytes[at + i] = static_cast<std::uint8_t>(value >> (8 * i));
  }
}

input mutated(const input& seed, const input& other, std::mt19937& random) {
  static constexpr std::uint64_t notable[] = {0,
                                              1,
                                              2,
                                              0x7f,
                                              0x80,
                                              0xff,
                                              0x100,
                                              0xffff,
                                              0x10000,
                                              0x7fffffff,
                                              0x80000000,
                                              0xffffffff,
                                              std::uint64_t{1} << 32,
                                              ~std::uint64_t{0} >> 1,
                                              ~std::uint64_t{0}};
  input bytes = seed;
  for (unsigned changes = 1 + random() % 4; changes > 0 && !bytes.empty(); --changes) {
    const std::size_t at = random() % bytes.size();
    switch (random() % 6) {
      case 0:
        bytes[at] = static_cast<std::uint8_t>(random());
        break;
      case 1:
        bytes[at] ^= static_cast<std::uint8_t>(1u << random() % 8);
        break;
      case 2:
        overwrite(bytes, at, notable[random() % std::size(notable)], 8);
        break;
      case 3:
        overwrite(bytes, at, bytes.size() + random() % 5 - 2, 8);
        break;
      case 4:
        bytes.resize(at);
        break;
      default:
        if (!other.empty()) {
          const auto from = static_cast<std::ptrdiff_t>(random() % other.size());
          bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(at), other.begin() + from, other.end());
        }
    }
  }
  return bytes;
}

void feed(const input& bytes) {
  // A block of exactly this size, so that a sanitizer sees a byte too far.
  input exact(bytes);
  exact.shrink_to_fit();
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

}  // namespace

int main(int argc, char** argv) {
  const auto seeds = seeds_of(argc, argv);
  if (seeds.empty()) {
    std::fprintf(stderr, "there is nothing to replay\n");
    return 1;
  }
  std::mt19937 random(20260101);
  std::size_t fed = 0;
  for (const auto& seed : seeds) {
    feed(seed);
    ++fed;
    for (int i = 0; i < mutations_per_seed; ++i, ++fed) feed(mutated(seed, seeds[random() % seeds.size()], random));
  }
  std::printf("%zu inputs, of which %zu are files\n", fed, seeds.size());
}
