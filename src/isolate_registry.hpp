#pragma once

// What the handles of isolates share, and all isolates that this process has made.

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>

#include <pynisher/isolate.hpp>

#include "isolate_core.hpp"

namespace pynisher::detail {

/// What the handles of one isolate share. Without a core: this process itself.
struct isolate_lease {
  explicit isolate_lease(std::shared_ptr<isolate_core> of, bool owner) : core(std::move(of)), owns(owner) {}
  isolate_lease(const isolate_lease&) = delete;
  isolate_lease& operator=(const isolate_lease&) = delete;
  ~isolate_lease();

  std::shared_ptr<isolate_core> core;
  std::atomic<bool> owns;

  static isolate handle(std::shared_ptr<isolate_lease> lease) { return isolate(std::move(lease)); }
};

struct registered_isolate {
  std::weak_ptr<isolate_lease> lease;
  std::shared_ptr<isolate_core> detached;
};

/// Under the library's mutex. Never destroyed.
std::map<std::int64_t, registered_isolate>& isolate_registry();
/// Never used again in this program, nor in any process that it has started.
///
/// The program itself counts: 1, 2, 3 ... Other processes of its tree, in which nobody may be believed to count well,
/// take the time since boot and their process number, which no other process has at that time: these rise too, and are
/// far above what the program counts to.
std::int64_t next_isolate_id();
void unregister_isolate(std::int64_t id);
/// Its process has ended: nobody needs it any more.
void forget_detached_isolate(std::int64_t id, int generation) noexcept;
/// The core of a handle, where `what` can be done with it. Throws `IsolateError`.
std::shared_ptr<isolate_core> core_of(const isolate_lease& lease, const char* what);

}  // namespace pynisher::detail
