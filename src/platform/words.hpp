#pragma once

// What the systems have in common, under the names that POSIX has for it: numbers of processes and signals.

#include <csignal>
#include <cstdint>

#include <sys/types.h>

#if defined(_WIN32)

// Signals that this system has not got, by their numbers on Linux: crashes and kills are told by them everywhere.
#if !defined(SIGKILL)
#define SIGKILL 9
#endif
#if !defined(SIGTRAP)
#define SIGTRAP 5
#endif
#if !defined(SIGBUS)
#define SIGBUS 7
#endif
#if !defined(SIGSYS)
#define SIGSYS 31
#endif
#if !defined(SIGXCPU)
#define SIGXCPU 24
#endif

namespace pynisher {
/// Not all C libraries have the word here.
using pid_t = std::intptr_t;
}  // namespace pynisher

namespace pynisher::platform {
/// There are no signals to be blocked.
struct signal_mask {};
}  // namespace pynisher::platform

#else

#include <signal.h>

namespace pynisher::platform {
using signal_mask = sigset_t;
}

#endif

namespace pynisher::platform {

/// "SEGV"; null: it has no name. And what it means.
const char* signal_name(int signal) noexcept;
const char* signal_meaning(int signal) noexcept;

/// What this thread has blocked.
signal_mask blocked_signals() noexcept;
void block_signals(const signal_mask& these) noexcept;
/// Blocks all; returns what was blocked before.
signal_mask block_all_signals() noexcept;

}  // namespace pynisher::platform
