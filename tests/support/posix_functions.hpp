#pragma once

// What one process does, and how others look at it, where there are signals, mappings and process states.

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <new>

#include "support/functions.hpp"
#include "support/processes.hpp"

namespace support {

/// Ends by itself after two minutes, so that a failed test leaves nothing for long.
[[noreturn]] inline void sleep_two_minutes() {
  timespec left{120, 0};
  while (::nanosleep(&left, &left) != 0 && errno == EINTR) {
  }
  ::_exit(0);
}

/// Both ends are closed in programs that are started. Throws std::runtime_error.
void make_pipe(int (&ends)[2]);

/// 'R', 'S', 'T', 'Z', ... as in /proc; 0 when there is no such process.
char process_state(process_id pid);

inline void await_stopped(process_id pid) {
  await([pid] { return process_state(pid) == 'T' || is_gone(pid); });
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

/// Keeps mapping shared memory and touching it.
[[noreturn]] inline void touch_shared_memory_forever() {
  for (;;) {
    void* block = ::mmap(nullptr, 4 * MiB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) throw std::bad_alloc();
    touch(block, 4 * MiB);
  }
}

/// SIGBUS: a page of a file that has none.
inline void read_past_end_of_file() {
  std::FILE* file = std::tmpfile();
  void* page = ::mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, ::fileno(file), 0);
  [[maybe_unused]] const char c = *static_cast<volatile char*>(page);
}

}  // namespace support
