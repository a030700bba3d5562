#include "exchange_client.hpp"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <iterator>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include <pynisher/channel_errors.hpp>

#include "supervised_call.hpp"
#include "without_signals.hpp"

namespace pynisher::detail {

namespace {

/// Connections that the program has given up, one after the other, before there is no way to it.
constexpr int attempts = 20;

[[noreturn]] void throw_no_answer() {
  throw ChannelError("the program does not answer: it has ended, or has no descriptor left for this process");
}

std::uint64_t inode_of(int descriptor) {
  struct stat status {};
  return ::fstat(descriptor, &status) == 0 && S_ISSOCK(status.st_mode) ? status.st_ino : 0;
}

/// False: the time has come.
bool wait_for_input(int socket, mail_deadline until) {
  pollfd watched{socket, POLLIN, 0};
  for (;;) {
    const auto left = std::max(std::chrono::nanoseconds(0), std::chrono::nanoseconds(*until - platform::clock::now()));
    const timespec timeout{static_cast<time_t>(left.count() / 1'000'000'000),
                           static_cast<long>(left.count() % 1'000'000'000)};
    const int ready = ::ppoll(&watched, 1, &timeout, nullptr);
    if (ready > 0) return true;
    if (ready == 0) return false;
  }
}

request about(verb what, std::uint64_t number) {
  request made;
  made.what = what;
  made.number = number;
  return made;
}

answer too_large() {
  answer refused;
  refused.status = mail_status::too_much;
  refused.number = static_cast<std::int64_t>(mail_limit::size);
  refused.facts = {largest_meta};
  return refused;
}

}  // namespace

bool exchange_client::connection::is_whole() const { return socket && inode != 0 && inode_of(socket.get()) == inode; }

bool exchange_client::connection::send(const request& what, std::uint32_t& operation) {
  operation = ++last_operation;
  is_used = true;
  outgoing_frame frame(operation, what);
  return frame.send(socket.get(), 0) == outgoing_frame::progress::done;
}

exchange_client::exchange_client(const exchange_place& place, const greeting& hello)
    : owner_(platform::process_number()), place_(place), hello_(hello) {}

std::unique_ptr<exchange_client::connection> exchange_client::connect() {
  if (connections_.load() >= most_connections) {
    throw ChannelError(fmt::format("{} threads of this process wait at channels and queues already, and no more can",
                                   most_connections));
  }
  auto fresh = std::make_unique<connection>(connections_);
  fresh->socket = platform::call_fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fresh->socket)
    throw ChannelError(fmt::format("no socket to reach the program by: {}", std::system_category().message(errno)));
  sockaddr_un address{};
  const socklen_t length = write_address(place_, address);
  while (::connect(fresh->socket.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    if (errno != EINTR) throw_no_answer();
  }
  fresh->inode = inode_of(fresh->socket.get());
  outgoing_frame hello(mail_frame::hello, 0, hello_);
  // It is heard with the first question; should it not be, that one says so.
  static_cast<void>(hello.send(fresh->socket.get(), 0));
  return fresh;
}

std::unique_ptr<exchange_client::connection> exchange_client::take() {
  constexpr std::uint32_t most_operations = 0x7fff'ffff;
  for (;;) {
    std::unique_ptr<connection> found;
    {
      const std::lock_guard lock(mutex_);
      if (!idle_.empty()) {
        found = std::move(idle_.back());
        idle_.pop_back();
      }
    }
    if (!found) return connect();
    // A function may have closed what it has not opened.
    if (found->is_whole() && found->last_operation < most_operations) return found;
    discard(std::move(found));
  }
}

void exchange_client::discard(std::unique_ptr<connection> stale) noexcept {
  // What is not ours is not ours to close.
  if (!stale->is_whole()) static_cast<void>(new platform::call_fd(std::move(stale->socket)));
}

void exchange_client::give_back(std::unique_ptr<connection> used) {
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(used));
}

answer exchange_client::ask(request what, mail_deadline until) {
  if (outgoing_frame(0, what).is_too_large()) {
    return too_large();
  }
  for (int attempt = 0;; ++attempt) {
    auto on = take();
    const bool was_used = on->is_used;
    std::uint32_t number = 0;
    // A connection that the program has given up takes nothing, and then nothing has been asked yet.
    if (!on->send(what, number)) {
      if (attempt == attempts) throw_no_answer();
      continue;
    }
    answer came;
    try {
      came = await(*on, number, until);
    } catch (const ChannelError&) {
      // It may have been taken for a stranger that knocks and says nothing: nothing has been heard of this then.
      if (was_used || attempt == attempts) throw;
      continue;
    }
    std::uint32_t acknowledged = 0;
    // What cannot be acknowledged goes to somebody else.
    if (came.is_in_hand && !on->send(about(verb::acknowledge, number), acknowledged)) throw_no_answer();
    give_back(std::move(on));
    return came;
  }
}

answer exchange_client::await(connection& from, std::uint32_t number, mail_deadline until) {
  for (;;) {
    if (auto frame = from.incoming.next()) {
      auto came = read_answer(std::move(*frame));
      if (!came || came->operation != number) throw_no_answer();
      return std::move(*came);
    }
    if (until && !wait_for_input(from.socket.get(), until)) {
      // Now it is withdrawn, or was answered already.
      until.reset();
      std::uint32_t cancelled = 0;
      if (!from.send(about(verb::cancel, number), cancelled)) throw_no_answer();
      continue;
    }
    if (from.incoming.read(from.socket.get(), 0) != incoming_frames::progress::some) throw_no_answer();
  }
}

void exchange_client::tell(request what) noexcept {
  try {
    for (int attempt = 0; attempt <= attempts; ++attempt) {
      auto on = take();
      std::uint32_t number = 0;
      if (on->send(what, number)) return give_back(std::move(on));
    }
  } catch (const std::exception&) {
    // Without a way to the program there is nothing there that is ours.
  }
}

// --- what is not waited for
// -----------------------------------------------------------------------------------------------

exchange_client::begun::~begun() {
  if (on) discard(std::move(on));
  if (more && !platform::doorbell::is_one(more.descriptor()))
    static_cast<void>(new platform::doorbell(std::move(more)));
}

bool exchange_client::begun::is_whole() const {
  return on->is_whole() && platform::doorbell::is_one(more.descriptor());
}

/// Without waiting.
std::uint32_t exchange_client::begun::send(const request& what) {
  const std::uint32_t number = ++on->last_operation;
  outgoing.emplace_back(number, what);
  if (outgoing.size() == 1) flush();
  if (!outgoing.empty()) platform::doorbell::raise(more.descriptor());
  return number;
}

void exchange_client::begun::flush() {
  // Of a connection that is broken the listening thread is told when it reads.
  while (!outgoing.empty() && outgoing.front().send(on->socket.get(), MSG_DONTWAIT) == outgoing_frame::progress::done) {
    outgoing.pop_front();
  }
}

class exchange_client::operation final : public mail_operation {
 public:
  operation(exchange_client& client, std::shared_ptr<begun> on, std::uint32_t number)
      : client_(client), on_(std::move(on)), number_(number) {}
  void cancel() noexcept override {
    const std::lock_guard lock(client_.begun_mutex_);
    if (on_->operations.contains(number_)) on_->send(about(verb::cancel, number_));
  }

 private:
  exchange_client& client_;
  const std::shared_ptr<begun> on_;
  const std::uint32_t number_;
};

std::shared_ptr<mail_operation> exchange_client::begin(request what, std::function<void(answer)> done) {
  if (outgoing_frame(0, what).is_too_large()) {
    done(too_large());
    return nullptr;
  }
  std::shared_ptr<begun> lost;
  {
    // A function may have closed what it has not opened.
    const std::lock_guard lock(begun_mutex_);
    if (begun_ && !begun_->is_whole()) lost.swap(begun_);
  }
  if (lost) give_up(lost);
  const std::lock_guard lock(begun_mutex_);
  if (!begun_) begun_ = begin_to_listen();
  // The answer cannot overtake this: it is looked for under the same mutex.
  const std::uint32_t number = begun_->send(what);
  begun_->operations.emplace(number, std::move(done));
  return std::make_shared<operation>(*this, begun_, number);
}

std::shared_ptr<exchange_client::begun> exchange_client::begin_to_listen() {
  auto fresh = std::make_shared<begun>();
  fresh->on = connect();
  if (!fresh->more) {
    throw ChannelError(
        fmt::format("no descriptor to listen to the program by: {}", std::system_category().message(errno)));
  }
  try {
    const without_signals blocked;
    // For as long as the process.
    std::thread([this, fresh] { listen(fresh); }).detach();
  } catch (const std::system_error& e) {
    throw ChannelError(fmt::format("no thread to listen to the program by: {}", e.what()));
  }
  own_threads.fetch_add(1);
  return fresh;
}

void exchange_client::listen(const std::shared_ptr<begun>& on) {
  while (await_news(*on, begun_mutex_)) {
    const auto read = on->on->incoming.read(on->on->socket.get(), MSG_DONTWAIT);
    if (read == incoming_frames::progress::nothing) continue;
    take_answers(*on);
    if (read != incoming_frames::progress::some) break;
  }
  // The program is gone, or does not want to hear us any more.
  own_threads.fetch_sub(1);
  give_up(on);
}

/// Sends what there is to be sent, until there is something to read. False: the descriptors are others' now.
bool exchange_client::await_news(begun& on, std::mutex& mutex) {
  for (;;) {
    bool sends = false;
    {
      const std::lock_guard lock(mutex);
      on.flush();
      sends = !on.outgoing.empty();
    }
    pollfd watched[] = {{on.on->socket.get(), static_cast<short>(sends ? POLLIN | POLLOUT : POLLIN), 0},
                        {on.more.descriptor(), POLLIN, 0}};
    if (::poll(watched, std::size(watched), -1) < 0) continue;
    if (!on.is_whole()) return false;
    if ((watched[1].revents & POLLIN) != 0) on.more.clear();
    if ((watched[0].revents & ~POLLOUT) != 0) return true;
  }
}

void exchange_client::take_answers(begun& from) {
  while (auto frame = from.on->incoming.next()) {
    auto came = read_answer(std::move(*frame));
    if (!came) continue;
    std::function<void(answer)> done;
    {
      const std::lock_guard lock(begun_mutex_);
      const auto number = static_cast<std::uint32_t>(came->operation);
      const auto found = from.operations.find(number);
      if (found == from.operations.end()) continue;
      done = std::move(found->second);
      from.operations.erase(found);
      if (came->is_in_hand) from.send(about(verb::acknowledge, number));
    }
    done(std::move(*came));
  }
}

void exchange_client::give_up(const std::shared_ptr<begun>& lost) {
  std::unordered_map<std::uint32_t, std::function<void(answer)>> left;
  {
    const std::lock_guard lock(begun_mutex_);
    left.swap(lost->operations);
    if (begun_ == lost) begun_.reset();
  }
  for (auto& [number, done] : left) {
    answer nothing;
    nothing.status = mail_status::wrong;
    done(std::move(nothing));
  }
}

void exchange_client::hang_up() noexcept {
  const std::lock_guard lock(mutex_);
  for (auto& one : idle_) discard(std::move(one));
  idle_.clear();
}

}  // namespace pynisher::detail
