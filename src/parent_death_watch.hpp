#pragma once

// Defined by each platform; it stands here because the settings of a limited callable keep one.

#include <cstdint>

namespace pynisher::platform {

/// While one exists that was started, all marked processes of this program's calls end when the program is killed.
/// The watch costs about what a thread costs to start and nothing to keep; all that exist share one.
class parent_death_watch {
 public:
  parent_death_watch() = default;
  /// A copy is not started yet.
  parent_death_watch(const parent_death_watch& /*other*/) {}
  parent_death_watch& operator=(const parent_death_watch&) = delete;
  ~parent_death_watch();
  /// Comes back when the program is watched, or cannot be. May be called again, from any thread: sees to it that the watch
  /// is still alive.
  void start() noexcept;

 private:
  [[maybe_unused]] std::int64_t holder_ = 0;  ///< the process in which this was started
};

}  // namespace pynisher::platform
