#include "exchange.hpp"

#include <algorithm>
#include <limits>

namespace pynisher::detail {

namespace {

constexpr std::uint8_t at_once = 1;

std::int64_t as_number(std::uint64_t value) {
  return static_cast<std::int64_t>(std::min<std::uint64_t>(value, std::numeric_limits<std::int64_t>::max()));
}

std::size_t files_in(const std::vector<std::optional<attachment>>& attached) {
  return static_cast<std::size_t>(std::count_if(
      attached.begin(), attached.end(), [](const auto& one) { return one && one->what == attachment::kind::file; }));
}

}  // namespace

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
    reply(from, operation, mail_status::done, out, as_number(fresh.receipt));
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

// --- life -----------------------------------------------------------------------------------------------------------

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

// --- what goes with values
// --------------------------------------------------------------------------------------------

/// Takes over what is attached. Nothing is taken where the answer is not `done`.
exchange::refusal exchange::pick_up(party_id from, parcel& content, bool is_item) {
  party& who = parties_.at(from);
  std::size_t files = 0;
  for (const attachment& one : content.attached) {
    if (one.what == attachment::kind::file) {
      if (!one.file) return {mail_status::wrong};
      ++files;
    } else if (const channel* const of = find(one.channel); of == nullptr) {
      return {mail_status::not_found};
    } else if (of->is_queue != (one.end == end_kind::queue)) {
      return {mail_status::wrong};
    }
  }
  const std::uint64_t bytes = is_item ? content.bytes.size() : 0;
  if (who.who.is_remote && who.files + files > budget_.files) return too_much(mail_limit::files);
  if (who.who.is_remote && who.bytes + bytes > budget_.bytes) return too_much(mail_limit::bytes);
  who.files += files;
  who.bytes += bytes;
  for (attachment& one : content.attached) {
    if (one.what != attachment::kind::end) continue;
    channel& of = *find(one.channel);
    ++of.in_transit[side_of(one.end)];
    one.type = of.type;
  }
  return {};
}

void exchange::give_back_charge(party_id from, const parcel& content) {
  const auto who = parties_.find(from);
  if (who == parties_.end()) return;
  who->second.bytes -= std::min<std::uint64_t>(who->second.bytes, content.bytes.size());
  const auto files = std::count_if(content.attached.begin(), content.attached.end(),
                                   [](const attachment& one) { return one.what == attachment::kind::file; });
  who->second.files -= std::min(who->second.files, static_cast<std::size_t>(files));
}

void exchange::let_fall(const attachment& what) {
  if (what.what != attachment::kind::end) return;
  channel* const of = find(what.channel);
  if (of == nullptr) return;
  --of->in_transit[side_of(what.end)];
  unsettled_.insert(of->id);
}

void exchange::hand_out(const attachment& what, party_id to) {
  if (what.what == attachment::kind::end) {
    if (channel* const of = find(what.channel); of != nullptr && parties_.contains(to)) {
      ++of->holds[side_of(what.end)][to].count;
    }
  }
  let_fall(what);
}

exchange::refusal exchange::make_deposit(party_id from, const request& what) {
  const party& who = parties_.at(from);
  if (!what.content || what.mode > static_cast<std::uint8_t>(deposit_mode::kept) || deposits_.contains(what.key)) {
    return {mail_status::wrong};
  }
  if (who.who.is_remote && who.deposits >= budget_.deposits) return too_much(mail_limit::deposits);
  if (const refusal why = pick_up(from, *what.content, false)) return why;
  deposit& made = deposits_[what.key];
  made = {{{from, 1}}, who.who.pid, who.who.household, static_cast<deposit_mode>(what.mode), {}};
  for (const attachment& one : what.content->attached) made.attached.emplace_back(one);
  ++parties_.at(from).deposits;
  return {};
}

exchange::refusal exchange::keep_deposit(party_id from, const deposit_key& key) {
  const auto found = deposits_.find(key);
  if (found == deposits_.end() || found->second.mode != deposit_mode::kept) return {mail_status::not_found};
  const party& who = parties_.at(from);
  if (who.who.is_remote && who.deposits >= budget_.deposits) return too_much(mail_limit::deposits);
  if (who.who.is_remote && who.files + files_in(found->second.attached) > budget_.files) {
    return too_much(mail_limit::files);
  }
  charge(from, found->second, false);
  ++found->second.holders[from];
  return {};
}

void exchange::revoke(party_id from, const deposit_key& key) {
  const auto found = deposits_.find(key);
  if (found == deposits_.end()) return;
  if (found->second.mode == deposit_mode::result) return forget_deposit(key);
  auto& holders = found->second.holders;
  const auto holder = holders.find(from);
  if (holder == holders.end()) return;
  if (holders.size() == 1 && holder->second == 1) return forget_deposit(key);
  charge(from, found->second, true);
  if (--holder->second == 0) holders.erase(holder);
}

/// `back`: takes it off again.
void exchange::charge(party_id to, const deposit& for_what, bool back) {
  const auto who = parties_.find(to);
  if (who == parties_.end()) return;
  const std::size_t files = files_in(for_what.attached);
  if (!back) {
    ++who->second.deposits;
    who->second.files += files;
    return;
  }
  --who->second.deposits;
  who->second.files -= std::min(who->second.files, files);
}

void exchange::redeem(party_id from, operation_id operation, const request& what, effects& out) {
  const auto found = deposits_.find(what.key);
  if (found == deposits_.end() || what.number >= found->second.attached.size() ||
      !found->second.attached[what.number]) {
    return reply(from, operation, mail_status::not_found, out);
  }
  deposit& from_where = found->second;
  const attachment one = *from_where.attached[what.number];
  answer made;
  made.to = from;
  made.operation = operation;
  made.status = mail_status::item;
  made.content = std::make_shared<parcel>();
  made.content->attached.push_back(one);
  out.answers.push_back(std::move(made));
  if (from_where.mode == deposit_mode::kept) {
    // One more of the same: what is kept stays.
    if (one.what == attachment::kind::end) {
      ++find(one.channel)->holds[side_of(one.end)][from].count;
      unsettled_.insert(one.channel);
    }
    return;
  }
  hand_out(one, from);
  for (const auto& [holder, count] : from_where.holders) {
    if (one.what != attachment::kind::file) continue;
    if (const auto who = parties_.find(holder); who != parties_.end() && who->second.files > 0) --who->second.files;
  }
  from_where.attached[what.number].reset();
}

/// What a child has deposited does not go with that any more.
void exchange::adopt(party_id from, const request& what) {
  const auto found = deposits_.find(what.key);
  const auto mode = static_cast<deposit_mode>(what.mode);
  if (found == deposits_.end() || found->second.mode != deposit_mode::result) return;
  if (mode != deposit_mode::argument && mode != deposit_mode::kept) return;
  deposit& made = found->second;
  for (const auto& [holder, count] : made.holders) charge(holder, made, true);
  made.holders = {{from, 1}};
  made.pid = parties_.at(from).who.pid;
  made.household = parties_.at(from).who.household;
  made.mode = mode;
  charge(from, made, false);
}

/// What has not been fetched is nobody's.
void exchange::forget_deposit(const deposit_key& key) {
  const auto node = deposits_.extract(key);
  for (const auto& [holder, count] : node.mapped().holders) {
    for (std::size_t i = 0; i < count; ++i) charge(holder, node.mapped(), true);
  }
  for (const auto& one : node.mapped().attached) {
    if (one) let_fall(*one);
  }
}

void exchange::revoke_results(party_id from, std::int64_t pid) {
  const member& asks = parties_.at(from).who;
  std::vector<deposit_key> nobodys;
  for (const auto& [key, made] : deposits_) {
    if (made.mode == deposit_mode::result && made.pid == pid && (!asks.is_remote || asks.household == made.household)) {
      nobodys.push_back(key);
    }
  }
  for (const deposit_key& key : nobodys) forget_deposit(key);
}

}  // namespace pynisher::detail
