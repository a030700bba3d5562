// Calls as operations of Boost.Asio: callbacks, futures, coroutines, cancellation.

#include <unistd.h>

#include <chrono>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include <gmock/gmock.h>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>

#include <pynisher/asio.hpp>
#include <pynisher/pynisher.hpp>

#include "support/scenarios.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
namespace asio = boost::asio;
using pynisher::async_call;
using pynisher::limit;

class AsyncCall : public support::per_start_method {
 protected:
  asio::io_context loop_;
};
FOR_EACH_START_METHOD(AsyncCall);

int twice(int number) {
  if (number < 0) throw std::domain_error("negative");
  return 2 * number;
}

void log_and_sleep(const std::string& log) {
  support::log_process(log.c_str());
  support::sleep_forever();
}

TEST_P(AsyncCall, GivesItsResultToACallbackOnTheLoop) {
  const auto doubled = limit(twice, with({}));
  int result = 0;
  std::thread::id where;
  async_call(loop_.get_executor(), doubled, 4, [&](std::exception_ptr error, int value) {
    EXPECT_FALSE(error);
    result = value;
    where = std::this_thread::get_id();
  });
  EXPECT_EQ(result, 0) << "nothing runs before the loop does";
  loop_.run();
  EXPECT_EQ(result, 8);
  EXPECT_EQ(where, std::this_thread::get_id());
}

TEST_P(AsyncCall, GivesItsExceptionToACallback) {
  const auto doubled = limit(twice, with({}));
  std::exception_ptr seen;
  async_call(loop_.get_executor(), doubled, -4, [&](std::exception_ptr error, int) { seen = error; });
  loop_.run();
  ASSERT_TRUE(seen);
  EXPECT_THROW(std::rethrow_exception(seen), std::domain_error);
}

TEST_P(AsyncCall, RunsTheHandlerOnItsOwnExecutor) {
  const auto doubled = limit(twice, with({}));
  asio::io_context other;
  bool ran = false;
  auto work = asio::make_work_guard(other);
  async_call(loop_.get_executor(), doubled, 4, asio::bind_executor(other.get_executor(), [&](std::exception_ptr, int) {
               ran = true;
               work.reset();
             }));
  other.run();
  EXPECT_TRUE(ran);
}

TEST_P(AsyncCall, GivesAFuture) {
  const auto doubled = limit(twice, with({}));
  auto value = async_call(loop_.get_executor(), doubled, 5, asio::use_future);
  auto error = async_call(loop_.get_executor(), doubled, -5, asio::use_future);
  loop_.run();
  EXPECT_EQ(value.get(), 10);
  EXPECT_THROW(error.get(), std::domain_error);
}

TEST_P(AsyncCall, IsAwaited) {
  const auto doubled = limit(twice, with({}));
  const auto nothing = limit([](const std::string&) {}, with({}));
  const auto late = limit(support::sleep_forever, with({.wall_time = 10ms}));
  bool done = false;
  asio::co_spawn(
      loop_,
      [&]() -> asio::awaitable<void> {
        EXPECT_EQ(co_await async_call(loop_.get_executor(), doubled, 6, asio::use_awaitable), 12);
        co_await async_call(loop_.get_executor(), nothing, "text", asio::use_awaitable);
        bool timed_out = false;
        try {
          co_await async_call(loop_.get_executor(), late, asio::use_awaitable);
        } catch (const pynisher::WallTimeoutException&) {
          timed_out = true;
        }
        EXPECT_TRUE(timed_out);
        done = true;
      },
      asio::detached);
  loop_.run();
  EXPECT_TRUE(done);
}

TEST_P(AsyncCall, IsCancelledThroughItsSlot) {
  const auto endless = limit(support::sleep_forever, with({}));
  asio::cancellation_signal signal;
  std::exception_ptr seen;
  int ran = 0;
  async_call(loop_.get_executor(), endless, asio::bind_cancellation_slot(signal.slot(), [&](std::exception_ptr error) {
               ++ran;
               seen = error;
             }));
  signal.emit(asio::cancellation_type::terminal);
  loop_.run();
  EXPECT_EQ(ran, 1);
  ASSERT_TRUE(seen);
  EXPECT_THROW(std::rethrow_exception(seen), pynisher::CancelledException);
}

/// Alive for as long as the handler that holds it.
using sentinel = std::shared_ptr<int>;

TEST_P(AsyncCall, EndsWithItsContext) {
  const support::process_log log;
  const auto endless = limit(log_and_sleep, with({}));
  auto loop = std::make_unique<asio::io_context>();
  sentinel held = std::make_shared<int>();
  async_call(loop->get_executor(), endless, log.path(),
             [held](std::exception_ptr) { ADD_FAILURE() << "the handler has run"; });
  support::await_logged(log.path(), 1);
  loop.reset();
  EXPECT_EQ(held.use_count(), 1);
  EXPECT_THAT(log.survivors(), ::testing::IsEmpty());
}

TEST_P(AsyncCall, EndsWithTheContextOfItsHandler) {
  const support::process_log log;
  const auto endless = limit(log_and_sleep, with({}));
  auto loop = std::make_unique<asio::io_context>();
  sentinel held = std::make_shared<int>();
  async_call(loop_.get_executor(), endless, log.path(),
             asio::bind_executor(asio::make_strand(*loop),
                                 [held](std::exception_ptr) { ADD_FAILURE() << "the handler has run"; }));
  support::await_logged(log.path(), 1);
  loop.reset();
  EXPECT_EQ(held.use_count(), 1);
  EXPECT_THAT(log.survivors(), ::testing::IsEmpty());
}

TEST_P(AsyncCall, MayEndWhileItsContextDoes) {
  const auto doubled = limit(twice, with({}));
  sentinel held = std::make_shared<int>();
  for (int i = 0; i < 100; ++i) {
    auto loop = std::make_unique<asio::io_context>();
    for (int call = 0; call < 3; ++call) {
      async_call(loop->get_executor(), doubled, call, [held](std::exception_ptr, int) {});
    }
    // Some of them are over, some are posted, and some still run.
    if (i % 2 == 0) loop->run_one();
    loop.reset();
    ASSERT_EQ(held.use_count(), 1);
  }
}

TEST_P(AsyncCall, IsAwaitedByACoroutineThatEndsWithItsContext) {
  const support::process_log log;
  const auto endless = limit(log_and_sleep, with({}));
  auto loop = std::make_unique<asio::io_context>();
  sentinel held = std::make_shared<int>();
  asio::co_spawn(
      *loop,
      [&, own = held]() -> asio::awaitable<void> {
        const sentinel here = own;
        co_await async_call(co_await asio::this_coro::executor, endless, log.path(), asio::use_awaitable);
      },
      asio::detached);
  while (log.pids().empty()) loop->poll();
  loop.reset();
  EXPECT_EQ(held.use_count(), 1);
  EXPECT_THAT(log.survivors(), ::testing::IsEmpty());
}

TEST_P(AsyncCall, LosesARaceAgainstATimer) {
  const auto endless = limit(support::sleep_forever, with({}));
  std::size_t winner = 0;
  asio::co_spawn(
      loop_,
      [&]() -> asio::awaitable<void> {
        using namespace asio::experimental::awaitable_operators;
        asio::steady_timer soon(loop_, 5ms);
        const auto first = co_await (async_call(loop_.get_executor(), endless, asio::use_awaitable) ||
                                     soon.async_wait(asio::use_awaitable));
        winner = first.index();
      },
      asio::detached);
  loop_.run();
  EXPECT_EQ(winner, 1u);
}

// --- tasks of pools -------------------------------------------------------------------------------------------------

/// A task that is done when the test says so.
class AsyncGet : public ::testing::Test {
 protected:
  template <class... V>
  void give(V&&... value) const {
    state_->keep(std::forward<V>(value)...);
    state_->complete(pynisher::detail::returned_here());
  }
  asio::io_context loop_;
  std::shared_ptr<pynisher::detail::task_runner> runner_ = std::make_shared<pynisher::detail::task_runner>();
  std::shared_ptr<pynisher::detail::task_state<int>> state_ =
      std::make_shared<pynisher::detail::task_state<int>>(runner_);
  pynisher::task_future<int> task_{state_};
};

TEST_F(AsyncGet, CallsBackOnTheLoop) {
  std::thread::id where;
  int seen = 0;
  pynisher::async_get(loop_.get_executor(), task_, [&](std::exception_ptr error, int value) {
    EXPECT_FALSE(error);
    seen = value;
    where = std::this_thread::get_id();
  });
  std::jthread giver([this] { give(7); });
  loop_.run();
  EXPECT_EQ(seen, 7);
  EXPECT_EQ(where, std::this_thread::get_id());
}

TEST_F(AsyncGet, IsAwaitedAndThrows) {
  bool thrown = false;
  asio::co_spawn(
      loop_,
      [&]() -> asio::awaitable<void> {
        try {
          co_await pynisher::async_get(loop_.get_executor(), task_, asio::use_awaitable);
        } catch (const std::domain_error&) {
          thrown = true;
        }
      },
      asio::detached);
  state_->complete(pynisher::detail::raised_here(std::make_exception_ptr(std::domain_error("no"))));
  loop_.run();
  EXPECT_TRUE(thrown);
}

TEST_F(AsyncGet, GivesAFutureAndWhatIsDoneAlready) {
  give(8);
  auto value = pynisher::async_get(loop_.get_executor(), task_, asio::use_future);
  loop_.run();
  EXPECT_EQ(value.get(), 8);
}

TEST_F(AsyncGet, CancelsTheTaskThroughItsSlot) {
  asio::cancellation_signal signal;
  std::exception_ptr seen;
  pynisher::async_get(
      loop_.get_executor(), task_,
      asio::bind_cancellation_slot(signal.slot(), [&](std::exception_ptr error, int) { seen = error; }));
  signal.emit(asio::cancellation_type::terminal);
  loop_.run();
  EXPECT_TRUE(task_.cancelled());
  ASSERT_TRUE(seen);
  EXPECT_THROW(std::rethrow_exception(seen), pynisher::CancelledException);
}

}  // namespace
