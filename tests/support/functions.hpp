#pragma once

// What one process does, by name: loads, refusals, crashes.

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>
#include <vector>

namespace support {

inline constexpr std::size_t KiB = std::size_t{1} << 10;
inline constexpr std::size_t MiB = std::size_t{1} << 20;
inline constexpr std::size_t GiB = std::size_t{1} << 30;

// --- time -----------------------------------------------------------------------------------------------------

/// Sleeps without end and without CPU time.
[[noreturn]] inline void sleep_forever() {
  for (;;) ::pause();
}

/// Uses CPU time without end.
[[noreturn]] inline void spin_forever() {
  for (volatile unsigned turns = 0;;) turns = turns + 1;
}

/// CPU time of the whole process so far.
inline std::chrono::nanoseconds cpu_time_used() {
  timespec used{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec);
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

/// Ends by itself after two minutes, so that a failed test leaves nothing for long.
[[noreturn]] inline void sleep_two_minutes() {
  timespec left{120, 0};
  while (::nanosleep(&left, &left) != 0 && errno == EINTR) {
  }
  ::_exit(0);
}

// --- signals ----------------------------------------------------------------------------------------------------

inline void ignore(int signal) { ::signal(signal, SIG_IGN); }
inline void handle_by_nothing(int signal) {
  ::signal(signal, [](int) {});
}
inline void block_all_signals() {
  sigset_t all;
  sigfillset(&all);
  ::sigprocmask(SIG_SETMASK, &all, nullptr);
}
inline void ignore_sigterm() { ignore(SIGTERM); }

/// Sends a signal to the calling thread's own process; returns if that did not end it.
inline void signal_self(int signal) { ::kill(::getpid(), signal); }

// --- memory -----------------------------------------------------------------------------------------------------

/// Makes every page of a block the process's own.
inline void touch(void* block, std::size_t bytes) {
  auto* at = static_cast<volatile char*>(block);
  for (std::size_t i = 0; i < bytes; i += 4096) at[i] = 1;
}

/// Holds `bytes` of private memory, every page touched, for as long as it lives.
class held_memory {
 public:
  explicit held_memory(std::size_t bytes) : bytes_(bytes) {
    block_ = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block_ == MAP_FAILED) throw std::bad_alloc();
    touch(block_, bytes);
  }
  held_memory(const held_memory&) = delete;
  held_memory& operator=(const held_memory&) = delete;
  ~held_memory() { ::munmap(block_, bytes_); }

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

/// Until it is refused.
[[noreturn]] inline void touch_memory_forever() {
  std::vector<std::vector<char>> pieces;
  for (;;) pieces.emplace_back(MiB, 'x');
}

/// malloc until it says no; true: it did, and errno is what it left.
inline bool malloc_until_refused() {
  for (;;) {
    void* block = std::malloc(16 * MiB);
    if (block == nullptr) return true;
    std::memset(block, 1, 16 * MiB);
  }
}

/// C code that does not look at what malloc returns. Dies of SIGSEGV when that is null.
[[noreturn]] inline void write_where_malloc_was_refused() {
  for (;;) {
    auto* block = static_cast<volatile char*>(std::malloc(16 * MiB));
    // volatile, or the compiler may conclude from the write that block is not null.
    for (std::size_t i = 0; i < 16 * MiB; i += 4096) block[i] = 1;
  }
}

/// std::bad_alloc ends it by std::terminate.
inline void touch_memory_noexcept() noexcept { touch_memory_forever(); }

/// std::bad_alloc leaves a thread that is not the first.
[[noreturn]] inline void touch_memory_in_a_thread() {
  std::thread(touch_memory_forever).join();
  ::_exit(96);
}

/// Keeps mapping shared memory and touching it.
[[noreturn]] inline void touch_shared_memory_forever() {
  for (;;) {
    void* block = ::mmap(nullptr, 4 * MiB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) throw std::bad_alloc();
    touch(block, 4 * MiB);
  }
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

/// SIGBUS: a page of a file that has none.
inline void read_past_end_of_file() {
  std::FILE* file = std::tmpfile();
  void* page = ::mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, ::fileno(file), 0);
  [[maybe_unused]] const char c = *static_cast<volatile char*>(page);
}

[[noreturn]] inline void illegal_instruction() { __builtin_trap(); }

}  // namespace support
