// A pool's own life, and its own thread: what it looks at, when, and whom it calls back.

#include <pthread.h>

#include <algorithm>
#include <csignal>
#include <utility>

#include <fmt/format.h>

#include <pynisher/exceptions.hpp>
#include <pynisher/pool_errors.hpp>

#include "../child_main.hpp"
#include "../settings.hpp"
#include "../supervised_call.hpp"
#include "../without_signals.hpp"
#include "machine.hpp"

namespace pynisher::detail {

namespace {

using namespace std::chrono_literals;

/// Between SIGTERM and SIGKILL.
constexpr auto time_for_sigterm = 1s;
/// A worker that waits begins at once, even on a busy machine.
constexpr auto time_to_begin = 100ms;

}  // namespace

// --- a pool's life --------------------------------------------------------------------------------------------------

std::shared_ptr<pool_core> pool_core::open(pool_plan plan, std::unique_ptr<worker_factory> factory) {
  auto machine = std::make_unique<pool_machine>(std::move(plan), std::shared_ptr<worker_factory>(std::move(factory)));
  machine->open();
  return std::shared_ptr<pool_core>(machine.release(),
                                    [](pool_core* core) { static_cast<pool_machine*>(core)->let_go(); });
}

void pool_machine::open() {
  prepare_for_children();
  {
    const without_signals blocked;
    mask_ = blocked.before();
    service_ = std::thread([this] { serve(); });
  }
  own_threads.fetch_add(1);

  lock held(mutex_);
  scheduler_.open();
  changed_.wait(held, [this] {
    return not_opened_ || std::all_of(slots_.begin(), slots_.end(), [](const slot& one) { return one.made; });
  });
  if (!not_opened_) {
    opening_ = false;
    return;
  }
  const std::exception_ptr why = not_opened_;
  for (unsigned i = 0; i < slots_.size(); ++i) kill(i, ended_for::cancelled);
  held.unlock();
  close();
  std::rethrow_exception(why);
}

void pool_machine::close() {
  refuse_copies(owner_);
  lock held(mutex_);
  closing_ = true;
  scheduler_.stop();
  for (slot& one : slots_) {
    if (one.lane) one.lane->close();
  }
  service_bells_.wake();
  // It would wait for itself.
  if (is_own_thread()) return;
  const auto gone = [this] { return all_gone(); };
  if (!changed_.wait_until(held, clock::now() + std::min(plan_.join_timeout, platform::longest_wait), gone)) {
    for (unsigned i = 0; i < slots_.size(); ++i) kill(i, ended_for::cancelled);
    // Processes end now. Threads that did not end are left alone.
    if (plan_.given.backend == backend::processes) changed_.wait(held, gone);
  }
}

bool pool_machine::is_own_thread() const {
  return std::this_thread::get_id() == service_.get_id() || factory_of_this_thread() == factory_.get();
}

void pool_machine::let_go() {
  if (owner_ != platform::process_number())
    return;  // a forked copy of the program has neither the thread nor the workers
  if (is_own_thread()) {
    try {
      run_apart([this] { let_go(); });
    } catch (const std::system_error&) {
      // Out of threads: it stays.
    }
    return;
  }
  close();
  {
    const lock held(mutex_);
    end_service_ = true;
    service_bells_.wake();
  }
  if (service_.joinable()) {
    service_.join();
    own_threads.fetch_sub(1);
  }
  delete this;
}

pool_machine::~pool_machine() {
  if (!service_.joinable()) return;
  {
    const lock held(mutex_);
    end_service_ = true;
    service_bells_.wake();
  }
  service_.join();
  own_threads.fetch_sub(1);
}

bool pool_machine::all_gone() const {
  return finished_singles_.empty() && singles_called_back_ == 0 && errands_.empty() && !is_on_errands_ &&
         std::all_of(slots_.begin(), slots_.end(), [](const slot& one) { return !one.life && !one.start_wanted; });
}

bool pool_machine::wait_until_idle(std::optional<clock::time_point> until) {
  refuse_copies(owner_);
  lock held(mutex_);
  const auto idle = [this] { return singles_.empty() && finished_singles_.empty() && singles_called_back_ == 0; };
  if (until) return changed_.wait_until(held, *until, idle);
  changed_.wait(held, idle);
  return true;
}

void pool_machine::end_workers(bool kill_at_once) {
  refuse_copies(owner_);
  {
    lock held(mutex_);
    closing_ = true;
    scheduler_.stop();
    // Threads hear no signal.
    if (!kill_at_once && plan_.given.backend == backend::processes && !is_own_thread()) {
      for (slot& one : slots_) {
        if (!one.life) continue;
        if (one.killed_for == ended_for::nothing) {
          one.killed_for = ended_for::cancelled;
          one.killed_at = one.items;
        }
        one.life->send(SIGTERM);
      }
      changed_.wait_until(held, clock::now() + time_for_sigterm, [this] { return all_gone(); });
    }
    for (unsigned i = 0; i < slots_.size(); ++i) kill(i, ended_for::cancelled);
  }
  close();
}

std::exception_ptr pool_machine::broken() {
  refuse_copies(owner_);
  const lock held(mutex_);
  return broken_;
}

std::vector<std::int64_t> pool_machine::pids() {
  refuse_copies(owner_);
  const lock held(mutex_);
  std::vector<std::int64_t> all;
  for (const slot& one : slots_) all.push_back(one.life ? one.life->pid() : -1);
  return all;
}

// --- the service thread ---------------------------------------------------------------------------------------------

void pool_machine::serve() {
  lock held(mutex_);
  while (!end_service_) {
    for (unsigned i = 0; i < slots_.size(); ++i) {
      if (slots_[i].life && slots_[i].life->has_ended()) bury(i, held);
      if (slots_[i].start_wanted && (closing_ || slots_[i].start_after <= clock::now())) start_worker(i, held);
    }
    take_all_results();
    const auto now = clock::now();
    std::optional<clock::time_point> next;
    const auto look_again = [&next](clock::time_point when) { next = std::min(next.value_or(when), when); };
    for (unsigned i = 0; i < slots_.size(); ++i) {
      if (slots_[i].next_look && *slots_[i].next_look <= now) look_at_time(i, now);
      if (slots_[i].next_look) look_again(*slots_[i].next_look);
      if (slots_[i].start_wanted) look_again(slots_[i].start_after);
    }
    if (begin_look_ && *begin_look_ <= now) look_for_stuck_ones(now);
    if (begin_look_) look_again(*begin_look_);
    bool more = false;
    if (service_watches_) {
      for (const slot& one : slots_) {
        if (!one.lane) continue;
        one.lane->set_watcher(lane::asleep);
        more = more || one.lane->has_news();
      }
    }
    auto singles = std::exchange(finished_singles_, {});
    singles_called_back_ = singles.size();
    auto errands = std::exchange(errands_, {});
    is_on_errands_ = !errands.empty();
    const bool has_done_something = !singles.empty() || !errands.empty();
    service_sleeps_until_ = next.value_or(clock::time_point::max());
    held.unlock();
    for (auto& errand : errands) {
      errand();
      errand = nullptr;
    }
    for (auto& single : singles) {
      if (single.done) single.done(outcome_of(single.item, single.bytes, single.name), single.item.worker);
      single.done = nullptr;
    }
    if (!has_done_something && !more) service_bells_.wait(next);
    held.lock();
    if (has_done_something) {
      singles_called_back_ = 0;
      is_on_errands_ = false;
      changed_.notify_all();
    }
  }
  // Of threads that have come late.
  const auto left = std::exchange(errands_, {});
  held.unlock();
}

void pool_machine::look_by(clock::time_point when) {
  if (service_sleeps_until_ && when < *service_sleeps_until_) {
    service_sleeps_until_ = when;
    service_bells_.wake();
  }
}

void pool_machine::look_at_time(unsigned worker, clock::time_point now) {
  slot& at = slots_[worker];
  at.next_look.reset();
  const auto& lane = scheduler_.lane(worker);
  if (!at.life || !at.lane || at.killed_for != ended_for::nothing) return;
  if (at.retiring) return kill(worker, ended_for::cancelled);
  task_clock::sight seen{
      .now = now, .task = {}, .begun = false, .sent = now, .waiting_since = now, .claimed_begin = now};
  task_clock::limits by;
  if (!lane.empty()) {
    const batch& first = as_batch(*lane.front());
    by = limits_of(first);
    seen.task = at.items;
    seen.begun = at.lane->has_begun();
    seen.sent = first.sent;
    seen.waiting_since = at.first_since;
    seen.claimed_begin = clock::time_point(std::chrono::nanoseconds(at.lane->item_began()));
    if (by.cpu) {
      seen.cpu = platform::cpu_time_of(static_cast<pid_t>(at.life->pid())).value_or(0ns);
      seen.claimed_cpu = std::chrono::nanoseconds(at.lane->item_cpu());
    }
  }
  const auto decided = at.clock.look(seen, by);
  at.next_look = decided.next_look;
  if (decided.which == task_clock::over::nothing) return;
  const auto cause = decided.which == task_clock::over::wall_time ? ended_for::wall_time : ended_for::cpu_time;
  // Else at what it is at now.
  if (!kill_for_its_item(worker, cause)) at.next_look = now;
}

void pool_machine::look_for_stuck_ones(clock::time_point now) {
  begin_look_.reset();
  bool is_busy = false;
  for (unsigned i = 0; i < slots_.size(); ++i) {
    slot& at = slots_[i];
    const auto& lane = scheduler_.lane(i);
    const job* const waited_with = std::exchange(at.waits_with, nullptr);
    if (!at.lane || !at.made || at.killed_for != ended_for::nothing) continue;
    is_busy = is_busy || !lane.empty();
    const std::int64_t looked_for_work = at.lane->item_began();
    if (scheduler_.is_stuck(i) && looked_for_work != at.stuck_at) scheduler_.awake(i);
    if (lane.empty() || at.lane->has_begun()) continue;
    at.waits_with = lane.front();
    const bool is_the_same = waited_with == lane.front() && at.waits_at == at.items;
    at.waits_at = at.items;
    if (!is_the_same || !scheduler_.stuck(i)) continue;
    at.stuck_at = looked_for_work;
    at.lane->wake_worker();
  }
  if (is_busy) begin_look_ = now + time_to_begin;
}

/// Called when something was sent to a worker that had nothing.
void pool_machine::look_whether_it_begins() {
  if (begin_look_ || slots_.size() < 2) return;
  begin_look_ = clock::now() + time_to_begin;
  look_by(*begin_look_);
}

task_clock::limits pool_machine::limits_of(const batch& of) const {
  if (!of.limits) return {};
  return {of.limits->wall_time(), of.limits->cpu_time()};
}

}  // namespace pynisher::detail
