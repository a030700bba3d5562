#pragma once

// Memory in which a child tells what the reply would not: it is a benchmark's own, and outlives the child.

#include <new>

#include <sys/mman.h>

#include "row.hpp"

namespace pynisher_benchmark {

template <class T>
class shared_board {
 public:
  shared_board() : memory_(mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) {
    expect(memory_ != MAP_FAILED, "no shared memory");
    board_ = new (memory_) T;
  }
  ~shared_board() { munmap(memory_, sizeof(T)); }
  shared_board(const shared_board&) = delete;
  shared_board& operator=(const shared_board&) = delete;
  T* operator->() const { return board_; }

 private:
  void* memory_;
  T* board_ = nullptr;
};

}  // namespace pynisher_benchmark
