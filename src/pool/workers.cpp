// The part of a pool that starts workers, ends them and buries them.

#include <algorithm>
#include <csignal>
#include <cstring>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include <pynisher/exceptions.hpp>
#include <pynisher/pool_errors.hpp>

#include "../settings.hpp"
#include "../supervised_call.hpp"
#include "machine.hpp"

namespace pynisher::detail {

namespace {

using namespace std::chrono_literals;

/// A worker that others end before it is made is started again at once, and then ever later; after so many times in a
/// row it is taken for its own fault: a constructor may kill its own process.
constexpr unsigned most_vain_starts = 20;
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

// --- their beginning ------------------------------------------------------------------------------------------------

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
  at.made = at.retiring = false;
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

// --- their end ------------------------------------------------------------------------------------------------------

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

/// A worker has ended: what it was at has failed by that, all else goes on.
void pool_machine::bury(unsigned worker, lock& held) {
  slot& at = slots_[worker];
  take_results(worker);
  const call_name what_it_was_at = name_of_first(worker);
  // The application's code may run in this. Whatever is sent to the worker meanwhile is as good as not begun.
  worker_life& life = *at.life;
  held.unlock();
  raw_outcome end = life.conclude(what_it_was_at);
  held.lock();
  // What it has deposited and did not come to send, behind what was sent.
  if (end.custody) run_apart_from_the_mutex([custody = std::exchange(end.custody, nullptr)] {});
  if (!at.made) return bury_unmade(worker, std::move(end), held);

  const ended_for cause = at.killed_for;
  const bool innocent = cause != ended_for::nothing && at.items != at.killed_at;
  const bool lied = cause == ended_for::lying || cause == ended_for::too_large;
  // Whatever it has begun it may have ended, too: nobody knows.
  for (std::size_t begun = lied ? at.lane->begun() : 0; begun > 1; --begun) {
    const last_item item = last_item_of(worker);
    charge(worker, item, scheduler_.lost(worker), outcome_of_killed(at, item));
  }
  const bool charged = !innocent && (at.lane->has_begun() || lied);
  const last_item item = last_item_of(worker);
  if (cause != ended_for::nothing) {
    // Texts only: nothing of the application's runs in this.
    end = outcome_of_killed(at, item);
  } else if (!end.error) {
    end.verdict = verdict::exited;
    end.explanation = "the worker has ended by itself";
    end.error = std::make_exception_ptr(ChildDiedException(end.explanation));
  }
  const bool wanted = cause == ended_for::cancelled || at.retiring;
  if (!wanted && plan_.given.on_death == on_death::break_pool && !broken_) broken_ = end.error;
  forget_worker(worker);
  charge(worker, item, scheduler_.ended(worker, charged, wanted), std::move(end));
  // Nobody else will be made any more.
  if (opening_ && scheduler_.is_stopped() && !not_opened_) not_opened_ = broken_;
  changed_.notify_all();
}

/// Of the item that it is at, or would be next.
call_name pool_machine::name_of_first(unsigned worker) const {
  const auto& lane = scheduler_.lane(worker);
  if (lane.empty()) return slots_[worker].made ? call_name{.arguments = "an idle worker"} : factory_->name();
  const batch& first = as_batch(*lane.front());
  call_name name = first.name;
  if (first.ticket == 0) name.arguments = fmt::format("item {}", first.first + first.ended);
  return name;
}

pool_machine::last_item pool_machine::last_item_of(unsigned worker) {
  last_item item;
  const auto& lane = scheduler_.lane(worker);
  if (lane.empty()) return item;
  batch& first = as_batch(*lane.front());
  item.owner = first.owner;
  item.index = first.first + first.ended;
  item.name = name_of_first(worker);
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

// --- what an item has failed by -------------------------------------------------------------------------------------

raw_outcome pool_machine::outcome_of(const finished_item& item, const reply_bytes& bytes, const call_name& name) const {
  if (item.outcome) {
    raw_outcome out;
    out.verdict = item.outcome->verdict;
    out.usage = item.outcome->usage;
    out.error = item.outcome->error;
    out.explanation = item.outcome->explanation;
    return out;
  }
  call_record record;
  evidence& seen = record.seen;
  seen.usage = item.usage;
  seen.memory_limit = plan_.worker_limits->memory();
  seen.how = platform::exit_status::kind::exited;
  switch (item.kind) {
    case lane_frame::value:
      seen.reply = reply_kind::value;
      break;
    case lane_frame::exception:
      seen.reply = reply_kind::exception;
      break;
    case lane_frame::out_of_memory:
      seen.reply = reply_kind::out_of_memory;
      break;
    default:
      seen.reply = reply_kind::unsendable;
  }
  if (item.size > 0) std::memcpy(record.bytes.grow(item.size), bytes.data() - bytes.begin() + item.begin, item.size);
  record.bytes.select(0, item.size);
  record.custody = item.attached;
  return conclude(*plan_.task_limits, std::move(record), name);
}

raw_outcome pool_machine::outcome_of_killed(const slot& of, const last_item& item) const {
  const task_clock& had = of.clock;
  const ended_for cause = of.killed_for;
  const settings* const limits = item.limits.get();
  // The worker says when; nobody looks at the time of an item without limits.
  const auto claimed = clock::time_point(std::chrono::nanoseconds(of.lane->item_began()));
  const auto since_it_began = clock::now() - std::clamp(claimed, of.started, clock::now());
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
  seen.usage.wall_time = cause == ended_for::cancelled ? since_it_began : had.wall_used();
  seen.usage.user_time = had.cpu_used();
  return conclude(*plan_.task_limits, std::move(record), item.name);
}

}  // namespace pynisher::detail
