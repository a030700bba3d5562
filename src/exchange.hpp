#pragma once

// Channels and queues as such: who holds which end, what lies in them, who waits. Requests in, answers out; no system
// call, no thread, no clock. Whoever has it sees to it that one thread at a time asks.
//
// A party is a process. Parties of one isolate (its own process, and the limited calls that it makes) are a household:
// what they have sent is the isolate's, and its end decides what becomes of it.
//
// Each request has a number of its own and gets exactly one answer, at once or later. An item that is given to a party
// that may die before it has it stays `in hand` until that party says that it has come; if it dies first, the next one
// gets it.

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <pynisher/detail/mail.hpp>

namespace pynisher::detail {

/// What a descriptor is to the exchange.
class held_file {
 public:
  virtual ~held_file() = default;
};

/// Something in a value that is not bytes.
struct attachment {
  enum class kind : std::uint8_t { end, file } what = kind::end;
  end_kind end = end_kind::receiving;
  std::int64_t channel = 0;
  std::uint64_t type = 0;  ///< of the channel's items, as the exchange knows it
  std::shared_ptr<held_file> file;
};
/// A value on its way.
struct parcel {
  std::vector<std::byte> bytes;
  std::vector<attachment> attached;
};

using party_id = std::uint64_t;
using operation_id = std::uint64_t;
/// Of a value that is deposited here while its bytes go another way. Nobody can guess one.
using deposit_key = std::array<std::uint64_t, 2>;

enum class verb : std::uint8_t {
  create,       ///< number: capacity; mode: policy; end: queue for a queue; key[0]: type
  send,         ///< mode: send_mode
  receive,      ///< mode: 1: does not wait
  select,       ///< numbers: channels; mode: 1: does not wait
  cancel,       ///< number: the operation that has not been answered yet
  acknowledge,  ///< number: the operation whose item has come
  release,
  close,  ///< mode: 1: forced
  poison,
  drop,  ///< number: so many holds
  look,  ///< answers look_bits, type; of a queue its size too
  isolates,
  list,
  deposit,         ///< key; mode: deposit_mode
  redeem,          ///< key, number: which attachment
  keep,            ///< key: of what is kept; shares it until it revokes, or ends
  revoke,          ///< key; of a result: by whoever knows it
  adopt,           ///< key of a result, which is the asker's from now on; mode: argument or kept
  revoke_results,  ///< number: the process that has deposited them
  receipt_wait,    ///< number: the receipt; mode: 1: does not wait
  receipt_forget,
  watch,          ///< asks for a descriptor, which is for the host to give
  process_ended,  ///< number: which; the host looks for itself
};
enum class send_mode : std::uint8_t { wait, nowait, post };
enum class deposit_mode : std::uint8_t {
  argument,  ///< until it is revoked by whoever has deposited it
  result,    ///< until the receiver of the result revokes
  kept,      ///< may be redeemed again and again, by anybody, while one of those lives that have it
};

/// The mode of what does not wait.
inline constexpr std::uint8_t at_once = 1;

struct request {
  verb what = verb::look;
  end_kind end = end_kind::receiving;
  std::uint8_t mode = 0;
  std::int64_t channel = 0;
  std::uint64_t number = 0;
  deposit_key key{};
  std::vector<std::int64_t> numbers;
  std::shared_ptr<parcel> content;
};

enum class mail_status : std::uint8_t {
  done,
  item,        ///< content
  sentinel,    ///< in place of an item whose owner is gone
  owner_gone,  ///< the same, to be thrown
  empty,
  full,
  not_received,
  withdrawn,  ///< cancelled before anything came of it
  not_found,
  not_empty,
  closed,
  released,
  poisoned,
  not_yours,
  too_much,  ///< more than one party may have; number: a mail_limit; facts[0]: so much
  wrong,     ///< the request makes no sense
};
enum class mail_limit : std::uint8_t {
  none,
  waiting,   ///< operations
  channels,  ///< and queues
  receipts,
  deposits,
  files,    ///< descriptors and buffers, in items and deposits
  bytes,    ///< in items
  handles,  ///< to poll
  size,     ///< of what is said at once, besides the bytes of a value
};

struct answer {
  party_id to = 0;
  operation_id operation = 0;
  mail_status status = mail_status::done;
  bool is_in_hand = false;  ///< to be acknowledged
  std::int64_t number = 0;
  std::vector<std::int64_t> numbers;
  std::vector<std::uint64_t> facts;
  std::shared_ptr<parcel> content;
};
namespace look_bits {
inline constexpr std::int64_t closed = 1, queue = 2;
}

/// Whether a party that watches a channel would be told something there at once, if it received.
struct readiness {
  std::int64_t channel;
  party_id party;
  bool ready;
};
struct effects {
  std::vector<answer> answers;
  std::vector<readiness> ready;
};

/// What one party may have at once. The program itself may have all.
struct party_budget {
  std::size_t operations = 4096;
  std::size_t channels = 1 << 16;
  std::size_t receipts = 1 << 16;
  std::size_t deposits = 4096;
  std::size_t files = 256;
  std::uint64_t bytes = std::uint64_t{1} << 40;
  std::size_t handles = 64;
};

class exchange {
 public:
  struct member {
    std::int64_t isolate = 0;
    std::uint64_t household = 0;  ///< 0: the program's, which never ends
    bool is_head = false;         ///< the isolate's own process: the household ends with it
    bool is_remote = false;       ///< may die before an item has come: acknowledges
    std::int64_t pid = 0;
  };
  party_id join(const member& who);
  /// The process has ended.
  void leave(party_id who, effects& out);
  /// Nobody waits for the answers to these operations (`first` to `last`) any more. What waits to be taken is
  /// withdrawn, or (`keeps_items`) stays until it is, or the party leaves.
  void abandon(party_id who, operation_id first, operation_id last, effects& out, bool keeps_items = false);
  void handle(party_id from, operation_id operation, request&& what, effects& out);

  /// Gives readiness from now on. True: it is ready now.
  bool watch(party_id who, std::int64_t channel);
  [[nodiscard]] bool exists(std::int64_t id) const { return channels_.contains(id); }
  [[nodiscard]] bool has_an_end(party_id who, std::int64_t id) const;
  [[nodiscard]] const party_budget& budget() const { return budget_; }
  void set_budget(const party_budget& budget) { budget_ = budget; }
  /// Channels are counted on from there.
  void begin_after(std::int64_t id) { last_channel_ = id; }
  [[nodiscard]] std::int64_t last_channel() const { return last_channel_; }
  /// Nothing is left: for tests.
  [[nodiscard]] bool is_empty() const;

 private:
  struct item {
    std::shared_ptr<parcel> content;
    party_id from = 0;
    std::uint64_t household = 0;
    operation_id sender = 0;    ///< who waits until it is taken, or accepted; 0: nobody
    std::uint64_t receipt = 0;  ///< 0: none
    mail_status state = mail_status::item;
    bool owner_has_ended = false;  ///< while it is in somebody's hand
  };
  struct hold {
    std::int64_t count = 0;  ///< handles; below zero while the word of one is still on its way
    bool used = false;
    bool released = false;
    [[nodiscard]] bool is_associated() const { return !released && (count > 0 || used); }
  };
  struct channel {
    std::int64_t id = 0;
    bool is_queue = false;
    std::uint64_t capacity = 0;  ///< 0: an item waits until it is taken
    unbound policy = unbound::sentinel;
    std::uint64_t type = 0;
    party_id maker = 0;  ///< on whose account it is while it is there
    std::map<std::uint64_t, item> items;
    std::uint64_t next = 1;
    std::set<std::uint64_t> in_line;  ///< items that have no place in the buffer yet
    std::list<operation_id> receivers;
    std::array<std::map<party_id, hold>, 2> holds;
    std::array<std::int64_t, 2> in_transit{};
    /// Of those, the ones that lie in items of channels: how many in which.
    std::array<std::map<std::int64_t, std::int64_t>, 2> lying_in;
    std::size_t in_hand = 0;
    bool sending_closed = false;
    bool closed = false;
    bool poisoned = false;
    bool had_receivers = true;
    std::map<party_id, bool> watchers;  ///< and whether they have been told that it is ready
  };
  enum class waits_for : std::uint8_t { item, any, taken, receipt };
  struct waiting {
    party_id party = 0;
    waits_for what = waits_for::item;
    std::vector<std::int64_t> channels;
    std::uint64_t place = 0;  ///< of an item that was sent, or the receipt
  };
  struct handed {
    party_id to = 0;
    std::int64_t channel = 0;
    std::uint64_t place = 0;
    item what;
  };
  struct receipt {
    party_id of = 0;
    std::optional<mail_status> status;  ///< empty: not taken yet
    std::int64_t taken_by = 0;
    std::set<operation_id> waiters;
  };
  struct deposit {
    std::map<party_id, std::size_t> holders;  ///< one, but for what is kept; and how often each has it
    std::int64_t pid = 0;                     ///< of its maker
    std::uint64_t household = 0;
    deposit_mode mode = deposit_mode::argument;
    std::vector<std::optional<attachment>> attached;
  };
  struct party {
    member who;
    std::size_t operations = 0, channels = 0, receipts = 0, deposits = 0, files = 0;
    std::uint64_t bytes = 0;
  };

  /// Why a request is refused; `done`: it is not.
  struct refusal {
    mail_status why = mail_status::done;
    mail_limit limit = mail_limit::none;
    [[nodiscard]] explicit operator bool() const { return why != mail_status::done; }
  };
  static constexpr refusal too_much(mail_limit limit) { return {mail_status::too_much, limit}; }

  [[nodiscard]] static std::size_t side_of(end_kind end) { return end == end_kind::sending ? 1 : 0; }
  channel* find(std::int64_t id);
  [[nodiscard]] static bool has_holder(const channel& of, std::size_t side);
  [[nodiscard]] bool has_anybody(const channel& of, std::size_t side) const;
  [[nodiscard]] bool can_be_received(std::int64_t channel) const;
  [[nodiscard]] static bool has_room(const channel& of);
  [[nodiscard]] bool is_ready(const channel& of) const;
  [[nodiscard]] bool is_ready_for(const channel& of, party_id by) const;
  [[nodiscard]] static mail_status why_unusable(const channel& of, std::size_t side, party_id by);
  [[nodiscard]] std::int64_t isolate_of(party_id who) const;

  void create(party_id from, operation_id operation, const request& what, effects& out);
  void send(party_id from, operation_id operation, request& what, effects& out);
  void receive(party_id from, operation_id operation, const request& what, effects& out);
  void select(party_id from, operation_id operation, const request& what, effects& out);
  void cancel(party_id from, operation_id operation, effects& out);
  void acknowledge(party_id from, operation_id operation, effects& out);
  mail_status close(channel& of, const request& what, effects& out);
  mail_status poison(channel& of, effects& out);
  void drop(party_id from, const request& what);
  void look(party_id from, operation_id operation, const request& what, effects& out);
  void isolates(party_id from, operation_id operation, const request& what, effects& out);
  void list(party_id from, operation_id operation, effects& out);
  refusal make_deposit(party_id from, const request& what);
  void redeem(party_id from, operation_id operation, const request& what, effects& out);
  refusal keep_deposit(party_id from, const deposit_key& key);
  void revoke(party_id from, const deposit_key& key);
  void charge(party_id to, const deposit& for_what, bool back);
  void adopt(party_id from, const request& what);
  void forget_deposit(const deposit_key& key);
  void revoke_results(party_id from, std::int64_t pid);
  void receipt_wait(party_id from, operation_id operation, const request& what, effects& out);
  void receipt_forget(party_id from, std::uint64_t number, effects& out);
  void with_channel(party_id from, operation_id operation, const request& what, effects& out);
  void release(channel& of, party_id from, operation_id operation, end_kind end, effects& out);

  void reply(party_id to, operation_id operation, mail_status status, effects& out, std::int64_t number = 0) const;
  void reply(party_id to, operation_id operation, refusal how, effects& out) const;
  bool wait(party_id from, operation_id operation, waiting what);
  void stop_waiting(operation_id operation);
  void answer_waiting(operation_id operation, mail_status status, effects& out, std::int64_t number = 0);
  void match(channel& of, effects& out);
  void wake_selects(channel& of, effects& out);
  void give(channel& of, std::uint64_t place, party_id to, operation_id operation, effects& out);
  void was_taken(item& what, party_id by, effects& out);
  void admit(channel& of, effects& out);
  void put_back(operation_id operation, effects& out);
  void remove_item(channel& of, std::uint64_t place, mail_status why, effects& out);
  void end_of_item(item& what, mail_status why, effects& out);
  void owner_is_gone(channel& of, std::uint64_t place, effects& out);
  void end_household(std::uint64_t household, effects& out);
  void conclude_receipt(std::uint64_t number, mail_status status, std::int64_t taken_by, effects& out);
  void shut(channel& of, mail_status why, effects& out);
  void fail_receivers(channel& of, std::optional<party_id> of_party, mail_status why, effects& out);
  void fail_senders(channel& of, std::optional<party_id> of_party, mail_status why, effects& out);
  void fail_receipts(channel& of, mail_status why, effects& out);
  [[nodiscard]] refusal pick_up(party_id from, parcel& content, bool is_item);
  void let_fall(const attachment& what);
  item& put_in(channel& of, std::uint64_t place, item&& what);
  item take_out(channel& of, std::uint64_t place);
  void note_ends(const item& of, std::int64_t lying_in, std::int64_t change);
  void give_back_charge(party_id from, const parcel& content);
  void hand_out(const attachment& what, party_id to);
  void settle(effects& out);
  void settle(channel& of, effects& out);
  void tell_watchers(channel& of, effects& out);
  [[nodiscard]] static bool is_forgotten(channel& of);

  std::map<party_id, party> parties_;
  party_id last_party_ = 0;
  std::map<std::int64_t, channel> channels_;
  std::int64_t last_channel_ = -1;
  std::map<operation_id, waiting> waiting_;
  std::map<operation_id, handed> in_hand_;
  std::map<std::uint64_t, receipt> receipts_;
  std::uint64_t last_receipt_ = 0;
  std::map<deposit_key, deposit> deposits_;
  std::set<std::int64_t> unsettled_;  ///< channels where something has changed that others may depend on
  party_budget budget_;
};

}  // namespace pynisher::detail
