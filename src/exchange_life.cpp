// The life of channels and queues: who is associated with which end, and when there is nobody any more.

#include <algorithm>
#include <limits>
#include <set>
#include <utility>
#include <vector>

#include "exchange.hpp"

namespace pynisher::detail {

namespace {

std::int64_t as_number(std::uint64_t value) {
  return static_cast<std::int64_t>(std::min<std::uint64_t>(value, std::numeric_limits<std::int64_t>::max()));
}

}  // namespace

// --- association ----------------------------------------------------------------------------------------------------

void exchange::create(party_id from, operation_id operation, const request& what, effects& out) {
  party& maker = parties_.at(from);
  if (what.mode > static_cast<std::uint8_t>(unbound::remove)) return reply(from, operation, mail_status::wrong, out);
  if (maker.who.is_remote && maker.channels >= budget_.channels)
    return reply(from, operation, too_much(mail_limit::channels), out);
  ++maker.channels;
  channel fresh;
  fresh.id = ++last_channel_;
  fresh.is_queue = what.end == end_kind::queue;
  fresh.capacity = what.number;
  fresh.policy = static_cast<unbound>(what.mode);
  fresh.type = what.key[0];
  fresh.maker = from;
  fresh.holds[0][from].count = 1;
  if (!fresh.is_queue) fresh.holds[1][from].count = 1;
  reply(from, operation, mail_status::done, out, fresh.id);
  channels_.emplace(fresh.id, std::move(fresh));
}

exchange::channel* exchange::find(std::int64_t id) {
  const auto found = channels_.find(id);
  return found == channels_.end() ? nullptr : &found->second;
}

bool exchange::has_holder(const channel& of, std::size_t side) {
  return std::any_of(of.holds[side].begin(), of.holds[side].end(),
                     [](const auto& held) { return held.second.is_associated(); });
}

/// An end that lies in an item which nobody can ever receive is nobody's.
bool exchange::has_anybody(const channel& of, std::size_t side) const {
  if (has_holder(of, side)) return true;
  std::int64_t lying = 0;
  for (const auto& [id, count] : of.lying_in[side]) lying += count;
  if (of.in_transit[side] > lying) return true;
  return std::any_of(of.lying_in[side].begin(), of.lying_in[side].end(),
                     [this](const auto& where) { return can_be_received(where.first); });
}

/// Somebody has its receiving end, or can receive that.
bool exchange::can_be_received(std::int64_t channel_id) const {
  std::vector<std::int64_t> left{channel_id};
  std::set<std::int64_t> seen{channel_id};
  while (!left.empty()) {
    const channel& of = channels_.at(left.back());
    left.pop_back();
    if (has_holder(of, 0)) return true;
    std::int64_t lying = 0;
    for (const auto& [id, count] : of.lying_in[0]) {
      lying += count;
      if (seen.insert(id).second) left.push_back(id);
    }
    if (of.in_transit[0] > lying) return true;
  }
  return false;
}

bool exchange::has_room(const channel& of) { return of.items.size() - of.in_line.size() < of.capacity; }

bool exchange::is_ready(const channel& of) const {
  if (!of.items.empty() || of.closed || of.poisoned) return true;
  // Nothing will ever come.
  return of.in_hand == 0 && (of.sending_closed || (!of.is_queue && !has_anybody(of, 1)));
}

bool exchange::is_ready_for(const channel& of, party_id by) const {
  return is_ready(of) || why_unusable(of, 0, by) != mail_status::done;
}

mail_status exchange::why_unusable(const channel& of, std::size_t side, party_id by) {
  if (of.poisoned) return mail_status::poisoned;
  if (of.closed) return mail_status::closed;
  const auto found = of.holds[side].find(by);
  if (found != of.holds[side].end() && found->second.released) return mail_status::released;
  if (side == 1 && of.sending_closed) return mail_status::closed;
  return mail_status::done;
}

// --- ends -----------------------------------------------------------------------------------------------------------

void exchange::release(channel& of, party_id from, operation_id operation, end_kind end, effects& out) {
  hold& held = of.holds[side_of(end)][from];
  const bool is_first = !std::exchange(held.released, true);
  if (side_of(end) == 0) {
    fail_receivers(of, from, mail_status::released, out);
    wake_selects(of, out);
  } else {
    fail_senders(of, from, mail_status::released, out);
  }
  reply(from, operation, mail_status::done, out, is_first ? 1 : 0);
}

mail_status exchange::close(channel& of, const request& what, effects& out) {
  if (of.is_queue) return mail_status::wrong;
  if (of.poisoned) return mail_status::poisoned;
  const bool is_forced = what.mode != 0;
  const bool from_sending = what.end == end_kind::sending;
  // The receiving end of a channel that drains may still be closed; the sending end is.
  if (of.closed || (from_sending && of.sending_closed && !is_forced)) return mail_status::closed;
  if (!is_forced && !of.items.empty()) {
    if (!from_sending) return mail_status::not_empty;
    of.sending_closed = true;
    return mail_status::done;
  }
  if (from_sending && !is_forced && of.in_hand > 0) {
    of.sending_closed = true;
    return mail_status::done;
  }
  shut(of, mail_status::closed, out);
  return mail_status::done;
}

mail_status exchange::poison(channel& of, effects& out) {
  if (of.is_queue) return mail_status::wrong;
  if (of.poisoned) return mail_status::done;
  if (of.closed) return mail_status::closed;
  of.poisoned = true;
  shut(of, mail_status::poisoned, out);
  return mail_status::done;
}

void exchange::shut(channel& of, mail_status why, effects& out) {
  of.closed = of.sending_closed = true;
  unsettled_.insert(of.id);
  of.in_line.clear();
  auto items = std::move(of.items);
  of.items.clear();
  for (auto& [place, what] : items) {
    note_ends(what, of.id, -1);
    end_of_item(what, why, out);
  }
  fail_receivers(of, std::nullopt, why, out);
  wake_selects(of, out);
}

void exchange::drop(party_id from, const request& what) {
  channel* const of = find(what.channel);
  if (of == nullptr) return;
  hold& held = of->holds[side_of(what.end)][from];
  held.count -= as_number(what.number);
  if (held.count <= 0) held.used = false;
  unsettled_.insert(of->id);
}

void exchange::look(party_id from, operation_id operation, const request& what, effects& out) {
  const channel& of = *find(what.channel);
  answer made;
  made.to = from;
  made.operation = operation;
  const bool is_closed = of.closed || of.poisoned || (what.end == end_kind::sending && of.sending_closed);
  made.number = (is_closed ? look_bits::closed : 0) | (of.is_queue ? look_bits::queue : 0);
  made.facts = {of.type, of.items.size() - of.in_line.size(), of.capacity};
  out.answers.push_back(std::move(made));
}

void exchange::isolates(party_id from, operation_id operation, const request& what, effects& out) {
  const channel& of = *find(what.channel);
  std::set<std::int64_t> ids;
  for (const auto& [who, held] : of.holds[side_of(what.end)]) {
    if (held.is_associated()) ids.insert(isolate_of(who));
  }
  answer made;
  made.to = from;
  made.operation = operation;
  made.numbers.assign(ids.begin(), ids.end());
  out.answers.push_back(std::move(made));
}

void exchange::list(party_id from, operation_id operation, effects& out) {
  answer made;
  made.to = from;
  made.operation = operation;
  for (const auto& [id, of] : channels_) {
    if (!of.is_queue && !of.closed) made.numbers.push_back(id);
  }
  out.answers.push_back(std::move(made));
}

bool exchange::watch(party_id who, std::int64_t id) {
  channel& of = *find(id);
  return of.watchers[who] = is_ready_for(of, who);
}

bool exchange::has_an_end(party_id who, std::int64_t id) const {
  const auto found = channels_.find(id);
  if (found == channels_.end()) return false;
  return std::any_of(found->second.holds.begin(), found->second.holds.end(), [who](const auto& side) {
    const auto held = side.find(who);
    return held != side.end() && (held->second.count > 0 || held->second.used);
  });
}

void exchange::tell_watchers(channel& of, effects& out) {
  for (auto& [who, told] : of.watchers) {
    if (is_ready_for(of, who) == told) continue;
    told = !told;
    out.ready.push_back({of.id, who, told});
  }
}

void exchange::settle(effects& out) {
  while (!unsettled_.empty()) {
    const std::int64_t id = *unsettled_.begin();
    unsettled_.erase(unsettled_.begin());
    channel* const of = find(id);
    if (of == nullptr) continue;
    settle(*of, out);
    tell_watchers(*of, out);
    if (!is_forgotten(*of)) continue;
    if (const auto maker = parties_.find(of->maker); maker != parties_.end()) --maker->second.channels;
    channels_.erase(id);
  }
}

void exchange::settle(channel& of, effects& out) {
  if (of.closed) return;
  const bool has_receivers = has_anybody(of, 0);
  if (std::exchange(of.had_receivers, has_receivers) && !has_receivers) {
    // The ends that lie in what nobody can receive any more.
    for (const auto& [place, what] : of.items) {
      if (!what.content) continue;
      for (const attachment& one : what.content->attached) {
        if (one.what == attachment::kind::end) unsettled_.insert(one.channel);
      }
    }
  }
  if (of.is_queue) {
    if (!has_receivers) shut(of, mail_status::not_found, out);
    return;
  }
  const bool has_senders = has_anybody(of, 1);
  if (of.sending_closed && of.items.empty() && of.in_hand == 0) return shut(of, mail_status::closed, out);
  if (!has_receivers && !has_senders) return shut(of, mail_status::closed, out);
  if (!has_senders && of.items.empty() && of.in_hand == 0) {
    fail_receivers(of, std::nullopt, mail_status::closed, out);
    wake_selects(of, out);
  }
  if (!has_receivers) {
    fail_senders(of, std::nullopt, mail_status::closed, out);
    fail_receipts(of, mail_status::closed, out);
  }
}

/// Nobody can ask for it any more.
bool exchange::is_forgotten(channel& of) {
  if (!of.closed || of.in_hand > 0 || of.in_transit[0] > 0 || of.in_transit[1] > 0) return false;
  for (auto& side : of.holds) {
    for (const auto& [who, held] : side) {
      if (held.count != 0 || held.used) return false;
    }
  }
  return true;
}

}  // namespace pynisher::detail
