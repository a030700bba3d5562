#pragma once

// A task's state without the type of its result: what futures share.

#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <utility>
#include <vector>

#include <pynisher/detail/execute.hpp>
#include <pynisher/outcome.hpp>

namespace pynisher::detail {

class pool_core;

/// Too long a time is as good as none, which is empty; a negative one is over. Throws `std::invalid_argument` for NaN.
template <class Rep, class Period>
std::optional<std::chrono::nanoseconds> bounded_time(std::chrono::duration<Rep, Period> time) {
  const double seconds = std::chrono::duration<double>(time).count();
  if (std::isnan(seconds)) throw std::invalid_argument("time: not a number of seconds");
  if (std::chrono::duration<double>(seconds) > std::chrono::hours(24 * 365 * 100)) return {};
  if (seconds <= 0) return std::chrono::nanoseconds(0);
  return std::chrono::ceil<std::chrono::nanoseconds>(time);
}
template <class Rep, class Period>
std::optional<std::chrono::steady_clock::time_point> time_from_now(std::chrono::duration<Rep, Period> time) {
  using clock = std::chrono::steady_clock;
  const auto left = bounded_time(time);
  if (!left) return {};
  return clock::now() + std::chrono::ceil<clock::duration>(*left);
}

/// A thread of the program's for what follows on tasks; started when there is something for the first time.
class task_runner {
 public:
  task_runner();
  task_runner(const task_runner&) = delete;
  task_runner& operator=(const task_runner&) = delete;
  ~task_runner();
  /// Sees to it that there is a thread for what follows: who asks for that hears of it where there can be none. Throws
  /// `std::system_error`.
  void start();
  /// Runs it there; here, once the runner is finished, and where there is no thread for it.
  void post(std::function<void()> what);
  /// Runs what is there, and what that brings, and ends the thread. Does not wait for it where it is this one.
  void finish();

 private:
  struct shared;
  void start_thread();
  std::shared_ptr<shared> shared_;
};

/// Somebody who waits for several tasks.
class task_waiter {
 public:
  void arrive(std::size_t which);
  /// The next one that is done; empty: none by then.
  std::optional<std::size_t> next(std::optional<std::chrono::steady_clock::time_point> until);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::size_t> arrived_;
};

class task_core : public std::enable_shared_from_this<task_core> {
 public:
  /// `runner`: for what follows; may be null.
  explicit task_core(std::shared_ptr<task_runner> runner);
  task_core(const task_core&) = delete;
  task_core& operator=(const task_core&) = delete;
  virtual ~task_core();

  // --- futures

  /// True: it is done.
  bool wait(std::optional<std::chrono::steady_clock::time_point> until);
  [[nodiscard]] bool is_done();
  [[nodiscard]] bool is_running();
  [[nodiscard]] bool is_cancelled();
  /// Done, with an exception that is no cancellation.
  [[nodiscard]] bool has_failed();
  bool cancel(bool kill);
  void when_done(std::function<void()> tell);
  void add_waiter(std::shared_ptr<task_waiter> waiter, std::size_t as);
  void remove_waiter(const std::shared_ptr<task_waiter>& waiter);
  [[nodiscard]] const std::shared_ptr<task_runner>& runner() const { return runner_; }

  // --- once it is done

  void rethrow_if_failed() const;
  /// Everything but the packed result.
  [[nodiscard]] raw_outcome how_it_ended() const;
  [[nodiscard]] const reply_bytes& packed() const { return outcome_.reply; }
  [[noreturn]] void throw_undecodable(const char* why) const;
  /// True, once.
  bool take_once() { return !taken_.exchange(true); }

  // --- whoever makes it done

  /// False: it was done already, and stays as it is.
  bool complete(raw_outcome outcome);
  /// For one that runs in this process. False: it was cancelled before.
  bool begin_here();
  /// What it is in messages. Before anybody else has it.
  void is_called(call_name name) { name_ = std::move(name); }
  /// It is this task of that pool; a request on `stop` cancels it, running or not.
  void is_task_of(const std::shared_ptr<pool_core>& pool, std::uint64_t ticket, const std::stop_token& stop);

 private:
  struct on_stop {
    std::weak_ptr<task_core> task;
    void operator()() const;
  };
  struct awaited {
    std::shared_ptr<task_waiter> by;
    std::size_t as;
  };

  /// A forked copy of the program has nobody who would ever end the task, and perhaps a mutex that stays locked.
  [[nodiscard]] bool is_copy() const;
  void refuse_copies() const;

  const std::int64_t owner_;
  const std::shared_ptr<task_runner> runner_;
  call_name name_;
  std::mutex mutex_;
  std::condition_variable changed_;
  raw_outcome outcome_;  ///< does not change any more once it is done
  std::atomic<bool> done_{false};
  std::atomic<bool> taken_{false};
  bool runs_here_ = false;
  std::weak_ptr<pool_core> pool_;
  std::uint64_t ticket_ = 0;
  std::vector<std::function<void()>> followers_;
  std::vector<awaited> waiters_;
  std::unique_ptr<std::stop_callback<on_stop>> stop_;
};

raw_outcome returned_here();
raw_outcome raised_here(std::exception_ptr error);

/// Which of them are done when `wait` comes back.
std::vector<bool> wait_for_tasks(const std::vector<std::shared_ptr<task_core>>& tasks, bool first_completed,
                                 bool first_exception, std::optional<std::chrono::steady_clock::time_point> until);

/// Tasks in the order in which they are done.
class task_arrivals {
 public:
  task_arrivals(std::vector<std::shared_ptr<task_core>> tasks, std::optional<std::chrono::nanoseconds> time);
  task_arrivals(task_arrivals&&) noexcept = default;
  task_arrivals& operator=(task_arrivals&&) = delete;
  ~task_arrivals();
  /// Waits. Empty: that were all. Throws `TimeoutException`.
  std::optional<std::size_t> next();

 private:
  std::vector<std::shared_ptr<task_core>> tasks_;
  std::shared_ptr<task_waiter> waiter_;
  std::size_t left_;
  std::optional<std::chrono::nanoseconds> time_;
  std::chrono::steady_clock::time_point begun_;
};

}  // namespace pynisher::detail
