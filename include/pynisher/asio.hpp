#pragma once

// Calls, tasks of pools, channels and queues as asynchronous operations of Boost.Asio; not part of
// <pynisher/pynisher.hpp>.
//
//     model m = co_await pynisher::async_call(executor, trainer, X, y, boost::asio::use_awaitable);
//     model n = co_await pynisher::async_get(executor, pool.submit(train, X, y), boost::asio::use_awaitable);
//     std::string text = co_await pynisher::async_recv(executor, rx, boost::asio::use_awaitable);
//
// Link what Boost.Asio needs (threads); this header needs no compiled part of Boost.

#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/execution/context.hpp>
#include <boost/asio/execution_context.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/query.hpp>

#include <pynisher/call.hpp>
#include <pynisher/channel.hpp>
#include <pynisher/detail/async_mail.hpp>
#include <pynisher/limit.hpp>
#include <pynisher/queue.hpp>
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

/// Something that waits for its end, and that can be given up.
class abandonable {
 public:
  virtual void abandon() noexcept = 0;

 protected:
  ~abandonable() = default;
};

/// What waits by one context. Thread-safe; survives the context.
class waiting_calls {
 public:
  void add(const std::shared_ptr<abandonable>& call) {
    const std::lock_guard lock(mutex_);
    std::erase_if(calls_, [](const auto& known) { return known.expired(); });
    calls_.push_back(call);
  }
  void abandon() noexcept {
    std::vector<std::weak_ptr<abandonable>> left;
    {
      const std::lock_guard lock(mutex_);
      left.swap(calls_);
    }
    for (const auto& call : left) {
      if (const auto alive = call.lock()) alive->abandon();
    }
  }

 private:
  std::mutex mutex_;
  std::vector<std::weak_ptr<abandonable>> calls_;
};

/// Tells of a context's end, for as long as it can still be told.
class waiting_calls_service final : public boost::asio::execution_context::service {
 public:
  using key_type = waiting_calls_service;
  static inline boost::asio::execution_context::id id;
  explicit waiting_calls_service(boost::asio::execution_context& context)
      : boost::asio::execution_context::service(context) {}
  [[nodiscard]] waiting_calls& calls() { return calls_; }

 private:
  void shutdown() override { calls_.abandon(); }
  waiting_calls calls_;
};

/// When the executor's context is destroyed, `call` is given up first.
template <class Executor>
void abandon_with_context(const Executor& executor, const std::shared_ptr<abandonable>& call) {
  if constexpr (boost::asio::can_query_v<const Executor&, boost::asio::execution::context_t>) {
    boost::asio::execution_context& context = boost::asio::query(executor, boost::asio::execution::context);
    boost::asio::use_service<waiting_calls_service>(context).calls().add(call);
  } else if constexpr (requires { executor.context(); }) {
    boost::asio::use_service<waiting_calls_service>(executor.context()).calls().add(call);
  }
}

template <class R>
void cancel_source(call<R>& source) {
  source.cancel();
}
template <class R>
void cancel_source(task_future<R>& source) {
  source.cancel(kill);
}

/// A call or a task whose end a handler waits for. Owned by what is posted to the executor, or, until then, by what is
/// waited for.
template <class R, class Source, class Handler, class Executor>
class async_operation final : public abandonable,
                              public std::enable_shared_from_this<async_operation<R, Source, Handler, Executor>> {
 public:
  async_operation(Source source, Handler handler, const Executor& executor)
      : parts_(parts{std::move(source), std::move(handler), executor,
                     boost::asio::executor_work_guard<Executor>(executor)}) {}

  void begin() {
    const auto self = this->shared_from_this();
    if (auto slot = boost::asio::get_associated_cancellation_slot(parts_->handler); slot.is_connected()) {
      slot.assign([weak = std::weak_ptr<async_operation>(self)](boost::asio::cancellation_type wanted) {
        if (wanted == boost::asio::cancellation_type::none) return;
        if (const auto alive = weak.lock()) alive->cancel();
      });
    }
    abandon_with_context(parts_->executor, self);
    abandon_with_context(boost::asio::get_associated_executor(parts_->handler, parts_->executor), self);
    // Not under the lock: it may be over already.
    parts_->source.when_done([self] { self->post_finish(); });
  }

  void cancel() {
    const std::lock_guard lock(mutex_);
    if (parts_) cancel_source(parts_->source);
  }
  /// By the context, on its way to its end: it must not be touched afterwards.
  void abandon() noexcept override { static_cast<void>(take()); }

 private:
  struct parts {
    Source source;
    Handler handler;
    Executor executor;
    boost::asio::executor_work_guard<Executor> work;
  };

  std::optional<parts> take() {
    const std::lock_guard lock(mutex_);
    // What is taken out goes without the lock: the end of a call may have to wait for one who wants it.
    return std::exchange(parts_, std::nullopt);
  }
  /// By the library's own thread.
  void post_finish() {
    const std::lock_guard lock(mutex_);
    if (!parts_) return;
    const auto where = boost::asio::get_associated_executor(parts_->handler, parts_->executor);
    boost::asio::post(where, [self = this->shared_from_this()] { self->finish(); });
  }
  void finish() {
    std::optional<parts> mine = take();
    if (!mine) return;
    outcome<R> ended = mine->source.get_outcome();
    Handler last = std::move(mine->handler);
    // Before the handler, which may be the last to need the executor.
    mine.reset();
    if constexpr (std::is_void_v<R>) {
      std::move(last)(ended.error());
    } else if (ended) {
      std::move(last)(std::exception_ptr(), std::move(ended).value());
    } else {
      std::move(last)(ended.error(), R());
    }
  }

  std::mutex mutex_;
  std::optional<parts> parts_;  ///< empty: finished, or given up
};

struct initiate_call {
  template <class Handler, class Executor, class Limited, class... A>
  void operator()(Handler&& handler, Executor executor, const Limited* limited, A&&... arguments) const {
    using R = typename result_of_call<decltype(limited->start(std::forward<A>(arguments)...))>::type;
    using operation = async_operation<R, call<R>, std::decay_t<Handler>, Executor>;
    std::make_shared<operation>(limited->start(std::forward<A>(arguments)...), std::forward<Handler>(handler), executor)
        ->begin();
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
/// a lazy token such as `use_awaitable` until it is awaited. A context that is destroyed ends the calls that wait by it,
/// and destroys their handlers without running them.
template <class Executor, class Limited, class... ArgumentsAndToken>
auto async_call(const Executor& executor, const Limited& limited, ArgumentsAndToken&&... arguments_and_token) {
  static_assert(sizeof...(ArgumentsAndToken) > 0,
                "pynisher: async_call needs a completion token as its last argument.");
  return detail::async_call_with(
      executor, limited, std::tuple<ArgumentsAndToken&&...>(std::forward<ArgumentsAndToken>(arguments_and_token)...),
      std::make_index_sequence<sizeof...(ArgumentsAndToken) - 1>());
}

namespace detail {

struct initiate_get {
  template <class Handler, class Executor, class R>
  void operator()(Handler&& handler, Executor executor, task_future<R> task) const {
    using operation = async_operation<R, task_future<R>, std::decay_t<Handler>, Executor>;
    std::make_shared<operation>(std::move(task), std::forward<Handler>(handler), executor)->begin();
  }
};

}  // namespace detail

/// A task's result as an asynchronous operation with the signature `void(std::exception_ptr, R)`, or
/// `void(std::exception_ptr)` where it has none; `R` needs a default constructor. The handler runs on its associated
/// executor, by default `executor`; a context that is destroyed destroys it without running it. Cancellation through the token's slot, of any type, is
/// `task.cancel(kill)`: for all who wait for the task, and without effect where nobody can end it.
template <class Executor, class R, class Token>
auto async_get(const Executor& executor, task_future<R> task, Token&& token) {
  return boost::asio::async_initiate<Token, typename detail::async_signature<R>::type>(detail::initiate_get{}, token,
                                                                                       executor, std::move(task));
}

// The handlers of what follows get what the waiting forms throw; cancellation through the token's slot, of any type, is
// `CancelledException`: then nothing has been received, or the item is withdrawn.

/// `rx.recv()` with the signature `void(std::exception_ptr, T)`.
template <class Executor, class T, class Token>
auto async_recv(const Executor& executor, const receiver<T>& rx, Token&& token) {
  return detail::async_receive(executor, rx, std::forward<Token>(token));
}
/// `tx.send(value)` with the signature `void(std::exception_ptr)`.
template <class Executor, class T, class Token>
auto async_send(const Executor& executor, const sender<T>& tx, std::type_identity_t<T> value, Token&& token) {
  return detail::async_deliver(executor, tx, std::move(value), std::forward<Token>(token));
}
/// `from.get()` with the signature `void(std::exception_ptr, T)`.
template <class Executor, class T, class Token>
auto async_get(const Executor& executor, const queue<T>& from, Token&& token) {
  return detail::async_receive(executor, from, std::forward<Token>(token));
}
/// `to.put(value)` with the signature `void(std::exception_ptr)`.
template <class Executor, class T, class Token>
auto async_put(const Executor& executor, const queue<T>& to, std::type_identity_t<T> value, Token&& token) {
  return detail::async_deliver(executor, to, std::move(value), std::forward<Token>(token));
}

}  // namespace pynisher
