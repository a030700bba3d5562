#pragma once

// What children do in tests, by name. All are plain functions of values, so that every start method can call them.
// None of them is meant to return unless it says so.

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
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
#include <ostream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "support/processes.hpp"

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

// --- descendants ------------------------------------------------------------------------------------------------

/// The ways in which a process tries, or happens, to outlive the one that started it.
enum class descendant {
  plain,
  in_own_group,
  in_own_session,
  double_forked,
  double_forked_in_own_session,
  ignores_sigterm,
  blocks_all_signals,
  stopped,
  with_own_children,  ///< three generations
  hops,               ///< forks and exits, again and again: never the same process for long
  breeds,             ///< forks children, again and again
};

inline constexpr descendant all_descendants[] = {
    descendant::plain,
    descendant::in_own_group,
    descendant::in_own_session,
    descendant::double_forked,
    descendant::double_forked_in_own_session,
    descendant::ignores_sigterm,
    descendant::blocks_all_signals,
    descendant::stopped,
    descendant::with_own_children,
    descendant::hops,
    descendant::breeds,
};

inline const char* name_of(descendant kind) {
  switch (kind) {
    case descendant::plain:
      return "plain";
    case descendant::in_own_group:
      return "in_own_group";
    case descendant::in_own_session:
      return "in_own_session";
    case descendant::double_forked:
      return "double_forked";
    case descendant::double_forked_in_own_session:
      return "double_forked_in_own_session";
    case descendant::ignores_sigterm:
      return "ignores_sigterm";
    case descendant::blocks_all_signals:
      return "blocks_all_signals";
    case descendant::stopped:
      return "stopped";
    case descendant::with_own_children:
      return "with_own_children";
    case descendant::hops:
      return "hops";
    case descendant::breeds:
      return "breeds";
  }
  return "unknown";
}

namespace detail {

using descendant_clock = std::chrono::steady_clock;

/// Bounded in time, in case that nobody kills it.
[[noreturn]] inline void hop(const char* log) {
  const auto end = descendant_clock::now() + std::chrono::seconds(30);
  while (descendant_clock::now() < end) {
    const pid_t next = ::fork();
    if (next > 0) ::_exit(0);
    log_process(log);
  }
  ::_exit(0);
}

[[noreturn]] inline void breed(const char* log) {
  for (int born = 0; born < 200; ++born) {
    if (::fork() == 0) {
      log_process(log);
      sleep_two_minutes();
    }
    const timespec moment{0, 50'000};
    ::nanosleep(&moment, nullptr);
  }
  sleep_two_minutes();
}

[[noreturn]] inline void live_as(descendant kind, const char* log) {
  switch (kind) {
    case descendant::plain:
      break;
    case descendant::in_own_group:
      ::setpgid(0, 0);
      break;
    case descendant::in_own_session:
      ::setsid();
      break;
    case descendant::double_forked:
      if (::fork() > 0) ::_exit(0);
      break;
    case descendant::double_forked_in_own_session:
      ::setsid();
      if (::fork() > 0) ::_exit(0);
      break;
    case descendant::ignores_sigterm:
      ignore_sigterm();
      break;
    case descendant::blocks_all_signals:
      block_all_signals();
      break;
    case descendant::stopped:
      log_process(log);
      ::raise(SIGSTOP);
      sleep_two_minutes();
    case descendant::with_own_children:
      for (int generation = 0; generation < 2; ++generation) {
        if (::fork() > 0) break;
      }
      break;
    case descendant::hops:
      log_process(log);
      hop(log);
    case descendant::breeds:
      log_process(log);
      breed(log);
  }
  log_process(log);
  sleep_two_minutes();
}

}  // namespace detail

/// Starts one and comes back when it (and what it starts) is in the list and as it is to be.
inline void start_descendant(descendant kind, const std::string& log) {
  const std::size_t before = logged_processes(log).size();
  const pid_t pid = ::fork();
  if (pid < 0) throw std::system_error(errno, std::system_category(), "fork");
  if (pid == 0) detail::live_as(kind, log.c_str());
  const std::size_t family = kind == descendant::with_own_children                    ? 3
                             : kind == descendant::hops || kind == descendant::breeds ? 5
                                                                                      : 1;
  await_logged(log, before + family);
  if (kind == descendant::stopped) await_stopped(pid);
}

/// A daemon of the classic kind, then a limited function that never ends.
inline void double_fork_and_sleep(std::string log) {
  start_descendant(descendant::double_forked_in_own_session, log);
  sleep_forever();
}

// --- ends -------------------------------------------------------------------------------------------------------

/// The ways in which a limited function ends.
enum class ending {
  returns,
  throws,
  segfault,
  aborts,
  kills_itself,
  calls_exit,
  calls_underscore_exit,
  calls_quick_exit,
  sleeps,  ///< until a limit ends it
  spins,   ///< until a limit ends it
};

inline constexpr ending all_endings[] = {
    ending::returns,
    ending::throws,
    ending::segfault,
    ending::aborts,
    ending::kills_itself,
    ending::calls_exit,
    ending::calls_underscore_exit,
    ending::calls_quick_exit,
    ending::sleeps,
    ending::spins,
};

inline const char* name_of(ending how) {
  switch (how) {
    case ending::returns:
      return "returns";
    case ending::throws:
      return "throws";
    case ending::segfault:
      return "segfault";
    case ending::aborts:
      return "aborts";
    case ending::kills_itself:
      return "kills_itself";
    case ending::calls_exit:
      return "calls_exit";
    case ending::calls_underscore_exit:
      return "calls_underscore_exit";
    case ending::calls_quick_exit:
      return "calls_quick_exit";
    case ending::sleeps:
      return "sleeps";
    case ending::spins:
      return "spins";
  }
  return "unknown";
}

/// Returns only for `ending::returns`.
inline void end_by(ending how) {
  switch (how) {
    case ending::returns:
      return;
    case ending::throws:
      throw std::out_of_range("as the test wants it");
    case ending::segfault:
      return write_to_null();
    case ending::aborts:
      std::abort();
    case ending::kills_itself:
      return signal_self(SIGKILL);
    case ending::calls_exit:
      std::exit(3);
    case ending::calls_underscore_exit:
      ::_exit(3);
    case ending::calls_quick_exit:
      std::quick_exit(3);
    case ending::sleeps:
      sleep_forever();
    case ending::spins:
      spin_forever();
  }
}

inline void PrintTo(descendant kind, std::ostream* os) { *os << name_of(kind); }
inline void PrintTo(ending how, std::ostream* os) { *os << name_of(how); }

}  // namespace support
