#include "scheduler.hpp"

#include <algorithm>
#include <utility>

namespace pynisher::detail {

namespace {

constexpr unsigned most_vain_deaths = 3;

std::size_t left(const job& what) { return what.items - what.ended; }

}  // namespace

pool_scheduler::pool_scheduler(const rules& by, pool_hands& hands) : rules_(by), hands_(hands), workers_(by.workers) {}

// --- events -------------------------------------------------------------------------------------------------

void pool_scheduler::open() {
  for (unsigned i = 0; i < workers_.size(); ++i) {
    workers_[i].now = state::starting;
    hands_.start(i);
  }
}

void pool_scheduler::add(job& what) {
  if (stopped_) return hands_.give_up(what);
  backlog_.push_back(&what);
}

void pool_scheduler::submit_again(job& what) {
  put_back(what);
  go_on();
}

void pool_scheduler::ready(unsigned worker) {
  auto& w = workers_[worker];
  w.now = state::ready;
  w.given = 0;
  w.failed_starts = 0;
  w.stuck = false;
  go_on();
}

bool pool_scheduler::stuck(unsigned worker) {
  auto& w = workers_[worker];
  if (stopped_ || w.now != state::ready || w.lane.empty() || !backlog_.empty()) return false;
  const bool was_stuck = std::exchange(w.stuck, true);
  if (!somebody_is_idle(left(*w.lane.back())) || !take_back_last(worker)) {
    w.stuck = was_stuck;
    return false;
  }
  go_on();
  return true;
}

void pool_scheduler::awake(unsigned worker) {
  workers_[worker].stuck = false;
  go_on();
}

bool pool_scheduler::start_failed(unsigned worker) {
  auto& w = workers_[worker];
  w.now = state::none;
  if (stopped_) return true;
  if (++w.failed_starts >= rules_.start_attempts) {
    stop();
    return false;
  }
  w.now = state::starting;
  hands_.start(worker);
  return true;
}

void pool_scheduler::start_again(unsigned worker) {
  workers_[worker].now = stopped_ ? state::none : state::starting;
  if (!stopped_) hands_.start(worker);
}

bool pool_scheduler::item_ended(unsigned worker) {
  auto& w = workers_[worker];
  job& first = *w.lane.front();
  ++first.ended;
  first.failures = 0;
  w.vain_deaths = 0;
  w.holds_on = w.stuck = false;
  if (first.ended < first.items) return false;
  w.lane.pop_front();
  go_on();
  return true;
}

pool_scheduler::death pool_scheduler::ended(unsigned worker, bool begun, bool wanted) {
  auto& w = workers_[worker];
  const bool in_order = w.now == state::retiring && w.lane.empty();
  w.now = state::none;
  w.holds_on = w.stuck = false;
  // A worker may lie about not having begun; it does not keep a job going round for ever by that.
  if (!w.lane.empty() && !begun && ++w.vain_deaths >= most_vain_deaths) begun = true;

  death result;
  std::deque<job*> had;
  had.swap(w.lane);
  if (begun && !had.empty()) {
    w.vain_deaths = 0;
    result = charge(*had.front(), rules_.replace || wanted);
    if (result.over) had.pop_front();
  }
  if (!in_order && !wanted && !rules_.replace) stop();
  for (auto what = had.rbegin(); what != had.rend(); ++what) put_back(**what);
  if (!stopped_) {
    w.now = state::starting;
    hands_.start(worker);
  }
  go_on();
  return result;
}

pool_scheduler::death pool_scheduler::charge(job& first, bool may_be_tried_again) const {
  death result;
  result.charged = &first;
  if (!first.cancelled && tries_again(first.failures) && may_be_tried_again) {
    ++first.failures;
    result.again = true;
  } else {
    first.failures = 0;
    result.over = ++first.ended == first.items;
  }
  return result;
}

pool_scheduler::death pool_scheduler::lost(unsigned worker) {
  auto& lane = workers_[worker].lane;
  job& first = *lane.front();
  lane.pop_front();
  const death result = charge(first, rules_.replace);
  if (!result.over) put_back(first);
  return result;
}

void pool_scheduler::cancel(std::uint64_t owner) {
  for (auto& w : workers_) {
    for (job* what : w.lane) {
      if (what->owner == owner) what->cancelled = true;
    }
  }
  for (job* what : backlog_) {
    if (what->owner == owner) what->cancelled = true;
  }
  // In its place: whoever has run out of memory lets go of a map by this.
  auto kept = backlog_.begin();
  for (job* what : backlog_) {
    if (what->cancelled) {
      hands_.give_up(*what);
    } else {
      *kept++ = what;
    }
  }
  backlog_.erase(kept, backlog_.end());
  for (unsigned i = 0; i < workers_.size(); ++i) cancel_in_lane(i);
  go_on();
}

void pool_scheduler::cancel(job& what) {
  what.cancelled = true;
  if (const auto at = std::find(backlog_.begin(), backlog_.end(), &what); at != backlog_.end()) {
    backlog_.erase(at);
    hands_.give_up(what);
    return;
  }
  for (unsigned i = 0; i < workers_.size(); ++i) {
    const auto& lane = workers_[i].lane;
    if (std::find(lane.begin(), lane.end(), &what) != lane.end()) cancel_in_lane(i);
  }
  go_on();
}

void pool_scheduler::stop() {
  stopped_ = true;
  for (unsigned i = 0; i < workers_.size(); ++i) {
    while (take_back_last(i)) {
    }
  }
  std::deque<job*> all;
  all.swap(backlog_);
  for (job* what : all) hands_.give_up(*what);
}

bool pool_scheduler::is_idle() const {
  return backlog_.empty() &&
         std::all_of(workers_.begin(), workers_.end(), [](const station& w) { return w.lane.empty(); });
}

// --- decisions ------------------------------------------------------------------------------------------------

void pool_scheduler::go_on() {
  while (!stopped_ && (send_next() || move_work() || retire_worn_out())) {
  }
}

bool pool_scheduler::is_worn_out(const station& w, std::size_t items) const {
  return rules_.tasks_per_worker != 0 && w.given > 0 && w.given + items > rules_.tasks_per_worker;
}

/// The next of the backlog to whom has least; to one that is stuck only if all others have enough.
bool pool_scheduler::send_next() {
  if (backlog_.empty()) return false;
  job& next = *backlog_.front();
  station* least = nullptr;
  for (auto& w : workers_) {
    if (w.now != state::ready || w.lane.size() >= rules_.depth || is_worn_out(w, left(next))) continue;
    const auto has = [](const station& one) { return std::pair(one.stuck, one.lane.size()); };
    if (least == nullptr || has(w) < has(*least)) least = &w;
    if (least->lane.empty() && !least->stuck) break;
  }
  if (least == nullptr) return false;
  backlog_.pop_front();
  least->given += left(next);
  least->lane.push_back(&next);
  least->holds_on = false;
  hands_.send(static_cast<unsigned>(least - workers_.data()), next);
  return true;
}

/// What waits behind a long job goes to somebody who has nothing to do.
bool pool_scheduler::move_work() {
  if (!backlog_.empty()) return false;
  station* most = nullptr;
  for (auto& w : workers_) {
    if (w.lane.size() < 2 || w.holds_on) continue;
    if (most == nullptr || w.lane.size() > most->lane.size()) most = &w;
  }
  if (most == nullptr) return false;
  const std::size_t items = left(*most->lane.back());
  return somebody_is_idle(items) && take_back_last(static_cast<unsigned>(most - workers_.data()));
}

bool pool_scheduler::somebody_is_idle(std::size_t for_items) const {
  return std::any_of(workers_.begin(), workers_.end(), [&](const station& w) {
    return w.now == state::ready && w.lane.empty() && !w.stuck && !is_worn_out(w, for_items);
  });
}

bool pool_scheduler::retire_worn_out() {
  if (rules_.tasks_per_worker == 0) return false;
  const std::size_t next = backlog_.empty() ? 1 : left(*backlog_.front());
  for (auto& w : workers_) {
    if (w.now != state::ready || !w.lane.empty() || !is_worn_out(w, next)) continue;
    w.now = state::retiring;
    hands_.retire(static_cast<unsigned>(&w - workers_.data()));
    return true;
  }
  return false;
}

/// To the head of the backlog, unless nobody wants it any more.
void pool_scheduler::put_back(job& what) {
  if (what.cancelled || stopped_) {
    hands_.give_up(what);
  } else {
    backlog_.push_front(&what);
  }
}

bool pool_scheduler::take_back_last(unsigned from) {
  auto& w = workers_[from];
  if (w.lane.empty()) return false;
  job& last = *w.lane.back();
  if (!hands_.take_back(from, last)) {
    w.holds_on = true;
    return false;
  }
  w.lane.pop_back();
  w.given -= left(last);
  put_back(last);
  return true;
}

/// Takes back as much as the cancelled ones need; what was not cancelled is sent again.
void pool_scheduler::cancel_in_lane(unsigned in) {
  const auto& lane = workers_[in].lane;
  const auto is_cancelled = [](const job* what) { return what->cancelled; };
  while (std::any_of(lane.begin(), lane.end(), is_cancelled) && take_back_last(in)) {
  }
}

}  // namespace pynisher::detail
