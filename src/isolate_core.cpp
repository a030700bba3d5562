#include "isolate_core.hpp"

#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <system_error>

#include <fmt/format.h>

#include <pynisher/exceptions.hpp>
#include <pynisher/format.hpp>

#include "isolate_conversation.hpp"
#include "isolate_serving.hpp"

namespace pynisher::detail {

using platform::clock;
using namespace std::chrono_literals;

namespace {

options limits_of(const isolate_options& wanted) {
  options limits = wanted.limits;
  if (wanted.context != start_method::automatic) limits.context = wanted.context;
  if (limits.name.empty()) limits.name = wanted.name;
  return limits;
}

}  // namespace

isolate_core::isolate_core(std::int64_t id, isolate_options wanted)
    : id_(id), options_(std::move(wanted)), limits_(validate(limits_of(options_))) {
  start_process();
}

std::string isolate_core::text() const {
  return options_.name.empty() ? fmt::format("isolate {}", id_) : fmt::format("isolate {} ({})", id_, options_.name);
}

isolate_core::turn::turn(std::shared_ptr<isolate_core> core) : core_(std::move(core)) {
  std::unique_lock lock(core_->mutex_);
  core_->throw_if_closed();
  if (core_->busy_ && !core_->options_.queued) {
    throw IsolateError(core_->text() + " is already running");
  }
  core_->changed_.wait(lock, [&] { return !core_->busy_ || core_->closed_; });
  core_->throw_if_closed();
  core_->busy_ = true;
}

isolate_core::turn::~turn() {
  const std::lock_guard lock(core_->mutex_);
  core_->busy_ = false;
  core_->changed_.notify_all();
}

isolate_core::reply isolate_core::ask(std::span<const std::byte> request, const settings* limits) {
  using state = reply::state;
  reply answered;
  conversation with(socket_.get(), *ended_bell_, process()->pid(), limits);
  frame_header header{};
  answered.how = with.send(request);
  const std::uint64_t largest = platform::physical_memory() / 2;
  do {
    if (answered.how == state::came) answered.how = with.receive(&header, sizeof header);
    if (answered.how != state::came) break;
    if (header.kind < frame_kind::piece || header.kind > frame_kind::load_failed ||
        header.size > largest - answered.bytes.arrived() || (header.kind == frame_kind::piece && header.size == 0)) {
      answered.how = state::lies;
      break;
    }
    // What had come of a value is worth nothing when something else ends it.
    if (header.kind > frame_kind::value) answered.bytes = reply_bytes();
    // No memory runs ahead of the bytes that have come.
    for (std::uint64_t left = header.size; left > 0 && answered.how == state::came;) {
      const std::uint64_t next = std::min(left, std::uint64_t{256} << 10);
      answered.how = with.receive(answered.bytes.grow(static_cast<std::size_t>(next)), static_cast<std::size_t>(next));
      left -= next;
    }
  } while (answered.how == state::came && header.kind == frame_kind::piece);
  answered.kind = header.kind;
  answered.bytes.select(0, answered.bytes.arrived());
  answered.usage = with.usage();
  if (answered.how != state::came && answered.how != state::died) {
    answered.usage.user_time = with.cpu_used();
    end_process();
  }
  return answered;
}

raw_outcome isolate_core::end_of_process() {
  process()->wait(std::nullopt);
  const std::lock_guard lock(mutex_);
  if (!end_) end_ = process_->conclude();
  raw_outcome copy;
  copy.verdict = end_->verdict;
  copy.usage = end_->usage;
  copy.explanation = end_->explanation;
  return copy;
}

IsolateDiedError isolate_core::died() {
  const raw_outcome end = end_of_process();
  const std::lock_guard lock(mutex_);
  if (closed_) return IsolateDiedError(text() + " was ended while it ran");
  return IsolateDiedError(fmt::format("{} has died: {}", text(), end.explanation));
}

void isolate_core::close() {
  {
    const std::lock_guard lock(mutex_);
    throw_if_closed();
    if (busy_) throw IsolateError(text() + " is running: close() waits for nobody, kill() ends it");
    closed_ = true;
  }
  const auto request = make_frame(frame_kind::close);
  static_cast<void>(::send(socket_.get(), request.data(), request.size(), MSG_NOSIGNAL | MSG_DONTWAIT));
  // It has nothing left to do. One that does not go all the same is made to.
  process()->wait(clock::now() + 2s);
  end_process();
}

void isolate_core::kill() {
  {
    const std::lock_guard lock(mutex_);
    throw_if_closed();
    closed_ = true;
  }
  end_process();
  changed_.notify_all();
}

void isolate_core::drop() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  end_process();
}

void isolate_core::end_process() {
  const auto ending = process();
  ending->cancel();
  ending->wait(std::nullopt);
}

void isolate_core::restart() {
  end_process();
  const std::lock_guard lock(mutex_);
  end_.reset();
  start_process();
}

void isolate_core::throw_if_closed() const {
  if (closed_) throw IsolateNotFoundError(text() + " was closed");
}

void isolate_core::start_process() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    throw StartException("make a socket", {errno, std::system_category()});
  }
  platform::call_fd own(ends[0]);
  const platform::call_fd isolates(ends[1]);
  auto bell = std::make_shared<platform::doorbell>();
  if (!*bell) throw StartException("make a doorbell", {errno, std::system_category()});
  isolate_task task(id_, options_.name);
  std::shared_ptr<call_in_flight> process = start_in_flight(limits_, task, isolates.get());
  if (process->pid() < 0) std::rethrow_exception(process->conclude().error);
  process->when_done([bell] { platform::doorbell::raise(bell->descriptor()); });
  socket_ = std::move(own);
  ended_bell_ = std::move(bell);
  process_ = std::move(process);
}

}  // namespace pynisher::detail
