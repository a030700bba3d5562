#pragma once

// A started call without its type: what `call<R>` is made of.

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include <pynisher/detail/execute.hpp>

namespace pynisher::detail {

class flight;
class flight_thread;

class call_in_flight {
 public:
  /// Comes back when the child is there, or could not be started, which is for `conclude` to say; `task` is not needed
  /// any more then. Throws `std::bad_alloc`, `StartException` and `std::system_error` (no thread).
  call_in_flight(std::shared_ptr<const settings> limits, child_task& task);
  call_in_flight(call_in_flight&& other) noexcept = default;
  call_in_flight& operator=(call_in_flight&& other) noexcept;
  /// Cancels, and waits until nothing of the call is left.
  ~call_in_flight();

  /// True: it is over.
  bool wait(std::optional<std::chrono::steady_clock::time_point> until) const;
  void cancel() const;
  [[nodiscard]] std::int64_t pid() const;
  /// On a thread of the library's, or at once where it is over already.
  void when_done(std::function<void()> tell) const;
  /// Waits. Once.
  raw_outcome conclude();

 private:
  std::shared_ptr<flight_thread> thread_;  // goes after the flight
  std::shared_ptr<flight> flight_;
};

}  // namespace pynisher::detail
