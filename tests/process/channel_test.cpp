// Channels: within the program, and with isolates and limited calls by every start method.

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <set>
#include <string>
#include <thread>
#include <unordered_set>
#include <utility>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::create_channel;
using pynisher::isolate;
using pynisher::limit;
using pynisher::receiver;
using pynisher::sender;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

// --- in the program itself
// ----------------------------------------------------------------------------------------------

TEST(Channel, GivesWhatIsSentInOrder) {
  auto [rx, tx] = create_channel<std::string>({.buffer = 2});
  tx.send("spam");
  tx.send("eggs");
  EXPECT_EQ(rx.recv(), "spam");
  EXPECT_EQ(rx.recv(), "eggs");
}

TEST(Channel, AllThatReceivesTellsThatNothingCanCome) {
  auto [rx, tx] = create_channel<int>({.buffer = 1});
  EXPECT_EQ(rx.try_recv(), std::nullopt);
  tx.send(1);
  tx.release();
  EXPECT_EQ(rx.recv_nowait(), 1);
  EXPECT_THROW(static_cast<void>(rx.try_recv()), pynisher::ChannelClosedError);
  EXPECT_THROW(rx.recv_nowait(), pynisher::ChannelClosedError);
}

TEST(Channel, AReceiptTellsThatNobodyCanReceive) {
  for (const std::size_t buffer : {std::size_t{0}, std::size_t{4}}) {
    auto [rx, tx] = create_channel<int>({.buffer = buffer});
    const auto receipt = tx.post(1);
    rx.release();
    EXPECT_THROW(receipt.wait(), pynisher::ChannelClosedError) << buffer;
  }
}

TEST(Channel, EndsAreEqualByIdAndHashable) {
  auto [rx, tx] = create_channel<int>();
  auto [r2, t2] = create_channel<int>();
  EXPECT_EQ(rx.id(), tx.id());
  EXPECT_LT(rx.id(), r2.id());
  EXPECT_EQ(rx, receiver<int>(rx));
  EXPECT_NE(tx, t2);
  EXPECT_EQ((std::unordered_set<sender<int>>{tx, t2, tx}.size()), 2u);
}

TEST(Channel, AnEndOfNoChannelSaysSo) {
  receiver<int> rx;
  sender<int> tx;
  EXPECT_EQ(rx.id(), -1);
  EXPECT_THROW(rx.recv(), pynisher::ChannelNotFoundError);
  EXPECT_THROW(tx.send(1), pynisher::ChannelNotFoundError);
}

TEST(Channel, UnbufferedSendWaitsUntilTaken) {
  auto [rx, tx] = create_channel<int>();
  std::atomic<bool> sent{false};
  std::thread other([&, tx]() mutable {
    tx.send(1);
    sent = true;
  });
  // Only once there is an item to be seen has the other thread begun to wait.
  ASSERT_EQ(pynisher::select(1h, rx), 0u);
  EXPECT_FALSE(sent);
  EXPECT_EQ(rx.recv(), 1);
  other.join();
  EXPECT_TRUE(sent);
}

TEST(Channel, ASendThatTimesOutIsWithdrawn) {
  auto [rx, tx] = create_channel<int>();
  EXPECT_FALSE(tx.send_for(5ms, 1));
  EXPECT_EQ(rx.try_recv(), std::nullopt);
  EXPECT_FALSE(tx.send_for(-5ms, 1));
}

TEST(Channel, SendNowaitNeedsAReceiver) {
  auto [rx, tx] = create_channel<int>();
  EXPECT_THROW(tx.send_nowait(1), pynisher::NotReceivedError);
  std::thread other([rx]() mutable { EXPECT_EQ(rx.recv(), 2); });
  for (;;) {
    try {
      tx.send_nowait(2);
      break;
    } catch (const pynisher::NotReceivedError&) {
      std::this_thread::yield();
    }
  }
  other.join();
}

TEST(Channel, SendNowaitSeesAReceiverThatSelects) {
  auto [rx, tx] = create_channel<int>();
  std::thread other([rx]() mutable {
    EXPECT_EQ(pynisher::select(1h, rx), 0u);
    EXPECT_EQ(rx.recv(), 2);
  });
  for (;;) {
    try {
      tx.send_nowait(2);
      break;
    } catch (const pynisher::NotReceivedError&) {
      std::this_thread::yield();
    }
  }
  other.join();
}

TEST(Channel, AFullBufferTakesNoMore) {
  auto [rx, tx] = create_channel<int>({.buffer = 1});
  tx.send_nowait(1);
  EXPECT_THROW(tx.send_nowait(2), pynisher::NotReceivedError);
  EXPECT_FALSE(tx.send_for(1ms, 2));
  EXPECT_EQ(rx.recv(), 1);
  EXPECT_EQ(rx.try_recv(), std::nullopt);
  tx.send_nowait(3);
  EXPECT_EQ(rx.recv(), 3);
}

TEST(Channel, UnboundedIsUnbounded) {
  for (auto [rx, tx] :
       {create_channel<int>(pynisher::unbounded), create_channel<int>({.buffer = pynisher::unbounded})}) {
    for (int i = 0; i < 10'000; ++i) tx.send_nowait(i);
    for (int i = 0; i < 10'000; ++i) ASSERT_EQ(rx.recv_nowait(), i);
  }
}

TEST(Channel, ReceivesWithoutWaiting) {
  auto [rx, tx] = create_channel<int>({.buffer = 4});
  EXPECT_THROW(rx.recv_nowait(), pynisher::ChannelEmptyError);
  EXPECT_EQ(rx.recv_nowait(42), 42);
  EXPECT_EQ(rx.try_recv(), std::nullopt);
  EXPECT_EQ(rx.recv_for(1ms), std::nullopt);
  tx.send(1);
  tx.send(2);
  tx.send(3);
  EXPECT_EQ(rx.recv_nowait(42), 1);
  EXPECT_EQ(rx.recv_nowait(), 2);
  EXPECT_EQ(rx.take(), 3);
}

TEST(Channel, AReceiptTellsWhenAndByWhomItWasTaken) {
  auto [rx, tx] = create_channel<int>();
  const pynisher::receipt receipt = tx.post(1);
  EXPECT_FALSE(receipt.done());
  EXPECT_FALSE(receipt.wait_for(1ms));
  std::vector<std::thread> waiters;
  for (int i = 0; i < 4; ++i) waiters.emplace_back([receipt] { receipt.wait(); });
  EXPECT_EQ(rx.recv(), 1);
  for (auto& waiter : waiters) waiter.join();
  EXPECT_TRUE(receipt.done());
  EXPECT_EQ(receipt.taken_by(), 0);
}

TEST(Channel, AReceiptOfADiscardedItemThrows) {
  auto [rx, tx] = create_channel<int>();
  const auto first = tx.post(1);
  rx.close(true);
  EXPECT_THROW(first.wait(), pynisher::ChannelClosedError);
  auto [r2, t2] = create_channel<int>();
  const auto second = t2.post(1);
  r2.poison();
  EXPECT_THROW(second.wait(), pynisher::ChannelPoisonedError);
}

TEST(Channel, RangeForGoesOnUntilItIsClosed) {
  auto [rx, tx] = create_channel<int>({.buffer = 16});
  for (int i = 0; i < 5; ++i) tx.send(i);
  tx.close();
  EXPECT_FALSE(rx.is_closed());
  EXPECT_TRUE(tx.is_closed());
  std::vector<int> seen;
  for (const int item : rx) seen.push_back(item);
  EXPECT_THAT(seen, ElementsAre(0, 1, 2, 3, 4));
  EXPECT_TRUE(rx.is_closed());
}

TEST(Channel, RangeForEndsWhenTheLastSenderGoes) {
  auto [rx, tx] = create_channel<int>({.buffer = 16});
  std::thread other([last = std::move(tx)]() mutable {
    for (int i = 0; i < 3; ++i) last.send(i);
    last = {};
  });
  std::vector<int> seen;
  for (const int item : rx) seen.push_back(item);
  EXPECT_THAT(seen, ElementsAre(0, 1, 2));
  other.join();
}

TEST(Channel, CloseOfTheReceivingEndSparesItemsUnlessForced) {
  auto [rx, tx] = create_channel<int>({.buffer = 1});
  tx.send(1);
  EXPECT_THROW(rx.close(), pynisher::ChannelNotEmptyError);
  EXPECT_FALSE(rx.is_closed());
  rx.close(true);
  EXPECT_TRUE(rx.is_closed());
  EXPECT_THROW(rx.recv(), pynisher::ChannelClosedError);
  EXPECT_THROW(tx.send(2), pynisher::ChannelClosedError);
  EXPECT_THROW(rx.close(), pynisher::ChannelClosedError);
  EXPECT_THROW(tx.close(), pynisher::ChannelClosedError);
}

TEST(Channel, CloseWakesThoseWhoWait) {
  auto [rx, tx] = create_channel<int>();
  std::thread sends([tx]() mutable { EXPECT_THROW(tx.send(1), pynisher::ChannelClosedError); });
  ASSERT_EQ(pynisher::select(1h, rx), 0u);
  rx.close(true);
  sends.join();

  auto [r2, t2] = create_channel<int>();
  std::thread receives([r2]() mutable { EXPECT_THROW(r2.recv(), pynisher::ChannelClosedError); });
  std::thread selects([r2] { EXPECT_EQ(pynisher::select(1h, r2), 0u); });
  t2.close();
  receives.join();
  selects.join();
}

TEST(Channel, PoisonReachesBothEndsAndThoseWhoWait) {
  auto [rx, tx] = create_channel<int>({.buffer = 4});
  tx.send(1);
  rx.poison();
  EXPECT_THROW(rx.recv(), pynisher::ChannelPoisonedError);
  EXPECT_THROW(tx.send(1), pynisher::ChannelPoisonedError);
  EXPECT_TRUE(rx.is_closed());
  auto [r2, t2] = create_channel<int>();
  std::thread waits([r2]() mutable { EXPECT_THROW(r2.recv(), pynisher::ChannelPoisonedError); });
  t2.poison();
  waits.join();
}

TEST(Channel, ReleaseIsIdempotentAndBlocksLaterUse) {
  auto [rx, tx] = create_channel<int>();
  EXPECT_TRUE(tx.release());
  EXPECT_FALSE(tx.release());
  EXPECT_THROW(tx.send(1), pynisher::ChannelReleasedError);
  EXPECT_THAT(tx.isolates(), IsEmpty());
  EXPECT_THAT(rx.isolates(), ElementsAre(0));
  EXPECT_FALSE(rx.is_closed());
  EXPECT_TRUE(rx.release());
  EXPECT_THROW(rx.recv(), pynisher::ChannelClosedError);
}

TEST(Channel, SelectGivesTheIndexOfAReadyOne) {
  auto [a, ta] = create_channel<int>({.buffer = 1});
  auto [b, tb] = create_channel<std::string>({.buffer = 1});
  EXPECT_EQ(pynisher::select(1ms, a, b), std::nullopt);
  tb.send("spam");
  EXPECT_EQ(pynisher::select(1h, a, b), 1u);
  EXPECT_EQ(b.recv(), "spam");
  std::thread later([ta]() mutable { ta.send(1); });
  EXPECT_EQ(pynisher::select(1h, a, b), 0u);
  later.join();
}

struct holding_item {
  receiver<holding_item> end;
  pynisher::shared_fd file;
  template <class Archive>
  void serialize(Archive& archive) {
    archive(end, file);
  }
};

TEST(Channel, IsNotKeptByItsOwnItems) {
  const auto before = pynisher::list_all_channels().size();
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  {
    auto [rx, tx] = create_channel<holding_item>({.buffer = 2});
    auto [r2, t2] = create_channel<holding_item>({.buffer = 2});
    tx.send({r2, pynisher::shared_fd(ends[1])});
    t2.send({rx, {}});
    ::close(ends[1]);
  }
  EXPECT_EQ(pynisher::list_all_channels().size(), before);
  char byte;
  EXPECT_EQ(::read(ends[0], &byte, 1), 0);
  ::close(ends[0]);
}

bool is_readable(int descriptor) {
  pollfd watched{descriptor, POLLIN, 0};
  return ::poll(&watched, 1, 0) == 1;
}

TEST(Channel, ItsDescriptorIsReadableWhileThereIsSomething) {
  auto [rx, tx] = create_channel<int>({.buffer = 2});
  const int ready = rx.native_handle();
  EXPECT_EQ(rx.native_handle(), ready);
  EXPECT_FALSE(is_readable(ready));
  tx.send(1);
  tx.send(2);
  EXPECT_TRUE(is_readable(ready));
  rx.recv();
  EXPECT_TRUE(is_readable(ready));
  rx.recv();
  EXPECT_FALSE(is_readable(ready));
  tx.close();
  EXPECT_TRUE(is_readable(ready));
}

TEST(Channel, ItsDescriptorTellsOfOnesOwnRelease) {
  auto [rx, tx] = create_channel<int>({.buffer = 2});
  const int ready = rx.native_handle();
  EXPECT_FALSE(is_readable(ready));
  rx.release();
  EXPECT_TRUE(is_readable(ready)) << "recv would throw at once";
  EXPECT_THROW(rx.recv(), pynisher::ChannelReleasedError);
}

TEST(Channel, ACopyOfTheProgramHasChannelsOfItsOwn) {
  auto [rx, tx] = create_channel<int>({.buffer = 4});
  tx.send(1);
  const pid_t copy = ::fork();
  ASSERT_NE(copy, -1);
  if (copy == 0) {
    int seen = 0;
    try {
      try {
        rx.recv();
      } catch (const pynisher::ChannelError&) {
        seen |= 1;
      }
      auto [own_rx, own_tx] = create_channel<int>({.buffer = 4});
      own_tx.send(2);
      if (own_rx.recv() == 2 && own_rx.id() > rx.id()) seen |= 2;
      const auto by_fork = limit([](sender<int> t) { t.send(3); }, {.context = pynisher::start_method::fork});
      by_fork(own_tx);
      if (own_rx.recv() == 3) seen |= 4;
      try {
        tx.send(4);
      } catch (const pynisher::ChannelError&) {
        seen |= 8;
      }
      auto iso = isolate::create({.limits = {.warnings = false}});
      iso.call([](sender<int> t) { t.send(5); }, own_tx);
      if (own_rx.recv() == 5) seen |= 16;
    } catch (...) {
    }
    ::_exit(seen);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(copy, &status, 0), copy);
  EXPECT_EQ(WEXITSTATUS(status), 31) << status;
  EXPECT_EQ(rx.recv(), 1);
  EXPECT_EQ(rx.try_recv(), std::nullopt);
}

TEST(Channel, IsListedWhileItIsOpen) {
  const auto before = pynisher::list_all_channels().size();
  auto [rx, tx] = create_channel<int>();
  EXPECT_THAT(pynisher::list_all_channels(), testing::Contains(rx.id()));
  tx.release();
  EXPECT_EQ(pynisher::list_all_channels().size(), before + 1);
  rx.close();
  EXPECT_EQ(pynisher::list_all_channels().size(), before);
}

TEST(Channel, EndsAndDescriptorsTravelInItems) {
  auto [rx, tx] = create_channel<std::pair<sender<int>, pynisher::shared_fd>>({.buffer = 1});
  auto [r2, t2] = create_channel<int>({.buffer = 1});
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  tx.send({t2, pynisher::shared_fd(ends[1])});
  t2 = {};
  ::close(ends[1]);
  {
    auto [end, descriptor] = rx.recv();
    end.send(7);
    ASSERT_EQ(::write(descriptor.get(), "x", 1), 1);
  }
  EXPECT_EQ(r2.recv(), 7);
  EXPECT_THROW(r2.recv(), pynisher::ChannelClosedError) << "the sender in the item is gone with it";
  char got[2];
  EXPECT_EQ(::read(ends[0], got, 2), 1);
  EXPECT_EQ(::read(ends[0], got, 2), 0) << "nobody holds the descriptor any more";
  ::close(ends[0]);
}

TEST(Channel, WhatIsDiscardedGivesBackWhatItHolds) {
  auto [r2, t2] = create_channel<int>();
  {
    auto [rx, tx] = create_channel<sender<int>>({.buffer = 1});
    tx.send(t2);
    t2 = {};
    EXPECT_FALSE(r2.is_closed());
    EXPECT_EQ(r2.recv_for(1ms), std::nullopt);
  }
  EXPECT_THROW(r2.recv(), pynisher::ChannelClosedError);
}

TEST(Channel, EachItemIsReceivedOnceAndInOrderPerSender) {
  constexpr int senders = 3, receivers = 3, items = 500;
  for (const std::size_t buffer : {std::size_t{0}, std::size_t{1}, std::size_t{16}}) {
    auto [rx, tx] = create_channel<std::pair<int, int>>({.buffer = buffer});
    std::vector<std::thread> threads;
    std::vector<std::vector<std::pair<int, int>>> seen(receivers);
    for (int who = 0; who < receivers; ++who) {
      threads.emplace_back([&seen, who, rx]() mutable {
        for (const auto& item : rx) seen[static_cast<std::size_t>(who)].push_back(item);
      });
    }
    for (int who = 0; who < senders; ++who) {
      threads.emplace_back([who, tx]() mutable {
        for (int i = 0; i < items; ++i) tx.send({who, i});
      });
    }
    tx = {};
    for (auto& thread : threads) thread.join();
    std::set<std::pair<int, int>> all;
    std::size_t count = 0;
    for (const auto& one : seen) {
      std::map<int, int> last;
      for (const auto& [who, number] : one) {
        if (last.contains(who)) {
          ASSERT_GT(number, last[who]);
        }
        last[who] = number;
        all.emplace(who, number);
        ++count;
      }
    }
    EXPECT_EQ(all.size(), static_cast<std::size_t>(senders * items));
    EXPECT_EQ(count, all.size());
  }
}

// --- with other processes
// -----------------------------------------------------------------------------------------------

class ChannelBetweenProcesses : public support::per_start_method {
 protected:
  [[nodiscard]] static isolate made() {
    return isolate::create({.limits = {.warnings = false}, .context = GetParam()});
  }
};
FOR_EACH_START_METHOD(ChannelBetweenProcesses);

void send_seven(sender<int> t) { t.send(7); }
int receive_one(receiver<int> r) { return r.recv(); }
void echo(receiver<int> r, sender<int> t) {
  for (const int item : r) t.send(item + 1);
  t.close();
}

TEST_P(ChannelBetweenProcesses, AnIsolateSends) {
  auto iso = made();
  auto [rx, tx] = create_channel<int>();
  auto pending = iso.start(send_seven, tx);
  EXPECT_EQ(rx.recv(), 7);
  pending.get();
}

TEST_P(ChannelBetweenProcesses, AnIsolateReceives) {
  auto iso = made();
  auto [rx, tx] = create_channel<int>();
  auto pending = iso.start(receive_one, rx);
  tx.send(8);
  EXPECT_EQ(pending.get(), 8);
}

TEST_P(ChannelBetweenProcesses, ALimitedCallSendsAndReceives) {
  auto [rx, tx] = create_channel<int>({.buffer = 4});
  auto [r2, t2] = create_channel<int>({.buffer = 4});
  const auto echoes = limit(echo, unlimited());
  auto pending = echoes.start(rx, t2);
  for (int i = 0; i < 100; ++i) {
    tx.send(i);
    ASSERT_EQ(r2.recv(), i + 1);
  }
  tx.close();
  pending.get();
  EXPECT_THROW(r2.recv(), pynisher::ChannelClosedError);
}

receiver<int> make_one() {
  auto [rx, tx] = create_channel<int>({.buffer = 2});
  tx.send(5);
  return rx;
}

TEST_P(ChannelBetweenProcesses, AnEndMadeInACallIsItsResult) {
  receiver<int> rx = limit(make_one, unlimited())();
  EXPECT_EQ(rx.recv(), 5);
  EXPECT_THROW(rx.recv(), pynisher::ChannelClosedError);
  auto iso = made();
  receiver<int> r2 = iso.call(make_one);
  EXPECT_EQ(r2.recv(), 5);
}

TEST_P(ChannelBetweenProcesses, ThroughThreeIsolates) {
  auto a = made(), b = made();
  auto [r1, t1] = create_channel<int>();
  auto [r2, t2] = create_channel<int>();
  auto [r3, t3] = create_channel<int>();
  auto first = a.start(echo, r1, t2);
  auto second = b.start(echo, r2, t3);
  for (int i = 0; i < 20; ++i) {
    t1.send(i);
    EXPECT_EQ(r3.recv(), i + 2);
  }
  t1.close();
  EXPECT_THROW(r3.recv(), pynisher::ChannelClosedError);
  first.get();
  second.get();
}

int ask_within(sender<sender<int>> requests) {
  auto [rx, tx] = create_channel<int>();
  requests.send(tx);
  return rx.recv();
}

TEST_P(ChannelBetweenProcesses, AnEndTravelsOverAChannel) {
  auto iso = made();
  auto [rx, tx] = create_channel<sender<int>>();
  auto pending = iso.start(ask_within, tx);
  rx.recv().send(9);
  EXPECT_EQ(pending.get(), 9);
}

TEST_P(ChannelBetweenProcesses, IsolatesAreListedByEnd) {
  auto iso = made();
  auto [rx, tx] = create_channel<int>();
  auto [gate, open] = create_channel<int>();
  auto pending = iso.start(
      [](sender<int> t, receiver<int> g) {
        g.recv();
        t.send(1);
      },
      tx, gate);
  open.send(1);
  EXPECT_THAT(tx.isolates(), UnorderedElementsAre(0, iso.id()));
  EXPECT_THAT(rx.isolates(), ElementsAre(0));
  rx.recv();
  pending.get();
}

/// In the place of an item whose isolate has ended.
void expect_what_is_left(receiver<int>& rx, pynisher::unbound policy) {
  switch (policy) {
    case pynisher::unbound::sentinel:
      EXPECT_EQ(rx.take(), std::nullopt);
      break;
    case pynisher::unbound::error:
      EXPECT_THROW(static_cast<void>(rx.take()), pynisher::ItemOwnerDestroyed);
      break;
    case pynisher::unbound::remove:
      break;
  }
}

TEST_P(ChannelBetweenProcesses, ItemsOfAnIsolateThatEndsFollowThePolicy) {
  for (const auto policy : {pynisher::unbound::sentinel, pynisher::unbound::error, pynisher::unbound::remove}) {
    auto [rx, tx] = create_channel<int>({.buffer = 8, .unbound = policy});
    tx.send(1);
    {
      auto iso = made();
      iso.call(send_seven, tx);
      iso.close();
    }
    tx.send(2);
    EXPECT_EQ(rx.recv(), 1);
    // close() is back when that has come to the exchange.
    expect_what_is_left(rx, policy);
    EXPECT_EQ(rx.recv(), 2);
  }
}

TEST_P(ChannelBetweenProcesses, ItemsThatAnIsolateWaitsForFollowThePolicy) {
  for (const auto policy : {pynisher::unbound::sentinel, pynisher::unbound::error, pynisher::unbound::remove}) {
    auto iso = made();
    auto [rx, tx] = create_channel<int>({.unbound = policy});
    auto pending = iso.start(send_seven, std::exchange(tx, {}));
    ASSERT_EQ(pynisher::select(1h, rx), 0u);
    iso.kill();
    expect_what_is_left(rx, policy);
    EXPECT_THROW(rx.recv(), pynisher::ChannelClosedError);
    EXPECT_THROW(pending.get(), pynisher::IsolateDiedError);
  }
}

/// A call that the caller drops its own ends after: they are the call's from the start.
TEST_P(ChannelBetweenProcesses, EndsAmongArgumentsAreTheCallsFromTheStart) {
  int gate[2];
  ASSERT_EQ(::pipe2(gate, O_CLOEXEC), 0);
  const auto wait_and_send = [](const std::vector<sender<int>>& to, pynisher::shared_fd until) {
    char byte;
    while (::read(until.get(), &byte, 1) < 0) {
    }
    for (sender<int> one : to) one.send(7);
  };
  const auto by_limit = limit(wait_and_send, unlimited());
  auto iso = made();
  for (const bool in_isolate : {false, true}) {
    auto [rx, tx] = create_channel<int>({.buffer = 4});
    auto [other, to_other] = create_channel<int>({.buffer = 4});
    const pynisher::shared_fd until(gate[0]);
    std::vector<sender<int>> ends{tx, to_other, tx};
    tx = to_other = {};
    auto pending = in_isolate ? iso.start(wait_and_send, std::exchange(ends, {}), until)
                              : by_limit.start(std::exchange(ends, {}), until);
    EXPECT_EQ(rx.try_recv(), std::nullopt);
    EXPECT_EQ(other.try_recv(), std::nullopt);
    ASSERT_EQ(::write(gate[1], "x", 1), 1);
    EXPECT_EQ(rx.recv(), 7);
    EXPECT_EQ(other.recv(), 7);
    EXPECT_EQ(rx.recv(), 7);
    pending.get();
    EXPECT_THROW(rx.recv(), pynisher::ChannelClosedError);
  }
  ::close(gate[0]);
  ::close(gate[1]);
}

TEST_P(ChannelBetweenProcesses, AStartedCallReleasesItsOwnEnd) {
  int gate[2];
  ASSERT_EQ(::pipe2(gate, O_CLOEXEC), 0);
  auto [rx, tx] = create_channel<int>({.buffer = 4});
  auto pending = limit(
                     [](sender<int> t, pynisher::shared_fd until) {
                       t.send(1);
                       t.release();
                       char byte;
                       while (::read(until.get(), &byte, 1) < 0) {
                       }
                     },
                     unlimited())
                     .start(std::exchange(tx, {}), pynisher::shared_fd(gate[0]));
  EXPECT_EQ(rx.recv(), 1);
  EXPECT_THROW(rx.recv(), pynisher::ChannelClosedError) << "while the call goes on";
  ASSERT_EQ(::write(gate[1], "x", 1), 1);
  pending.get();
  ::close(gate[0]);
  ::close(gate[1]);
}

/// What has been given back by then is no answer to what is asked next.
TEST_P(ChannelBetweenProcesses, AnIsolateHandsEndsOnToItsOwn) {
  auto outer = made();
  EXPECT_EQ(outer.call([] {
    auto [rx, tx] = create_channel<int>({.buffer = 4});
    auto inner = isolate::create();
    int sum = 0;
    for (int i = 0; i < 5; ++i) {
      inner.call([](sender<int> t) { t.send(1); }, tx);
      sum += rx.recv();
      tx.send(2);
      sum += rx.recv();
    }
    return sum;
  }),
            15);
}

TEST_P(ChannelBetweenProcesses, ItemsOfALimitedCallStay) {
  auto [rx, tx] = create_channel<int>({.buffer = 8});
  limit(send_seven, unlimited())(tx);
  EXPECT_EQ(rx.recv(), 7);
}

TEST_P(ChannelBetweenProcesses, TheDeathOfTheOnlySenderIsTold) {
  auto [rx, tx] = create_channel<int>();
  auto iso = made();
  auto pending = iso.start(
      [](sender<int> t) {
        t.send(1);
        ::raise(SIGKILL);
      },
      std::exchange(tx, {}));
  EXPECT_EQ(rx.recv(), 1);
  EXPECT_THROW(rx.recv(), pynisher::ChannelClosedError);
  EXPECT_THROW(pending.get(), pynisher::IsolateDiedError);
}

TEST_P(ChannelBetweenProcesses, ARefusedCallGivesItsEndsBack) {
  auto [rx, tx] = create_channel<int>();
  auto iso = made();
  auto [gate, open] = create_channel<int>();
  auto busy = iso.start(receive_one, gate);
  EXPECT_THROW(iso.call(send_seven, std::exchange(tx, {})), pynisher::IsolateError);
  EXPECT_THROW(rx.recv(), pynisher::ChannelClosedError);
  open.send(1);
  busy.get();
}

TEST_P(ChannelBetweenProcesses, ErrorsArriveAsThemselves) {
  auto [rx, tx] = create_channel<int>();
  rx.close();
  EXPECT_THROW(limit(send_seven, unlimited())(tx), pynisher::ChannelClosedError);
}

TEST_P(ChannelBetweenProcesses, NamesHoldEnds) {
  auto iso = made();
  auto [rx, tx] = create_channel<int>({.buffer = 4});
  iso.set("tx", tx);
  for (int i = 0; i < 2; ++i) iso.call([] { isolate::current().get<sender<int>>("tx").send(3); });
  EXPECT_EQ(rx.recv(), 3);
  EXPECT_EQ(rx.recv(), 3);
}

TEST_P(ChannelBetweenProcesses, NestedCallsReachTheSameChannels) {
  auto [rx, tx] = create_channel<int>({.buffer = 4});
  limit(
      [](sender<int> t, pynisher::start_method method) {
        limit([](sender<int> inner) { inner.send(4); }, {.context = method, .warnings = false})(t);
      },
      unlimited())(tx, GetParam());
  EXPECT_EQ(rx.recv(), 4);
}

TEST_P(ChannelBetweenProcesses, ManyThreadsOfAnIsolateAtOnce) {
  auto iso = made();
  auto [rx, tx] = create_channel<int>();
  constexpr int many = 40;
  auto pending = iso.start(
      [](sender<int> t) {
        std::vector<std::thread> threads;
        for (int i = 0; i < many; ++i) threads.emplace_back([t, i]() mutable { t.send(i); });
        for (auto& thread : threads) thread.join();
      },
      tx);
  std::set<int> seen;
  for (int i = 0; i < many; ++i) seen.insert(rx.recv());
  EXPECT_EQ(seen.size(), static_cast<std::size_t>(many));
  pending.get();
}

TEST_P(ChannelBetweenProcesses, SelectsAndPollsThere) {
  auto iso = made();
  auto [a, ta] = create_channel<int>({.buffer = 1});
  auto [b, tb] = create_channel<int>({.buffer = 1});
  auto [done, told] = create_channel<int>();
  auto pending = iso.start(
      [](receiver<int> one, receiver<int> two, sender<int> t) {
        const auto first = pynisher::select(1h, one, two);
        t.send(static_cast<int>(*first));
        pollfd watched{one.native_handle(), POLLIN, 0};
        ::poll(&watched, 1, -1);
        t.send(one.recv_nowait());
      },
      a, b, told);
  tb.send(1);
  EXPECT_EQ(done.recv(), 1);
  ta.send(6);
  EXPECT_EQ(done.recv(), 6);
  pending.get();
}

std::string what_is_said(const std::function<void()>& of) {
  try {
    of();
  } catch (const pynisher::ChannelError& e) {
    return e.what();
  }
  return "nothing";
}

TEST_P(ChannelBetweenProcesses, WhoeverHasAsMuchAsOneMayIsToldOfWhat) {
  auto iso = made();
  EXPECT_THAT(iso.call([] {
    return what_is_said([] {
      std::vector<receiver<int>> all;
      for (int i = 0; i < 1000; ++i) {
        all.push_back(create_channel<int>().first);
        static_cast<void>(all.back().native_handle());
      }
    });
  }),
              HasSubstr("native handles of 64 channels"));
  EXPECT_THAT(iso.call([] {
    return what_is_said([] {
      auto [rx, tx] = create_channel<pynisher::shared_buffer>(pynisher::unbounded);
      for (int i = 0; i < 1000; ++i) tx.send(pynisher::shared_buffer(1));
    });
  }),
              HasSubstr("256 buffers and descriptors"));
}

TEST_P(ChannelBetweenProcesses, HandlesOfWhatIsGoneDoNotCount) {
  auto [ends, more] = create_channel<receiver<int>>(pynisher::unbounded);
  std::vector<sender<int>> kept;
  for (int i = 0; i < 200; ++i) {
    auto [rx, tx] = create_channel<int>({.buffer = 1});
    more.send(rx);
    kept.push_back(tx);
  }
  auto iso = made();
  EXPECT_EQ(iso.call(
                [](receiver<receiver<int>> from) {
                  int had = 0;
                  while (auto rx = from.try_recv()) had += rx->native_handle() >= 0 ? 1 : 0;
                  return had;
                },
                ends),
            200);
}

TEST_P(ChannelBetweenProcesses, OneThreadMoreThanMayWaitIsTold) {
  SKIP_UNDER_SANITIZER("hundreds of threads at once take it too long");
  auto iso = made();
  auto [rx, tx] = create_channel<int>();
  const auto said = iso.call(
      [](receiver<int> r) {
        auto refused = std::make_shared<std::promise<std::string>>();
        auto is_first = std::make_shared<std::once_flag>();
        for (int i = 0; i < 600; ++i) {
          std::thread([=]() mutable {
            const std::string why = what_is_said([&] { r.recv(); });
            std::call_once(*is_first, [&] { refused->set_value(why); });
          }).detach();
        }
        return refused->get_future().get();
      },
      rx);
  EXPECT_THAT(said, HasSubstr("512 threads of this process wait"));
  iso.kill();
}

TEST_P(ChannelBetweenProcesses, ItsDescriptorThereTellsOfItsRelease) {
  auto iso = made();
  auto [rx, tx] = create_channel<int>();
  EXPECT_TRUE(iso.call(
      [](receiver<int> r) {
        const int ready = r.native_handle();
        if (is_readable(ready)) return false;
        r.release();
        return is_readable(ready);
      },
      rx));
  EXPECT_FALSE(is_readable(rx.native_handle())) << "it is that process which has released it";
}

TEST_P(ChannelBetweenProcesses, ASendThereThatTimesOutIsWithdrawn) {
  auto [rx, tx] = create_channel<int>();
  auto iso = made();
  EXPECT_FALSE(iso.call([](sender<int> t) { return t.send_for(5ms, 1); }, tx));
  EXPECT_EQ(rx.try_recv(), std::nullopt);
}

TEST_P(ChannelBetweenProcesses, LargeItemsArriveWhole) {
  auto [rx, tx] = create_channel<std::vector<int>>();
  auto [r2, t2] = create_channel<std::vector<int>>();
  auto iso = made();
  auto pending = iso.start(
      [](receiver<std::vector<int>> r, sender<std::vector<int>> t) {
        auto values = r.recv();
        for (int& value : values) ++value;
        t.send(values);
      },
      rx, t2);
  std::vector<int> values(3'000'000);
  std::iota(values.begin(), values.end(), 0);
  tx.send(values);
  const auto back = r2.recv();
  ASSERT_EQ(back.size(), values.size());
  for (std::size_t i = 0; i < back.size(); ++i) ASSERT_EQ(back[i], static_cast<int>(i) + 1);
  pending.get();
}

}  // namespace
