// How items go through channels and queues: sent, waited for, received; and what becomes of those that are not.

#include <algorithm>
#include <utility>

#include "exchange.hpp"

namespace pynisher::detail {

// --- sending --------------------------------------------------------------------------------------------------------

void exchange::send(party_id from, operation_id operation, request& what, effects& out) {
  channel* const of = find(what.channel);
  if (of == nullptr) return reply(from, operation, mail_status::not_found, out);
  const std::size_t side = of->is_queue ? 0 : 1;
  if (const mail_status why = why_unusable(*of, side, from); why != mail_status::done)
    return reply(from, operation, why, out);
  if (!what.content || what.mode > static_cast<std::uint8_t>(send_mode::post)) {
    return reply(from, operation, mail_status::wrong, out);
  }
  of->holds[side][from].used = true;
  const auto mode = static_cast<send_mode>(what.mode);
  const bool has_place = has_room(*of);
  const bool is_awaited = !of->receivers.empty();
  if (!has_place && !is_awaited) {
    if (mode == send_mode::nowait) {
      return reply(from, operation, of->is_queue ? mail_status::full : mail_status::not_received, out);
    }
    if (!of->is_queue && !has_anybody(*of, 0)) return reply(from, operation, mail_status::closed, out);
  }
  party& sender = parties_.at(from);
  const bool waits = mode == send_mode::wait && !has_place;
  if (sender.who.is_remote) {
    if (waits && sender.operations >= budget_.operations) {
      return reply(from, operation, too_much(mail_limit::waiting), out);
    }
    if (mode == send_mode::post && sender.receipts >= budget_.receipts) {
      return reply(from, operation, too_much(mail_limit::receipts), out);
    }
  }
  if (const refusal why = pick_up(from, *what.content, true)) return reply(from, operation, why, out);

  const std::uint64_t place = of->next++;
  item fresh;
  fresh.content = std::move(what.content);
  fresh.from = from;
  fresh.household = sender.who.household;
  // What somebody looks for by select has its place even where there is no buffer.
  if (!has_place && !(mode == send_mode::nowait)) of->in_line.insert(place);
  if (mode == send_mode::post) {
    fresh.receipt = ++last_receipt_;
    ++sender.receipts;
    receipts_[fresh.receipt].of = from;
    reply(from, operation, mail_status::done, out, static_cast<std::int64_t>(fresh.receipt));
  } else if (waits) {
    fresh.sender = operation;
    wait(from, operation, {from, waits_for::taken, {of->id}, place});
  } else {
    reply(from, operation, mail_status::done, out);
  }
  put_in(*of, place, std::move(fresh));
  match(*of, out);
}

exchange::item& exchange::put_in(channel& of, std::uint64_t place, item&& what) {
  item& put = of.items[place] = std::move(what);
  note_ends(put, of.id, 1);
  return put;
}

exchange::item exchange::take_out(channel& of, std::uint64_t place) {
  auto node = of.items.extract(place);
  of.in_line.erase(place);
  note_ends(node.mapped(), of.id, -1);
  unsettled_.insert(of.id);
  return std::move(node.mapped());
}

void exchange::note_ends(const item& of, std::int64_t lying_in, std::int64_t change) {
  if (!of.content) return;
  for (const attachment& one : of.content->attached) {
    channel* const whose = one.what == attachment::kind::end ? find(one.channel) : nullptr;
    if (whose == nullptr) continue;
    auto& places = whose->lying_in[side_of(one.end)];
    if ((places[lying_in] += change) == 0) places.erase(lying_in);
  }
}

void exchange::admit(channel& of, effects& out) {
  while (!of.in_line.empty() && has_room(of)) {
    item& next = of.items.at(*of.in_line.begin());
    of.in_line.erase(of.in_line.begin());
    if (next.sender != 0) answer_waiting(std::exchange(next.sender, 0), mail_status::done, out);
  }
}

void exchange::fail_senders(channel& of, std::optional<party_id> of_party, mail_status why, effects& out) {
  std::vector<std::uint64_t> places;
  for (const std::uint64_t place : of.in_line) {
    const item& what = of.items.at(place);
    if (what.sender != 0 && (!of_party || what.from == *of_party)) places.push_back(place);
  }
  for (const std::uint64_t place : places) remove_item(of, place, why, out);
}

/// Posted items go, so that none is taken of which it was said that it never will be.
void exchange::fail_receipts(channel& of, mail_status why, effects& out) {
  std::vector<std::uint64_t> places;
  for (const auto& [place, what] : of.items) {
    if (what.receipt != 0) places.push_back(place);
  }
  for (const std::uint64_t place : places) remove_item(of, place, why, out);
}

void exchange::remove_item(channel& of, std::uint64_t place, mail_status why, effects& out) {
  item gone = take_out(of, place);
  end_of_item(gone, why, out);
  admit(of, out);
}

/// It is gone, and nobody has had it.
void exchange::end_of_item(item& what, mail_status why, effects& out) {
  if (what.sender != 0) answer_waiting(std::exchange(what.sender, 0), why, out);
  if (what.receipt != 0) conclude_receipt(std::exchange(what.receipt, 0), why, -1, out);
  if (!what.content) return;
  give_back_charge(what.from, *what.content);
  for (const attachment& one : what.content->attached) let_fall(one);
  what.content.reset();
}

// --- receiving ------------------------------------------------------------------------------------------------------

void exchange::receive(party_id from, operation_id operation, const request& what, effects& out) {
  channel* const of = find(what.channel);
  if (of == nullptr) return reply(from, operation, mail_status::not_found, out);
  if (const mail_status why = why_unusable(*of, 0, from); why != mail_status::done)
    return reply(from, operation, why, out);
  of->holds[0][from].used = true;
  unsettled_.insert(of->id);
  if (!of->items.empty()) return give(*of, of->items.begin()->first, from, operation, out);
  if (!of->is_queue && of->in_hand == 0 && !has_anybody(*of, 1))
    return reply(from, operation, mail_status::closed, out);
  if (what.mode == at_once) return reply(from, operation, mail_status::empty, out);
  if (!wait(from, operation, {from, waits_for::item, {of->id}, 0}))
    return reply(from, operation, too_much(mail_limit::waiting), out);
  of->receivers.push_back(operation);
}

void exchange::select(party_id from, operation_id operation, const request& what, effects& out) {
  for (const std::int64_t id : what.numbers) {
    if (find(id) == nullptr) return reply(from, operation, mail_status::not_found, out);
  }
  for (std::size_t i = 0; i < what.numbers.size(); ++i) {
    channel& of = *find(what.numbers[i]);
    if (is_ready_for(of, from)) {
      return reply(from, operation, mail_status::done, out, static_cast<std::int64_t>(i));
    }
    of.holds[0][from].used = true;
  }
  if (what.mode == at_once || what.numbers.empty()) return reply(from, operation, mail_status::empty, out);
  if (!wait(from, operation, {from, waits_for::any, what.numbers, 0})) {
    return reply(from, operation, too_much(mail_limit::waiting), out);
  }
  for (const std::int64_t id : what.numbers) find(id)->receivers.push_back(operation);
}

void exchange::match(channel& of, effects& out) {
  unsettled_.insert(of.id);
  while (!of.items.empty()) {
    const auto next = std::find_if(of.receivers.begin(), of.receivers.end(),
                                   [this](operation_id waits) { return waiting_.at(waits).what == waits_for::item; });
    if (next == of.receivers.end()) break;
    const operation_id operation = *next;
    const party_id to = waiting_.at(operation).party;
    stop_waiting(operation);
    give(of, of.items.begin()->first, to, operation, out);
  }
  if (!of.items.empty()) wake_selects(of, out);
}

void exchange::wake_selects(channel& of, effects& out) {
  std::vector<operation_id> woken;
  for (const operation_id operation : of.receivers) {
    const waiting& waits = waiting_.at(operation);
    if (waits.what != waits_for::any) continue;
    if (is_ready_for(of, waits.party)) woken.push_back(operation);
  }
  for (const operation_id operation : woken) {
    const auto known = waiting_.find(operation);
    if (known == waiting_.end()) continue;  // named the channel twice
    const auto& all = known->second.channels;
    const auto index = std::find(all.begin(), all.end(), of.id) - all.begin();
    answer_waiting(operation, mail_status::done, out, index);
  }
}

void exchange::give(channel& of, std::uint64_t place, party_id to, operation_id operation, effects& out) {
  item what = take_out(of, place);
  if (what.state != mail_status::item) {
    reply(to, operation, what.state, out);
  } else {
    answer made;
    made.to = to;
    made.operation = operation;
    made.status = mail_status::item;
    made.content = what.content;
    const auto receiver = parties_.find(to);
    made.is_in_hand = receiver != parties_.end() && receiver->second.who.is_remote;
    if (made.is_in_hand) {
      ++of.in_hand;
      in_hand_[operation] = {to, of.id, place, std::move(what)};
    } else {
      was_taken(what, to, out);
    }
    out.answers.push_back(std::move(made));
  }
  admit(of, out);
}

void exchange::was_taken(item& what, party_id by, effects& out) {
  const std::int64_t taker = isolate_of(by);
  if (what.sender != 0) answer_waiting(std::exchange(what.sender, 0), mail_status::done, out, taker);
  if (what.receipt != 0) conclude_receipt(std::exchange(what.receipt, 0), mail_status::done, taker, out);
  give_back_charge(what.from, *what.content);
  for (const attachment& one : what.content->attached) hand_out(one, by);
}

void exchange::acknowledge(party_id from, operation_id operation, effects& out) {
  const auto found = in_hand_.find(operation);
  if (found == in_hand_.end() || found->second.to != from) return;
  handed come = std::move(found->second);
  in_hand_.erase(found);
  if (channel* const of = find(come.channel)) {
    --of->in_hand;
    unsettled_.insert(of->id);
  }
  was_taken(come.what, from, out);
}

void exchange::put_back(operation_id operation, effects& out) {
  auto node = in_hand_.extract(operation);
  handed& returned = node.mapped();
  channel* const of = find(returned.channel);
  if (of == nullptr) return end_of_item(returned.what, mail_status::closed, out);
  --of->in_hand;
  unsettled_.insert(of->id);
  if (of->closed || of->poisoned) {
    return end_of_item(returned.what, of->poisoned ? mail_status::poisoned : mail_status::closed, out);
  }
  const std::uint64_t place = returned.place;
  item& again = put_in(*of, place, std::move(returned.what));
  if (again.sender != 0) of->in_line.insert(place);
  if (std::exchange(again.owner_has_ended, false)) {
    owner_is_gone(*of, place, out);
  } else if (again.sender != 0 && !waiting_.contains(again.sender)) {
    // It was lent and not taken, and who has waited for that is gone.
    again.sender = 0;
    remove_item(*of, place, mail_status::withdrawn, out);
  }
  match(*of, out);
}

void exchange::fail_receivers(channel& of, std::optional<party_id> of_party, mail_status why, effects& out) {
  std::vector<operation_id> failed;
  for (const operation_id operation : of.receivers) {
    const waiting& waits = waiting_.at(operation);
    if (waits.what == waits_for::item && (!of_party || waits.party == *of_party)) failed.push_back(operation);
  }
  for (const operation_id operation : failed) answer_waiting(operation, why, out);
}

// --- waiting --------------------------------------------------------------------------------------------------------

bool exchange::wait(party_id from, operation_id operation, waiting what) {
  party& who = parties_.at(from);
  if (who.who.is_remote && who.operations >= budget_.operations) return false;
  ++who.operations;
  waiting_.insert_or_assign(operation, std::move(what));
  return true;
}

void exchange::stop_waiting(operation_id operation) {
  auto node = waiting_.extract(operation);
  if (node.empty()) return;
  const waiting& was = node.mapped();
  if (const auto who = parties_.find(was.party); who != parties_.end()) --who->second.operations;
  if (was.what == waits_for::receipt) {
    if (const auto found = receipts_.find(was.place); found != receipts_.end()) found->second.waiters.erase(operation);
  }
  if (was.what != waits_for::item && was.what != waits_for::any) return;
  for (const std::int64_t id : was.channels) {
    if (channel* const of = find(id)) of->receivers.remove(operation);
  }
}

void exchange::answer_waiting(operation_id operation, mail_status status, effects& out, std::int64_t number) {
  const auto found = waiting_.find(operation);
  if (found == waiting_.end()) return;
  const party_id to = found->second.party;
  stop_waiting(operation);
  reply(to, operation, status, out, number);
}

void exchange::cancel(party_id from, operation_id operation, effects& out) {
  const auto found = waiting_.find(operation);
  if (found == waiting_.end() || found->second.party != from) return;  // it has been answered
  if (found->second.what == waits_for::taken) {
    channel* const of = find(found->second.channels.front());
    const std::uint64_t place = found->second.place;
    if (of != nullptr && of->items.contains(place)) return remove_item(*of, place, mail_status::withdrawn, out);
    // In somebody's hand: not to be had back.
    for (auto& [by, lent] : in_hand_) {
      if (lent.what.sender == operation) lent.what.sender = 0;
    }
    return answer_waiting(operation, mail_status::done, out);
  }
  answer_waiting(operation, mail_status::withdrawn, out);
}

void exchange::conclude_receipt(std::uint64_t number, mail_status status, std::int64_t taken_by, effects& out) {
  const auto found = receipts_.find(number);
  if (found == receipts_.end()) return;
  found->second.status = status;
  found->second.taken_by = taken_by;
  const std::set<operation_id> waiters = found->second.waiters;
  for (const operation_id operation : waiters) answer_waiting(operation, status, out, taken_by);
}

void exchange::receipt_wait(party_id from, operation_id operation, const request& what, effects& out) {
  const auto found = receipts_.find(what.number);
  if (found == receipts_.end() || found->second.of != from) return reply(from, operation, mail_status::not_yours, out);
  if (found->second.status) return reply(from, operation, *found->second.status, out, found->second.taken_by);
  if (what.mode == at_once) return reply(from, operation, mail_status::empty, out);
  if (!wait(from, operation, {from, waits_for::receipt, {}, what.number})) {
    return reply(from, operation, too_much(mail_limit::waiting), out);
  }
  found->second.waiters.insert(operation);
}

void exchange::receipt_forget(party_id from, std::uint64_t number, effects& out) {
  const auto found = receipts_.find(number);
  if (found == receipts_.end() || found->second.of != from) return;
  const std::set<operation_id> waiters = found->second.waiters;
  for (const operation_id operation : waiters) answer_waiting(operation, mail_status::not_yours, out);
  receipts_.erase(found);
  --parties_.at(from).receipts;
}

}  // namespace pynisher::detail
