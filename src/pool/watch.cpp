// The part of a pool in which consumers wait for the results of their maps, and for the end of those that they drop.

#include <algorithm>
#include <chrono>
#include <new>
#include <utility>

#include "machine.hpp"

namespace pynisher::detail {

namespace {

using namespace std::chrono_literals;

/// Whoever waits looks for so long before it sleeps.
constexpr auto spin_time = 50us;
/// What still runs of a map that nobody wants any more has so long to end by itself: most do, and keep their worker.
constexpr auto grace = 100ms;
constexpr auto pause_without_memory = 5ms;

}  // namespace

std::uint64_t pool_machine::attach(map_sink& sink) {
  refuse_copies(owner_);
  const lock held(mutex_);
  sinks_[++last_owner_] = &sink;
  return last_owner_;
}

std::vector<delivery> pool_machine::collect(map_sink& sink, bool wait) {
  refuse_copies(owner_);
  lock held(mutex_);
  for (;;) {
    take_all_results();
    if (!sink.arrived.empty() || sink.on_their_way == 0 || !wait) {
      hand_on_the_watch(sink);
      return std::exchange(sink.arrived, {});
    }
    watch(held, sink, std::nullopt);
  }
}

/// Comes back when there may be something new; somebody else may have taken it.
void pool_machine::watch(lock& held, map_sink& sink, std::optional<clock::time_point> until) {
  if (watcher_ != nullptr || service_watches_) {
    sink.sleeps = true;
    if (until) {
      sink.wake.wait_until(held, *until);
    } else {
      sink.wake.wait(held);
    }
    sink.sleeps = false;
    return;
  }
  std::vector<std::shared_ptr<lane_end>> lanes;
  lanes.reserve(slots_.size());
  for (const slot& one : slots_) {
    if (one.lane) lanes.push_back(one.lane);
  }
  watcher_ = &sink;
  const auto tell = [&lanes](std::uint32_t watcher) {
    for (const auto& one : lanes) one->set_watcher(watcher);
  };
  const auto has_news = [&lanes] {
    return std::any_of(lanes.begin(), lanes.end(), [](const auto& one) { return one->has_news(); });
  };
  tell(lane::awake);
  held.unlock();
  const auto spin_until = clock::now() + spin_time;
  bool found = has_news();
  while (!found && clock::now() < spin_until) found = has_news();
  if (!found) {
    tell(lane::asleep);
    if (!has_news()) results_bells_.wait(until);
  }
  tell(lane::nobody);
  held.lock();
  watcher_ = nullptr;
  if (service_watches_) service_bells_.wake();
  take_all_results();
}

/// Called by whoever waits no longer: one of those that still do has to watch.
void pool_machine::hand_on_the_watch(const map_sink& by) {
  if (watcher_ != nullptr || service_watches_) return;
  for (const auto& [owner, other] : sinks_) {
    if (other != &by && other->sleeps && other->arrived.empty()) {
      other->wake.notify_one();
      return;
    }
  }
}

void pool_machine::drop_waiting(std::uint64_t owner) {
  const lock held(mutex_);
  sinks_.at(owner)->is_dropped = true;
  scheduler_.cancel(owner);
}

/// Where there is no memory for what a worker has sent, it is that worker's end.
void pool_machine::take_results_of_the_dropped() {
  for (unsigned i = 0; i < slots_.size(); ++i) {
    try {
      if (slots_[i].lane && slots_[i].lane->has_news()) take_results(i);
    } catch (const std::bad_alloc&) {
      if (plan_.given.backend == backend::threads) continue;
      kill(i, ended_for::too_large);
      slots_[i].killed_for = ended_for::too_large;
    }
  }
}

/// In a destructor, perhaps because memory has run out.
void pool_machine::detach(std::uint64_t owner, map_sink& sink) {
  // Dropped without the mutex: what came may hold the application's things.
  std::vector<delivery> unread;
  lock held(mutex_);
  // From here on nothing arrives, so that it is known for one that waits.
  sink.is_dropped = true;
  unread.swap(sink.arrived);
  held.unlock();
  unread.clear();
  held.lock();
  scheduler_.cancel(owner);
  const auto until = clock::now() + grace;
  bool killed = false;
  for (;;) {
    take_results_of_the_dropped();
    if (sink.on_their_way == 0) break;
    if (!killed && clock::now() >= until) {
      killed = true;
      if (plan_.given.backend == backend::threads) break;
      for (unsigned i = 0; i < slots_.size(); ++i) {
        // Another item of the map's may have followed.
        const auto is_at_it = [&] {
          const auto& lane = scheduler_.lane(i);
          return !lane.empty() && lane.front()->owner == owner && slots_[i].life;
        };
        while (is_at_it() && !kill_for_its_item(i, ended_for::cancelled)) {
        }
      }
    }
    try {
      watch(held, sink, killed ? std::nullopt : std::optional(until));
    } catch (const std::bad_alloc&) {
      sink.wake.wait_until(held, clock::now() + pause_without_memory);
    }
  }
  sinks_.erase(owner);
  hand_on_the_watch(sink);
}

}  // namespace pynisher::detail
