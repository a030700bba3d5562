#pragma once

// A pool that calls functions, any of them, each in whichever worker is free.
//
//     pynisher::pool_executor pool({.workers = 4, .limits = {.memory = 1_GiB, .wall_time = 30s}});
//     auto words = pool.submit(count_words, text);                         // task_future<std::size_t>
//     auto quick = pool.submit({.wall_time = 1s}, solve, puzzle);          // this one task's limits
//     for (auto size : pool.map(count_words, texts)) use(size);            // in the order of `texts`
//     use(words.get());                                                    // the value, or the same exception
//
// Workers are processes that stay: a function's globals are kept from task to task, in each worker its own. What is
// called, and with what, is sent to them: functions, lambdas without captures, functors that cereal can serialise, with
// arguments that cereal can serialise. A pool of threads (`backend::threads`) takes anything, and limits nothing.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <iterator>
#include <memory>
#include <new>
#include <optional>
#include <ranges>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <pynisher/detail/pool/executor_core.hpp>
#include <pynisher/options.hpp>
#include <pynisher/pool_errors.hpp>
#include <pynisher/pool_options.hpp>
#include <pynisher/task_future.hpp>

namespace pynisher {

/// Results of `pool_executor::map`, in the order of the input: an input range, read once, by one thread; move-only. It
/// reads no further ahead than the pool's window, and nothing before `begin`. A task's exception is thrown where its
/// item is read (`*it`); the loop may go on behind it. An exception of the input's ends it, and is thrown behind the
/// results of what was read before. Where the function returns nothing, so do the items (`std::monostate`). Letting go
/// of it early cancels what does not run yet.
template <class F, std::ranges::input_range Input>
class executor_results {
  using R = std::remove_cvref_t<std::invoke_result_t<F&, std::ranges::range_reference_t<Input>>>;
  struct state;

 public:
  executor_results(std::shared_ptr<detail::executor_core> core, options limits, F fn, Input input)
      : state_(std::make_unique<state>(std::move(core), std::move(limits), std::move(fn), std::move(input))) {}

  class iterator {
   public:
    using value_type = std::conditional_t<std::is_void_v<R>, std::monostate, R>;
    using difference_type = std::ptrdiff_t;
    using iterator_concept = std::input_iterator_tag;

    iterator() = default;
    value_type operator*() const {
      if constexpr (std::is_void_v<R>) {
        of_->ahead.front().get();
        return {};
      } else {
        return of_->ahead.front().get();
      }
    }
    iterator& operator++() {
      of_->ahead.pop_front();
      of_->read_ahead();
      return *this;
    }
    void operator++(int) { ++*this; }
    [[nodiscard]] bool is_over() const { return of_ == nullptr || of_->ahead.empty(); }
    friend bool operator==(const iterator& a, std::default_sentinel_t) { return a.is_over(); }

   private:
    friend class executor_results;
    explicit iterator(state* of) : of_(of) {}
    state* of_ = nullptr;
  };

  /// Once: a second time goes on where the first one was.
  iterator begin() {
    if (!state_->at) state_->read_ahead();
    return iterator(state_.get());
  }
  static std::default_sentinel_t end() { return {}; }
  auto size() requires std::ranges::sized_range<Input> { return std::ranges::size(state_->input); }

 private:
  // In one place for good: iterators of the input may refer to it.
  struct state {
    state(std::shared_ptr<detail::executor_core> on, options each, F called, Input from)
        : core(std::move(on)), limits(std::move(each)), fn(std::move(called)), input(std::move(from)) {}
    state(const state&) = delete;
    state& operator=(const state&) = delete;
    ~state() {
      for (const auto& task : ahead) {
        try {
          task.cancel();
        } catch (const std::bad_alloc&) {
          // It runs, for nobody.
        }
      }
    }

    void read_ahead() {
      try {
        while (!input_ended && ahead.size() < core->window()) read_one();
      } catch (...) {
        // What was read before comes first.
        input_ended = true;
        failed = std::current_exception();
      }
      if (ahead.empty() && failed) std::rethrow_exception(std::exchange(failed, nullptr));
    }
    /// The input is moved on only when its next item is wanted: that may take its time.
    void read_one() {
      if (!at) {
        at.emplace(std::ranges::begin(input));
      } else {
        ++*at;
      }
      input_ended = *at == std::ranges::end(input);
      if (input_ended) return;
      F copy = fn;
      ahead.push_back(detail::submit_to(std::type_identity<detail::signature_of_t<F>>(), *core, limits, copy, **at));
    }

    const std::shared_ptr<detail::executor_core> core;
    const options limits;
    F fn;
    Input input;
    std::optional<std::ranges::iterator_t<Input>> at;
    bool input_ended = false;
    std::exception_ptr failed;
    std::deque<task_future<R>> ahead;
  };

  std::unique_ptr<state> state_;
};

/// All members may be called from any thread, and from continuations of its own tasks. Move-only. The destructor is
/// `shutdown()`: it waits for all tasks, and for what follows on them. A moved-from one throws `std::logic_error` from
/// all of them; in a forked copy of the program they throw `BrokenPoolError`.
class pool_executor {
 public:
  /// Starts the workers, and comes back when they are ready. Throws `std::invalid_argument` and `UnsupportedException`
  /// for options, `StartException`. Where the initializer fails, every task fails with `BrokenPoolError`, which holds
  /// the cause. `progress` is told after each task, on the thread of continuations, without a total; it must not throw.
  explicit pool_executor(pool_options wanted = {}) : core_(detail::executor_core::open(std::move(wanted))) {}
  pool_executor(pool_executor&&) noexcept = default;
  pool_executor& operator=(pool_executor&& other) noexcept {
    if (this != &other) {
      detail::let_go(std::move(core_));
      core_ = std::move(other.core_);
    }
    return *this;
  }
  ~pool_executor() { detail::let_go(std::move(core_)); }

  /// Has `fn(arguments...)` called by a worker. Throws `BrokenPoolError` after `shutdown`, and `std::invalid_argument`,
  /// with the reason, for what can never be sent; a value that turns out not to be packable fails that future only.
  template <class F, class... A>
  requires(!std::same_as<std::decay_t<F>, options>) auto submit(F fn, A&&... arguments) {
    return submit(options{}, std::move(fn), std::forward<A>(arguments)...);
  }
  /// The same with limits for this one task: `wall_time`, `cpu_time`, and `stop`, which ends it though it runs. What is
  /// not set there is as the pool's options say; other fields are refused.
  template <class F, class... A>
  auto submit(const options& limits, F fn, A&&... arguments) {
    return detail::submit_to(std::type_identity<detail::signature_of_t<F>>(), core(), limits, fn,
                             std::forward<A>(arguments)...);
  }
  /// `fn` of each item: see `executor_results`.
  template <class F, std::ranges::viewable_range Range>
  requires(!std::same_as<std::decay_t<F>, options>) auto map(F fn, Range&& range) {
    return map(options{}, std::move(fn), std::forward<Range>(range));
  }
  /// The same with limits for each of them.
  template <class F, std::ranges::viewable_range Range>
  auto map(const options& limits, F fn, Range&& range) {
    static_cast<void>(core());
    return executor_results<F, std::views::all_t<Range>>(core_, limits, std::move(fn),
                                                         std::views::all(std::forward<Range>(range)));
  }

  /// Takes no more tasks. `cancel_pending`: those that do not run yet are cancelled. `wait`: comes back when all are
  /// done, and what follows on them, and the workers are gone (they have `join_timeout` to go by themselves); else they
  /// go when all is done. A task in a thread of the pool's cannot wait for itself: called by one, this does not wait.
  /// May be called again. Where it does not wait it throws `std::system_error` if there can be no thread for that.
  void shutdown(bool wait = true, bool cancel_pending = false) { core().shutdown(wait, cancel_pending); }
  /// Ends the workers by SIGTERM, and a second later by SIGKILL; what is not done fails. As after `shutdown` then. A
  /// thread cannot be ended: what has not begun fails, and what runs goes on, `join_timeout` is waited for it, and its
  /// future is done when it ends.
  void terminate_workers() { core().end_workers(false); }
  /// The same by SIGKILL at once.
  void kill_workers() { core().end_workers(true); }
  /// Process numbers of the workers; -1 where there is none at the moment, or it is a thread.
  [[nodiscard]] std::vector<std::int64_t> pids() const { return core().pids(); }

 private:
  [[nodiscard]] detail::executor_core& core() const {
    if (!core_) throw std::logic_error("pynisher: this pool was moved from");
    return *core_;
  }

  std::shared_ptr<detail::executor_core> core_;
};

}  // namespace pynisher
