// The part of a pool that knows tasks and results: what is sent, and what comes.

#include "machine.hpp"

#include <algorithm>
#include <csignal>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include <pynisher/exceptions.hpp>
#include <pynisher/pool_errors.hpp>

#include "../child_main.hpp"
#include "../settings.hpp"
#include "../supervised_call.hpp"

namespace pynisher::detail {

namespace {

unsigned depth_for(const pool_plan& plan) {
  const std::size_t messages = (plan.window + plan.chunk - 1) / plan.chunk;
  const std::size_t each = (messages + plan.workers - 1) / plan.workers;
  return static_cast<unsigned>(std::clamp<std::size_t>(each, 2, lane::most_in_flight));
}

pool_scheduler::rules rules_for(const pool_plan& plan) {
  return {.workers = plan.workers,
          .depth = depth_for(plan),
          .retries = plan.given.retries,
          .tasks_per_worker = plan.given.tasks_per_worker,
          .replace = plan.given.on_death == on_death::replace};
}

raw_outcome outcome_with(verdict how, std::string text, std::exception_ptr error) {
  raw_outcome out;
  out.verdict = how;
  out.explanation = std::move(text);
  out.error = std::move(error);
  return out;
}

}  // namespace

std::string text_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    return e.what();
  } catch (...) {
    return "something that is no std::exception";
  }
}

pool_machine::pool_machine(pool_plan plan, std::shared_ptr<worker_factory> factory)
    : plan_(std::move(plan)), factory_(std::move(factory)), scheduler_(rules_for(plan_), *this), slots_(plan_.workers) {
  for (slot& one : slots_) one.clock = task_clock(processors_);
  if (!results_bells_ || !service_bells_ || !*deaths_ || !service_bells_.add(*deaths_)) {
    throw StartException("make a descriptor to wait by", {errno, std::system_category()});
  }
}

void refuse_copies(pid_t owner) {
  if (owner != platform::process_number()) {
    throw BrokenPoolError("the pool belongs to the process that made it, and this is a copy of that");
  }
}

// --- tasks in ---------------------------------------------------------------------------------------------------

void pool_machine::submit(std::unique_ptr<batch> what) {
  refuse_copies(owner_);
  const std::size_t items = what->items;
  what->finished.reserve(items);
  const lock held(mutex_);
  const auto sink = sinks_.find(what->owner);
  if (sink != sinks_.end()) sink->second->on_their_way += items;
  if (scheduler_.is_stopped()) return give_up(*what.release());
  try {
    scheduler_.add(*what);
  } catch (...) {
    if (sink != sinks_.end()) sink->second->on_their_way -= items;
    throw;
  }
  static_cast<void>(what.release());
  scheduler_.go_on();
}

pool_core::ticket pool_machine::submit(packed_task task, done_handler done) {
  refuse_copies(owner_);
  auto what = std::make_unique<batch>();
  what->entry = task.entry;
  what->limits = task.limits ? std::move(task.limits) : plan_.task_limits;
  what->name = std::move(task.name);
  const lane_item header{task.packed.size()};
  what->packed.resize(sizeof header + static_cast<std::size_t>(lane::padded(task.packed.size())));
  std::memcpy(what->packed.data(), &header, sizeof header);
  if (!task.packed.empty()) std::memcpy(what->packed.data() + sizeof header, task.packed.data(), task.packed.size());
  what->done = std::move(done);
  if (task.attached) what->attached.push_back({0, std::move(task.attached)});

  const lock held(mutex_);
  if (broken_) throw BrokenPoolError(text_of_broken(), broken_);
  if (closing_ || scheduler_.is_stopped()) throw BrokenPoolError("the pool is closed");
  what->ticket = ++last_ticket_;
  singles_[last_ticket_] = what.get();
  try {
    scheduler_.add(*what);
  } catch (...) {
    singles_.erase(last_ticket_);
    throw;
  }
  static_cast<void>(what.release());
  if (!service_watches_) {
    service_watches_ = true;
    service_bells_.wake();
    for (const slot& one : slots_) {
      if (one.lane) static_cast<void>(service_bells_.add(one.lane->results_bell()));
    }
  }
  scheduler_.go_on();
  return last_ticket_;
}

pool_core::task_state pool_machine::state_of(ticket which) {
  refuse_copies(owner_);
  const lock held(mutex_);
  take_all_results();
  const auto found = singles_.find(which);
  if (found == singles_.end()) return task_state::over;
  for (unsigned i = 0; i < slots_.size(); ++i) {
    const auto& lane = scheduler_.lane(i);
    if (!lane.empty() && lane.front() == found->second && slots_[i].lane && slots_[i].lane->has_begun()) {
      return task_state::running;
    }
  }
  return task_state::queued;
}

bool pool_machine::cancel(ticket which, bool kill) {
  refuse_copies(owner_);
  const lock held(mutex_);
  take_all_results();
  if (!singles_.contains(which)) return false;
  batch& what = *singles_.at(which);
  scheduler_.cancel(what);
  if (!singles_.contains(which)) return true;
  take_all_results();
  if (!singles_.contains(which)) return false;
  // It has begun.
  if (kill && plan_.given.backend == backend::processes) {
    for (unsigned i = 0; i < slots_.size(); ++i) {
      const auto& lane = scheduler_.lane(i);
      if (lane.empty() || lane.front() != &what || !slots_[i].life) continue;
      // If that fails, it has just come to its end.
      return kill_for_its_item(i, ended_for::cancelled);
    }
  }
  what.cancelled = false;
  return false;
}

void pool_machine::cancel_queued() {
  refuse_copies(owner_);
  const lock held(mutex_);
  scheduler_.cancel(0);
  for (auto& [number, what] : singles_) what->cancelled = false;
}

void pool_machine::send(unsigned worker, job& what) {
  slot& at = slots_[worker];
  batch& message = as_batch(what);
  const bool is_first = scheduler_.lane(worker).size() == 1;
  if (message.limits && (message.limits->wall_time() || message.limits->cpu_time())) {
    message.sent = clock::now();
    if (is_first) {
      at.first_since = message.sent;
      at.next_look = message.sent + at.clock.soonest_end(limits_of(message));
      look_by(*at.next_look);
    }
  }
  at.lane->push(message);
  if (is_first) look_whether_it_begins();
}

bool pool_machine::take_back(unsigned worker, job& /*what*/) {
  return slots_[worker].lane && slots_[worker].lane->take_back();
}

std::string pool_machine::text_of_broken() const {
  return fmt::format("the pool is broken, no worker will run this: {}", text_of(broken_));
}

/// It will not run: what waits for it has to know.
void pool_machine::give_up(job& what) {
  std::unique_ptr<batch> message(&as_batch(what));
  if (message->cancelled && only_count(message->owner, message->items - message->ended)) return let_fall(*message);
  const bool was_closed = !broken_;
  auto outcome = std::make_shared<raw_outcome>(
      message->cancelled
          ? outcome_with(verdict::cancelled, "the task was cancelled before it began",
                         std::make_exception_ptr(CancelledException("the task was cancelled before it began")))
      : was_closed ? outcome_with(verdict::cancelled, "the pool was closed before the task began",
                                  std::make_exception_ptr(BrokenPoolError("the pool was closed before the task began")))
                   : outcome_with(verdict::start_failed, text_of_broken(),
                                  std::make_exception_ptr(BrokenPoolError(text_of_broken(), broken_))));
  hand_over(*message);
  let_fall(*message);
  delivery left;
  for (std::uint32_t i = message->ended; i < message->items; ++i) {
    left.items.push_back({message->first + i, no_worker, lane_frame::value, 0, 0, {}, outcome, nullptr});
  }
  if (message->ticket != 0) {
    finish_single(*message, std::move(left.items.front()), {});
  } else {
    deliver(message->owner, std::move(left));
  }
}

// --- results out ------------------------------------------------------------------------------------------------

void pool_machine::take_all_results() {
  for (unsigned i = 0; i < slots_.size(); ++i) {
    if (slots_[i].lane && slots_[i].lane->has_news()) take_results(i);
  }
}

void pool_machine::take_results(unsigned worker) {
  slot& at = slots_[worker];
  using state = lane_end::frame::state_kind;
  batch* touched = nullptr;
  while (at.killed_for != ended_for::lying && at.killed_for != ended_for::too_large) {
    const auto& lane = scheduler_.lane(worker);
    batch* const first = lane.empty() ? nullptr : &as_batch(*lane.front());
    touched = first;
    const lane_end::frame came = at.lane->next(!at.made ? &at.words : first != nullptr ? &first->replies : nullptr);
    if (came.state == state::none) break;
    if (came.state != state::came || (at.made && came.kind == lane_frame::ready)) {
      kill(worker, came.state == state::too_large ? ended_for::too_large : ended_for::lying);
      break;
    }
    if (!at.made) {
      first_words(worker, came);
    } else {
      const bool last = first->ended + 1 == first->items;
      item_ended(worker, *first, came);
      if (last) touched = nullptr;
    }
  }
  // In the middle of a value what has come must stay together.
  if (touched != nullptr && !at.lane->is_in_pieces()) hand_over(*touched);
}

void pool_machine::first_words(unsigned worker, const lane_end::frame& said) {
  slot& at = slots_[worker];
  if (said.kind == lane_frame::ready) {
    at.made = true;
    at.vain_starts = 0;
    at.words = {};
    scheduler_.ready(worker);
    changed_.notify_all();
  } else if (!at.refusal) {
    // Unpacked by the service thread, once the worker has ended.
    at.refusal = said;
  }
}

usage pool_machine::usage_of(const slot& at, const lane_end::frame& how) const {
  pynisher::usage used;
  // The worker's word, within what is possible.
  const auto most = (clock::now() - at.started).count();
  used.wall_time = std::chrono::nanoseconds(std::clamp<std::int64_t>(how.wall_ns, 0, most));
  if (how.measured) {
    const std::int64_t most_cpu = most * processors_;
    used.user_time = std::chrono::nanoseconds(std::clamp<std::int64_t>(how.usage.user_ns, 0, most_cpu));
    used.system_time = std::chrono::nanoseconds(std::clamp<std::int64_t>(how.usage.system_ns, 0, most_cpu));
    used.peak_memory = std::min(how.usage.peak, platform::physical_memory());
    used.page_faults = how.usage.page_faults;
  }
  return used;
}

std::unique_ptr<batch> pool_machine::alone(const batch& of) {
  std::size_t begin = 0;
  lane_item item{0};
  for (std::uint32_t i = 0;; ++i) {
    std::memcpy(&item, of.packed.data() + begin, sizeof item);
    if (i == of.ended) break;
    begin += sizeof item + static_cast<std::size_t>(lane::padded(item.size));
  }
  const auto from = of.packed.begin() + static_cast<std::ptrdiff_t>(begin);
  auto single = std::make_unique<batch>();
  single->owner = of.owner;
  single->entry = of.entry;
  single->limits = of.limits;
  single->name = of.name;
  single->first = of.first + of.ended;
  single->packed.assign(from, from + static_cast<std::ptrdiff_t>(sizeof item + lane::padded(item.size)));
  for (const auto& [number, what] : of.attached) {
    if (number == of.ended) single->attached.push_back({0, what});
  }
  return single;
}

/// What was sent behind another one is the first now: its limits may be others.
void pool_machine::first_has_changed(unsigned worker) {
  slot& at = slots_[worker];
  const auto& lane = scheduler_.lane(worker);
  if (lane.empty() || at.retiring) return;
  const batch& first = as_batch(*lane.front());
  if (!first.limits || (!first.limits->wall_time() && !first.limits->cpu_time())) return;
  at.first_since = clock::now();
  const auto when = at.first_since + at.clock.soonest_end(limits_of(first));
  if (at.next_look && *at.next_look <= when) return;
  at.next_look = when;
  look_by(when);
}

/// The item that the message is at has ended by itself.
void pool_machine::item_ended(unsigned worker, batch& of, const lane_end::frame& how) {
  slot& at = slots_[worker];
  ++at.items;
  const bool failed = how.kind != lane_frame::value;
  const bool again =
      failed && how.kind != lane_frame::unsendable && !of.cancelled && scheduler_.tries_again(of.failures);
  const std::uint32_t failures = of.failures + 1;
  std::unique_ptr<batch> retried;
  finished_item item{of.first + of.ended, worker, how.kind, how.begin, how.size, usage_of(at, how), nullptr, nullptr};
  if (how.attached) adopt(item, of, *how.attached);
  if (again && of.items > 1) retried = alone(of);
  if (of.cancelled && of.ticket == 0 && only_count(of.owner, 1)) {
    of.replies = {};
    if (item.attached) run_apart_from_the_mutex([kept = std::move(item.attached)] {});
  } else if (!again && of.ticket == 0) {
    of.finished.push_back(std::move(item));
  }
  if (of.limits && (of.limits->wall_time() || of.limits->cpu_time())) at.first_since = clock::now();

  if (of.ended + 1 == of.items) at.lane->first_is_over();
  const bool message_over = scheduler_.item_ended(worker);
  if (message_over) first_has_changed(worker);
  if (!message_over) {
    if (retried) {
      retried->failures = failures;
      scheduler_.submit_again(*retried.release());
    }
    return;
  }
  // The message is over, and belongs to nobody else any more.
  std::unique_ptr<batch> over(&of);
  if (again && over->items == 1) {
    over->ended = 0;
    over->failures = failures;
    over->replies = {};
    scheduler_.submit_again(*over.release());
    return;
  }
  if (retried) {
    retried->failures = failures;
    scheduler_.submit_again(*retried.release());
  }
  let_fall(*over);
  if (over->ticket != 0) {
    finish_single(*over, std::move(item), std::move(over->replies));
  } else {
    hand_over(*over);
  }
}

void pool_machine::hand_over(batch& of) {
  if (of.finished.empty()) return;
  deliver(of.owner, {std::exchange(of.finished, {}), std::exchange(of.replies, {})});
}

void pool_machine::deliver(std::uint64_t owner, delivery&& what) {
  const auto found = sinks_.find(owner);
  if (found == sinks_.end() || only_count(owner, what.items.size())) {
    for (finished_item& one : what.items) {
      if (one.attached) run_apart_from_the_mutex([kept = std::move(one.attached)] {});
    }
    return;
  }
  map_sink& sink = *found->second;
  sink.on_their_way -= what.items.size();
  sink.arrived.push_back(std::move(what));
  wake(sink);
}

bool pool_machine::only_count(std::uint64_t owner, std::size_t items) {
  const auto found = sinks_.find(owner);
  if (found == sinks_.end() || !found->second->is_dropped) return false;
  found->second->on_their_way -= items;
  wake(*found->second);
  return true;
}

void pool_machine::wake(map_sink& sink) {
  if (sink.sleeps) sink.wake.notify_one();
  // Who watches does not hold the mutex, so that it is not who delivers this.
  if (watcher_ == &sink) results_bells_.wake();
}

/// The worker may be gone before anybody reads what it has sent.
void pool_machine::adopt(finished_item& item, const batch& of, const deposit_key& key) {
  item.attached = std::make_shared<deposited>(key);
  // A map's result is read once, and a future's as often as it is asked for.
  const auto mode = of.ticket == 0 ? deposit_mode::argument : deposit_mode::kept;
  run_apart_from_the_mutex([what = item.attached, mode] { what->adopt(mode); });
}

void pool_machine::let_fall(batch& over) {
  if (!over.attached.empty()) run_apart_from_the_mutex([what = std::exchange(over.attached, {})] {});
}

void pool_machine::run_apart_from_the_mutex(std::function<void()> errand) {
  errands_.push_back(std::move(errand));
  service_bells_.wake();
}

void pool_machine::finish_single(batch& of, finished_item&& item, reply_bytes&& bytes) {
  singles_.erase(of.ticket);
  finished_singles_.push_back({std::move(of.done), std::move(item), std::move(bytes), std::move(of.name)});
  service_bells_.wake();
}

}  // namespace pynisher::detail
