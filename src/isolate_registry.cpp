#include "isolate_registry.hpp"

#include <mutex>
#include <new>

#include <fmt/format.h>

#include "fork_safe_mutex.hpp"

namespace pynisher::detail {

std::map<std::int64_t, registered_isolate>& isolate_registry() {
  static auto* const all = new std::map<std::int64_t, registered_isolate>;
  return *all;
}

std::int64_t next_isolate_id() {
  static constinit std::atomic<std::int64_t> last{0};
  return last.fetch_add(1) + 1;
}

void unregister_isolate(std::int64_t id) {
  const std::lock_guard lock(library_mutex);
  isolate_registry().erase(id);
}

std::shared_ptr<isolate_core> core_of(const isolate_lease& lease, const char* what) {
  if (!lease.core) {
    throw IsolateError(fmt::format("{}: this is the process itself, not one that it has made", what));
  }
  if (lease.core->owner() != platform::process_number()) {
    throw IsolateNotFoundError(lease.core->text() + " is another process's");
  }
  return lease.core;
}

isolate_lease::~isolate_lease() {
  if (!core) return;
  if (core->owner() != platform::process_number()) {
    // A forked copy of the program has handles, but not the isolate.
    static_cast<void>(new std::shared_ptr<isolate_core>(std::move(core)));
    return;
  }
  if (!owns.load()) return;
  unregister_isolate(core->id());
  core->drop();
}

}  // namespace pynisher::detail
