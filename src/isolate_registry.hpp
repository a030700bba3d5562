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
std::int64_t next_isolate_id();
void unregister_isolate(std::int64_t id);
/// The core of a handle, where `what` can be done with it. Throws `IsolateError`.
std::shared_ptr<isolate_core> core_of(const isolate_lease& lease, const char* what);

}  // namespace pynisher::detail
