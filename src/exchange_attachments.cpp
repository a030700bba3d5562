// What goes with values and is no bytes: ends and descriptors, in items and in deposits, and on whose account.

#include <algorithm>
#include <utility>

#include "exchange.hpp"

namespace pynisher::detail {

namespace {

std::size_t files_in(const std::vector<std::optional<attachment>>& attached) {
  return static_cast<std::size_t>(std::count_if(
      attached.begin(), attached.end(), [](const auto& one) { return one && one->what == attachment::kind::file; }));
}

}  // namespace

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
