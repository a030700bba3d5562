#pragma once

// What a call may use, as one aggregate for designated initialisers.
//
//     pynisher::limit(solve, {.memory = 2_GiB, .cpu_time = 30s, .wall_time = 1min});
//
// Every field has a default that means "no limit" or "as usual". Nothing is checked here;
// `limit()` refuses bad values, by name, before anything runs.

#include <cstdint>
#include <initializer_list>
#include <stop_token>
#include <string>
#include <system_error>
#include <typeinfo>
#include <utility>
#include <vector>

#include <pynisher/units.hpp>

namespace pynisher {

/// How the child process comes to be. `automatic`: `fork` where it exists, else `spawn`.
enum class start_method : std::uint8_t { automatic, fork, spawn, forkserver };

/// What `options::memory` counts.
enum class memory_measure : std::uint8_t {
  /// What the call takes beyond what its process held when the function began. Private memory is refused by the
  /// kernel at the limit (`RLIMIT_DATA`); shared memory is watched and the call ended soon after it passes the
  /// limit. Address space that is merely reserved (`PROT_NONE`, malloc's arenas) does not count.
  growth,
  /// Absolute address space, per process (`RLIMIT_AS`); with `fork` the parent's own mappings count.
  address_space,
  /// Pages really used by the call and by everything it started, together.
  resident_tree,
};

/// What an exception that a rule of `wrap_errors` names is turned into.
enum class wrap_as : std::uint8_t { pynisher, memory, cpu_time, wall_time };

namespace detail {

std::string demangled_name(const std::type_info& type);

}  // namespace detail

/// One rule of `wrap_errors`: which exception, and what it becomes.
struct wrap_rule {
  std::string type_name;  ///< as written in the source, whole or its last component
  std::error_code code;   ///< when set: only exceptions that carry this code
  bool by_code = false;
  wrap_as target = wrap_as::pynisher;
  bool whole_name = false;  ///< the last component is not enough
};

/// Wraps exceptions whose type is exactly `Exception`; derived types do not match.
template <class Exception>
[[nodiscard]] wrap_rule wrap(wrap_as target = wrap_as::pynisher) {
  return {detail::demangled_name(typeid(Exception)), {}, false, target, true};
}

/// Wraps by the type's name, so that the type need not be known here: "NotFittedError", "ml::NotFittedError".
[[nodiscard]] inline wrap_rule wrap(std::string type_name, wrap_as target = wrap_as::pynisher) {
  return {std::move(type_name), {}, false, target, false};
}

/// Wraps `std::system_error`s, and classes derived from it, whose code is equivalent to `code`.
[[nodiscard]] inline wrap_rule wrap(std::errc code, wrap_as target = wrap_as::pynisher) {
  return {{}, std::make_error_code(code), true, target, false};
}

/// Which exceptions of the function arrive as `WrappedException` (or as a limit exception) instead of as
/// themselves. `false`: none; `true`: all; a list: the first rule that matches decides.
class error_wrapping {
 public:
  error_wrapping() = default;
  template <std::same_as<bool> Bool>
  error_wrapping(Bool all) : all_(all) {}
  error_wrapping(std::initializer_list<wrap_rule> rules) : rules_(rules) {}
  error_wrapping(std::vector<wrap_rule> rules) : rules_(std::move(rules)) {}

  [[nodiscard]] bool wraps_all() const { return all_; }
  [[nodiscard]] const std::vector<wrap_rule>& rules() const { return rules_; }

 private:
  bool all_ = false;
  std::vector<wrap_rule> rules_;
};

struct options {
  /// The child's process name as `ps` and `top` show it; the kernel keeps 15 bytes of it for `top`.
  std::string name{};
  /// Memory limit; see `measure` for what it counts.
  memory_size memory{};
  /// CPU seconds, user + system, of all threads of the child; down to 1 ms. Sleeping does not count.
  time_span cpu_time{};
  /// Time from the start of the child, by a monotonic clock; down to 1 ms. Covers the sending of the result.
  time_span wall_time{};
  start_method context = start_method::automatic;
  memory_measure measure = memory_measure::growth;
  /// Processes and threads that the call may have at once, its child included; 0: no limit. One more is refused to it by
  /// the kernel (`EAGAIN`). Needs a pids cgroup in which this process may make groups: `supports("process_count")`.
  std::uint32_t processes = 0;
  /// Write warnings to stderr, or to the sink of `set_warning_sink`.
  bool warnings = true;
  error_wrapping wrap_errors{false};
  /// No process that the call started outlives it. `false`: only the limited child itself is ended.
  bool terminate_child_processes = true;
  /// On SIGINT the call's processes are killed at once, then the signal takes its previous course.
  /// `false`: the child gets the SIGINT, and the call waits for it.
  bool forceful_keyboard_interrupt = true;
  /// A request on it ends the call by `CancelledException`.
  std::stop_token stop{};
};

}  // namespace pynisher
