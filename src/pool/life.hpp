#pragma once

// What a worker lives in: a process, or a thread.

#include <csignal>
#include <functional>
#include <memory>

#include <pynisher/detail/in_flight.hpp>
#include <pynisher/detail/pool/core.hpp>

#include "lane_end.hpp"

namespace pynisher::detail {

/// Its destructor ends a process, and leaves a thread that does not end alone.
class worker_life {
 public:
  virtual ~worker_life() = default;
  [[nodiscard]] virtual bool has_ended() const = 0;
  /// Does not wait. A thread does not hear it.
  virtual void kill() = 0;
  virtual void send(int signal) = 0;
  /// -1: a thread.
  [[nodiscard]] virtual std::int64_t pid() const = 0;
  /// How it has ended; once. `at`: what it was at.
  virtual raw_outcome conclude(const call_name& at) = 0;
};

struct worker_order {
  std::shared_ptr<worker_factory> factory;
  worker_initializer initializer;
  unsigned number = 0;
  std::shared_ptr<const settings> limits;
  sigset_t mask;  ///< the signals that a process has blocked
};

/// What has made the worker that this thread is; null: it is no worker's thread.
[[nodiscard]] const worker_factory* factory_of_this_thread() noexcept;
/// On a thread that nobody waits for. Throws `std::system_error`.
void run_apart(std::function<void()> what);

/// `tell`: called when it has ended, on any thread; must not wait. Throw `StartException`, `std::system_error` and
/// `std::bad_alloc`. The lane is handed over, and its `started` is called.
std::unique_ptr<worker_life> start_process(const worker_order& what, lane_end& with, std::function<void()> tell);
std::unique_ptr<worker_life> start_thread(const worker_order& what, lane_end& with, std::function<void()> tell);

}  // namespace pynisher::detail
