#include "exchange_host.hpp"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <ctime>
#include <utility>

namespace pynisher::detail {

namespace {

using platform::clock;
using namespace std::chrono_literals;

/// Operations of children are numbered by connection.
constexpr operation_id local_bit = operation_id{1} << 63;

}  // namespace

// --- a flag ---------------------------------------------------------------------------------------------------

flag_to_poll::flag_to_poll() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return;
  own_ = platform::call_fd(ends[0]);
  watched_ = std::make_shared<passed_file>(platform::call_fd(ends[1]));
}

void flag_to_poll::set(bool raised) {
  char one = 1;
  if (raised) {
    static_cast<void>(::send(own_.get(), &one, 1, MSG_DONTWAIT | MSG_NOSIGNAL));
  } else {
    static_cast<void>(::recv(descriptor_of(*watched_), &one, 1, MSG_DONTWAIT));
  }
}

// --- the program's own threads ---------------------------------------------------------------------------------------

exchange_host::exchange_host(std::int64_t last_channel) {
  self_ = core_.join({});
  core_.begin_after(last_channel);
}

void exchange_host::tell(calls& told) {
  for (auto& [done, made] : told) done(std::move(made));
  told.clear();
}

void exchange_host::handle(operation_id operation, request&& what, calls& told) {
  effects out;
  core_.handle(self_, operation, std::move(what), out);
  dispatch(out, told);
}

/// The thread serves again when this goes, on whichever way.
class exchange_host::while_an_asker_serves {
 public:
  while_an_asker_serves(exchange_host& host, std::unique_lock<std::mutex>& lock) : host_(host), lock_(lock) {
    host_.an_asker_serves_ = true;
  }
  while_an_asker_serves(const while_an_asker_serves&) = delete;
  while_an_asker_serves& operator=(const while_an_asker_serves&) = delete;
  ~while_an_asker_serves() {
    if (!lock_.owns_lock()) lock_.lock();
    host_.an_asker_serves_ = false;
    host_.thread_serves_again_.notify_one();
  }

 private:
  exchange_host& host_;
  std::unique_lock<std::mutex>& lock_;
};

/// A question of this process's, on whichever way its asker leaves.
class exchange_host::open_question {
 public:
  open_question(exchange_host& host, local_wait& wait, std::unique_lock<std::mutex>& lock)
      : host_(host), lock_(lock), operation_(local_bit | ++host.next_) {
    host_.local_[operation_].wait = &wait;
  }
  open_question(const open_question&) = delete;
  open_question& operator=(const open_question&) = delete;
  ~open_question() {
    if (!lock_.owns_lock()) lock_.lock();
    host_.local_.erase(operation_);
  }
  [[nodiscard]] operation_id operation() const { return operation_; }

 private:
  exchange_host& host_;
  std::unique_lock<std::mutex>& lock_;
  const operation_id operation_;
};

answer exchange_host::ask(request what, mail_deadline until) {
  calls told;
  local_wait wait;
  answer came;
  {
    std::unique_lock lock(mutex_);
    const open_question question(*this, wait, lock);
    handle(question.operation(), std::move(what), told);
    if (!told.empty() && !wait.came) {
      // Others' affairs do not wait for ours.
      lock.unlock();
      tell(told);
      lock.lock();
    }
    if (!await_answer(wait, until, lock)) {
      request taken_back;
      taken_back.what = verb::cancel;
      taken_back.number = question.operation();
      handle(local_bit | ++next_, std::move(taken_back), told);
    }
    came = std::move(*wait.came);
  }
  tell(told);
  return came;
}

bool exchange_host::await_answer(local_wait& wait, mail_deadline until, std::unique_lock<std::mutex>& lock) {
  while (!wait.came) {
    if (until && clock::now() >= *until) return false;
    if (asker_bell_ && !an_asker_serves_ && !stopping_) {
      serve_until_woken(wait, until, lock);
    } else if (!until) {
      wait.changed.wait(lock);
    } else {
      wait.changed.wait_until(lock, *until);
    }
  }
  return true;
}

void exchange_host::serve_until_woken(local_wait& wait, mail_deadline until, std::unique_lock<std::mutex>& lock) {
  calls told;
  {
    const while_an_asker_serves serving(*this, lock);
    do {
      wait.is_at_poll = true;
      lock.unlock();
      wait_for_events(until);
      lock.lock();
      wait.is_at_poll = false;
      asker_bell_->clear();
      if (!wait.came && !stopping_) take_what_is_ready(told);
      // What the application has for others may ask, too, and wait for what nobody would hear.
    } while (!wait.came && told.empty() && !stopping_ && !(until && clock::now() >= *until));
  }
  if (told.empty()) return;
  lock.unlock();
  tell(told);
  lock.lock();
}

void exchange_host::wait_for_events(mail_deadline until) const {
  pollfd watched[] = {{set_.get(), POLLIN, 0}, {asker_bell_->descriptor(), POLLIN, 0}};
  const auto left = until ? std::clamp<clock::duration>(*until - clock::now(), 0s, 24h) : clock::duration(0);
  const timespec timeout{static_cast<time_t>(left / 1s), static_cast<long>((left % 1s) / 1ns)};
  ::ppoll(watched, 2, until ? &timeout : nullptr, nullptr);
}

void exchange_host::take_what_is_ready(calls& told) {
  std::array<epoll_event, 64> events{};
  const int count = ::epoll_wait(set_.get(), events.data(), static_cast<int>(events.size()), 0);
  if (count > 0) take_events({events.data(), static_cast<std::size_t>(count)}, told);
}

class exchange_host::local_operation final : public mail_operation {
 public:
  local_operation(exchange_host& host, operation_id operation) : host_(host), operation_(operation) {}
  void cancel() noexcept override {
    request taken_back;
    taken_back.what = verb::cancel;
    taken_back.number = operation_;
    calls told;
    {
      const std::lock_guard lock(host_.mutex_);
      host_.handle(local_bit | ++host_.next_, std::move(taken_back), told);
    }
    tell(told);
  }

 private:
  exchange_host& host_;
  operation_id operation_;
};

std::shared_ptr<mail_operation> exchange_host::begin(request what, std::function<void(answer)> done) {
  calls told;
  std::shared_ptr<mail_operation> begun;
  {
    const std::lock_guard lock(mutex_);
    const operation_id operation = local_bit | ++next_;
    begun = std::make_shared<local_operation>(*this, operation);
    local_[operation].done = std::move(done);
    handle(operation, std::move(what), told);
  }
  tell(told);
  return begun;
}

void exchange_host::post(request what) {
  calls told;
  {
    const std::lock_guard lock(mutex_);
    handle(local_bit | ++next_, std::move(what), told);
  }
  tell(told);
}

void exchange_host::look_at(std::int64_t pid) {
  calls told;
  {
    const std::lock_guard lock(mutex_);
    look_at(pid, told);
  }
  tell(told);
}

std::shared_ptr<flag_to_poll> exchange_host::watch(std::int64_t channel) {
  auto flag = std::make_shared<flag_to_poll>();
  if (!*flag) return nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (!core_.exists(channel)) return nullptr;
    add_watch(self_, channel, flag);
  }
  return flag;
}

void exchange_host::add_watch(party_id who, std::int64_t channel, const std::shared_ptr<flag_to_poll>& flag) {
  std::erase_if(watches_, [](const auto& one) { return one.second.expired(); });
  // Others of the same process's know already.
  if (core_.watch(who, channel)) flag->set(true);
  watches_.emplace(std::pair(channel, who), flag);
}

void exchange_host::dispatch(effects& out, calls& told) {
  while (!out.answers.empty() || !out.ready.empty()) {
    effects more;
    // First: whoever has an answer finds its descriptors as they are after it.
    for (const readiness& now : out.ready) {
      const auto [first, last] = watches_.equal_range({now.channel, now.party});
      for (auto at = first; at != last; ++at) {
        if (const auto flag = at->second.lock()) flag->set(now.ready);
      }
    }
    for (answer& made : out.answers) deliver(std::move(made), more, told);
    out = std::move(more);
  }
}

void exchange_host::deliver(answer&& made, effects& more, calls& told) {
  if (made.to == self_) {
    const auto found = local_.find(made.operation);
    if (found == local_.end()) return;
    if (found->second.wait != nullptr) {
      local_wait& wait = *found->second.wait;
      wait.came = std::move(made);
      if (wait.is_at_poll) {
        platform::doorbell::raise(asker_bell_->descriptor());
      } else {
        wait.changed.notify_one();
      }
    } else {
      told.emplace_back(std::move(found->second.done), std::move(made));
      local_.erase(found);
    }
    return;
  }
  const auto found = connections_.find(static_cast<std::uint32_t>(made.operation >> 32));
  if (found == connections_.end() || found->second.is_broken) {
    if (made.is_in_hand) core_.abandon(made.to, made.operation, made.operation, more);
    return;
  }
  const auto number = static_cast<std::uint32_t>(made.operation);
  outgoing_frame frame(number, made);
  if (frame.is_too_large()) {
    made.status = mail_status::too_much;
    made.numbers.clear();
    frame = outgoing_frame(number, made);
  }
  send(found->second, std::move(frame));
}

}  // namespace pynisher::detail
