// Queues: within the program, and with isolates and limited calls by every start method.

#include <poll.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::create_queue;
using pynisher::isolate;
using pynisher::limit;
using pynisher::queue;

TEST(Queue, IsFirstInFirstOut) {
  auto q = create_queue<std::string>();
  EXPECT_TRUE(q.empty());
  q.put("spam");
  q.put_nowait("eggs");
  EXPECT_EQ(q.qsize(), 2u);
  EXPECT_EQ(q.get(), "spam");
  EXPECT_EQ(q.get_nowait(), "eggs");
  EXPECT_THROW(q.get_nowait(), pynisher::QueueEmpty);
  EXPECT_EQ(q.get_for(1ms), std::nullopt);
}

TEST(Queue, KnowsItsSize) {
  auto endless = create_queue<int>();
  EXPECT_EQ(endless.maxsize(), 0u);
  EXPECT_FALSE(endless.full());
  EXPECT_EQ(create_queue<int>(-3).maxsize(), 0u);
  auto two = create_queue<int>(2);
  EXPECT_EQ(two.maxsize(), 2u);
  two.put(1);
  EXPECT_FALSE(two.full());
  two.put(2);
  EXPECT_TRUE(two.full());
  EXPECT_FALSE(two.empty());
}

TEST(Queue, AFullOneTakesNoMore) {
  auto q = create_queue<int>(1);
  q.put(1);
  EXPECT_THROW(q.put_nowait(2), pynisher::QueueFull);
  EXPECT_FALSE(q.put_for(1ms, 2));
  EXPECT_EQ(q.qsize(), 1u);
  EXPECT_TRUE(q.get_for(1h) == 1);
  EXPECT_TRUE(q.put_for(0ms, 3));
  EXPECT_EQ(q.get(), 3);
}

TEST(Queue, PutWaitsForRoomAndGetForAnItem) {
  auto q = create_queue<int>(1);
  constexpr int many = 2000;
  std::thread producer([q]() mutable {
    for (int i = 0; i < many; ++i) q.put(i);
  });
  for (int i = 0; i < many; ++i) ASSERT_EQ(q.get(), i);
  producer.join();
}

TEST(Queue, IsEqualByIdAndHashable) {
  auto a = create_queue<int>(), b = create_queue<int>();
  EXPECT_EQ(a, queue<int>(a));
  EXPECT_NE(a, b);
  EXPECT_LT(a.id(), b.id());
  EXPECT_EQ((std::unordered_set<queue<int>>{a, b, a}.size()), 2u);
}

TEST(Queue, AHandleOfNoQueueSaysSo) {
  queue<int> none;
  EXPECT_THROW(none.put(1), pynisher::QueueNotFoundError);
  EXPECT_THROW(none.get(), pynisher::QueueNotFoundError);
  EXPECT_THROW(static_cast<void>(none.qsize()), pynisher::QueueNotFoundError);
}

TEST(Queue, TravelsInItselfsLikes) {
  auto outer = create_queue<queue<int>>();
  auto inner = create_queue<int>();
  outer.put(inner);
  outer.get().put(3);
  EXPECT_EQ(inner.get(), 3);
}

TEST(Queue, ItsDescriptorIsReadableWhileThereIsSomething) {
  auto q = create_queue<int>();
  pollfd watched{q.native_handle(), POLLIN, 0};
  EXPECT_EQ(::poll(&watched, 1, 0), 0);
  q.put(1);
  EXPECT_EQ(::poll(&watched, 1, 0), 1);
  q.get();
  EXPECT_EQ(::poll(&watched, 1, 0), 0);
}

class QueueBetweenProcesses : public support::per_start_method {
 protected:
  [[nodiscard]] static isolate made() {
    return isolate::create({.limits = {.warnings = false}, .context = GetParam()});
  }
};
FOR_EACH_START_METHOD(QueueBetweenProcesses);

void count_lengths(queue<std::string> in, queue<int> out) {
  for (;;) {
    const std::string item = in.get();
    if (item.empty()) return;
    out.put(static_cast<int>(item.size()));
  }
}

TEST_P(QueueBetweenProcesses, CarriesWorkAndResults) {
  auto iso = made();
  auto work = create_queue<std::string>(4);
  auto done = create_queue<int>();
  auto pending = iso.start(count_lengths, work, done);
  for (int i = 1; i <= 100; ++i) work.put(std::string(static_cast<std::size_t>(i), 'x'));
  for (int i = 1; i <= 100; ++i) ASSERT_EQ(done.get(), i);
  work.put("");
  pending.get();
}

TEST_P(QueueBetweenProcesses, WhatALimitedCallHasPutStays) {
  auto q = create_queue<int>();
  limit(
      [](queue<int> to) {
        to.put(1);
        to.put(2);
      },
      unlimited())(q);
  EXPECT_EQ(q.get(), 1);
  EXPECT_EQ(q.get(), 2);
  EXPECT_TRUE(q.empty());
}

TEST_P(QueueBetweenProcesses, ComesBackAsAResult) {
  auto q = limit(
      [] {
        auto made_there = create_queue<int>(5);
        made_there.put(1);
        return made_there;
      },
      unlimited())();
  EXPECT_EQ(q.maxsize(), 5u);
  EXPECT_EQ(q.get(), 1);
}

TEST_P(QueueBetweenProcesses, ItemsOfAnIsolateThatEndsFollowThePolicy) {
  for (const auto policy : {pynisher::unbound::sentinel, pynisher::unbound::error, pynisher::unbound::remove}) {
    auto q = create_queue<int>(0, policy);
    {
      auto iso = made();
      iso.call(
          [](queue<int> to) {
            to.put(1);
            to.put(2);
          },
          q);
    }
    q.put(3);
    if (policy == pynisher::unbound::sentinel) {
      EXPECT_EQ(q.take(), std::nullopt);
      EXPECT_THROW(q.get(), pynisher::ItemOwnerDestroyed);
    } else if (policy == pynisher::unbound::error) {
      EXPECT_THROW(static_cast<void>(q.take()), pynisher::ItemOwnerDestroyed);
      EXPECT_THROW(static_cast<void>(q.get_for(1h)), pynisher::ItemOwnerDestroyed);
    }
    EXPECT_EQ(q.take(), 3);
  }
}

TEST_P(QueueBetweenProcesses, EachItemGoesToOneOfManyConsumers) {
  auto work = create_queue<int>(8), done = create_queue<int>();
  std::vector<isolate> isolates;
  std::vector<pynisher::call<void>> pending;
  for (int i = 0; i < 3; ++i) {
    isolates.push_back(made());
    pending.push_back(isolates.back().start(
        [](queue<int> in, queue<int> out) {
          for (int item = in.get(); item >= 0; item = in.get()) out.put(item);
        },
        work, done));
  }
  constexpr int many = 300;
  for (int i = 0; i < many; ++i) work.put(i);
  std::multiset<int> seen;
  for (int i = 0; i < many; ++i) seen.insert(done.get());
  for (int i = 0; i < 3; ++i) work.put(-1);
  for (auto& one : pending) one.get();
  for (int i = 0; i < many; ++i) EXPECT_EQ(seen.count(i), 1u) << i;
}

TEST_P(QueueBetweenProcesses, GetForThereComesBackInTime) {
  auto q = create_queue<int>();
  EXPECT_FALSE(limit([](queue<int> from) { return from.get_for(5ms).has_value(); }, unlimited())(q));
  q.put(1);
  EXPECT_EQ(q.get(), 1);
}

TEST_P(QueueBetweenProcesses, ErrorsArriveAsThemselves) {
  auto q = create_queue<int>(1);
  q.put(1);
  EXPECT_THROW(limit([](queue<int> to) { to.put_nowait(2); }, unlimited())(q), pynisher::QueueFull);
  EXPECT_THROW(limit(
                   [](queue<int> from) {
                     from.get();
                     from.get_nowait();
                   },
                   unlimited())(q),
               pynisher::QueueEmpty);
}

}  // namespace
