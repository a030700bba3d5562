// A call of an isolate that was started: a thread asks and waits.

#include <atomic>
#include <condition_variable>
#include <csignal>
#include <functional>
#include <mutex>
#include <new>
#include <optional>
#include <stop_token>
#include <thread>
#include <utility>

#include <pynisher/exceptions.hpp>

#include "isolate_calls.hpp"
#include "supervised_call.hpp"
#include "without_signals.hpp"

namespace pynisher::detail {

namespace {

using platform::clock;

class isolate_flight final : public call_in_flight {
 public:
  isolate_flight(std::shared_ptr<isolate_core> core, const options& given, packed_call request, call_name name)
      : shared_(std::make_shared<shared>()) {
    shared_->core = std::move(core);
    shared_->name = std::move(name);
    shared_->request = std::move(request);
    options limits = given;
    if (given.stop.stop_possible()) shared_->on_stop.emplace(given.stop, forward{&shared_->stop});
    limits.stop = shared_->stop.get_token();
    shared_->limits = limits_of_call(limits);
    // Here and not on the thread: it is the calls' order that counts, and who comes second is told at once.
    shared_->turn = std::make_unique<isolate_core::turn>(shared_->core);
    own_threads.fetch_add(1);
    try {
      const without_signals blocked;
      thread_ = std::thread([on = shared_] { on->work(); });
    } catch (...) {
      own_threads.fetch_sub(1);
      throw;
    }
  }
  isolate_flight(const isolate_flight&) = delete;
  isolate_flight& operator=(const isolate_flight&) = delete;
  ~isolate_flight() override {
    if (owner_ != platform::process_number()) {
      static_cast<void>(new std::thread(std::move(thread_)));
      static_cast<void>(new std::shared_ptr<shared>(std::move(shared_)));
      return;
    }
    cancel();
    if (thread_.get_id() == std::this_thread::get_id()) {
      thread_.detach();
    } else {
      thread_.join();
    }
    own_threads.fetch_sub(1);
  }

  bool wait(std::optional<clock::time_point> until) override {
    std::unique_lock lock(shared_->mutex);
    const auto done = [this] { return shared_->done; };
    if (until) return shared_->changed.wait_until(lock, *until, done);
    shared_->changed.wait(lock, done);
    return true;
  }
  void cancel() override { shared_->stop.request_stop(); }
  void send(int signal) override { shared_->core->process()->send(signal); }
  std::int64_t pid() override { return shared_->core->process()->pid(); }
  void when_done(std::function<void()> tell) override {
    {
      const std::lock_guard lock(shared_->mutex);
      if (!shared_->done) {
        shared_->when_done = std::move(tell);
        return;
      }
    }
    tell();
  }
  raw_outcome conclude(const call_name* /*as*/) override {
    wait(std::nullopt);
    const std::lock_guard lock(shared_->mutex);
    if (!shared_->outcome) throw std::logic_error("pynisher: the result of this call has been taken already");
    raw_outcome out = std::move(*shared_->outcome);
    shared_->outcome.reset();
    return out;
  }

 private:
  struct forward {
    std::stop_source* to;
    void operator()() const noexcept { to->request_stop(); }
  };
  struct shared {
    std::shared_ptr<isolate_core> core;
    std::unique_ptr<isolate_core::turn> turn;
    call_name name;
    packed_call request;
    std::shared_ptr<const settings> limits;
    std::stop_source stop;
    std::optional<std::stop_callback<forward>> on_stop;
    std::mutex mutex;
    std::condition_variable changed;
    std::optional<raw_outcome> outcome;
    std::function<void()> when_done;
    bool done = false;

    void work() {
      raw_outcome out;
      try {
        turn->await(stop.get_token());
        out = outcome_of(*core, core->ask(request.frame, limits.get(), true), limits.get(), name);
      } catch (const CancelledException& e) {
        out = cancelled_before(e);
      } catch (const std::exception& e) {
        out.verdict = verdict::start_failed;
        out.explanation = e.what();
        out.error = std::current_exception();
      }
      turn.reset();
      request.attached.reset();
      std::function<void()> tell;
      {
        const std::lock_guard lock(mutex);
        outcome = std::move(out);
        done = true;
        tell = std::exchange(when_done, nullptr);
        changed.notify_all();
      }
      if (tell) tell();
    }
  };

  const pid_t owner_ = platform::process_number();
  std::shared_ptr<shared> shared_;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<call_in_flight> start_isolate_call(std::shared_ptr<isolate_core> core, const options& limits,
                                                   packed_call request, call_name name) {
  return std::make_unique<isolate_flight>(std::move(core), limits, std::move(request), std::move(name));
}

}  // namespace pynisher::detail
