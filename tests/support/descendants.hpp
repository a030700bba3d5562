#pragma once

// What a function starts and leaves behind, and how it ends, by name.

#include <errno.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <ostream>
#include <stdexcept>
#include <string>
#include <system_error>

#include "support/functions.hpp"
#include "support/posix_functions.hpp"
#include "support/processes.hpp"

namespace support {

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
