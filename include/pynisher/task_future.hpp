#pragma once

// What comes of a task that was given to a pool.
//
//     pynisher::task_future<int> words = pool.submit(count_words, text);
//     auto doubled = words.then([](int n) { return 2 * n; });    // runs in this program when it is there
//     if (!words.wait_for(1s)) words.cancel(pynisher::kill);     // ends it, though it runs already
//     auto [done, not_done] = pynisher::wait(all_of_them, pynisher::first_completed);
//     for (auto& one : pynisher::as_completed(all_of_them)) use(one.get());
//
// Futures are handles: cheap to copy, and equal when they are of the same task. They may outlive their pool; by then
// each is done or cancelled.

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <ranges>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <pynisher/detail/decode.hpp>
#include <pynisher/detail/pool/task_core.hpp>
#include <pynisher/detail/travel.hpp>
#include <pynisher/outcome.hpp>

namespace pynisher {

/// `cancel(kill)`: also where it runs already.
struct kill_t {
  explicit kill_t() = default;
};
inline constexpr kill_t kill{};

/// What `wait` waits for: all of them, the first that is done, the first that failed (all, where none fails).
enum class return_when : std::uint8_t { all, first_completed, first_exception };
inline constexpr return_when all = return_when::all;
inline constexpr return_when first_completed = return_when::first_completed;
inline constexpr return_when first_exception = return_when::first_exception;

template <class R>
class task_future;

namespace detail {

/// The state of a task whose result is an `R`: packed, as it came from a worker, or made in this process.
template <class R>
class task_state final : public task_core {
 public:
  using task_core::task_core;

  /// By whoever runs it in this process, before it is completed.
  template <class... V>
  void keep(V&&... value) {
    local_.emplace(std::forward<V>(value)...);
  }
  /// Done: the value, each time anew; or throws.
  R value() {
    rethrow_if_failed();
    if (!local_) return decoded();
    if constexpr (std::copy_constructible<R>) {
      return *local_;
    } else {
      if (take_once()) return *std::move(local_);
      throw std::logic_error("pynisher: the result of this task has been taken already");
    }
  }

 private:
  R decoded() {
    if constexpr (sendable<R>) {
      try {
        const reply_bytes& reply = packed();
        input_archive in(reply.data(), reply.size(), reply.begin());
        R value{};
        in(value);
        in.expect_end();
        return value;
      } catch (const std::exception& e) {
        throw_undecodable(e.what());
      } catch (...) {
        throw_undecodable("reading it threw something that is no std::exception");
      }
    } else {
      throw std::logic_error("pynisher: a result that does not travel has come by bytes");
    }
  }
  std::optional<R> local_;
};

template <>
class task_state<void> final : public task_core {
 public:
  using task_core::task_core;
  void keep() {}
  void value() {
    rethrow_if_failed();
    if (packed().size() != 0) throw_undecodable("bytes are left over after no value");
  }
};

template <class T>
struct is_task_future : std::false_type {};
template <class R>
struct is_task_future<task_future<R>> : std::true_type {};

/// What a continuation of `task_future<R>` gives: it takes the value, or, where it does not, the future itself.
template <class F, class R>
struct continuation {
  static constexpr bool takes_value = std::invocable<F&, R>;
  using type = std::remove_cvref_t<typename std::conditional_t<takes_value, std::invoke_result<F&, R>,
                                                               std::invoke_result<F&, task_future<R>>>::type>;
};
template <class F>
struct continuation<F, void> {
  static constexpr bool takes_value = std::invocable<F&>;
  using type = std::remove_cvref_t<typename std::conditional_t<takes_value, std::invoke_result<F&>,
                                                               std::invoke_result<F&, task_future<void>>>::type>;
};

}  // namespace detail

/// A task's result, when it is there. All members may be called from any thread. A default-constructed one is of no
/// task: its members throw `std::logic_error`.
template <class R>
class task_future {
 public:
  using value_type = R;

  task_future() = default;
  explicit task_future(std::shared_ptr<detail::task_state<R>> state) : state_(std::move(state)) {}

  [[nodiscard]] bool valid() const noexcept { return state_ != nullptr; }

  /// Waits; gives the result, or throws what the task threw, `CancelledException` where it was cancelled,
  /// `BrokenPoolError` where no worker will run it. Each time anew; only a value that cannot be copied and was made in
  /// this process (by a continuation, or a pool of threads) is given once.
  R get() const {
    wait();
    return state().value();
  }
  /// Empty (false, where there is no value) if it is not done by then.
  template <class Rep, class Period>
  auto get_for(std::chrono::duration<Rep, Period> time) const {
    const bool there = wait_for(time);
    if constexpr (std::is_void_v<R>) {
      if (there) get();
      return there;
    } else {
      return there ? std::optional<R>(get()) : std::optional<R>();
    }
  }
  /// Waits; how it ended, with what it used. Throws only `std::bad_alloc`.
  outcome<R> get_outcome() const {
    wait();
    detail::raw_outcome how = state().how_it_ended();
    if constexpr (std::is_void_v<R>) {
      if (!how.error) note_failure(how, [this] { state().value(); });
      return {how.verdict, how.usage, std::move(how.error), std::move(how.explanation)};
    } else {
      std::optional<R> value;
      if (!how.error) note_failure(how, [this, &value] { value.emplace(state().value()); });
      return {how.verdict, how.usage, std::move(how.error), std::move(how.explanation), std::move(value)};
    }
  }
  /// Waits; what `get` would throw on the task's account; null: it has a result.
  [[nodiscard]] std::exception_ptr error() const {
    wait();
    return state().how_it_ended().error;
  }

  void wait() const { state().wait(std::nullopt); }
  /// True: it is done.
  template <class Rep, class Period>
  bool wait_for(std::chrono::duration<Rep, Period> time) const {
    return state().wait(detail::time_from_now(time));
  }
  /// It has a result or an exception, or was cancelled.
  [[nodiscard]] bool done() const { return state().is_done(); }
  /// A worker has it.
  [[nodiscard]] bool running() const { return state().is_running(); }
  [[nodiscard]] bool cancelled() const { return state().is_cancelled(); }

  /// True: it will not run. False: it runs already, or is done.
  bool cancel() const { return state().cancel(false); }
  /// The same, and where it runs already its worker is ended, and replaced. False: it is done, or runs in a thread or
  /// as a continuation, which nobody can end.
  bool cancel(kill_t) const { return state().cancel(true); }

  /// Calls `f` when this is done, and gives its result a future. `f` takes the value, and is passed over, as all that
  /// follows, where there is an exception instead; or it takes this future, and is called in any case. Where it returns
  /// a future, the new one is done with that. `f` runs in this program, on the thread that the pool keeps for this, one
  /// at a time, or, if this is done already, in the thread that calls `then`. Throws `std::system_error` where that
  /// thread cannot be started.
  template <class F>
  auto then(F&& f) const {
    using Callable = std::decay_t<F>;
    static_assert(detail::continuation<Callable, R>::takes_value || std::invocable<Callable&, task_future<R>>,
                  "pynisher: then() needs something that can be called with the value, or with the future.");
    using Given = typename detail::continuation<Callable, R>::type;
    if constexpr (detail::is_task_future<Given>::value) {
      return follow<typename Given::value_type>(Callable(std::forward<F>(f)));
    } else {
      return follow<Given>(Callable(std::forward<F>(f)));
    }
  }
  /// Calls `tell` when this is done: as `then`, but for nobody's result. It must not throw.
  void when_done(std::function<void()> tell) const { state().when_done(std::move(tell)); }

  friend bool operator==(const task_future& a, const task_future& b) noexcept { return a.state_ == b.state_; }
  [[nodiscard]] const std::shared_ptr<detail::task_state<R>>& shared_state() const noexcept { return state_; }

 private:
  detail::task_state<R>& state() const {
    if (!state_) throw std::logic_error("pynisher: this future is of no task");
    return *state_;
  }
  template <class Get>
  static void note_failure(detail::raw_outcome& how, Get get) {
    try {
      get();
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& e) {
      how.verdict = verdict::protocol_error;
      how.error = std::current_exception();
      how.explanation = e.what();
    } catch (...) {
      how.verdict = verdict::protocol_error;
      how.error = std::current_exception();
      how.explanation = "the value could not be copied: something that is no std::exception was thrown";
    }
  }

  template <class Next, class F>
  task_future<Next> follow(F f) const {
    auto next = std::make_shared<detail::task_state<Next>>(state().runner());
    // On the heap, as it need not be copyable.
    auto kept = std::make_shared<F>(std::move(f));
    state().when_done([from = *this, next, kept = std::move(kept)] {
      // Whoever cancelled it has completed it.
      if (next->begin_here()) from.continue_with(next, *kept);
    });
    return task_future<Next>(std::move(next));
  }
  template <class Next, class F>
  void continue_with(const std::shared_ptr<detail::task_state<Next>>& next, F& f) const {
    if constexpr (detail::continuation<F, R>::takes_value) {
      detail::raw_outcome how = state().how_it_ended();
      if (how.error) {
        next->complete(std::move(how));
      } else if constexpr (std::is_void_v<R>) {
        complete_by(next, [this, &f]() -> decltype(auto) { return get(), f(); });
      } else {
        complete_by(next, [this, &f]() -> decltype(auto) { return f(get()); });
      }
    } else {
      complete_by(next, [this, &f]() -> decltype(auto) { return f(*this); });
    }
  }
  template <class Next, class Make>
  static void complete_by(const std::shared_ptr<detail::task_state<Next>>& next, Make make) {
    using Given = std::remove_cvref_t<std::invoke_result_t<Make&>>;
    try {
      if constexpr (detail::is_task_future<Given>::value) {
        const Given inner = make();
        inner.when_done([inner, next] {
          if (detail::raw_outcome how = inner.shared_state()->how_it_ended(); how.error) {
            next->complete(std::move(how));
          } else {
            complete_by(next, [&inner] { return inner.get(); });
          }
        });
      } else {
        if constexpr (std::is_void_v<Given>) {
          make();
          next->keep();
        } else {
          next->keep(make());
        }
        next->complete(detail::returned_here());
      }
    } catch (...) {
      next->complete(detail::raised_here(std::current_exception()));
    }
  }

  std::shared_ptr<detail::task_state<R>> state_;
};

template <class R>
struct wait_result {
  std::vector<task_future<R>> done;
  std::vector<task_future<R>> not_done;
};

namespace detail {

template <class Futures>
concept futures_range = std::ranges::input_range<Futures> && is_task_future<std::ranges::range_value_t<Futures>>::value;
template <futures_range Futures>
using result_of_futures = typename std::ranges::range_value_t<Futures>::value_type;

template <class Futures>
std::vector<std::ranges::range_value_t<Futures>> kept(Futures&& futures) {
  std::vector<std::ranges::range_value_t<Futures>> all;
  for (auto&& future : futures) {
    if (!future.valid()) throw std::logic_error("pynisher: one of these futures is of no task");
    all.push_back(future);
  }
  return all;
}
template <class R>
std::vector<std::shared_ptr<task_core>> cores_of(const std::vector<task_future<R>>& futures) {
  std::vector<std::shared_ptr<task_core>> cores;
  for (const auto& future : futures) cores.push_back(future.shared_state());
  return cores;
}

template <class Futures>
auto wait_until(Futures&& futures, return_when wanted, std::optional<std::chrono::steady_clock::time_point> until) {
  const auto all_of_them = kept(std::forward<Futures>(futures));
  const std::vector<bool> is_done = wait_for_tasks(cores_of(all_of_them), wanted == return_when::first_completed,
                                                   wanted == return_when::first_exception, until);
  wait_result<result_of_futures<std::remove_cvref_t<Futures>>> parted;
  for (std::size_t i = 0; i < all_of_them.size(); ++i)
    (is_done[i] ? parted.done : parted.not_done).push_back(all_of_them[i]);
  return parted;
}

}  // namespace detail

/// Waits for a range of futures; gives them back in two parts, each in their order.
template <class Futures>
requires detail::futures_range<std::remove_cvref_t<Futures>>
auto wait(Futures&& futures, return_when wanted = return_when::all) {
  return detail::wait_until(std::forward<Futures>(futures), wanted, std::nullopt);
}
/// The same, but no longer than `time`.
template <class Futures, class Rep, class Period>
requires detail::futures_range<std::remove_cvref_t<Futures>>
auto wait(Futures&& futures, return_when wanted, std::chrono::duration<Rep, Period> time) {
  return detail::wait_until(std::forward<Futures>(futures), wanted, detail::time_from_now(time));
}

/// Futures in the order in which they are done: an input range, read once. A future that is there twice is given once.
template <class R>
class completed_futures {
 public:
  completed_futures(std::vector<task_future<R>> futures, std::optional<std::chrono::nanoseconds> time)
      : futures_(std::move(futures)), arrivals_(detail::cores_of(futures_), time) {}

  class iterator {
   public:
    using value_type = task_future<R>;
    using difference_type = std::ptrdiff_t;
    using iterator_concept = std::input_iterator_tag;

    explicit iterator(completed_futures* of) : of_(of), at_(of->arrivals_.next()) {}
    task_future<R>& operator*() const { return of_->futures_[*at_]; }
    iterator& operator++() {
      at_ = of_->arrivals_.next();
      return *this;
    }
    void operator++(int) { ++*this; }
    friend bool operator==(const iterator& a, std::default_sentinel_t) { return !a.at_; }

   private:
    completed_futures* of_;
    std::optional<std::size_t> at_;
  };
  iterator begin() { return iterator(this); }
  static std::default_sentinel_t end() { return {}; }

 private:
  std::vector<task_future<R>> futures_;
  detail::task_arrivals arrivals_;
};

template <class Futures>
requires detail::futures_range<std::remove_cvref_t<Futures>>
auto as_completed(Futures&& futures) {
  return completed_futures(detail::kept(std::forward<Futures>(futures)), std::nullopt);
}
/// The same; throws `TimeoutException` from the iterator once `time` is over, counted from here, and not all are done.
template <class Futures, class Rep, class Period>
requires detail::futures_range<std::remove_cvref_t<Futures>>
auto as_completed(Futures&& futures, std::chrono::duration<Rep, Period> time) {
  return completed_futures(detail::kept(std::forward<Futures>(futures)), detail::bounded_time(time));
}

}  // namespace pynisher
