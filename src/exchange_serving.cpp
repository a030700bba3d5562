// The thread that serves the children: what they ask, what they are answered, and their ends.

#include "exchange_host.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <system_error>
#include <utility>

#include "fork_safe_mutex.hpp"
#include "supervised_call.hpp"
#include "without_signals.hpp"

namespace pynisher::detail {

namespace {

using platform::clock;
using namespace std::chrono_literals;

/// Operations of children are numbered by connection and by the child's own count there.
operation_id operation_of(std::uint32_t serial, std::uint64_t number) { return (operation_id{serial} << 32) | number; }

// What an event is about stands in its low bits.
enum : std::uint64_t { is_listener, is_bell, is_connection, is_process, kind_mask = 3 };

constexpr int most_events = 64;
constexpr std::size_t most_strangers = 128;
/// Answers that a child has not fetched; until then it is not listened to.
constexpr std::size_t most_unfetched = 64;

bool has_ended(const platform::call_fd& process) {
  pollfd ended{process.get(), POLLIN, 0};
  return process && ::poll(&ended, 1, 0) > 0;
}

bool is_of_this_user(const ucred& who) {
  return who.pid > 0 && (who.uid == ::getuid() || who.uid == ::geteuid() || ::geteuid() == 0);
}

}  // namespace

// --- what is written to children -------------------------------------------------------------------------------------

void exchange_host::send(connection& to, outgoing_frame&& frame) {
  to.outgoing.push_back(std::move(frame));
  if (to.outgoing.size() == 1) flush(to);
  if (to.outgoing.size() >= most_unfetched) watch_for(to, EPOLLOUT);
}

void exchange_host::flush(connection& to) {
  while (!to.outgoing.empty() && !to.is_broken) {
    switch (to.outgoing.front().send(to.socket.get(), MSG_DONTWAIT)) {
      case outgoing_frame::progress::done:
        to.outgoing.pop_front();
        break;
      case outgoing_frame::progress::blocked:
        return watch_for(to, to.outgoing.size() >= most_unfetched ? EPOLLOUT : EPOLLIN | EPOLLOUT);
      case outgoing_frame::progress::broken:
        // Nothing is done about it here, in the middle of something else.
        to.is_broken = true;
        broken_.push_back(to.serial);
        platform::doorbell::raise(bell_->descriptor());
        return;
    }
  }
  watch_for(to, EPOLLIN);
}

void exchange_host::watch_for(connection& of, std::uint32_t wanted) {
  if (of.wants == wanted) return;
  of.wants = wanted;
  epoll_event event{};
  event.events = wanted;
  event.data.u64 = (std::uint64_t{of.serial} << 2) | is_connection;
  ::epoll_ctl(set_.get(), EPOLL_CTL_MOD, of.socket.get(), &event);
}

// --- the thread ------------------------------------------------------------------------------------------------------

std::optional<exchange_place> exchange_host::place() {
  const std::lock_guard lock(mutex_);
  if (stopping_ || (!place_ && !start_serving())) return std::nullopt;
  return place_;
}

bool exchange_host::start_serving() {
  if (stopping_) return false;
  bell_.emplace();
  std::optional<platform::doorbell> asker_bell(std::in_place);
  if (!*bell_ || !*asker_bell) return false;
  exchange_place fresh;
  fresh.name = random_key()[0];
  fresh.token = random_key();
  set_ = platform::call_fd(::epoll_create1(EPOLL_CLOEXEC));
  listener_ = platform::call_fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  spare_ = platform::call_fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!set_ || !listener_ || !spare_) return false;
  sockaddr_un address{};
  const socklen_t length = write_address(fresh, address);
  if (::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) return false;
  if (::listen(listener_.get(), 4096) != 0) return false;
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = is_listener;
  if (::epoll_ctl(set_.get(), EPOLL_CTL_ADD, listener_.get(), &event) != 0) return false;
  event.data.u64 = is_bell;
  if (::epoll_ctl(set_.get(), EPOLL_CTL_ADD, bell_->descriptor(), &event) != 0) return false;
  try {
    const without_signals blocked;
    thread_ = std::thread([this] { serve(); });
  } catch (const std::system_error&) {
  }
  if (!thread_.joinable()) return false;
  own_threads.fetch_add(1);
  asker_bell_ = std::move(asker_bell);
  place_ = fresh;
  return true;
}

void exchange_host::stop_serving() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    if (!thread_.joinable()) return;
    platform::doorbell::raise(bell_->descriptor());
    thread_serves_again_.notify_one();
  }
  thread_.join();
  own_threads.fetch_sub(1);
  // Nobody answers any more: whoever waits for one, or knocks from now on, learns it by a closed socket.
  calls told;
  {
    const std::lock_guard lock(mutex_);
    listener_ = {};
    place_.reset();
    while (!connections_.empty()) hang_up(connections_.begin()->first, told);
  }
  tell(told);
}

void exchange_host::serve() {
  ::prctl(PR_SET_NAME, "pynisher-mail");
  std::array<epoll_event, most_events> events{};
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      thread_serves_again_.wait(lock, [this] { return !an_asker_serves_ || stopping_; });
    }
    const int count = ::epoll_wait(set_.get(), events.data(), most_events, -1);
    calls told;
    {
      const std::lock_guard lock(mutex_);
      // Who has come to serve meanwhile has been woken as well.
      if (!an_asker_serves_ && count > 0) take_events({events.data(), static_cast<std::size_t>(count)}, told);
      if (stopping_) break;
    }
    tell(told);
  }
}

void exchange_host::take_events(std::span<const epoll_event> events, calls& told) {
  for (const epoll_event& event : events) {
    const std::uint64_t which = event.data.u64 >> 2;
    switch (event.data.u64 & kind_mask) {
      case is_listener:
        accept_some();
        break;
      case is_bell:
        // Whoever comes next has to hear of the end, too.
        if (!stopping_) bell_->clear();
        break;
      case is_connection: {
        const auto found = connections_.find(static_cast<std::uint32_t>(which));
        if (found == connections_.end()) break;
        if ((event.events & EPOLLOUT) != 0) flush(found->second);
        if ((event.events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) read_from(found->second, told);
        break;
      }
      default:
        process_ended(which, told);
    }
    while (strangers_ > most_strangers) drop_a_stranger(told);
  }
  drop_broken(told);
}

void exchange_host::accept_some() {
  for (int i = 0; i < 64; ++i) {
    platform::call_fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket && (errno == EMFILE || errno == ENFILE)) {
      // Whoever it is cannot be served, and is told so, instead of knocking for ever.
      spare_ = platform::call_fd();
      const platform::call_fd refused(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!refused) return;
      continue;
    }
    if (!spare_) spare_ = platform::call_fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (!socket) return;
    ucred who{};
    socklen_t size = sizeof who;
    if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &who, &size) != 0 || !is_of_this_user(who)) continue;
    if (last_serial_ >= 0x7fff'ffff) continue;
    const std::uint32_t serial = ++last_serial_;
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = (std::uint64_t{serial} << 2) | is_connection;
    if (::epoll_ctl(set_.get(), EPOLL_CTL_ADD, socket.get(), &event) != 0) continue;
    connection& fresh = connections_[serial];
    fresh.serial = serial;
    fresh.socket = std::move(socket);
    fresh.pid = who.pid;
    fresh.wants = EPOLLIN;
    ++strangers_;
  }
}

/// The one that has known us longest without saying who it is. It may come again.
void exchange_host::drop_a_stranger(calls& told) {
  for (const auto& [serial, one] : connections_) {
    if (one.party == 0) return hang_up(serial, told);
  }
}

void exchange_host::read_from(connection& from, calls& told) {
  if (from.is_broken) return;
  const std::uint32_t serial = from.serial;
  const auto read = from.incoming.read(from.socket.get(), MSG_DONTWAIT);
  if (read == incoming_frames::progress::nothing) return;
  take_frames(from, told);
  if (read != incoming_frames::progress::some) hang_up(serial, told);
}

void exchange_host::take_frames(connection& from, calls& told) {
  while (auto frame = from.incoming.next()) {
    if (!take_frame(from, std::move(*frame), told)) from.is_broken = true;
    if (from.is_broken) break;
  }
  if (from.is_broken || from.incoming.has_lied()) broken_.push_back(from.serial);
}

bool exchange_host::take_frame(connection& from, incoming_frames::frame&& frame, calls& told) {
  if (from.party == 0) {
    const auto hello = read_greeting(frame);
    return hello && greet(from, *hello, told);
  }
  const std::uint32_t number = frame.header.operation;
  if (number <= from.last_operation) return false;
  from.last_operation = number;
  auto what = read_request(std::move(frame));
  if (!what) return false;
  const operation_id operation = operation_of(from.serial, number);
  if (what->what == verb::watch) {
    answer_watch(from, operation, *what, told);
    return true;
  }
  // Not while others are heard for the last time, nor about itself, as a copy may say that has its socket: connections
  // would go that somebody is reading from.
  if (what->what == verb::process_ended && !hears_the_dead_ && what->number != static_cast<std::uint64_t>(from.pid)) {
    look_at(static_cast<std::int64_t>(what->number), told);
  }
  if (what->what == verb::cancel || what->what == verb::acknowledge) {
    if (what->number > 0xffff'ffff) return false;
    what->number = operation_of(from.serial, what->number);
  }
  effects out;
  core_.handle(from.party, operation, std::move(*what), out);
  dispatch(out, told);
  return true;
}

bool exchange_host::greet(connection& from, const greeting& hello, calls& told) {
  if (hello.token != place_->token) return false;
  const auto known = party_of_pid_.find(from.pid);
  if (known != party_of_pid_.end()) {
    // Another process may have got the number.
    if (has_ended(remotes_.at(known->second).process)) process_ended(known->second, told);
  }
  auto found = party_of_pid_.find(from.pid);
  if (found == party_of_pid_.end()) {
    remote fresh;
    fresh.household = hello.household;
    fresh.is_head = hello.is_head && hello.household != 0;
    fresh.pid = from.pid;
    fresh.process = platform::call_fd(static_cast<int>(::syscall(SYS_pidfd_open, static_cast<pid_t>(from.pid), 0)));
    const party_id party = core_.join({hello.isolate, hello.household, fresh.is_head, true, from.pid});
    if (fresh.process) {
      epoll_event event{};
      event.events = EPOLLIN;
      event.data.u64 = (party << 2) | is_process;
      if (::epoll_ctl(set_.get(), EPOLL_CTL_ADD, fresh.process.get(), &event) != 0) fresh.process = platform::call_fd();
    }
    remotes_.emplace(party, std::move(fresh));
    found = party_of_pid_.emplace(from.pid, party).first;
  }
  remote& party = remotes_.at(found->second);
  if (party.household != hello.household || party.connections >= most_connections) return false;
  ++party.connections;
  from.party = found->second;
  --strangers_;
  return true;
}

void exchange_host::answer_watch(connection& from, operation_id operation, const request& what, calls& told) {
  auto& watches = remotes_.at(from.party).watches;
  const std::size_t most = core_.budget().handles;
  answer made;
  made.to = from.party;
  made.operation = operation;
  if (watches.size() >= most) {
    std::erase_if(watches, [&](const auto& one) { return !core_.has_an_end(from.party, one.first); });
  }
  const bool is_known = watches.contains(what.channel);
  if (!core_.exists(what.channel)) {
    made.status = mail_status::not_found;
  } else if (!is_known && watches.size() >= most) {
    made.status = mail_status::too_much;
    made.number = static_cast<std::int64_t>(mail_limit::handles);
    made.facts = {most};
  } else {
    auto flag = is_known ? watches.at(what.channel) : std::make_shared<flag_to_poll>();
    if (*flag) {
      if (watches.emplace(what.channel, flag).second) add_watch(from.party, what.channel, flag);
      made.status = mail_status::item;
      made.content = std::make_shared<parcel>();
      made.content->attached.push_back({attachment::kind::file, {}, 0, 0, flag->watched()});
    } else {
      made.status = mail_status::empty;  // the program has no descriptor left
    }
  }
  effects out;
  out.answers.push_back(std::move(made));
  dispatch(out, told);
}

void exchange_host::hang_up(std::uint32_t serial, calls& told) {
  auto node = connections_.extract(serial);
  if (node.empty()) return;
  const connection& gone = node.mapped();
  ::epoll_ctl(set_.get(), EPOLL_CTL_DEL, gone.socket.get(), nullptr);
  if (gone.party == 0) {
    --strangers_;
    return;
  }
  const auto found = remotes_.find(gone.party);
  if (found == remotes_.end()) return;
  const remote& whose = found->second;
  // Where its end cannot be seen, this is it.
  if (--found->second.connections == 0 && !whose.process) return leave(gone.party, told);
  // A process's descriptors are closed a moment before its end is seen, which decides over what an isolate has sent.
  const bool may_have_ended = whose.is_head && whose.process;
  effects out;
  core_.abandon(gone.party, operation_of(serial, 0), operation_of(serial, 0xffff'ffff), out, may_have_ended);
  dispatch(out, told);
}

/// What it has said before is heard first.
void exchange_host::process_ended(party_id who, calls& told) {
  if (!remotes_.contains(who)) return;
  std::vector<std::uint32_t> serials;
  for (const auto& [serial, one] : connections_) {
    if (one.party == who) serials.push_back(serial);
  }
  const bool was_hearing = std::exchange(hears_the_dead_, true);
  for (const std::uint32_t serial : serials) {
    // A copy of it may have its socket, and go on.
    for (int i = 0; i < 1000; ++i) {
      const auto found = connections_.find(serial);
      if (found == connections_.end() || found->second.is_broken) break;
      const auto read = found->second.incoming.read(found->second.socket.get(), MSG_DONTWAIT);
      take_frames(found->second, told);
      if (read != incoming_frames::progress::some) break;
    }
  }
  hears_the_dead_ = was_hearing;
  leave(who, told);
  for (const std::uint32_t serial : serials) hang_up(serial, told);
}

void exchange_host::look_at(std::int64_t pid, calls& told) {
  const auto found = party_of_pid_.find(pid);
  if (found != party_of_pid_.end() && has_ended(remotes_.at(found->second).process)) process_ended(found->second, told);
}

void exchange_host::leave(party_id who, calls& told) {
  auto node = remotes_.extract(who);
  if (node.empty()) return;
  if (node.mapped().process) ::epoll_ctl(set_.get(), EPOLL_CTL_DEL, node.mapped().process.get(), nullptr);
  party_of_pid_.erase(node.mapped().pid);
  effects out;
  core_.leave(who, out);
  dispatch(out, told);
}

void exchange_host::drop_broken(calls& told) {
  while (!broken_.empty()) {
    const std::uint32_t serial = broken_.back();
    broken_.pop_back();
    hang_up(serial, told);
  }
}

}  // namespace pynisher::detail
