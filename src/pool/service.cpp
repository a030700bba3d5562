// The half of a pool that its own thread drives: workers' lives, deadlines, callbacks; and the pool's own life.

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
/// A worker that others end before it is made is started again at once, and then ever later; after so many times in a
/// row it is taken for its own fault: a constructor may kill its own process.
constexpr unsigned most_vain_starts = 100;
constexpr auto longest_pause = 500ms;

/// By a signal that comes from outside.
bool was_ended_by_others(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const SignalException& e) {
    const int signals[] = {SIGKILL, SIGTERM, SIGINT, SIGHUP, SIGQUIT};
    return std::ranges::find(signals, e.signal()) != std::end(signals);
  } catch (...) {
    return false;
  }
}

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
  {
    lock held(mutex_);
    closing_ = true;
    scheduler_.stop();
    for (slot& one : slots_) {
      if (one.lane) one.lane->close();
    }
    service_bells_.wake();
    const auto gone = [this] { return all_gone(); };
    if (!changed_.wait_until(held, clock::now() + std::min(plan_.join_timeout, platform::longest_wait), gone)) {
      for (unsigned i = 0; i < slots_.size(); ++i) kill(i, ended_for::cancelled);
      // Processes end now. Threads that did not end are left alone.
      if (plan_.given.backend == backend::processes) changed_.wait(held, gone);
    }
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
  lock held(mutex_);
  const auto idle = [this] { return singles_.empty() && finished_singles_.empty() && singles_called_back_ == 0; };
  if (until) return changed_.wait_until(held, *until, idle);
  changed_.wait(held, idle);
  return true;
}

void pool_machine::end_workers(bool kill_at_once) {
  {
    lock held(mutex_);
    closing_ = true;
    scheduler_.stop();
    if (!kill_at_once) {
      for (slot& one : slots_) {
        if (one.life) one.life->send(SIGTERM);
      }
      changed_.wait_until(held, clock::now() + time_for_sigterm, [this] { return all_gone(); });
    }
    for (unsigned i = 0; i < slots_.size(); ++i) kill(i, ended_for::cancelled);
  }
  close();
}

std::exception_ptr pool_machine::broken() {
  const lock held(mutex_);
  return broken_;
}

std::vector<std::int64_t> pool_machine::pids() {
  const lock held(mutex_);
  std::vector<std::int64_t> all;
  for (const slot& one : slots_) all.push_back(one.life ? one.life->pid() : -1);
  return all;
}

// --- the service thread
// -----------------------------------------------------------------------------------------------

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

void pool_machine::start(unsigned worker) {
  slots_[worker].start_wanted = true;
  service_bells_.wake();
}

void pool_machine::retire(unsigned worker) {
  slot& at = slots_[worker];
  at.retiring = true;
  at.lane->close();
  at.next_look = clock::now() + std::min(plan_.join_timeout, platform::longest_wait);
  look_by(*at.next_look);
}

void pool_machine::start_worker(unsigned worker, lock& held) {
  slot& at = slots_[worker];
  worker_order what{factory_, plan_.given.initializer, worker, plan_.worker_limits, mask_};
  std::shared_ptr<lane_end> lane;
  std::unique_ptr<worker_life> life;
  std::exception_ptr why;
  if (!closing_) {
    held.unlock();
    try {
      const auto tell = [deaths = deaths_] { platform::doorbell::raise(deaths->descriptor()); };
      lane = std::make_shared<lane_end>();
      life =
          plan_.given.backend == backend::threads ? start_thread(what, *lane, tell) : start_process(what, *lane, tell);
    } catch (...) {
      why = std::current_exception();
    }
    held.lock();
  }
  at.start_wanted = false;
  at.made = at.retiring = at.never_began = false;
  at.killed_for = ended_for::nothing;
  at.words = {};
  at.refusal.reset();
  at.next_look.reset();
  at.clock = task_clock(processors_);
  at.started = clock::now();
  if (life && !results_bells_.add(lane->results_bell())) why = std::make_exception_ptr(std::bad_alloc());
  if (life && !service_bells_.add(lane->urgent_bell())) why = std::make_exception_ptr(std::bad_alloc());
  if (life && service_watches_) static_cast<void>(service_bells_.add(lane->results_bell()));
  if (why) {
    held.unlock();
    life.reset();
    held.lock();
    worker_not_made(worker, why);
    return;
  }
  at.lane = std::move(lane);
  at.life = std::move(life);
  if (at.lane && closing_) at.lane->close();
  if (at.life && not_opened_) kill(worker, ended_for::cancelled);
  // Whoever watches has to know the new lane.
  if (watcher_ != nullptr) results_bells_.wake();
  changed_.notify_all();
}

void pool_machine::worker_not_made(unsigned worker, const std::exception_ptr& why) {
  if (opening_) {
    if (!not_opened_) not_opened_ = why;
    scheduler_.stop();
  } else {
    if (!broken_ && !closing_) broken_ = why;
    // Another attempt may do better; the cause is kept for the case that it was the last.
    if (scheduler_.start_failed(worker) && !scheduler_.is_stopped()) broken_ = nullptr;
  }
  changed_.notify_all();
}

/// False: that has been done often enough.
bool pool_machine::start_after_a_while(unsigned worker) {
  slot& at = slots_[worker];
  if (++at.vain_starts >= most_vain_starts) return false;
  const unsigned doublings = std::min(at.vain_starts, 12u);
  if (at.vain_starts > 2)
    at.start_after = clock::now() + std::min<clock::duration>((1u << doublings) * 250us, longest_pause);
  scheduler_.start_again(worker);
  return true;
}

void pool_machine::kill(unsigned worker, ended_for cause) {
  slot& at = slots_[worker];
  if (!at.life || plan_.given.backend == backend::threads) return;
  if (at.killed_for == ended_for::nothing) {
    at.killed_for = cause;
    at.killed_at = at.items;
  }
  at.next_look.reset();
  at.life->kill();
}

/// Ends the worker for the item that it is at, and for no other. False: it has come to the end of that.
bool pool_machine::kill_for_its_item(unsigned worker, ended_for cause) {
  slot& at = slots_[worker];
  const std::uint64_t item = at.items;
  at.lane->halt();
  take_results(worker);
  if (at.items == item) {
    kill(worker, cause);
    return true;
  }
  at.lane->go_on();
  return false;
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
  if (kill_for_its_item(worker, cause)) {
    at.never_began = !seen.begun;
  } else {
    // At what it is at now.
    at.next_look = now;
  }
}

task_clock::limits pool_machine::limits_of(const batch& of) const {
  if (!of.limits) return {};
  return {of.limits->wall_time(), of.limits->cpu_time()};
}

raw_outcome pool_machine::outcome_of_killed(const task_clock& had, ended_for cause, const settings* limits,
                                            const call_name& name) const {
  call_record record;
  evidence& seen = record.seen;
  seen.cause = cause;
  seen.memory_limit = plan_.worker_limits->memory();
  if (limits != nullptr) {
    seen.wall_limit = limits->wall_time();
    seen.cpu_limit = limits->cpu_time();
  }
  seen.how = platform::exit_status::kind::signalled;
  seen.status = SIGKILL;
  seen.usage.wall_time = had.wall_used();
  seen.usage.user_time = had.cpu_used();
  return conclude(*plan_.task_limits, std::move(record), name);
}

/// A worker has ended: what it was at has failed by that, all else goes on.
void pool_machine::bury(unsigned worker, lock& held) {
  slot& at = slots_[worker];
  // The application's code may run in this. Whatever is sent to the worker meanwhile is as good as not begun.
  worker_life& life = *at.life;
  held.unlock();
  raw_outcome end = life.conclude();
  held.lock();
  take_results(worker);
  // What it has deposited and did not come to send, behind what was sent.
  if (end.custody) run_apart_from_the_mutex([custody = std::exchange(end.custody, nullptr)] {});
  if (!at.made) return bury_unmade(worker, std::move(end), held);

  const ended_for cause = at.killed_for;
  const bool innocent = cause != ended_for::nothing && at.items != at.killed_at;
  const bool lied = cause == ended_for::lying || cause == ended_for::too_large;
  // Whatever it has begun it may have ended, too: nobody knows.
  for (std::size_t begun = lied ? at.lane->begun() : 0; begun > 1; --begun) {
    const last_item item = last_item_of(worker);
    charge(worker, item, scheduler_.lost(worker), outcome_of_killed(at.clock, cause, item.limits.get(), item.name));
  }
  const bool charged = !innocent && (at.lane->has_begun() || at.never_began || lied);
  const last_item item = last_item_of(worker);
  if (cause != ended_for::nothing) {
    // Texts only: nothing of the application's runs in this.
    end = outcome_of_killed(at.clock, cause, item.limits.get(), item.name);
  } else if (!end.error) {
    end.verdict = verdict::exited;
    end.explanation = "the worker has ended by itself";
    end.error = std::make_exception_ptr(ChildDiedException(end.explanation));
  }
  const bool wanted = cause == ended_for::cancelled || at.retiring;
  if (!wanted && plan_.given.on_death == on_death::break_pool && !broken_) broken_ = end.error;
  forget_worker(worker);
  charge(worker, item, scheduler_.ended(worker, charged, wanted), std::move(end));
  changed_.notify_all();
}

pool_machine::last_item pool_machine::last_item_of(unsigned worker) {
  last_item item;
  const auto& lane = scheduler_.lane(worker);
  if (lane.empty()) return item;
  batch& first = as_batch(*lane.front());
  item.owner = first.owner;
  item.index = first.first + first.ended;
  item.name = first.name;
  if (first.ticket == 0) item.name.arguments = fmt::format("item {}", item.index);
  item.limits = first.limits;
  hand_over(first);
  first.replies = {};
  return item;
}

/// It has failed by its worker's end, unless it is tried again.
void pool_machine::charge(unsigned worker, const last_item& with, const pool_scheduler::death& how, raw_outcome end) {
  if (how.charged == nullptr) return;
  finished_item item{with.index, worker, lane_frame::value, 0, 0, {}, std::make_shared<raw_outcome>(std::move(end)),
                     nullptr};
  std::unique_ptr<batch> over(how.over ? &as_batch(*how.charged) : nullptr);
  if (over) let_fall(*over);
  if (over && over->ticket != 0) {
    finish_single(*over, std::move(item), {});
  } else if (!how.again) {
    delivery lost;
    lost.items.push_back(std::move(item));
    deliver(with.owner, std::move(lost));
  }
}

void pool_machine::bury_unmade(unsigned worker, raw_outcome end, lock& held) {
  slot& at = slots_[worker];
  const std::optional<lane_end::frame> refusal = at.refusal;
  const reply_bytes words = std::move(at.words);
  forget_worker(worker);
  std::exception_ptr why = end.error;
  if (refusal) {
    const finished_item item{0, worker, refusal->kind, refusal->begin, refusal->size, {}, nullptr, nullptr};
    held.unlock();
    why = outcome_of(item, words, factory_->name()).error;
    held.lock();
  }
  if (!why) why = std::make_exception_ptr(ChildDiedException("the worker has ended before it was made"));
  if (scheduler_.is_stopped()) {
    if (opening_ && !not_opened_) not_opened_ = why;
    changed_.notify_all();
    return;
  }
  const bool is_replaced = !opening_ && plan_.given.on_death == on_death::replace && !refusal;
  if (!is_replaced || !was_ended_by_others(why) || !start_after_a_while(worker)) worker_not_made(worker, why);
}

/// The slot is empty from here on.
void pool_machine::forget_worker(unsigned worker) {
  slot& at = slots_[worker];
  results_bells_.remove(at.lane->results_bell());
  service_bells_.remove(at.lane->urgent_bell());
  service_bells_.remove(at.lane->results_bell());
  at.life.reset();
  at.lane = nullptr;
  at.made = false;
  at.next_look.reset();
}

}  // namespace pynisher::detail
