#include "isolate_core.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <system_error>

#include <fmt/format.h>

#include <pynisher/exceptions.hpp>
#include <pynisher/format.hpp>

#include "isolate_copy.hpp"
#include "isolate_registry.hpp"
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

std::shared_ptr<const settings> patience() {
  options limits;
  limits.wall_time = 1min;
  limits.warnings = false;
  return validate(std::move(limits));
}

isolate_core::isolate_core(std::int64_t id, isolate_options wanted)
    : id_(id), options_(std::move(wanted)), limits_(validate(limits_of(options_))), streams_(options_) {
  isolate_task task(id_, options_.name, isolate_task::state::fresh);
  install(start_process(task, limits_, nullptr));
  watch_end();
}

isolate_core::isolate_core(std::int64_t id, const isolate_core& original, waiting_copy& process)
    : id_(id), options_(original.options_), limits_(original.limits_), streams_(options_, &original.streams_) {
  isolate_task task(id_, options_.name, isolate_task::state::inherited);
  install(start_process(task, limits_->of_a_copy(), &process));
  watch_end();
  // Until it has begun it counts among what the original has started, and would end with it.
  const reply begun = ask_for_certain(make_frame(frame_kind::names), patience().get(), {});
  if (begun.how != reply::state::came) throw died();
}

std::string isolate_core::text() const {
  return options_.name.empty() ? fmt::format("isolate {}", id_) : fmt::format("isolate {} ({})", id_, options_.name);
}

// --- turns --------------------------------------------------------------------------------------------------------

isolate_core::turn::turn(std::shared_ptr<isolate_core> core) : core_(std::move(core)) {
  const std::lock_guard lock(core_->mutex_);
  core_->throw_if_closed();
  if ((core_->busy_ || !core_->queue_.empty()) && !core_->options_.queued) {
    throw IsolateError(core_->text() + " is already running: wait for that call, or create it with .queued = true");
  }
  place_ = core_->queue_.insert(core_->queue_.end(), this);
}

const isolate_core::turn& isolate_core::turn::await(const std::stop_token& stop) {
  isolate_core& core = *core_;
  const std::stop_callback wake(stop, [&core] {
    const std::lock_guard lock(core.mutex_);
    core.changed_.notify_all();
  });
  std::unique_lock lock(core.mutex_);
  const auto is_mine = [&] { return !core.busy_ && core.queue_.front() == this; };
  core.changed_.wait(lock, [&] { return is_mine() || core.closed_ || stop.stop_requested(); });
  core.throw_if_closed();
  if (!is_mine()) throw CancelledException("a call of " + core.text() + " was cancelled before it began");
  core.queue_.erase(place_);
  core.busy_ = has_it_ = true;
  return *this;
}

isolate_core::turn::~turn() {
  const std::lock_guard lock(core_->mutex_);
  if (has_it_) {
    core_->busy_ = false;
  } else {
    core_->queue_.erase(place_);
  }
  core_->changed_.notify_all();
}

// --- life ---------------------------------------------------------------------------------------------------------

std::optional<raw_outcome> isolate_core::end_of(const std::shared_ptr<call_in_flight>& ended) {
  ended->wait(std::nullopt);
  const std::lock_guard lock(mutex_);
  if (process_ != ended) return std::nullopt;
  if (!end_) {
    const call_name it{.arguments = "it"};
    end_ = process_->conclude(&it);
  }
  raw_outcome copy;
  copy.verdict = end_->verdict;
  copy.usage = end_->usage;
  copy.explanation = end_->explanation;
  return copy;
}

raw_outcome isolate_core::end_of_process() {
  for (;;) {
    if (auto end = end_of(process())) return std::move(*end);
  }
}

IsolateDiedError isolate_core::died() {
  const raw_outcome end = end_of_process();
  const std::lock_guard lock(mutex_);
  if (closed_) return IsolateDiedError(text() + " was ended while it ran");
  return IsolateDiedError(
      fmt::format("{} has died: {}", text(), ended_because_.empty() ? end.explanation : ended_because_));
}

void isolate_core::note_end(std::string why) {
  const std::lock_guard lock(mutex_);
  ended_because_ = std::move(why);
}

usage isolate_core::usage() {
  for (;;) {
    const auto now = process();
    if (const auto so_far = now->usage_so_far()) return *so_far;
    // Not of the one by which another thread may replace it meanwhile.
    if (const auto end = end_of(now)) return end->usage;
  }
}

void isolate_core::close() {
  {
    const std::lock_guard lock(mutex_);
    throw_if_closed();
    if (busy_ || !queue_.empty()) throw IsolateError(text() + " is running a call: close() does not wait for that; kill() ends it");
    closed_ = true;
  }
  const auto request = make_frame(frame_kind::close);
  static_cast<void>(::send(socket_.get(), request.data(), request.size(), MSG_NOSIGNAL | MSG_DONTWAIT));
  // It has nothing left to do. One that does not go all the same is made to.
  process()->wait(clock::now() + 2s);
  end_process();
  finish_output();
}

void isolate_core::kill() {
  {
    const std::lock_guard lock(mutex_);
    throw_if_closed();
    closed_ = killed_ = true;
    changed_.notify_all();
  }
  end_process();
  finish_output();
}

void isolate_core::drop() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }
  end_process();
  finish_output();
}

void isolate_core::end_process() {
  const auto ending = process();
  ending->cancel();
  ending->wait(std::nullopt);
}

void isolate_core::restart() {
  // Whoever hears of the old one's end now is told too late.
  ++generation_;
  end_process();
  isolate_task task(id_, options_.name, isolate_task::state::fresh);
  running fresh = start_process(task, limits_, nullptr);
  std::shared_ptr<output_capture> captured;
  {
    const std::lock_guard lock(mutex_);
    if (!closed_) {
      install(std::move(fresh));
      lingering_.clear();
      if (std::exchange(capture_is_over_, false)) capture_ = nullptr;
      captured = capture_;
    }
  }
  if (fresh.process) {
    // It was killed meanwhile, and so is this one.
    fresh.process->cancel();
    fresh.process->wait(std::nullopt);
    throw IsolateNotFoundError(text() + " was closed");
  }
  watch_end();
  if (captured) {
    const int ends[] = {captured->write_out.get(), captured->write_err.get()};
    static_cast<void>(ask_for_certain(make_frame(frame_kind::redirect), patience().get(), ends));
  }
}

void isolate_core::throw_if_closed() const {
  if (closed_) throw IsolateNotFoundError(text() + (killed_ ? " was killed" : " was closed"));
}

isolate_core::running isolate_core::start_process(child_task& task, std::shared_ptr<const settings> limits,
                                                  other_start* starter) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    throw StartException("make a socket", {errno, std::system_category()});
  }
  running started;
  started.socket = platform::call_fd(ends[0]);
  const platform::call_fd isolates(ends[1]);
  started.ended_bell = std::make_shared<platform::doorbell>();
  if (!*started.ended_bell) throw StartException("make a doorbell", {errno, std::system_category()});
  const child_extras extras{isolates.get(), streams_.out.get(), streams_.err.get(), starter};
  started.process = start_in_flight(std::move(limits), task, extras);
  if (started.process->pid() < 0) std::rethrow_exception(started.process->conclude().error);
  return started;
}

void isolate_core::install(running started) {
  ++generation_;
  end_.reset();
  ended_because_.clear();
  socket_ = std::move(started.socket);
  ended_bell_ = std::move(started.ended_bell);
  process_ = std::move(started.process);
}

/// Without the mutex: it may be told at once.
void isolate_core::watch_end() {
  process()->when_done([bell = ended_bell_, id = id_, generation = generation()] {
    platform::doorbell::raise(bell->descriptor());
    forget_detached_isolate(id, generation);
  });
}

// --- output -------------------------------------------------------------------------------------------------------

void isolate_core::begin_capture(std::shared_ptr<output_capture> capture) {
  give_back_output();
  {
    const std::lock_guard lock(mutex_);
    if (capture_) throw IsolateError(text() + ": its output is being captured already");
    capture_ = capture;
  }
  const int ends[] = {capture->write_out.get(), capture->write_err.get()};
  const reply answered = ask_for_certain(make_frame(frame_kind::redirect), patience().get(), ends);
  if (answered.how == reply::state::came && answered.kind == frame_kind::value) return;
  {
    const std::lock_guard lock(mutex_);
    capture_ = nullptr;
  }
  if (answered.how != reply::state::came) throw died();
  throw IsolateError(text() + " has not let its output be captured");
}

void isolate_core::end_capture(const std::shared_ptr<isolate_core>& self,
                               const std::shared_ptr<output_capture>& capture) noexcept {
  capture->out->discard();
  capture->err->discard();
  {
    const std::lock_guard lock(mutex_);
    if (capture_ != capture) return;
    capture_is_over_ = true;
    // Whoever has the turn next does it.
    if (busy_ || !queue_.empty() || closed_) return;
  }
  try {
    turn now(self);
    now.await();
    give_back_output();
  } catch (const std::exception&) {
    // Somebody was faster.
  }
}

/// By whoever has the turn.
void isolate_core::give_back_output() {
  std::shared_ptr<output_capture> capture;
  {
    const std::lock_guard lock(mutex_);
    if (!std::exchange(capture_is_over_, false)) return;
    capture = std::exchange(capture_, nullptr);
    std::erase_if(lingering_, [](const auto& old) { return old->reader->is_at_end(); });
  }
  static_cast<void>(ask_for_certain(make_frame(frame_kind::give_back), patience().get(), {}));
  // What the isolate has started meanwhile may still write, and would die if nobody read.
  capture->write_out = platform::call_fd();
  capture->write_err = platform::call_fd();
  if (capture->reader->is_at_end()) return;
  const std::lock_guard lock(mutex_);
  lingering_.push_back(std::move(capture));
}

void isolate_core::finish_output() noexcept {
  std::shared_ptr<output_reader> reader;
  std::shared_ptr<output_capture> capture;
  std::vector<std::shared_ptr<output_capture>> lingering;
  {
    const std::lock_guard lock(mutex_);
    reader.swap(streams_.reader);
    capture.swap(capture_);
    capture_is_over_ = false;
    lingering.swap(lingering_);
  }
  // Readers end here, without the mutex: a callback of theirs may ask about this isolate.
}

// --- requests -----------------------------------------------------------------------------------------------------

isolate_core::reply isolate_core::ask(std::span<const std::byte> request, const settings* limits, bool measured,
                                      std::span<const int> descriptors) {
  give_back_output();
  if (limits != nullptr && limits->given().stop.stop_requested()) {
    reply unasked;
    unasked.how = reply::state::not_begun;
    return unasked;
  }
  reply answered = ask_for_certain(request, limits, descriptors, measured);
  std::shared_ptr<output_reader> reader;
  {
    const std::lock_guard lock(mutex_);
    reader = streams_.reader;
  }
  if (reader) reader->sync();
  return answered;
}

}  // namespace pynisher::detail
