#pragma once

// What can be enforced here and now, and why not.
//
//     if (!pynisher::supports("memory")) std::cerr << pynisher::why_not(pynisher::feature::memory) << '\n';

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <pynisher/options.hpp>

namespace pynisher {

enum class feature : std::uint8_t {
  wall_time,
  cpu_time,
  memory,                ///< `memory_measure::growth`, the default
  decorator,             ///< `RESTRICTED`
  memory_growth,
  memory_address_space,
  memory_tree,           ///< `memory_measure::resident_tree`
  fork,
  spawn,
  forkserver,
  kill_tree,             ///< `terminate_child_processes`, for those that left session and parent too
  process_count,         ///< `options::processes`
  parent_death,          ///< children die with a parent that is killed by SIGKILL
  cancel,                ///< `options::stop`
};

/// True where the feature is enforced on this machine. Thread-safe.
[[nodiscard]] bool supports(feature what);

/// The same by name ("memory", "kill_tree"; any case).
/// Throws `std::invalid_argument`, listing the names, for an unknown one.
[[nodiscard]] bool supports(std::string_view name);

/// Why `supports(what)` is false, in one sentence; empty where it is true.
[[nodiscard]] std::string why_not(feature what);
[[nodiscard]] std::string why_not(std::string_view name);

/// The start methods of this system, the default one first.
[[nodiscard]] std::vector<start_method> start_methods();

}  // namespace pynisher
