#pragma once

// A started call without its type: what `call<R>` is made of.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include <pynisher/detail/execute.hpp>
#include <pynisher/usage.hpp>

namespace pynisher::detail {

/// Its destructor cancels, and waits until nothing of the call is left.
class call_in_flight {
 public:
  virtual ~call_in_flight() = default;
  /// True: it is over.
  virtual bool wait(std::optional<std::chrono::steady_clock::time_point> until) = 0;
  virtual void cancel() = 0;
  /// To its process, while there is one.
  virtual void send(int signal) = 0;
  [[nodiscard]] virtual std::int64_t pid() = 0;
  /// Of the process while it lives; empty: it has ended, or ends, and `conclude` knows.
  [[nodiscard]] virtual std::optional<usage> usage_so_far() { return std::nullopt; }
  /// On a thread of the library's, or at once where it is over already.
  virtual void when_done(std::function<void()> tell) = 0;
  /// Waits. Once. `as`: what is to be said to have ended; null: what was started.
  virtual raw_outcome conclude(const call_name* as = nullptr) = 0;
};

class other_start;

/// What a child is to have that others have not; -1: nothing.
struct child_extras {
  int conversation = -1;  ///< a socket, as an isolate
  int out = -1;           ///< as its standard output, in place of the program's
  int err = -1;
  other_start* starter = nullptr;  ///< how it comes to be, where the start method does not say
};

/// Comes back when the child is there, or could not be started, which is for `conclude` to say; `task` is not needed any
/// more then, nor are the descriptors.
/// Throws `std::bad_alloc`, `StartException` and `std::system_error` (no thread).
std::unique_ptr<call_in_flight> start_in_flight(std::shared_ptr<const settings> limits, child_task& task,
                                                const child_extras& extras = {});

}  // namespace pynisher::detail
