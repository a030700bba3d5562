// Channels and queues as operations of Boost.Asio, in the program and in its children.

#include <chrono>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>

#include <pynisher/asio.hpp>
#include <pynisher/pynisher.hpp>

#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
namespace asio = boost::asio;
using pynisher::async_get;
using pynisher::async_put;
using pynisher::async_recv;
using pynisher::async_send;
using pynisher::create_channel;
using pynisher::create_queue;

/// Sends and receives on one loop, and says how often it came round.
int rounds_on_a_loop() {
  asio::io_context loop;
  auto [rx, tx] = create_channel<int>();
  int rounds = 0;
  asio::co_spawn(
      loop,
      [&, tx]() -> asio::awaitable<void> {
        for (int i = 0; i < 50; ++i) co_await async_send(loop.get_executor(), tx, i, asio::use_awaitable);
      },
      asio::detached);
  asio::co_spawn(
      loop,
      [&, rx]() -> asio::awaitable<void> {
        for (int i = 0; i < 50; ++i)
          rounds += co_await async_recv(loop.get_executor(), rx, asio::use_awaitable) == i ? 1 : 0;
      },
      asio::detached);
  loop.run();
  return rounds;
}

TEST(ChannelAsio, IsAwaited) { EXPECT_EQ(rounds_on_a_loop(), 50); }

TEST(ChannelAsio, QueuesAreAwaited) {
  asio::io_context loop;
  auto q = create_queue<std::string>(1);
  std::vector<std::string> seen;
  asio::co_spawn(
      loop,
      [&]() -> asio::awaitable<void> {
        for (const char* text : {"spam", "eggs", "ham"})
          co_await async_put(loop.get_executor(), q, text, asio::use_awaitable);
      },
      asio::detached);
  asio::co_spawn(
      loop,
      [&]() -> asio::awaitable<void> {
        for (int i = 0; i < 3; ++i) seen.push_back(co_await async_get(loop.get_executor(), q, asio::use_awaitable));
      },
      asio::detached);
  loop.run();
  EXPECT_THAT(seen, testing::ElementsAre("spam", "eggs", "ham"));
}

TEST(ChannelAsio, GivesErrorsToItsHandler) {
  asio::io_context loop;
  auto [rx, tx] = create_channel<int>();
  auto waits = async_recv(loop.get_executor(), rx, asio::use_future);
  auto none = async_recv(loop.get_executor(), pynisher::receiver<int>(), asio::use_future);
  tx.close();
  loop.run();
  EXPECT_THROW(waits.get(), pynisher::ChannelClosedError);
  EXPECT_THROW(none.get(), pynisher::ChannelNotFoundError);
}

TEST(ChannelAsio, ASenderThatDoesNotWaitSeesAReceiverThatIsAwaited) {
  asio::io_context loop;
  auto [rx, tx] = create_channel<int>();
  auto came = async_recv(loop.get_executor(), rx, asio::use_future);
  tx.send_nowait(5);
  loop.run();
  EXPECT_EQ(came.get(), 5);
}

class Cancellation : public ::testing::TestWithParam<asio::cancellation_type> {};
INSTANTIATE_TEST_SUITE_P(Of, Cancellation,
                         ::testing::Values(asio::cancellation_type::total, asio::cancellation_type::partial,
                                           asio::cancellation_type::terminal));

TEST_P(Cancellation, WithdrawsAReceiver) {
  asio::io_context loop;
  auto [rx, tx] = create_channel<int>({.buffer = 1});
  asio::cancellation_signal signal;
  std::exception_ptr seen;
  int ran = 0;
  async_recv(loop.get_executor(), rx, asio::bind_cancellation_slot(signal.slot(), [&](std::exception_ptr error, int) {
               ++ran;
               seen = error;
             }));
  signal.emit(GetParam());
  tx.send(1);
  loop.run();
  EXPECT_EQ(ran, 1);
  ASSERT_TRUE(seen);
  EXPECT_THROW(std::rethrow_exception(seen), pynisher::CancelledException);
  EXPECT_EQ(rx.recv(), 1) << "nobody has taken it";
}

TEST_P(Cancellation, WithdrawsAnItem) {
  asio::io_context loop;
  auto [rx, tx] = create_channel<int>();
  auto q = create_queue<int>(1);
  q.put(0);
  int cancelled = 0;
  asio::cancellation_signal first, second;
  const auto count = [&](std::exception_ptr error) {
    ASSERT_TRUE(error);
    ++cancelled;
    EXPECT_THROW(std::rethrow_exception(error), pynisher::CancelledException);
  };
  async_send(loop.get_executor(), tx, 1, asio::bind_cancellation_slot(first.slot(), count));
  async_put(loop.get_executor(), q, 1, asio::bind_cancellation_slot(second.slot(), count));
  first.emit(GetParam());
  second.emit(GetParam());
  loop.run();
  EXPECT_EQ(cancelled, 2);
  EXPECT_EQ(rx.try_recv(), std::nullopt);
  EXPECT_EQ(q.get(), 0);
  EXPECT_TRUE(q.empty());
}

TEST_P(Cancellation, AfterTheItemHasComeIsTooLate) {
  asio::io_context loop;
  auto [rx, tx] = create_channel<int>();
  asio::cancellation_signal signal;
  int value = 0;
  async_recv(loop.get_executor(), rx,
             asio::bind_cancellation_slot(signal.slot(), [&](std::exception_ptr error, int came) {
               EXPECT_FALSE(error);
               value = came;
             }));
  tx.send_nowait(3);
  signal.emit(GetParam());
  loop.run();
  EXPECT_EQ(value, 3);
}

TEST(ChannelAsio, LosesARaceAgainstATimer) {
  asio::io_context loop;
  auto [rx, tx] = create_channel<int>();
  std::size_t winner = 0;
  asio::co_spawn(
      loop,
      [&]() -> asio::awaitable<void> {
        using namespace asio::experimental::awaitable_operators;
        asio::steady_timer soon(loop, 5ms);
        const auto first =
            co_await (async_recv(loop.get_executor(), rx, asio::use_awaitable) || soon.async_wait(asio::use_awaitable));
        winner = first.index();
      },
      asio::detached);
  loop.run();
  EXPECT_EQ(winner, 1u);
  EXPECT_THROW(tx.send_nowait(1), pynisher::NotReceivedError) << "nobody is receiving any more";
}

TEST(ChannelAsio, ItsDescriptorIsWaitedForByALoop) {
  asio::io_context loop;
  auto [rx, tx] = create_channel<int>({.buffer = 1});
  asio::posix::stream_descriptor ready(loop, rx.native_handle());
  int value = 0;
  ready.async_wait(asio::posix::stream_descriptor::wait_read,
                   [&](boost::system::error_code) { value = rx.recv_nowait(); });
  std::thread other([tx]() mutable { tx.send(8); });
  loop.run();
  other.join();
  EXPECT_EQ(value, 8);
  ready.release();
}

class ChannelAsioThere : public support::per_start_method {};
FOR_EACH_START_METHOD(ChannelAsioThere);

TEST_P(ChannelAsioThere, IsAwaitedInAChild) { EXPECT_EQ(pynisher::limit(rounds_on_a_loop, unlimited())(), 50); }

/// Answers that nobody fetches and requests that nobody reads must not wait for each other.
std::size_t many_large_ones(pynisher::receiver<std::string> in, pynisher::sender<std::string> out) {
  constexpr int received = 150, sent = 50;
  asio::io_context loop;
  std::size_t bytes = 0;
  for (int i = 0; i < received; ++i) {
    async_recv(loop.get_executor(), in, [&](std::exception_ptr error, const std::string& item) {
      if (!error) bytes += item.size();
    });
  }
  for (int i = 0; i < sent; ++i) {
    async_send(loop.get_executor(), out, std::string(std::size_t{1} << 20, 'x'), [&](std::exception_ptr error) {
      if (!error) ++bytes;
    });
  }
  loop.run();
  return bytes;
}

TEST_P(ChannelAsioThere, ManyLargeOnesAtOnceInAnIsolate) {
  constexpr std::size_t size = std::size_t{64} << 10;
  auto [in, feed] = create_channel<std::string>(pynisher::unbounded);
  auto [result, out] = create_channel<std::string>(pynisher::unbounded);
  for (int i = 0; i < 150; ++i) feed.send(std::string(size, 'y'));
  auto iso = pynisher::isolate::create({.limits = {.warnings = false}, .context = GetParam()});
  EXPECT_EQ(iso.call(many_large_ones, in, out), 150 * size + 50);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(result.recv_nowait().size(), std::size_t{1} << 20);
}

int cancelled_there(pynisher::receiver<int> rx, pynisher::sender<int> told) {
  asio::io_context loop;
  asio::cancellation_signal signal;
  int result = 0;
  async_recv(loop.get_executor(), rx,
             asio::bind_cancellation_slot(signal.slot(), [&](std::exception_ptr error, int value) {
               try {
                 if (error) std::rethrow_exception(error);
                 result = value;
               } catch (const pynisher::CancelledException&) {
                 result = -1;
               }
             }));
  signal.emit(asio::cancellation_type::total);
  loop.run();
  told.send(0);
  return result;
}

TEST_P(ChannelAsioThere, IsCancelledInAChild) {
  auto [rx, tx] = create_channel<int>({.buffer = 1});
  auto [done, told] = create_channel<int>({.buffer = 1});
  EXPECT_EQ(pynisher::limit(cancelled_there, unlimited())(rx, told), -1);
  EXPECT_EQ(done.recv(), 0);
  tx.send(4);
  EXPECT_EQ(rx.recv(), 4);
}

}  // namespace
