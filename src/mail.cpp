// Channels and queues as the templates see them: questions to the exchange, and its answers as values and exceptions.

#include <pynisher/detail/mail.hpp>

#include <utility>

#include <fmt/format.h>

#include <pynisher/channel_errors.hpp>

#include "exchange.hpp"
#include "mail_end_state.hpp"
#include "mail_link.hpp"
#include "platform/contract.hpp"

namespace pynisher::detail {

namespace {

request about(const end_state& end, verb what) {
  request made;
  made.what = what;
  made.channel = end.id;
  made.end = end.kind;
  return made;
}

[[noreturn]] void throw_for_queue(const answer& came, std::int64_t id) {
  switch (came.status) {
    case mail_status::full:
      throw QueueFull(fmt::format("queue {} is full", id));
    case mail_status::not_found:
    case mail_status::closed:
      throw QueueNotFoundError(fmt::format("there is no queue {}", id));
    case mail_status::too_much:
      throw QueueError(fmt::format("queue {}: {}", id, text_of_limit(came)));
    default:
      throw QueueError(fmt::format("queue {}: the program has not answered as it should", id));
  }
}

[[noreturn]] void throw_for_channel(const answer& came, std::int64_t id) {
  switch (came.status) {
    case mail_status::not_found:
      throw ChannelNotFoundError(fmt::format("there is no channel {}", id));
    case mail_status::not_empty:
      throw ChannelNotEmptyError(
          fmt::format("channel {} has items that nobody has received: close(true) discards them", id));
    case mail_status::closed:
      throw ChannelClosedError(fmt::format("channel {} is closed, or nobody is left at its other end", id));
    case mail_status::released:
      throw ChannelReleasedError(fmt::format("this process has released its end of channel {}", id));
    case mail_status::not_received:
      throw NotReceivedError(fmt::format("nobody is receiving from channel {}, and it has no room", id));
    case mail_status::poisoned:
      throw ChannelPoisonedError(fmt::format("channel {} is poisoned", id));
    case mail_status::too_much:
      throw ChannelError(fmt::format("channel {}: {}", id, text_of_limit(came)));
    default:
      throw ChannelError(fmt::format("channel {}: the program has not answered as it should", id));
  }
}

[[noreturn]] void throw_for(const answer& came, const end_state& end) {
  if (came.status == mail_status::owner_gone) throw_owner_destroyed(end.id, end.kind == end_kind::queue);
  if (end.kind == end_kind::queue) throw_for_queue(came, end.id);
  throw_for_channel(came, end.id);
}

answer ask_done(const end_state& end, request what) {
  answer came = ask_exchange(std::move(what));
  if (came.status != mail_status::done) throw_for(came, end);
  return came;
}

arrival to_arrival(answer came, const end_state& end) {
  switch (came.status) {
    case mail_status::item:
      return {arrival::kind::item, std::move(came.content)};
    case mail_status::sentinel:
      return {arrival::kind::sentinel, nullptr};
    case mail_status::empty:
    case mail_status::withdrawn:
      return {};
    default:
      throw_for(came, end);
  }
}

request sending(const end_state& end, mail content, send_mode mode) {
  request made = about(end, verb::send);
  made.mode = static_cast<std::uint8_t>(mode);
  made.content = std::move(content);
  return made;
}

request receiving(const end_state& end, std::uint8_t mode) {
  request made = about(end, verb::receive);
  made.mode = mode;
  return made;
}

std::exception_ptr cancelled(const end_state& end) {
  const char* const what = end.kind == end_kind::queue ? "queue" : "channel";
  return std::make_exception_ptr(CancelledException(fmt::format("the operation on {} {} was cancelled", what, end.id)));
}

std::int64_t make(std::uint64_t capacity, unbound policy, std::uint64_t type, bool is_queue) {
  request wanted;
  wanted.what = verb::create;
  wanted.end = is_queue ? end_kind::queue : end_kind::receiving;
  wanted.mode = static_cast<std::uint8_t>(policy);
  wanted.number = capacity;
  wanted.key[0] = type;
  const answer made = ask_exchange(std::move(wanted));
  if (made.status == mail_status::done) return made.number;
  if (is_queue) throw QueueError("no queue could be made: " + text_of_limit(made));
  throw ChannelError("no channel could be made: " + text_of_limit(made));
}

}  // namespace

// --- what a process has ---------------------------------------------------------------------------------------------

void drop_holds(std::int64_t channel, end_kind kind, std::int64_t count) noexcept {
  request gone;
  gone.what = verb::drop;
  gone.channel = channel;
  gone.end = kind;
  gone.number = static_cast<std::uint64_t>(count);
  tell_exchange(std::move(gone));
}

end_state::share::share(std::int64_t count) : process(platform::process_number()), holds(count) {}

end_state::end_state(std::int64_t channel, end_kind which, std::int64_t holds)
    : id(channel), kind(which), exchange_(own_exchange()), share_(new share(holds)) {}

end_state::~end_state() {
  share* const own = share_.load();
  if (own->process != platform::process_number()) return;
  drop_holds(id, kind, own->holds.load());
  delete own;
}

end_state::share& end_state::here() {
  share* known = share_.load();
  if (known->process == platform::process_number()) return *known;
  refuse_strange_exchange(exchange_);
  auto fresh = std::make_unique<share>(0);
  if (share_.compare_exchange_strong(known, fresh.get())) return *fresh.release();
  return *known;
}

void end_state::take_over() { here().holds.fetch_add(1); }

int end_state::watched(answer& why) {
  share& own = here();
  const std::lock_guard lock(own.mutex);
  if (own.watch.descriptor < 0) own.watch = watch_at_exchange(id);
  why = own.watch.why;
  return own.watch.descriptor;
}

std::int64_t mail_end::id() const noexcept { return state_ ? state_->id : -1; }

end_state& mail_end::state() const {
  if (!state_) {
    if (of_queue_) throw QueueNotFoundError("this is a handle of no queue");
    throw ChannelNotFoundError("this is an end of no channel");
  }
  state_->use();
  return *state_;
}

std::pair<mail_end, mail_end> mail_end::create_channel(std::uint64_t capacity, unbound policy, std::uint64_t type) {
  const std::int64_t id = make(capacity, policy, type, false);
  mail_end receiving(std::make_shared<end_state>(id, end_kind::receiving, 1));
  return {std::move(receiving), mail_end(std::make_shared<end_state>(id, end_kind::sending, 1))};
}

mail_end mail_end::create_queue(std::uint64_t capacity, unbound policy, std::uint64_t type) {
  return mail_end(std::make_shared<end_state>(make(capacity, policy, type, true), end_kind::queue, 1));
}

// --- sending and receiving ------------------------------------------------------------------------------------------

bool mail_end::send(mail content, mail_deadline until) const {
  end_state& end = state();
  const answer came = ask_exchange(sending(end, std::move(content), send_mode::wait), until);
  if (came.status == mail_status::withdrawn) return false;
  if (came.status != mail_status::done) throw_for(came, end);
  return true;
}

void mail_end::send_nowait(mail content) const {
  end_state& end = state();
  ask_done(end, sending(end, std::move(content), send_mode::nowait));
}

arrival mail_end::receive(mail_deadline until) const {
  end_state& end = state();
  return to_arrival(ask_exchange(receiving(end, 0), until), end);
}

arrival mail_end::receive_nowait() const {
  end_state& end = state();
  return to_arrival(ask_exchange(receiving(end, at_once)), end);
}

std::shared_ptr<mail_operation> mail_end::begin_send(mail content, std::function<void(std::exception_ptr)> done) const {
  end_state& end = state();
  return begin_at_exchange(sending(end, std::move(content), send_mode::wait),
                           [keep = state_, done = std::move(done)](const answer& came) {
                             if (came.status == mail_status::done) return done(nullptr);
                             if (came.status == mail_status::withdrawn) return done(cancelled(*keep));
                             try {
                               throw_for(came, *keep);
                             } catch (...) {
                               done(std::current_exception());
                             }
                           });
}

std::shared_ptr<mail_operation> mail_end::begin_receive(std::function<void(std::exception_ptr, arrival)> done) const {
  end_state& end = state();
  return begin_at_exchange(receiving(end, 0), [keep = state_, done = std::move(done)](answer came) {
    if (came.status == mail_status::withdrawn) return done(cancelled(*keep), {});
    std::exception_ptr error;
    arrival what;
    try {
      what = to_arrival(std::move(came), *keep);
    } catch (...) {
      error = std::current_exception();
    }
    done(error, std::move(what));
  });
}

// --- life -----------------------------------------------------------------------------------------------------------

bool mail_end::release() const {
  end_state& end = state();
  return ask_done(end, about(end, verb::release)).number != 0;
}

void mail_end::close(bool force) const {
  end_state& end = state();
  request wanted = about(end, verb::close);
  wanted.mode = force ? 1 : 0;
  ask_done(end, std::move(wanted));
}

void mail_end::poison() const {
  end_state& end = state();
  ask_done(end, about(end, verb::poison));
}

bool mail_end::is_closed() const {
  end_state& end = state();
  return (ask_done(end, about(end, verb::look)).number & look_bits::closed) != 0;
}

std::vector<std::int64_t> mail_end::isolates() const {
  end_state& end = state();
  return ask_done(end, about(end, verb::isolates)).numbers;
}

int mail_end::native_handle() const {
  end_state& end = state();
  answer why;
  const int descriptor = end.watched(why);
  if (descriptor >= 0) return descriptor;
  if (why.status == mail_status::not_found || why.status == mail_status::too_much) throw_for(why, end);
  if (end.kind == end_kind::queue) throw QueueError("no descriptor is left to wait by");
  throw ChannelError("no descriptor is left to wait by");
}

std::pair<std::uint64_t, std::uint64_t> mail_end::fill() const {
  end_state& end = state();
  const answer seen = ask_done(end, about(end, verb::look));
  if (seen.facts.size() < 3) throw QueueError("the program has not answered as it should");
  return {seen.facts[1], seen.facts[2]};
}

std::optional<std::size_t> select_ready(const std::vector<const mail_end*>& ends, mail_deadline until) {
  request wanted;
  wanted.what = verb::select;
  for (const mail_end* end : ends) wanted.numbers.push_back(end->state().id);
  const answer came = ask_exchange(std::move(wanted), until);
  if (came.status == mail_status::withdrawn || came.status == mail_status::empty) return std::nullopt;
  if (came.status != mail_status::done) throw_for(came, ends.front()->state());
  return static_cast<std::size_t>(came.number);
}

std::vector<std::int64_t> open_channels() {
  request wanted;
  wanted.what = verb::list;
  answer came = ask_exchange(std::move(wanted));
  if (came.status != mail_status::done) throw ChannelError("there are more channels than can be listed");
  return std::move(came.numbers);
}

// --- receipts -------------------------------------------------------------------------------------------------------

/// In the process that has posted the item.
struct receipt_state {
  receipt_state(std::shared_ptr<end_state> of, std::uint64_t which)
      : end(std::move(of)), number(which), owner(platform::process_number()) {}
  receipt_state(const receipt_state&) = delete;
  receipt_state& operator=(const receipt_state&) = delete;
  ~receipt_state() {
    if (owner != platform::process_number()) return;
    request forgotten;
    forgotten.what = verb::receipt_forget;
    forgotten.number = number;
    tell_exchange(std::move(forgotten));
  }
  answer ask(std::uint8_t mode, mail_deadline until) const {
    request wanted;
    wanted.what = verb::receipt_wait;
    wanted.mode = mode;
    wanted.number = number;
    answer came = ask_exchange(std::move(wanted), until);
    const bool is_known = came.status == mail_status::done || came.status == mail_status::empty;
    if (came.status == mail_status::not_yours) throw ChannelError("this receipt is another process's");
    if (!is_known && !(came.status == mail_status::withdrawn && until)) throw_for(came, *end);
    return came;
  }

  const std::shared_ptr<end_state> end;
  const std::uint64_t number;
  const pid_t owner;
};

std::shared_ptr<receipt_state> mail_end::post(mail content) const {
  end_state& end = state();
  const answer came = ask_done(end, sending(end, std::move(content), send_mode::post));
  return std::make_shared<receipt_state>(state_, static_cast<std::uint64_t>(came.number));
}

bool await_receipt(receipt_state& of, mail_deadline until) { return of.ask(0, until).status == mail_status::done; }
bool is_taken(receipt_state& of) { return of.ask(at_once, std::nullopt).status == mail_status::done; }
std::int64_t taken_by(receipt_state& of) { return of.ask(0, std::nullopt).number; }

// --- what the templates throw
// -----------------------------------------------------------------------------------------

void throw_empty_channel(std::int64_t id) { throw ChannelEmptyError(fmt::format("channel {} is empty", id)); }
void throw_empty_queue(std::int64_t id) { throw QueueEmpty(fmt::format("queue {} is empty", id)); }
void throw_owner_destroyed(std::int64_t id, bool of_queue) {
  throw ItemOwnerDestroyed(
      fmt::format("the next item of {} {} was an isolate's that has ended", of_queue ? "queue" : "channel", id));
}

}  // namespace pynisher::detail
