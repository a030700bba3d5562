#pragma once

// How a pool of workers is made up, as one aggregate for designated initialisers.
//
//     pynisher::pool_options{.workers = 4, .limits = {.memory = 4_GiB, .wall_time = 30s}, .chunk = 16, .retries = 1};
//
// Nothing is checked here; the pool's constructor refuses values that make no sense, by name, before anything runs.

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <type_traits>
#include <utility>

#include <pynisher/detail/travel.hpp>
#include <pynisher/options.hpp>
#include <pynisher/units.hpp>

namespace pynisher {

/// What a worker is. Threads cannot be limited or ended, and share the program's memory.
enum class backend : std::uint8_t { processes, threads };
/// How an item becomes arguments of the worker: itself; the elements of a tuple, pair or array; the fields of an
/// aggregate, in their order.
enum class passing : std::uint8_t { single, unpack, named };
/// What an item that fails does to the map that it is of.
enum class on_error : std::uint8_t {
  deferred,               ///< it is in that item's result; nothing is thrown
  immediate,              ///< thrown from the iterator as soon as it is known; the map is over
  immediate_wait_others,  ///< the same once those items have ended that were being worked on
  collect,                ///< all others are given out first, then `PoolErrors` is thrown, with all failures
};
/// What the death of a worker does to the pool: its slot gets a new one, or all that waits fails by `BrokenPoolError`.
enum class on_death : std::uint8_t { replace, break_pool };
/// In which order results come.
enum class order : std::uint8_t { input, completion };

/// What a progress callback gets: counts of items.
struct pool_progress {
  std::uint64_t done = 0;              ///< that have ended, the failed ones included
  std::optional<std::uint64_t> total;  ///< where the input has a size
  std::uint64_t failed = 0;
  std::chrono::nanoseconds elapsed{0};  ///< since the first result was asked for
};

namespace detail {

template <class F>
class initializer_task;

}  // namespace detail

/// A callable without arguments that is sent to each worker, or nothing. Sent as a call's callable is: by fork
/// anything, else functions, lambdas without captures, and functors that cereal can serialise. Threads each run a copy
/// of it, or take turns where it cannot be copied.
class worker_initializer {
 public:
  worker_initializer() = default;
  template <class F>
  requires(!std::same_as<std::decay_t<F>, worker_initializer> && std::invocable<std::decay_t<F>&>)
      worker_initializer(F&& fn)
      : task_(std::make_shared<detail::initializer_task<std::decay_t<F>>>(std::forward<F>(fn))),
        why_it_stays_(detail::why_it_stays<std::decay_t<F>, void()>()) {}

  /// Null: there is none.
  [[nodiscard]] const std::shared_ptr<detail::child_task>& task() const noexcept { return task_; }
  /// Null: it can be sent to a process that is started afresh.
  [[nodiscard]] const char* why_it_stays() const noexcept { return why_it_stays_; }

 private:
  std::shared_ptr<detail::child_task> task_;
  const char* why_it_stays_ = nullptr;
};

struct pool_options {
  /// 0: as many as this process may have processors.
  std::size_t workers = 0;
  /// `memory`, `processes` and `name` are each worker's; `wall_time` and `cpu_time` are each task's, from the moment
  /// that its worker begins with it.
  options limits{};
  pynisher::backend backend = pynisher::backend::processes;
  /// How workers are started; `automatic`: as `limits.context` says.
  start_method context = start_method::automatic;
  /// Items that go to a worker at once. Their limits, failures and results stay their own.
  std::size_t chunk = 1;
  /// Items of one map that may have been read and not yet been given out, never more; 0: 2 x workers x chunk.
  std::size_t window = 0;
  pynisher::passing passing = pynisher::passing::single;
  pynisher::on_error on_error = pynisher::on_error::deferred;
  /// How often a task is run again that has thrown, or that has cost its worker.
  unsigned retries = 0;
  /// A worker is replaced by a fresh one before it would get more tasks than this; 0: never.
  std::size_t tasks_per_worker = 0;
  pynisher::on_death on_death = pynisher::on_death::replace;
  /// How long the pool's end waits for its workers, all together, before it ends them; unset: 5 s. An executor waits
  /// for all its tasks first, however long they take.
  time_span join_timeout{};
  /// Called as items end, in the thread that takes the results. An exception that it throws comes out of the map's
  /// iterator, and the map is over: what has not begun is dropped.
  std::function<void(const pool_progress&)> progress{};
  /// Run once in each worker, before it is constructed.
  worker_initializer initializer{};
};

namespace detail {

/// The initializer as it travels. In the worker `run` calls it and writes nothing.
template <class F>
class initializer_task final : public child_task {
 public:
  template <class G>
  explicit initializer_task(G&& fn) : fn_(std::forward<G>(fn)) {}

  /// Threads run it all at once: each a copy of its own, or one after the other.
  void run(output_archive& /*reply*/) override {
    if constexpr (std::copy_constructible<F>) {
      F own(std::as_const(fn_));
      std::invoke(own);
    } else {
      const std::lock_guard lock(one_at_a_time_);
      std::invoke(fn_);
    }
  }
  [[nodiscard]] call_name name() const override { return name_of_call(fn_, std::tuple<>()); }
  [[nodiscard]] const call_entry* entry() const override {
    if constexpr (callable_travels<F>) {
      return &preload_entry_of<F>;
    } else {
      return nullptr;
    }
  }
  void pack([[maybe_unused]] output_archive& out) const override {
    if constexpr (callable_travels<F>) write_callable(out, fn_);
  }

 private:
  F fn_;
  std::mutex one_at_a_time_;
};

}  // namespace detail

}  // namespace pynisher
