// The part of a pool in which consumers wait for the results of their maps, and for the end of those that they drop.

#include <algorithm>
#include <chrono>
#include <utility>

#include "machine.hpp"

namespace pynisher::detail {

namespace {

using namespace std::chrono_literals;

/// Whoever waits looks for so long before it sleeps.
constexpr auto spin_time = 50us;
/// What still runs of a map that nobody wants any more has so long to end by itself: most do, and keep their worker.
constexpr auto grace = 100ms;

}  // namespace

std::uint64_t pool_machine::attach(map_sink& sink) {
  const lock held(mutex_);
  sinks_[++last_owner_] = &sink;
  return last_owner_;
}

std::vector<delivery> pool_machine::collect(map_sink& sink, bool wait) {
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
  watcher_ = &sink;
  std::vector<std::shared_ptr<lane_end>> lanes;
  for (const slot& one : slots_) {
    if (one.lane) lanes.push_back(one.lane);
  }
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
  scheduler_.cancel(owner);
}

void pool_machine::detach(std::uint64_t owner, map_sink& sink) {
  lock held(mutex_);
  scheduler_.cancel(owner);
  const auto until = clock::now() + grace;
  bool killed = false;
  for (;;) {
    take_all_results();
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
    watch(held, sink, killed ? std::nullopt : std::optional(until));
  }
  sinks_.erase(owner);
  hand_on_the_watch(sink);
}

}  // namespace pynisher::detail
