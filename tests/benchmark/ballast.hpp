#pragma once

#include <sys/mman.h>

#include <cstddef>

#include "row.hpp"

namespace pynisher_benchmark {

/// Memory that this process holds, in small pages, as long as this lives.
class ballast {
 public:
  explicit ballast(std::size_t size)
      : size_(size),
        memory_(size == 0 ? nullptr : mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    expect(memory_ != MAP_FAILED, "no memory for the ballast");
    if (size == 0) return;
    madvise(memory_, size, MADV_NOHUGEPAGE);
    auto* bytes = static_cast<volatile char*>(memory_);
    for (std::size_t i = 0; i < size; i += 4096) bytes[i] = 1;
  }
  ~ballast() {
    if (size_ > 0) munmap(memory_, size_);
  }
  ballast(const ballast&) = delete;
  ballast& operator=(const ballast&) = delete;

 private:
  std::size_t size_;
  void* memory_;
};

}  // namespace pynisher_benchmark
