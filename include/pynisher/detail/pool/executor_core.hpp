#pragma once

// An executor without the types of its tasks: between `pool_executor` and the core of all pools.

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <pynisher/detail/pool/core.hpp>
#include <pynisher/detail/pool/task_core.hpp>
#include <pynisher/detail/travel.hpp>
#include <pynisher/options.hpp>
#include <pynisher/pool_options.hpp>
#include <pynisher/task_future.hpp>

namespace pynisher::detail {

/// A task for a thread of this process: it stays where it is.
class local_task {
 public:
  virtual ~local_task() = default;
  /// Calls, and keeps the result where the future will find it.
  virtual void run() = 0;
  /// What it threw, itself and not a likeness.
  std::exception_ptr thrown;
  /// It may be run again, with the same arguments.
  bool may_run_again = false;
};

/// Thread-safe.
class executor_core {
 public:
  /// Throws what `plan_pool` throws, and `StartException`. An initializer that fails is for the tasks to say.
  static std::shared_ptr<executor_core> open(pool_options wanted);
  virtual ~executor_core() = default;

  [[nodiscard]] virtual bool has_threads() const = 0;
  /// This thread is one of its pool's: a worker, or the one that ends tasks.
  [[nodiscard]] virtual bool is_own_thread() const = 0;
  [[nodiscard]] virtual std::size_t window() const = 0;
  [[nodiscard]] virtual const std::shared_ptr<task_runner>& runner() const = 0;

  /// Both throw `BrokenPoolError` after `shutdown` and `std::invalid_argument` for limits; else `task` says what came
  /// of it.
  virtual void submit(const std::shared_ptr<task_core>& task, const options& limits, const task_entry& entry,
                      call_name name, const std::function<void(output_archive&)>& pack) = 0;
  virtual void submit_here(const std::shared_ptr<task_core>& task, const options& limits, call_name name,
                           std::shared_ptr<local_task> call) = 0;

  virtual void shutdown(bool wait, bool cancel_pending) = 0;
  virtual void end_workers(bool kill) = 0;
  [[nodiscard]] virtual std::vector<std::int64_t> pids() = 0;
};
/// As its owner lets go of it: `shutdown(true, false)`, on a thread apart where this is one of its own. In a forked
/// copy of the program, which has no workers, nothing.
void let_go(std::shared_ptr<executor_core> core) noexcept;

// --- how a call becomes a task
// ----------------------------------------------------------------------------------------

/// What keeps a result from being packed is not an exception of the function's.
template <class R>
void pack_result(const R& result, output_archive& reply) {
  try {
    reply(result);
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& e) {
    throw wire_error(e.what());
  } catch (...) {
    throw wire_error("packing it threw something that is no std::exception");
  }
}

template <class R, class F, class... A>
struct sent_task {
  static void run(void* /*no object*/, input_archive& in, output_archive& reply) {
    F fn = read_callable<F>(in);
    std::tuple<typename argument_on_arrival<A>::held...> arguments;
    std::apply([&in](auto&... argument) { (in(argument), ...); }, arguments);
    in.expect_end();
    std::apply(
        [&](auto&... argument) {
          if constexpr (std::is_void_v<R>) {
            std::invoke(fn, argument_on_arrival<A>::give(argument)...);
          } else {
            const R& result = std::invoke(fn, argument_on_arrival<A>::give(argument)...);
            begin_task_reply();
            pack_result(result, reply);
          }
        },
        arguments);
  }
};
template <class R, class F, class... A>
inline constexpr task_entry sent_task_entry{task_entry::own_stamp, type_hash<sent_task<R, F, A...>>(),
                                            &sent_task<R, F, A...>::run};

/// As the threads of a pool hold an argument: as the workers' processes would, but moved where it can be.
template <class A>
typename argument_on_arrival<A>::held held_argument(A&& argument) {
  using held = typename argument_on_arrival<A>::held;
  if constexpr (std::same_as<held, std::decay_t<A>>) {
    return held(std::forward<A>(argument));
  } else {
    return argument_on_arrival<A>::packed(argument);
  }
}

template <class R, class F, class... A>
class kept_task final : public local_task {
 public:
  kept_task(std::shared_ptr<task_state<R>> state, F fn, A&&... arguments)
      : state_(std::move(state)), fn_(std::move(fn)), arguments_(held_argument<A>(std::forward<A>(arguments))...) {}
  void run() override {
    if constexpr (std::copy_constructible<held_arguments>) {
      if (may_run_again) {
        held_arguments copy = arguments_;
        return call_with(copy);
      }
    }
    // They were used up by the first try.
    if (thrown) std::rethrow_exception(thrown);
    call_with(arguments_);
  }

 private:
  using held_arguments = std::tuple<typename argument_on_arrival<A>::held...>;
  void call_with(held_arguments& given) {
    std::apply(
        [this](auto&... argument) {
          if constexpr (std::is_void_v<R>) {
            std::invoke(fn_, argument_on_arrival<A>::give(argument)...);
            state_->keep();
          } else {
            state_->keep(std::invoke(fn_, argument_on_arrival<A>::give(argument)...));
          }
        },
        given);
  }

  std::shared_ptr<task_state<R>> state_;
  F fn_;
  held_arguments arguments_;
};

/// Throws `std::invalid_argument`.
[[noreturn]] void refuse_task(const char* why);

template <class R, class F, class... A>
task_future<R> submit_as(executor_core& core, const options& limits, F& fn, A&&... arguments) {
  if constexpr (may_be_empty<F>) {
    if (fn == nullptr) refuse_task("fn: an empty function cannot be called");
  }
  auto state = std::make_shared<task_state<R>>(core.runner());
  call_name name = name_of_call(fn, std::tuple<const std::remove_reference_t<A>&...>(arguments...));
  if (core.has_threads()) {
    auto kept = std::make_shared<kept_task<R, F, A...>>(state, std::move(fn), std::forward<A>(arguments)...);
    core.submit_here(state, limits, std::move(name), std::move(kept));
  } else if constexpr (!callable_travels<F>) {
    refuse_task(
        "fn: a callable with captures or other state cannot be sent to workers that run already: pass what it captures "
        "as "
        "arguments, or make it a class with a default constructor that cereal can serialise, or use backend = threads");
  } else if constexpr (!call_travels<F, A...>) {
    refuse_task(
        "an argument of this function cannot be sent to a worker: take values that cereal can serialise and that have "
        "a "
        "default constructor, or use backend = threads");
  } else if constexpr (!std::is_void_v<R> && !sendable<R>) {
    refuse_task(
        "the function's result cannot come back from a worker: return a value that cereal can serialise and that has a "
        "default constructor, or use backend = threads");
  } else {
    core.submit(state, limits, sent_task_entry<R, F, A...>, std::move(name), [&](output_archive& out) {
      write_callable(out, fn);
      (out(argument_on_arrival<A>::packed(arguments)), ...);
    });
  }
  return task_future<R>(std::move(state));
}

template <class T>
inline constexpr bool is_reference_wrapper = false;
template <class T>
inline constexpr bool is_reference_wrapper<std::reference_wrapper<T>> = true;

template <class F, class... A>
auto submit_to(std::type_identity<generic_signature> /*none or many*/, executor_core& core, const options& limits,
               F& fn, A&&... arguments);

/// With one signature the arguments are what it says, so that conversions happen here; but a `std::ref` stays one.
template <class F, class R, class... P, class... A>
auto submit_to(std::type_identity<R(P...)> /*signature*/, executor_core& core, const options& limits, F& fn,
               A&&... arguments) {
  if constexpr (sizeof...(A) == sizeof...(P) && !(is_reference_wrapper<std::remove_cvref_t<A>> || ...)) {
    return [&](P... converted) {
      return submit_as<std::remove_cvref_t<R>, F, P...>(core, limits, fn, std::forward<P>(converted)...);
    }(std::forward<A>(arguments)...);
  } else {
    return submit_to(std::type_identity<generic_signature>(), core, limits, fn, std::forward<A>(arguments)...);
  }
}
template <class F, class... A>
auto submit_to(std::type_identity<generic_signature> /*none or many*/, executor_core& core, const options& limits,
               F& fn, A&&... arguments) {
  static_assert(std::invocable<F&, A...>,
                "pynisher: submit() needs something that can be called with these arguments.");
  using R = std::remove_cvref_t<std::invoke_result_t<F&, A...>>;
  return submit_as<R, F, A...>(core, limits, fn, std::forward<A>(arguments)...);
}

}  // namespace pynisher::detail
