#pragma once

// What one process does, by name, on every system: loads, refusals, crashes.

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>
#include <vector>

#include "support/system.hpp"

namespace support {

inline constexpr std::size_t KiB = std::size_t{1} << 10;
inline constexpr std::size_t MiB = std::size_t{1} << 20;
inline constexpr std::size_t GiB = std::size_t{1} << 30;

// --- time -----------------------------------------------------------------------------------------------------

/// Uses CPU time without end.
[[noreturn]] inline void spin_forever() {
  for (volatile unsigned turns = 0;;) turns = turns + 1;
}

/// Returns when the process has used so much CPU time.
inline void spin_for(std::chrono::nanoseconds cpu) {
  while (cpu_time_used() < cpu) {
  }
}

/// Spins in all of `count` threads without end.
[[noreturn]] inline void spin_in_threads(int count) {
  for (int i = 1; i < count; ++i) std::thread(spin_forever).detach();
  spin_forever();
}

// --- memory -----------------------------------------------------------------------------------------------------

/// Makes every page of a block the process's own.
inline void touch(void* block, std::size_t bytes) {
  auto* at = static_cast<volatile char*>(block);
  for (std::size_t i = 0; i < bytes; i += 4096) at[i] = 1;
}

/// Holds `bytes` of private memory, every page touched, for as long as it lives.
class held_memory {
 public:
  explicit held_memory(std::size_t bytes) : block_(take_pages(bytes)), bytes_(bytes) {
    if (block_ == nullptr) throw std::bad_alloc();
    touch(block_, bytes);
  }
  held_memory(const held_memory&) = delete;
  held_memory& operator=(const held_memory&) = delete;
  ~held_memory() { give_back_pages(block_, bytes_); }

 private:
  void* block_;
  std::size_t bytes_;
};

/// Allocates and touches in pieces of 1 MiB, as programs do, and returns the bytes. Throws std::bad_alloc.
inline std::size_t touch_memory(std::size_t bytes) {
  std::vector<std::vector<char>> pieces;
  pieces.reserve(bytes / MiB + 1);
  for (std::size_t done = 0; done < bytes; done += MiB) pieces.emplace_back(std::min(MiB, bytes - done), 'x');
  return bytes;
}

/// Where somebody only looks at it now and then, memory is taken no faster than so.
inline void take_time_where_memory_is_sampled() {
  static const bool is_sampled = !memory_is_refused();
  if (is_sampled) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

/// Until it is refused, or somebody ends it.
[[noreturn]] inline void touch_memory_forever() {
  std::vector<std::vector<char>> pieces;
  for (;;) {
    pieces.emplace_back(MiB, 'x');
    take_time_where_memory_is_sampled();
  }
}

/// malloc until it says no; true: it did, and errno is what it left.
inline bool malloc_until_refused() {
  for (;;) {
    void* block = std::malloc(16 * MiB);
    if (block == nullptr) return true;
    std::memset(block, 1, 16 * MiB);
    take_time_where_memory_is_sampled();
  }
}

/// C code that does not look at what malloc returns. Dies of SIGSEGV when that is null.
[[noreturn]] inline void write_where_malloc_was_refused() {
  for (;;) {
    auto* block = static_cast<volatile char*>(std::malloc(16 * MiB));
    // volatile, or the compiler may conclude from the write that block is not null.
    for (std::size_t i = 0; i < 16 * MiB; i += 4096) block[i] = 1;
    take_time_where_memory_is_sampled();
  }
}

/// std::bad_alloc ends it by std::terminate.
inline void touch_memory_noexcept() noexcept { touch_memory_forever(); }

/// std::bad_alloc leaves a thread that is not the first.
[[noreturn]] inline void touch_memory_in_a_thread() {
  std::thread(touch_memory_forever).join();
  std::_Exit(96);
}

// --- crashes ----------------------------------------------------------------------------------------------------

/// SIGSEGV at a null pointer.
inline void write_to_null() {
  // Volatile twice, so that the compiler neither knows the address nor drops the write.
  volatile int* volatile nowhere = nullptr;
  *nowhere = 1;
}

/// SIGFPE.
inline int divide_by_zero() {
  volatile int zero = 0;
  // Volatile as well, since a quotient that nobody uses is not computed; nor is 1 / x ever divided.
  volatile int quotient = 7 / zero;
  return quotient;
}

/// Runaway recursion: SIGSEGV at the end of the stack.
inline int overflow_the_stack(int depth) {
  volatile char frame[4096];
  frame[0] = static_cast<char>(depth);
  // Not a tail call: the frame is read afterwards.
  return depth < 0 ? 0 : overflow_the_stack(depth + 1) + frame[0];
}

[[noreturn]] inline void illegal_instruction() {
#if defined(_MSC_VER) && !defined(__clang__)
  __ud2();
  std::abort();
#else
  __builtin_trap();
#endif
}

}  // namespace support
