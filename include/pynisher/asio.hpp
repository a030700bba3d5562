#pragma once

// Calls, and tasks of pools, as asynchronous operations of Boost.Asio; not part of <pynisher/pynisher.hpp>.
//
//     model m = co_await pynisher::async_call(executor, trainer, X, y, boost::asio::use_awaitable);
//     model n = co_await pynisher::async_get(executor, pool.submit(train, X, y), boost::asio::use_awaitable);
//
// Link what Boost.Asio needs (threads); this header needs no compiled part of Boost.

#include <exception>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>

#include <pynisher/call.hpp>
#include <pynisher/limit.hpp>
#include <pynisher/task_future.hpp>

namespace pynisher {

namespace detail {

template <class R>
struct async_signature {
  using type = void(std::exception_ptr, R);
};
template <>
struct async_signature<void> {
  using type = void(std::exception_ptr);
};

template <class T>
struct result_of_call;
template <class R>
struct result_of_call<call<R>> {
  using type = R;
};

/// A call whose end a handler waits for. Owned by what is posted to the executor, or, until then, by the call itself.
template <class R, class Handler, class Executor>
struct async_operation {
  call<R> started;
  Handler handler;
  boost::asio::executor_work_guard<Executor> work;

  void finish() {
    outcome<R> ended = started.get_outcome();
    Handler last = std::move(handler);
    // Before the handler, which may be the last to need the executor.
    static_cast<void>(call<R>(std::move(started)));
    work.reset();
    if constexpr (std::is_void_v<R>) {
      std::move(last)(ended.error());
    } else if (ended) {
      std::move(last)(std::exception_ptr(), std::move(ended).value());
    } else {
      std::move(last)(ended.error(), R());
    }
  }
};

struct initiate_call {
  template <class Handler, class Executor, class Limited, class... A>
  void operator()(Handler&& handler, Executor executor, const Limited* limited, A&&... arguments) const {
    using R = typename result_of_call<decltype(limited->start(std::forward<A>(arguments)...))>::type;
    using operation = async_operation<R, std::decay_t<Handler>, Executor>;
    const auto pending = std::make_shared<operation>(operation{limited->start(std::forward<A>(arguments)...),
                                                               std::forward<Handler>(handler),
                                                               boost::asio::executor_work_guard<Executor>(executor)});
    if (auto slot = boost::asio::get_associated_cancellation_slot(pending->handler); slot.is_connected()) {
      slot.assign([weak = std::weak_ptr<operation>(pending)](boost::asio::cancellation_type wanted) {
        if (wanted == boost::asio::cancellation_type::none) return;
        if (const auto alive = weak.lock()) alive->started.cancel();
      });
    }
    pending->started.when_done([pending, executor]() mutable {
      const auto where = boost::asio::get_associated_executor(pending->handler, executor);
      boost::asio::post(where, [pending = std::move(pending)] { pending->finish(); });
    });
  }
};

template <class Executor, class Limited, class Tuple, std::size_t... I>
auto async_call_with(const Executor& executor, const Limited& limited, Tuple&& all, std::index_sequence<I...>) {
  using R = typename result_of_call<decltype(limited.start(std::get<I>(std::forward<Tuple>(all))...))>::type;
  constexpr std::size_t last = std::tuple_size_v<std::remove_cvref_t<Tuple>> - 1;
  using token = std::tuple_element_t<last, std::remove_cvref_t<Tuple>>;
  return boost::asio::async_initiate<token, typename async_signature<R>::type>(
      initiate_call{}, std::get<last>(all), executor, &limited, std::get<I>(std::forward<Tuple>(all))...);
}

}  // namespace detail

/// `limited.start(arguments...)` as an asynchronous operation with the signature `void(std::exception_ptr, R)`, or
/// `void(std::exception_ptr)` where the function returns nothing: `async_call(executor, limited, arguments..., token)`.
/// The handler runs on its associated executor, by default `executor`. Cancellation through the token's slot, of any
/// type, ends the call, which then throws `CancelledException`. `limited` must live until the operation has begun: with
/// a lazy token such as `use_awaitable` until it is awaited.
template <class Executor, class Limited, class... ArgumentsAndToken>
auto async_call(const Executor& executor, const Limited& limited, ArgumentsAndToken&&... arguments_and_token) {
  static_assert(sizeof...(ArgumentsAndToken) > 0,
                "pynisher: async_call needs a completion token as its last argument.");
  return detail::async_call_with(
      executor, limited, std::tuple<ArgumentsAndToken&&...>(std::forward<ArgumentsAndToken>(arguments_and_token)...),
      std::make_index_sequence<sizeof...(ArgumentsAndToken) - 1>());
}

namespace detail {

/// A task that a handler waits for. Owned by what is posted to the executor, or, until then, by the task itself.
template <class R, class Handler, class Executor>
struct async_task_operation {
  task_future<R> task;
  Handler handler;
  boost::asio::executor_work_guard<Executor> work;

  void finish() {
    Handler last = std::move(handler);
    // Before the handler, which may be the last to need the executor.
    const task_future<R> done = std::exchange(task, {});
    work.reset();
    if constexpr (std::is_void_v<R>) {
      std::move(last)(done.error());
    } else {
      outcome<R> ended = done.get_outcome();
      if (ended) {
        std::move(last)(std::exception_ptr(), std::move(ended).value());
      } else {
        std::move(last)(ended.error(), R());
      }
    }
  }
};

struct initiate_get {
  template <class Handler, class Executor, class R>
  void operator()(Handler&& handler, Executor executor, task_future<R> task) const {
    using operation = async_task_operation<R, std::decay_t<Handler>, Executor>;
    const auto pending = std::make_shared<operation>(
        operation{task, std::forward<Handler>(handler), boost::asio::executor_work_guard<Executor>(executor)});
    if (auto slot = boost::asio::get_associated_cancellation_slot(pending->handler); slot.is_connected()) {
      slot.assign([task](boost::asio::cancellation_type wanted) {
        if (wanted != boost::asio::cancellation_type::none) task.cancel(kill);
      });
    }
    task.when_done([pending, executor] {
      const auto where = boost::asio::get_associated_executor(pending->handler, executor);
      boost::asio::post(where, [pending] { pending->finish(); });
    });
  }
};

}  // namespace detail

/// A task's result as an asynchronous operation with the signature `void(std::exception_ptr, R)`, or
/// `void(std::exception_ptr)` where it has none; `R` needs a default constructor. The handler runs on its associated
/// executor, by default `executor`, which must live until then. Cancellation through the token's slot, of any type, is
/// `task.cancel(kill)`: for all who wait for the task, and without effect where nobody can end it.
template <class Executor, class R, class Token>
auto async_get(const Executor& executor, task_future<R> task, Token&& token) {
  return boost::asio::async_initiate<Token, typename detail::async_signature<R>::type>(detail::initiate_get{}, token,
                                                                                       executor, std::move(task));
}

}  // namespace pynisher
