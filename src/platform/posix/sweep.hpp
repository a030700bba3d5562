#pragma once

// Ending processes that come and go while they are looked for, on a system that says who is whose child and who is in
// which session: the logic alone. `System` is the system, or a test's.
//
// clang-format off
//   std::size_t children_of(pid_t parent, pid_t* to, std::size_t room)   how many there are
//   std::size_t all(pid_t* to, std::size_t room)                         how many there are
//   pid_t session_of(pid_t)                                              of the dead: none that is anybody's
//   void stop(pid_t)
//   bool kill(pid_t)                                                     false: it is not there, or out of reach
//   void pause()                                                         for a moment
// clang-format on

#include <sys/types.h>

#include <algorithm>
#include <cstddef>

namespace pynisher::platform {

/// Numbers of processes, in somebody else's memory.
struct process_list {
  pid_t* numbers;
  std::size_t room;
  std::size_t count = 0;

  [[nodiscard]] bool has(pid_t pid) const { return std::find(numbers, numbers + count, pid) != numbers + count; }
};

/// Stops those children of `parent` that are not in the list yet, and adds them to it.
template <class System>
void stop_new_children(System& system, pid_t parent, process_list& found) noexcept {
  const std::size_t known = found.count;
  pid_t* const fresh = found.numbers + known;
  const std::size_t listed = known < found.room ? system.children_of(parent, fresh, found.room - known) : 0;
  for (std::size_t i = 0; i < listed; ++i) {
    const pid_t child = fresh[i];
    // Never what is nobody's child.
    if (child <= 1 || found.has(child)) continue;
    system.stop(child);
    found.numbers[found.count++] = child;
  }
}

/// Kills all that descend from a process which stands still.
template <class System>
void end_descendants(System& system, pid_t root, process_list& found) noexcept {
  found.count = 0;
  // Until a look at all of them finds nobody new: who was making a child when it was stopped has one more by then.
  for (std::size_t before = 1; before != found.count;) {
    before = found.count;
    stop_new_children(system, root, found);
    for (std::size_t i = 0; i < found.count; ++i) stop_new_children(system, found.numbers[i], found);
  }
  for (std::size_t i = 0; i < found.count; ++i) system.kill(found.numbers[i]);
}

/// Kills all of a session but its leader, until none is left, or `most_rounds` times.
template <class System>
void end_session(System& system, pid_t leader, process_list& all, int most_rounds) noexcept {
  for (int round = 0; round < most_rounds; ++round) {
    all.count = system.all(all.numbers, all.room);
    std::size_t alive = 0;
    for (std::size_t i = 0; i < all.count; ++i) {
      const pid_t pid = all.numbers[i];
      if (pid > 1 && pid != leader && system.session_of(pid) == leader && system.kill(pid)) ++alive;
    }
    if (alive == 0) return;
    system.pause();
  }
}

}  // namespace pynisher::platform
