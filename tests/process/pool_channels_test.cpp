// Ends of channels, queues, buffers and descriptors that go to workers, and come from them, in whatever way.

#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstddef>
#include <ranges>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/pynisher.hpp>

#include "support/pools.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::create_channel;
using pynisher::create_queue;
using pynisher::make_pool;
using pynisher::pool_executor;
using pynisher::queue;
using pynisher::receiver;
using pynisher::sender;
using pynisher::shared_buffer;
using pynisher::shared_fd;
using pynisher::unbounded;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAreArray;

/// When a test is over, and its pools with it, nobody holds anything any more.
class PoolMail : public support::per_kind_of_worker {
 protected:
  void TearDown() override { EXPECT_THAT(pynisher::list_all_channels(), IsEmpty()); }
};
FOR_EACH_KIND_OF_WORKER(PoolMail);
class PoolMailOfTheDead : public PoolMail {};
FOR_EACH_KIND_OF_PROCESS(PoolMailOfTheDead);

template <class T>
std::vector<T> all_of(receiver<T>& from) {
  std::vector<T> all;
  for (const T& one : from) all.push_back(one);
  return all;
}

int send_on(std::pair<int, sender<int>> what) {
  what.second.send(what.first);
  return what.first;
}

/// Numbers, each with a hold of the same end; the caller has none.
std::vector<std::pair<int, sender<int>>> with_ends(const sender<int>& to, int count) {
  std::vector<std::pair<int, sender<int>>> items;
  for (int i = 0; i < count; ++i) items.emplace_back(i, to);
  return items;
}

// --- maps ---------------------------------------------------------------------------------------------------------

TEST_P(PoolMail, ItemsHoldEnds) {
  for (const unsigned retries : {0u, 1u}) {
    for (const std::size_t chunk : {1u, 4u}) {
      auto pool = make_pool(with({.workers = 2, .chunk = chunk, .retries = retries}), &send_on);
      auto [rx, tx] = create_channel<int>(unbounded);
      auto items = with_ends(std::exchange(tx, {}), 20);
      int next = 0;
      for (auto&& one : pool.map(items)) EXPECT_EQ(one.value(), next++);
      EXPECT_EQ(next, 20);
      items.clear();
      // It ends once the last of those has gone that the workers had.
      const auto came = all_of(rx);
      EXPECT_EQ(std::set(came.begin(), came.end()).size(), 20u);
      EXPECT_EQ(came.size(), 20u);
    }
  }
}

receiver<int> give_by_channel(int n) {
  auto [rx, tx] = create_channel<int>({.buffer = 1});
  tx.send(n);
  return rx;
}

TEST_P(PoolMail, ResultsHoldEnds) {
  for (const std::size_t chunk : {1u, 4u}) {
    auto pool = make_pool(with({.workers = 2, .chunk = chunk}), &give_by_channel);
    int next = 0;
    for (auto&& one : pool.map(std::views::iota(0, 20))) EXPECT_EQ(one.value().recv(), next++);
    EXPECT_EQ(next, 20);
  }
}

TEST_P(PoolMail, ResultsThatNobodyReadsAreNobodys) {
  auto pool = make_pool(with({.workers = 2, .window = 20}), &give_by_channel);
  auto results = pool.map(std::views::iota(0, 100), pynisher::order::completion);
  static_cast<void>(results.begin());
}

TEST_P(PoolMail, AMapThatIsDroppedGivesBackWhatItsItemsHold) {
  auto pool = make_pool(with({.workers = 2, .chunk = 3, .window = 60}), &send_on);
  auto [rx, tx] = create_channel<int>(unbounded);
  auto items = with_ends(std::exchange(tx, {}), 1000);
  {
    auto results = pool.map(items);
    EXPECT_EQ(results.begin()->value(), 0);
  }
  items.clear();
  // Every item that was begun has sent, once; then nobody can any more.
  auto came = all_of(rx);
  std::ranges::sort(came);
  EXPECT_EQ(std::ranges::adjacent_find(came), came.end());
  EXPECT_FALSE(came.empty());
}

int fill(shared_buffer buffer, shared_fd out, int with) {
  std::ranges::fill(buffer, static_cast<std::byte>(with));
  return static_cast<int>(::write(out.get(), "x", 1));
}

TEST_P(PoolMail, ItemsHoldBuffersAndDescriptors) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const auto in = shared_fd::adopt(ends[0]);
  std::vector<std::tuple<shared_buffer, shared_fd, int>> items;
  {
    const auto out = shared_fd::adopt(ends[1]);
    for (int i = 1; i <= 5; ++i) items.emplace_back(shared_buffer(1000), out, i);
  }
  {
    auto pool = make_pool(with({.workers = 2, .passing = pynisher::passing::unpack}), &fill);
    for (auto&& one : pool.map(items)) EXPECT_EQ(one.value(), 1);
  }
  for (const auto& [buffer, out, number] : items) {
    EXPECT_TRUE(std::ranges::all_of(buffer, [n = number](std::byte one) { return one == static_cast<std::byte>(n); }));
  }
  items.clear();
  std::array<char, 10> came{};
  EXPECT_EQ(::read(in.get(), came.data(), came.size()), 5);
  EXPECT_EQ(::read(in.get(), came.data(), came.size()), 0) << "somebody still has the other end";
}

// --- constructors -------------------------------------------------------------------------------------------------

struct teller {
  teller(sender<std::string> all, sender<int> own) : all_(std::move(all)), own_(std::move(own)) {}
  int operator()(int n) {
    all_.send("spam");
    own_.send(n);
    return n;
  }
  sender<std::string> all_;
  sender<int> own_;
};

TEST_P(PoolMail, WorkersAreMadeOfEnds) {
  auto [rx, tx] = create_channel<std::string>(unbounded);
  auto [rx0, tx0] = create_channel<int>(unbounded);
  auto [rx1, tx1] = create_channel<int>(unbounded);
  std::vector<int> of_worker[2];
  {
    pynisher::worker_pool<teller> pool(with({.workers = 2}), pynisher::shared(std::exchange(tx, {})),
                                       pynisher::per_worker(std::exchange(tx0, {}), std::exchange(tx1, {})));
    for (auto&& one : pool.map(std::views::iota(0, 20))) of_worker[one.worker()].push_back(one.value());
  }
  EXPECT_EQ(all_of(rx).size(), 20u);
  // In another order where an item was moved from one to the other.
  EXPECT_THAT(all_of(rx0), UnorderedElementsAreArray(of_worker[0]));
  EXPECT_THAT(all_of(rx1), UnorderedElementsAreArray(of_worker[1]));
}

// --- executors ------------------------------------------------------------------------------------------------------

TEST_P(PoolMail, TasksAndTheirResultsHoldEnds) {
  pool_executor pool(with({.workers = 2}));
  auto [rx, tx] = create_channel<int>(unbounded);
  std::vector<pynisher::task_future<int>> sent;
  for (int i = 0; i < 10; ++i) sent.push_back(pool.submit(send_on, std::pair(i, tx)));
  tx = {};
  auto came = all_of(rx);
  std::ranges::sort(came);
  EXPECT_THAT(came, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
  for (int i = 0; i < 10; ++i) EXPECT_EQ(sent[static_cast<std::size_t>(i)].get(), i);

  const auto given = pool.submit(give_by_channel, 7);
  EXPECT_EQ(given.then([](receiver<int> from) { return from.recv(); }).get(), 7);
  // Each time anew, and the same channel.
  EXPECT_EQ(given.get(), given.get());
  EXPECT_THROW(given.get().recv(), pynisher::ChannelClosedError);
  for (auto from : pool.map(give_by_channel, std::vector{1, 2})) EXPECT_THAT(from.recv(), testing::AnyOf(1, 2));
}

TEST_P(PoolMail, ATaskThatIsCancelledHoldsNothingAnyMore) {
  auto [wait, go] = create_channel<int>();
  pool_executor pool(with({.workers = 1}));
  const auto first = pool.submit([](receiver<int> from) { return from.recv(); }, wait);
  auto [rx, tx] = create_channel<int>(unbounded);
  const auto second = pool.submit(send_on, std::pair(1, std::exchange(tx, {})));
  EXPECT_TRUE(second.cancel());
  EXPECT_THAT(all_of(rx), IsEmpty());
  go.send(3);
  EXPECT_EQ(first.get(), 3);
}

// --- again and again ------------------------------------------------------------------------------------------------

int throw_at_first(queue<int> tries, sender<int> to) {
  if (tries.get() == 0) throw std::runtime_error("not yet");
  to.send(1);
  return 1;
}

TEST_P(PoolMail, WhatIsRunAgainHoldsTheSameAgain) {
  auto [rx, tx] = create_channel<int>(unbounded);
  auto tries = create_queue<int>();
  for (int i : {0, 0, 1}) tries.put(i);
  std::vector<std::tuple<queue<int>, sender<int>>> items{{tries, tx}};
  tx = {};
  auto pool = make_pool(with({.workers = 1, .passing = pynisher::passing::unpack, .retries = 2}), &throw_at_first);
  for (auto&& one : pool.map(items)) EXPECT_TRUE(one.ok()) << one.what();
  items.clear();
  EXPECT_THAT(all_of(rx), ElementsAre(1));
}

int die_at_first(queue<int> tries, sender<int> to, int number) {
  if (number == 3 && tries.get() == 0) ::raise(SIGKILL);
  to.send(number);
  return number;
}
using tries_and_end = std::tuple<queue<int>, sender<int>, int>;
std::vector<tries_and_end> numbered(const queue<int>& tries, const sender<int>& to, int count) {
  std::vector<tries_and_end> items;
  for (int i = 0; i < count; ++i) items.emplace_back(tries, to, i);
  return items;
}

TEST_P(PoolMailOfTheDead, AnotherWorkerGetsWhatADeadOneHad) {
  for (const std::size_t chunk : {1u, 4u}) {
    auto [rx, tx] = create_channel<int>(unbounded);
    auto tries = create_queue<int>();
    for (int i : {0, 0, 1}) tries.put(i);
    auto items = numbered(tries, std::exchange(tx, {}), 10);
    auto pool = make_pool(with({.workers = 2, .chunk = chunk, .passing = pynisher::passing::unpack, .retries = 2}),
                          &die_at_first);
    int next = 0;
    for (auto&& one : pool.map(items)) EXPECT_EQ(one.value(), next++);
    items.clear();
    auto came = all_of(rx);
    std::ranges::sort(came);
    EXPECT_THAT(came, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
  }
}

TEST_P(PoolMailOfTheDead, OnlyTheItemThatKilledItIsLost) {
  for (const std::size_t chunk : {1u, 4u}) {
    auto [rx, tx] = create_channel<int>(unbounded);
    auto tries = create_queue<int>();
    tries.put(0);
    auto items = numbered(tries, std::exchange(tx, {}), 10);
    auto pool = make_pool(with({.workers = 2, .chunk = chunk, .passing = pynisher::passing::unpack}), &die_at_first);
    for (auto&& one : pool.map(items)) EXPECT_EQ(one.ok(), one.index() != 3) << one.what();
    items.clear();
    auto came = all_of(rx);
    std::ranges::sort(came);
    EXPECT_THAT(came, ElementsAre(0, 1, 2, 4, 5, 6, 7, 8, 9));
  }
}

receiver<int> give_and_keep(int n) {
  static std::vector<sender<int>> kept;
  auto [rx, tx] = create_channel<int>({.buffer = 1});
  tx.send(n);
  kept.push_back(tx);
  return rx;
}

TEST_P(PoolMailOfTheDead, WhatAWorkerHasGivenOutlivesIt) {
  pool_executor pool(with({.workers = 1}));
  const auto given = pool.submit(give_and_keep, 7);
  given.wait();
  EXPECT_THROW(pool.submit([] { ::raise(SIGKILL); }).get(), pynisher::SignalException);
  EXPECT_EQ(given.get().recv(), 7);
  EXPECT_THROW(given.get().recv(), pynisher::ChannelClosedError);
}

receiver<int> give_or_die(int n) {
  if (n == 2) ::raise(SIGKILL);
  return give_and_keep(n);
}

TEST_P(PoolMailOfTheDead, WhatAWorkerHasGivenOutlivesItInAMap) {
  auto pool = make_pool(with({.workers = 1, .chunk = 3}), &give_or_die);
  const auto pid = pool.pids()[0];
  std::vector<int> came;
  for (auto&& one : pool.map(std::views::iota(0, 6))) {
    // The worker has gone by the third item of its first message.
    support::await([&] { return pool.pids()[0] != pid; });
    if (one.ok()) came.push_back(one.value().recv());
  }
  EXPECT_THAT(came, ElementsAre(0, 1, 3, 4, 5));
}

}  // namespace
