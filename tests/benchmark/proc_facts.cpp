#include "proc_facts.hpp"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <unistd.h>

namespace pynisher_benchmark {

namespace {

std::uint64_t statm_field(int wanted) {
  std::ifstream statm("/proc/self/statm");
  std::uint64_t pages = 0;
  for (int i = 0; i <= wanted; ++i) statm >> pages;
  return pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

int entries(const char* directory) {
  return static_cast<int>(std::distance(std::filesystem::directory_iterator(directory), {}));
}

}  // namespace

std::uint64_t mapped_bytes() { return statm_field(0); }
std::uint64_t resident_bytes() { return statm_field(1); }

// The listing holds a descriptor itself.
int open_descriptors() { return entries("/proc/self/fd") - 1; }

int children() {
  std::ifstream list("/proc/self/task/" + std::to_string(getpid()) + "/children");
  return static_cast<int>(std::distance(std::istream_iterator<int>(list), {}));
}

int other_threads() { return entries("/proc/self/task") - 1; }

}  // namespace pynisher_benchmark
