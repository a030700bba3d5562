#pragma once

// What asio.hpp makes of sending and receiving. One operation at the exchange each: it is taken, or it is cancelled,
// and nothing is between the two.

#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <type_traits>
#include <utility>

#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>

#include <pynisher/detail/mail.hpp>

namespace pynisher::detail {

/// Shared by the operation at the exchange, which owns it until it is over, and the cancellation slot.
template <class Work, class Handler, class Executor>
class pending_mail : public std::enable_shared_from_this<pending_mail<Work, Handler, Executor>> {
 public:
  pending_mail(Work what, Handler handler, const Executor& executor)
      : what_(std::move(what)), handler_(std::move(handler)), executor_(executor), work_(executor) {}

  void start() {
    if (auto slot = boost::asio::get_associated_cancellation_slot(handler_); slot.is_connected()) {
      slot.assign([weak = this->weak_from_this()](boost::asio::cancellation_type wanted) {
        if (wanted == boost::asio::cancellation_type::none) return;
        if (const auto alive = weak.lock()) alive->cancel();
      });
    }
    std::shared_ptr<mail_operation> begun;
    try {
      begun = what_.begin([self = this->shared_from_this()](std::exception_ptr error, arrival came) {
        self->complete(std::move(error), std::move(came));
      });
    } catch (...) {
      complete(std::current_exception(), {});
      return;
    }
    bool is_cancelled = false;
    {
      const std::lock_guard lock(mutex_);
      begun_ = begun;
      is_cancelled = cancelled_;
    }
    if (is_cancelled && begun) begun->cancel();
  }

 private:
  void cancel() {
    std::shared_ptr<mail_operation> begun;
    {
      const std::lock_guard lock(mutex_);
      cancelled_ = true;
      begun = begun_;
    }
    if (begun) begun->cancel();
  }
  void complete(std::exception_ptr error, arrival came) {
    const auto where = boost::asio::get_associated_executor(handler_, executor_);
    // The handler may have run, and the loop be over and gone, before `post` is back here.
    const auto until_posted = boost::asio::make_work_guard(where);
    boost::asio::post(where,
                      [self = this->shared_from_this(), error = std::move(error), came = std::move(came)]() mutable {
                        Handler last = std::move(self->handler_);
                        // Before the handler, which may be the last to need the executor.
                        self->work_.reset();
                        self->what_.finish(std::move(last), std::move(error), std::move(came));
                      });
  }

  Work what_;
  Handler handler_;
  Executor executor_;
  boost::asio::executor_work_guard<Executor> work_;
  std::mutex mutex_;
  std::shared_ptr<mail_operation> begun_;
  bool cancelled_ = false;
};

/// From a receiver or a queue.
template <class From>
struct receiving_work {
  using value_type = typename From::value_type;
  From from;

  template <class Done>
  auto begin(Done done) const {
    return from.mail().begin_receive(std::move(done));
  }
  template <class Handler>
  void finish(Handler handler, std::exception_ptr error, arrival came) const {
    std::optional<value_type> value;
    if (!error) {
      try {
        value.emplace(from.item(std::move(came)));
      } catch (...) {
        error = std::current_exception();
      }
    }
    if (value) {
      std::move(handler)(std::exception_ptr(), std::move(*value));
    } else {
      std::move(handler)(error, value_type());
    }
  }
};

/// Into a sender or a queue.
template <class To, class T>
struct sending_work {
  To to;
  T value;  ///< kept until it is over: it may hold ends

  template <class Done>
  auto begin(Done done) const {
    return to.mail().begin_send(pack_mail([this](output_archive& out) { out(value); }),
                                [done = std::move(done)](std::exception_ptr error) { done(std::move(error), {}); });
  }
  template <class Handler>
  void finish(Handler handler, std::exception_ptr error, arrival /*nothing*/) const {
    std::move(handler)(error);
  }
};

struct initiate_mail {
  template <class Handler, class Executor, class Work>
  void operator()(Handler&& handler, const Executor& executor, Work what) const {
    using pending = pending_mail<Work, std::decay_t<Handler>, Executor>;
    std::make_shared<pending>(std::move(what), std::forward<Handler>(handler), executor)->start();
  }
};

template <class Executor, class From, class Token>
auto async_receive(const Executor& executor, From from, Token&& token) {
  using value_type = typename From::value_type;
  return boost::asio::async_initiate<Token, void(std::exception_ptr, value_type)>(
      initiate_mail{}, token, executor, receiving_work<From>{std::move(from)});
}

template <class Executor, class To, class Token>
auto async_deliver(const Executor& executor, To to, typename To::value_type value, Token&& token) {
  using value_type = typename To::value_type;
  return boost::asio::async_initiate<Token, void(std::exception_ptr)>(
      initiate_mail{}, token, executor, sending_work<To, value_type>{std::move(to), std::move(value)});
}

}  // namespace pynisher::detail
