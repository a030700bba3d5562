#pragma once

// A call that was started and goes on by itself.
//
//     auto pending = trainer.start(X, y);      // comes back at once
//     while (!pending.wait_for(1s)) show_progress();
//     model m = pending.get();                 // the result, or what the call throws

#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include <pynisher/detail/decode.hpp>
#include <pynisher/detail/in_flight.hpp>
#include <pynisher/outcome.hpp>

namespace pynisher {

/// A handle to a call in flight, as `limited::start` gives it. Move-only; its destructor cancels the call and comes back
/// when nothing of it is left. `wait`, `ready`, `cancel` and `pid` may be called from any thread, the others from one.
/// A thread of the library's watches all calls in flight; it ends with the last handle. The function runs on a copy of
/// that thread, so its `thread_local` variables begin anew.
template <class R>
class [[nodiscard]] call {
 public:
  explicit call(std::unique_ptr<detail::call_in_flight> started) : started_(std::move(started)) {}

  /// Waits; gives the result, or throws what the call threw. Once: a second time throws `std::logic_error`.
  R get() { return get_outcome().value(); }
  /// Waits; how it ended. Instead of `get`.
  outcome<R> get_outcome() { return detail::decode<R>(started_->conclude()); }

  void wait() const { started_->wait(std::nullopt); }
  /// True: it is over.
  template <class Rep, class Period>
  bool wait_for(std::chrono::duration<Rep, Period> time) const {
    return wait_until(std::chrono::steady_clock::now() + time);
  }
  template <class Clock, class Duration>
  bool wait_until(std::chrono::time_point<Clock, Duration> time) const {
    using steady = std::chrono::steady_clock;
    if constexpr (std::is_same_v<Clock, steady>) {
      return started_->wait(std::chrono::time_point_cast<steady::duration>(time));
    } else {
      // A settable clock may be set meanwhile.
      while (Clock::now() < time) {
        const auto left = std::chrono::ceil<steady::duration>(time - Clock::now());
        if (started_->wait(steady::now() + left)) return true;
      }
      return ready();
    }
  }
  [[nodiscard]] bool ready() const { return started_->wait((std::chrono::steady_clock::time_point::min)()); }

  /// Ends it; it then throws `CancelledException`, unless it was over already. Does not wait.
  void cancel() const {
    if (started_) started_->cancel();
  }
  /// The child's process number; -1: it could not be started. It may be another process's once the call is over.
  [[nodiscard]] std::int64_t pid() const { return started_->pid(); }

  /// Calls `tell` once it is over, on a thread of the library's that must not be held up; at once where it is over already.
  void when_done(std::function<void()> tell) const { started_->when_done(std::move(tell)); }

 private:
  std::unique_ptr<detail::call_in_flight> started_;
};

}  // namespace pynisher
