#include "exchange.hpp"

#include <iterator>
#include <limits>
#include <utility>

namespace pynisher::detail {

// --- parties --------------------------------------------------------------------------------------------------------

party_id exchange::join(const member& who) {
  const party_id id = ++last_party_;
  parties_[id].who = who;
  return id;
}

void exchange::leave(party_id who, effects& out) {
  const auto found = parties_.find(who);
  if (found == parties_.end()) return;
  const member left = found->second.who;
  if (left.is_head) end_household(left.household, out);
  abandon(who, 0, std::numeric_limits<operation_id>::max(), out);
  for (auto at = receipts_.begin(); at != receipts_.end();)
    at = at->second.of == who ? receipts_.erase(at) : std::next(at);
  std::vector<deposit_key> nobodys;
  for (auto& [key, made] : deposits_) {
    // A result's receiver comes for it after the end of the limited call.
    if (made.mode == deposit_mode::result && !left.is_head) continue;
    if (made.holders.erase(who) > 0 && made.holders.empty()) nobodys.push_back(key);
  }
  for (const deposit_key& key : nobodys) forget_deposit(key);
  for (auto& [id, of] : channels_) {
    of.watchers.erase(who);
    for (auto& side : of.holds) {
      if (side.erase(who) > 0) unsettled_.insert(id);
    }
  }
  parties_.erase(found);
  settle(out);
}

void exchange::abandon(party_id who, operation_id first, operation_id last, effects& out, bool keeps_items) {
  std::vector<operation_id> gone;
  for (auto at = waiting_.lower_bound(first); at != waiting_.end() && at->first <= last; ++at) {
    const bool stays = keeps_items && at->second.what == waits_for::taken;
    if (at->second.party == who && !stays) gone.push_back(at->first);
  }
  for (const operation_id operation : gone) {
    const waiting was = waiting_.at(operation);
    stop_waiting(operation);
    if (was.what != waits_for::taken) continue;
    channel* const of = find(was.channels.front());
    const auto place = of == nullptr ? std::map<std::uint64_t, item>::iterator() : of->items.find(was.place);
    if (of != nullptr && place != of->items.end()) {
      place->second.sender = 0;
      remove_item(*of, was.place, mail_status::withdrawn, out);
    }
  }
  std::vector<operation_id> returned;
  for (auto at = in_hand_.lower_bound(first); at != in_hand_.end() && at->first <= last; ++at) {
    if (at->second.to == who) returned.push_back(at->first);
  }
  // The last one first: each goes back to its own place, before what came later.
  for (auto at = returned.rbegin(); at != returned.rend(); ++at) put_back(*at, out);
  settle(out);
}

void exchange::end_household(std::uint64_t household, effects& out) {
  for (auto& [operation, lent] : in_hand_) {
    if (lent.what.household == household) lent.what.owner_has_ended = true;
  }
  for (auto& [id, of] : channels_) {
    std::vector<std::uint64_t> places;
    for (const auto& [place, what] : of.items) {
      if (what.household == household && what.state == mail_status::item) places.push_back(place);
    }
    for (const std::uint64_t place : places) owner_is_gone(of, place, out);
    if (!places.empty()) admit(of, out);
  }
}

void exchange::owner_is_gone(channel& of, std::uint64_t place, effects& out) {
  item& what = of.items.at(place);
  if (what.sender != 0) stop_waiting(std::exchange(what.sender, 0));
  if (of.policy == unbound::remove) {
    remove_item(of, place, mail_status::withdrawn, out);
    return;
  }
  note_ends(what, of.id, -1);
  end_of_item(what, mail_status::withdrawn, out);
  what.state = of.policy == unbound::sentinel ? mail_status::sentinel : mail_status::owner_gone;
}

std::int64_t exchange::isolate_of(party_id who) const {
  const auto found = parties_.find(who);
  return found == parties_.end() ? -1 : found->second.who.isolate;
}

bool exchange::is_empty() const {
  return channels_.empty() && waiting_.empty() && in_hand_.empty() && deposits_.empty() && receipts_.empty();
}

// --- requests -------------------------------------------------------------------------------------------------------

void exchange::reply(party_id to, operation_id operation, mail_status status, effects& out, std::int64_t number) const {
  answer made;
  made.to = to;
  made.operation = operation;
  made.status = status;
  made.number = number;
  out.answers.push_back(std::move(made));
}

void exchange::reply(party_id to, operation_id operation, refusal how, effects& out) const {
  reply(to, operation, how.why, out, static_cast<std::int64_t>(how.limit));
  if (how.why != mail_status::too_much) return;
  const std::map<mail_limit, std::uint64_t> most = {
      {mail_limit::waiting, budget_.operations}, {mail_limit::channels, budget_.channels},
      {mail_limit::receipts, budget_.receipts},  {mail_limit::deposits, budget_.deposits},
      {mail_limit::files, budget_.files},        {mail_limit::bytes, budget_.bytes},
      {mail_limit::handles, budget_.handles}};
  const auto found = most.find(how.limit);
  if (found != most.end()) out.answers.back().facts = {found->second};
}

void exchange::handle(party_id from, operation_id operation, request&& what, effects& out) {
  if (!parties_.contains(from)) return;
  switch (what.what) {
    case verb::create:
      create(from, operation, what, out);
      break;
    case verb::send:
      send(from, operation, what, out);
      break;
    case verb::receive:
      receive(from, operation, what, out);
      break;
    case verb::select:
      select(from, operation, what, out);
      break;
    case verb::cancel:
      cancel(from, what.number, out);
      break;
    case verb::acknowledge:
      acknowledge(from, what.number, out);
      break;
    case verb::drop:
      drop(from, what);
      break;
    case verb::list:
      list(from, operation, out);
      break;
    case verb::deposit:
      reply(from, operation, make_deposit(from, what), out);
      break;
    case verb::redeem:
      redeem(from, operation, what, out);
      break;
    case verb::keep:
      reply(from, operation, keep_deposit(from, what.key), out);
      break;
    case verb::revoke:
      // Nobody waits for an answer to this, nor to the next one: it would be taken for that of a later question.
      revoke(from, what.key);
      break;
    case verb::adopt:
      adopt(from, what);
      reply(from, operation, mail_status::done, out);
      break;
    case verb::revoke_results:
      revoke_results(from, static_cast<std::int64_t>(what.number));
      break;
    case verb::receipt_wait:
      receipt_wait(from, operation, what, out);
      break;
    case verb::receipt_forget:
      receipt_forget(from, what.number, out);
      break;
    case verb::process_ended:
      reply(from, operation, mail_status::done, out);
      break;
    case verb::release:
    case verb::close:
    case verb::poison:
    case verb::look:
    case verb::isolates:
      with_channel(from, operation, what, out);
      break;
    default:
      reply(from, operation, mail_status::wrong, out);
  }
  settle(out);
}

void exchange::with_channel(party_id from, operation_id operation, const request& what, effects& out) {
  channel* const of = find(what.channel);
  if (of == nullptr) return reply(from, operation, mail_status::not_found, out);
  unsettled_.insert(of->id);
  switch (what.what) {
    case verb::release:
      return release(*of, from, operation, what.end, out);
    case verb::close:
      return reply(from, operation, close(*of, what, out), out);
    case verb::poison:
      return reply(from, operation, poison(*of, out), out);
    case verb::look:
      return look(from, operation, what, out);
    default:
      return isolates(from, operation, what, out);
  }
}

}  // namespace pynisher::detail
