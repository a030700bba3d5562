#pragma once

// What every forked child writes to, on one page. Each page costs a child a fault and a copy, and those are most of
// what a call takes whose function does little.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>

#include "../fork_safe_mutex.hpp"
#include "words.hpp"

namespace pynisher::detail {
struct reply_region;
class reply_writer;
class output_archive;
}  // namespace pynisher::detail

namespace pynisher::platform {

/// What crash handlers and nested calls need to know of the call around them. Set once per child.
struct surrounding_call {
#if !defined(_WIN32)
  static constexpr std::size_t crash_signals = 7;
  struct sigaction before_crash[crash_signals] = {};
#endif
  long pid = 0;
  detail::reply_region* region = nullptr;
  bool ends_descendants = false;
  bool is_fresh = false;
  bool is_prepared = false;
  std::optional<std::chrono::nanoseconds> cpu_limit;
  bool has_memory_limit = false;
};

/// The one call that a child exists for.
struct call_of_child {
  pid_t pid = 0;
  detail::reply_region* region = nullptr;
  detail::reply_writer* writer = nullptr;
  detail::output_archive* archive = nullptr;
  std::terminate_handler terminate_before = nullptr;
  std::atomic<pid_t> replying_thread{0};
  bool is_prepared = false;
  int conversation = -1;
  int doorbell = -1;
  std::uintptr_t generation = 0;  ///< calls within calls; of the program itself: 0
  void (*at_exit)(int code) = nullptr;
  void (*at_quick_exit)(int code) = nullptr;
};

/// The descriptors of all calls in flight, for their children to close. More than fit are inherited: harmless, but not
/// theirs.
struct listed_descriptors {
  static constexpr std::size_t most = std::size_t{1} << 16;
  /// The process whose list it is: a forked copy of the program begins an empty one.
  std::atomic<pid_t> owner{0};
  std::atomic<std::size_t> places_used{0};
  std::atomic<int> places[most] = {};  ///< plus one: zero is an empty place
};

/// Which of the marks of calls that are in no other call are taken, a bit for each.
struct taken_marks {
  static constexpr std::size_t words = 256;
  std::atomic<std::size_t> next{0};
  std::atomic<std::uint64_t> bits[words] = {};
};

/// A call's shared memory that waits for the next call: pointers of shared_memory.cpp's.
struct regions_between_calls {
  std::atomic<void*> next{nullptr}, next_sent{nullptr};
  std::atomic<bool> next_is_needed{true};  ///< calls of late have not left theirs to the next one
};

struct alignas(4096) forked_page {
  detail::fork_safe_mutex library_mutex, fork_mutex;
  surrounding_call surrounding;
  call_of_child call;
  regions_between_calls regions;
  taken_marks marks;
  listed_descriptors listed;  ///< its beginning: those of the first hundred and more
};
static_assert(offsetof(forked_page, listed) < 3600);

extern forked_page on_forked_page;

}  // namespace pynisher::platform
