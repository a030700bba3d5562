#include "isolate_registry.hpp"

#include <algorithm>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

#include <fmt/format.h>

#include <pynisher/exception_registry.hpp>

#include "child_main.hpp"
#include "fork_safe_mutex.hpp"
#include "platform/contract.hpp"
#include "supervised_call.hpp"

namespace pynisher::detail {

namespace {

/// A copy of it that the application has forked is another process.
const pid_t program = platform::process_number();

[[maybe_unused]] const bool errors_arrive = [] {
  register_exception<IsolateError>();
  register_exception<IsolateNotFoundError>();
  register_exception<IsolateDiedError>();
  register_exception<NotShareableError>();
  register_exception<LoadError>();
  register_exception<SourceError>();
  return true;
}();

}  // namespace

std::map<std::int64_t, registered_isolate>& isolate_registry() {
  static auto* const all = new std::map<std::int64_t, registered_isolate>;
  return *all;
}

std::int64_t next_isolate_id() {
  static constinit std::atomic<std::int64_t> last{0};
  if (!is_within_call() && platform::process_number() == program) return last.fetch_add(1) + 1;
  // 64 microseconds a tick, 22 bits of process number: enough for more than four years of uptime.
  constexpr int tick_bits = 16, number_bits = 22;
  const auto ticks = platform::clock::now().time_since_epoch().count() >> tick_bits;
  const std::int64_t number = platform::process_number() & ((1 << number_bits) - 1);
  std::int64_t before = last.load();
  for (;;) {
    // By whole ticks, so that the process number stays what it is.
    const std::int64_t next = std::max<std::int64_t>(ticks, (before >> number_bits) + 1);
    const std::int64_t id = (next << number_bits) | number;
    if (last.compare_exchange_weak(before, id)) return id;
  }
}

void unregister_isolate(std::int64_t id) {
  const std::lock_guard lock(library_mutex);
  isolate_registry().erase(id);
}

void forget_detached_isolate(std::int64_t id, int generation) noexcept {
  std::shared_ptr<isolate_core> dead;
  {
    const std::lock_guard lock(library_mutex);
    const auto found = isolate_registry().find(id);
    if (found == isolate_registry().end() || !found->second.detached) return;
    if (found->second.detached->generation() != generation) return;
    dead = std::move(found->second.detached);
    if (found->second.lease.expired()) isolate_registry().erase(found);
  }
  // Elsewhere: a callback for its output may be at work, and this is the thread that watches all calls.
  try {
    own_threads.fetch_add(1);
    std::thread([dead = std::move(dead)]() mutable {
      dead.reset();
      own_threads.fetch_sub(1);
    }).detach();
  } catch (const std::exception&) {
    own_threads.fetch_sub(1);
  }
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
