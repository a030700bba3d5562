// One call, seen from the parent: start, watch, end. What came of it is in conclusion.cpp.

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <optional>
#include <stop_token>
#include <utility>
#include <vector>

#include <pynisher/detail/execute.hpp>

#include "call_order.hpp"
#include "child_main.hpp"
#include "forkserver.hpp"
#include "mail_link.hpp"
#include "mail_packing.hpp"
#include "platform/contract.hpp"
#include "platform/posix/interrupts.hpp"
#include "program_start.hpp"
#include "reply_region.hpp"
#include "settings.hpp"
#include "supervised_call.hpp"
#include "verdict.hpp"

namespace pynisher::detail {

namespace {

using platform::clock;
using std::chrono::nanoseconds;
using namespace std::chrono_literals;

template <class Limit>
std::optional<Limit> tighter(std::optional<Limit> a, std::optional<Limit> b) {
  if (!a || !b) return a ? a : b;
  return std::min(*a, *b);
}

/// How soon to look at a quantity again that may grow by at most `rate` per nanosecond.
nanoseconds until_it_may_be_used_up(double left, double rate, nanoseconds least, nanoseconds most) {
  const auto soonest = nanoseconds(static_cast<std::int64_t>(left / rate));
  return std::clamp(soonest, least, most);
}

// Several threads use up CPU time faster than the clock runs.
nanoseconds cpu_interval(nanoseconds left) {
  return until_it_may_be_used_up(static_cast<double>(left.count()), platform::processors(), 500us, 1h);
}

// Shared memory can be filled at about 2 MiB per millisecond and core, more with huge pages.
nanoseconds memory_interval(std::uint64_t left) {
  return until_it_may_be_used_up(static_cast<double>(left), 8.0 * 1024 * 1024 / 1e6, 1ms, 50ms);
}

constexpr nanoseconds process_interval = 5ms;

std::uint64_t largest_reply(const settings& limits) {
  const std::uint64_t half = platform::physical_memory() / 2;
  // A packed value may be larger than the value; a flood is far larger than either.
  return limits.memory() ? std::min(half, 4 * *limits.memory() + (std::uint64_t{256} << 20)) : half;
}

}  // namespace

supervised_call::supervised_call(const settings& limits, const platform::doorbell* inner_bell,
                                 const other_start* starter)
    : limits_(limits),
      region_(limits.method() != start_method::fork),
      inner_bell_(inner_bell != nullptr ? inner_bell : &own_inner_bell_.emplace()),
      interrupts_(*inner_bell_, limits.given().forceful_keyboard_interrupt),
      on_stop_(limits.given().stop, asks_to_cancel{this}),
      mark_(starter == nullptr ? held_mark(limits.given().terminate_child_processes) : held_mark(starter->mark_above())),
      reader_(region_.get(), largest_reply(limits)) {}

supervised_call::~supervised_call() {
  if (running_) end();
}

void supervised_call::cancel() noexcept {
  // A function may hold the source of the token, and ask in the child.
  if (platform::process_number() != owner_) return;
  cancelled_.store(true);
  platform::doorbell::raise(inner_bell_->descriptor());
}

[[gnu::hot]] bool supervised_call::start(child_task& task, const platform::signal_mask* mask, const child_extras& extras) {
  if (cancelled_.load()) return false;
  prepare_for_children();
  if (extras.starter != nullptr && extras.starter->mark_above() != 0 && mark_.get().value == 0) {
    failed_ = {"mark the copy's processes", ENOSPC};
    return false;
  }
  if (!bell_ || !*inner_bell_) {
    failed_ = {"make a doorbell", EMFILE};
    return false;
  }
  if (limits_.given().terminate_child_processes || platform::children_need_death_watch) limits_.death_watch().start();

  plan_.conversation = extras.conversation;
  plan_.out = extras.out;
  plan_.err = extras.err;
  plan_.limits = &limits_;
  plan_.region = &region_.get();
  plan_.mark = mark_.get();
  plan_.cpu_limit = tighter(limits_.cpu_time(), platform::outer_cpu_left());
  plan_.doorbell = bell_.descriptor();
  plan_.memory = limits_.memory();
  // The kernel hands an outer limit on as a number that contains what the outer process held, which a fresh one does not
  // hold; and knows nothing of a limit that is watched.
  if (plan_.memory || limits_.method() != start_method::fork) {
    plan_.memory = tighter(plan_.memory, platform::outer_memory_left(limits_.given().measure));
  }
  const memory_measure measure = limits_.given().measure;
  plan_.measures_growth =
      plan_.memory && (measure == memory_measure::growth ||
                       (measure == memory_measure::resident_tree && platform::looked_after_by_parent().tree));
  if (!make_bounds()) return false;
  region_.get().parent_waits.store(1);
  platform::flush_stdio();
  return limits_.method() == start_method::fork ? start_copy(task, mask) : start_afresh(task, mask, extras);
}

/// What the outer call has left is counted otherwise than a group's pages, those of a fork's copies among them; the kernel
/// holds groups within groups to it. Where the parent looks, both are counted alike.
std::uint64_t supervised_call::tree_limit() const {
  return platform::looked_after_by_parent().tree ? *plan_.memory : *limits_.memory();
}

bool supervised_call::make_bounds() {
  if (limits_.memory() && limits_.given().measure == memory_measure::resident_tree) {
    // The reply's pages are the library's, and become the group's when the child fills them first.
    memory_bound_.emplace(tree_limit() + reply_region::size);
    if (!*memory_bound_) {
      failed_ = {"limit the memory of the call's processes", errno};
      return false;
    }
    plan_.memory_bound = memory_bound_->entry().c_str();
  }
  if (limits_.given().processes != 0) {
    process_bound_.emplace(limits_.given().processes, memory_bound_ ? &*memory_bound_ : nullptr);
    if (!*process_bound_) {
      failed_ = {"limit the number of processes", errno};
      return false;
    }
    plan_.process_bound = process_bound_->entry().c_str();
    if (process_bound_->is_within_memory_bound()) plan_.memory_bound = nullptr;
  }
  return true;
}

[[gnu::hot]] bool supervised_call::start_copy(child_task& task, const platform::signal_mask* mask) {
  plan_.signal_mask = mask;
  reply_tools reply(region_.get(), plan_.doorbell);
  plan_.before_fork = prepare_next_child;
  plan_.started = clock::now();
  auto forked = platform::fork_child(plan_);
  if (forked.where == platform::fork_result::side::child) run_in_child(task, reply, plan_);
  return took(std::move(forked), "fork");
}

bool supervised_call::start_afresh(child_task& task, const platform::signal_mask* mask, const child_extras& extras) {
  const bool by_server = limits_.method() == start_method::forkserver;
  plan_.parentage = extras.starter != nullptr ? platform::parentage::cloned
                    : !by_server              ? platform::parentage::fresh
                    : forks_are_relayed()     ? platform::parentage::relayed
                                              : platform::parentage::adopted;
  const platform::signal_mask own_mask = mask != nullptr ? *mask : platform::blocked_signals();
  order_sink sink(region_.get());
  try {
    output_archive out(sink, sink.first());
    write_order(out, limits_, plan_, own_mask);
    packing_scope packing(deposit_mode::argument);
    write_call(out, task);
    sink.finish(out);
    arguments_ = packing.finish();
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const StartException& e) {
    failed_ = {order_sink::stage, e.code().value()};
    return false;
  } catch (const std::exception& e) {
    unsendable_ = e.what();
    return false;
  }
  std::vector<int> descriptors{region_.descriptor(), bell_.descriptor()};
  if (sink.file() >= 0) {
    descriptors.push_back(sink.file());
  } else if (plan_.conversation >= 0) {
    descriptors.push_back(region_.descriptor());  // keeps the place
  }
  if (plan_.conversation >= 0) descriptors.push_back(plan_.conversation);

  const auto note_start = [this] {
    plan_.started = clock::now();
    region_.get().started.store(plan_.started.time_since_epoch().count());
  };
  program_started started;
  if (extras.starter != nullptr) {
    note_start();
    started = extras.starter->start(descriptors, extras);
  } else if (by_server) {
    started = call_by_server(descriptors, {true, extras.out, extras.err},
                             {limits_.given().terminate_child_processes, plan_.mark}, note_start);
  } else {
    note_start();
    started = start_program(program_role::call, descriptors, {true, extras.out, extras.err});
    inherited_peak_ = platform::own_peak();
  }
  if (started.failed != nullptr) {
    failed_ = {started.failed, started.error};
    return false;
  }
  auto watched = platform::watch_started_child(started.pid, platform::call_fd(started.process), platform::call_fd(started.job));
  watched.child.belong_to(std::move(started.parent));
  return took(std::move(watched), "watch the child");
}

bool supervised_call::took(platform::fork_result started, const char* stage) {
  if (started.where == platform::fork_result::side::failed) {
    failed_ = {stage, started.error};
    return false;
  }
  child_ = std::move(started.child);
  running_ = true;
  if (limits_.memory()) seen_.memory_limit = plan_.memory;
  if (seen_.memory_limit == limits_.memory()) seen_.memory_written = limits_.given().memory;
  seen_.cpu_limit = plan_.cpu_limit;
  seen_.wall_limit = limits_.wall_time();
  if (limits_.wall_time()) deadline_ = plan_.started + std::min(*limits_.wall_time(), platform::longest_wait);
  if (plan_.cpu_limit) cpu_look_ = plan_.started + cpu_interval(*plan_.cpu_limit);
  if (inherited_peak_ != 0) peak_look_ = plan_.started + peak_interval_;
  if (memory_bound_) memory_look_ = plan_.started + memory_interval(tree_limit());
  const platform::looked_after looks = platform::looked_after_by_parent();
  const bool is_address_space = plan_.memory && limits_.given().measure == memory_measure::address_space;
  if (plan_.measures_growth || (is_address_space && looks.address_space)) {
    memory_look_ = plan_.started + memory_interval(*plan_.memory);
  }
  if (process_bound_ && looks.processes) process_look_ = plan_.started + process_interval;
  return true;
}

bool supervised_call::begin() {
  // Without it only the kernel would watch the limit, in a process that the function has in its hands.
  if (plan_.cpu_limit && !child_.cpu_time() && !child_.has_ended()) {
    cannot_begin("read the child's CPU clock", errno);
    return false;
  }
  // A child that was started afresh has not taken its arguments yet, and says when it has.
  if (!plan_.measures_growth || plan_.parentage != platform::parentage::fresh) {
    has_let_go_ = platform::let_go(child_, plan_);
    if (!has_let_go_) {
      cannot_begin("measure the child", errno);
      return false;
    }
  }
  // While the child is at it.
  reply_region_owner::prepare_next(limits_.method() != start_method::fork);
  return true;
}

void supervised_call::cannot_begin(const char* stage, int error) {
  failed_ = {stage, error};
  end();
}

std::optional<clock::time_point> supervised_call::next_look() const {
  std::optional<clock::time_point> next;
  for (const auto& time : {deadline_, cpu_look_, memory_look_, peak_look_, process_look_}) {
    if (time && (!next || *time < *next)) next = time;
  }
  return next;
}

bool supervised_call::look(platform::child_process::woken_by woken) {
  if (woken == platform::child_process::woken_by::end) return true;
  if (woken == platform::child_process::woken_by::doorbell) {
    bell_.clear();
    if (own_inner_bell_) own_inner_bell_->clear();
    if (!let_go_on()) return true;
    show_the_way(region_.get());
    switch (hands_over_ ? reader_.how() : reader_.take()) {
      case reply_reader::state::fine:
        break;
      case reply_reader::state::lies:
        return over(ended_for::lying);
      case reply_reader::state::too_large:
        return over(ended_for::too_large);
    }
  }
  if (cancelled_.load()) return over(ended_for::cancelled);
  if (heard_of_interrupt()) return over(ended_for::interrupted);
  const auto now = clock::now();
  if (deadline_ && now >= *deadline_) return over(ended_for::wall_time);
  if (cpu_look_ && now >= *cpu_look_ && cpu_used_up(now)) return over(ended_for::cpu_time);
  if (memory_look_ && now >= *memory_look_ && memory_used_up(now)) return over(ended_for::memory);
  if (peak_look_ && now >= *peak_look_) note_peak(now);
  if (process_look_ && now >= *process_look_) {
    process_bound_->end_surplus(child_);
    process_look_ = now + process_interval;
  }
  return false;
}

/// Should somebody kill it, nothing else tells what it had: less and less often, since this is a wake-up each time.
void supervised_call::note_peak(clock::time_point now) {
  peak_seen_ = std::max(peak_seen_, platform::peak_of(static_cast<pid_t>(child_.pid())));
  peak_interval_ = std::min<nanoseconds>(2 * peak_interval_, 1s);
  peak_look_ = now + peak_interval_;
}

/// Of a child that has taken its arguments and wants to be measured.
bool supervised_call::let_go_on() {
  const std::uint32_t ready = region_.get().ready.load();
  // The function has no say in when it is measured.
  if (has_begun(plan_)) return true;
  bool& done = plan_.parentage == platform::parentage::fresh ? has_let_go_ : measured_again_;
  const std::uint32_t asks = plan_.parentage == platform::parentage::fresh ? 1 : 2;
  if (plan_.parentage == platform::parentage::copy || done || ready != asks) return true;
  done = platform::let_go(child_, plan_);
  if (!done) cannot_begin("measure the child", errno);
  return done;
}

bool supervised_call::over(ended_for cause) {
  seen_.cause = cause;
  return true;
}

bool supervised_call::cpu_used_up(clock::time_point now) {
  const auto used = child_.cpu_time();
  if (used && *used >= *plan_.cpu_limit) return true;
  // It has ended, or the clock cannot be read for the moment.
  cpu_look_ = now + cpu_interval(*plan_.cpu_limit - used.value_or(nanoseconds(0)));
  return false;
}

bool supervised_call::tree_used_up(clock::time_point now) {
  // Where it is the kernel that ends a process at the limit, this is about the rest of them.
  const platform::memory_bound::count held = memory_bound_->look(child_, plan_.at_start);
  const std::uint64_t limit = tree_limit();
  memory_look_ = now + memory_interval(held.used < limit ? limit - held.used : 0);
  if (!held.has_ended_one && !held.is_passed) return false;
  seen_.memory_seen = held.peak;
  seen_.memory_of_tree = true;
  seen_.memory_by_kernel = held.has_ended_one;
  return true;
}

bool supervised_call::memory_used_up(clock::time_point now) {
  if (memory_bound_) return tree_used_up(now);
  const std::uint64_t limit = *plan_.memory;
  // Until the function begins, what is taken is not its affair.
  const auto grown = has_begun(plan_) ? child_.memory_growth(plan_.at_start) : std::nullopt;
  memory_look_ = now + memory_interval(grown && *grown < limit ? limit - *grown : limit);
  if (!grown || *grown <= limit + taken_without_asking()) return false;
  seen_.memory_seen = *grown;
  return true;
}

std::uint64_t supervised_call::taken_without_asking() const {
  return platform::has_waited(plan_.parentage) && !measured_again_ ? reply_region::taken_without_asking : 0;
}

bool supervised_call::heard_of_interrupt() {
  const auto news = interrupts_.take_news();
  if (!news.came) return false;
  if (limits_.given().forceful_keyboard_interrupt) return true;
  if (!news.child_has_it) child_.send(SIGINT);
  seen_.interrupt_forwarded = true;
  return false;
}

platform::exit_status supervised_call::end() {
  running_ = false;
  const bool whole_tree = limits_.given().terminate_child_processes;
  const platform::exit_status status = child_.end(whole_tree, plan_.mark, region_.get());
  if (status.was_alone) region_.serves_again();
  // Those that have hidden themselves by giving up their mark.
  if (whole_tree && memory_bound_) memory_bound_->end_members();
  if (whole_tree && process_bound_) process_bound_->end_members();
  return status;
}

std::optional<usage> supervised_call::usage_so_far() const {
  if (!running_) return std::nullopt;
  usage used;
  used.user_time = child_.cpu_time().value_or(0ns);
  used.peak_memory = platform::peak_of(static_cast<pid_t>(child_.pid()));
  used.wall_time = clock::now() - plan_.started;
  // It may have been another process that was asked, if this one had ended and somebody else has reaped it.
  if (child_.has_ended()) return std::nullopt;
  const std::uint64_t first = region_.get().first_peak.load();
  used.peak_memory -= std::min(used.peak_memory, first);
  return used;
}

bool has_begun(const platform::child_plan& plan) noexcept {
  return plan.not_begun != 0 && plan.region->not_begun.load() != plan.not_begun;
}

namespace {

raw_outcome run(const settings& limits, child_task& task, value_receiver* receiver) {
  warn_before(limits);
  supervised_call call(limits);
  if (call.start(task, nullptr) && call.begin()) {
    for (bool over = false; !over;) {
      const auto woken = call.wait();
      const bool is_large = receiver != nullptr && woken != platform::child_process::woken_by::end && call.value_arrives();
      over = is_large ? call.hand_over(*std::exchange(receiver, nullptr)) : call.look(woken);
    }
  }
  call_record record = call.finish();
  // What is said of the callable is dear, and asked for only where there is something to be said.
  const bool returned = record.failed.stage == nullptr && !record.cancelled_before && record.unsendable.empty() &&
                        judge(record.seen) == verdict::returned;
  return conclude(limits, std::move(record), returned ? call_name{} : task.name(), false);
}

}  // namespace

raw_outcome execute(const settings& limits, child_task& task, value_receiver* receiver) {
  raw_outcome out = run(limits, task, receiver);
  platform::take_pending_default_action();
  return out;
}

}  // namespace pynisher::detail
