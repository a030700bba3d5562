#pragma once

// A started call without its type: what `call<R>` is made of.

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include <pynisher/detail/execute.hpp>

namespace pynisher::detail {

/// Its destructor cancels, and waits until nothing of the call is left.
class call_in_flight {
 public:
  virtual ~call_in_flight() = default;
  /// True: it is over.
  virtual bool wait(std::optional<std::chrono::steady_clock::time_point> until) = 0;
  virtual void cancel() = 0;
  [[nodiscard]] virtual std::int64_t pid() = 0;
  /// On a thread of the library's, or at once where it is over already.
  virtual void when_done(std::function<void()> tell) = 0;
  /// Waits. Once.
  virtual raw_outcome conclude() = 0;
};

/// Comes back when the child is there, or could not be started, which is for `conclude` to say; `task` is not needed any
/// more then. `conversation`: a socket that the child is to have, as an isolate; -1: none.
/// Throws `std::bad_alloc`, `StartException` and `std::system_error` (no thread).
std::unique_ptr<call_in_flight> start_in_flight(std::shared_ptr<const settings> limits, child_task& task,
                                                int conversation = -1);

}  // namespace pynisher::detail
