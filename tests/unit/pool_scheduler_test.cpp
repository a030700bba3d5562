// Who runs what, without a process: random histories against a model, and the rules one by one.

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pool/scheduler.hpp"

namespace {

using pynisher::detail::job;
using pynisher::detail::pool_hands;
using pynisher::detail::pool_scheduler;
using testing::ElementsAre;
using testing::IsEmpty;

/// Workers that do what they are told, and jobs that are counted.
class world final : public pool_hands {
 public:
  explicit world(const pool_scheduler::rules& by) : rules(by), workers(by.workers), scheduler(by, *this) {}

  struct worker {
    bool starting = false, alive = false, retiring = false, begun = false;
    std::deque<job*> lane;
    std::size_t given = 0;
    unsigned starts = 0;
  };

  void start(unsigned w) override {
    ASSERT_FALSE(workers[w].alive || workers[w].starting);
    workers[w] = {.starting = true,
                  .alive = false,
                  .retiring = false,
                  .begun = false,
                  .lane = {},
                  .given = 0,
                  .starts = workers[w].starts + 1};
  }
  void send(unsigned w, job& what) override {
    ASSERT_TRUE(workers[w].alive && !workers[w].retiring);
    ASSERT_LT(what.ended, what.items) << "a job that is over";
    ASSERT_TRUE(waiting.erase(&what) == 1) << "a job that is somewhere else";
    workers[w].lane.push_back(&what);
    workers[w].given += what.items - what.ended;
    ASSERT_LE(workers[w].lane.size(), rules.depth);
    if (rules.tasks_per_worker != 0 && what.items <= rules.tasks_per_worker) {
      ASSERT_LE(workers[w].given, rules.tasks_per_worker);
    }
    sent.push_back(&what);
  }
  bool take_back(unsigned w, job& what) override {
    EXPECT_EQ(workers[w].lane.back(), &what);
    if (workers[w].lane.size() == 1 && workers[w].begun) return false;
    workers[w].lane.pop_back();
    workers[w].given -= what.items - what.ended;
    waiting.insert(&what);
    return true;
  }
  void retire(unsigned w) override {
    ASSERT_TRUE(workers[w].lane.empty());
    workers[w].retiring = true;
  }
  void give_up(job& what) override {
    // From the backlog, or what a dead worker had.
    waiting.erase(&what);
    given_up.push_back(&what);
  }

  job& make(std::uint32_t items = 1, std::uint64_t owner = 1) {
    jobs.push_back(std::make_unique<job>());
    jobs.back()->items = items;
    jobs.back()->owner = owner;
    waiting.insert(jobs.back().get());
    return *jobs.back();
  }
  job& submit(std::uint32_t items = 1, std::uint64_t owner = 1) {
    job& made = make(items, owner);
    scheduler.submit(made);
    return made;
  }
  void is_ready(unsigned w) {
    workers[w].starting = false;
    workers[w].alive = true;
    scheduler.ready(w);
  }
  void all_ready() {
    scheduler.open();
    for (unsigned w = 0; w < workers.size(); ++w) is_ready(w);
  }
  void begin(unsigned w) { workers[w].begun = true; }
  bool end_item(unsigned w) {
    job* const first = workers[w].lane.front();
    const bool last = first->ended + 1 == first->items;
    workers[w].begun = false;
    if (last) workers[w].lane.pop_front();
    if (last) over.insert(first);
    const bool said = scheduler.item_ended(w);
    EXPECT_EQ(said, last);
    return last;
  }
  bool seems_stuck(unsigned w) { return scheduler.stuck(w); }
  pool_scheduler::death die(unsigned w) {
    auto& one = workers[w];
    const bool begun = one.begun;
    for (job* what : one.lane) waiting.insert(what);
    one.lane.clear();
    one.alive = one.begun = one.retiring = false;
    const auto death = scheduler.ended(w, begun);
    if (death.over) {
      waiting.erase(death.charged);
      over.insert(death.charged);
    }
    return death;
  }
  /// Where a job is: exactly one place.
  void check() {
    for (const auto& one : jobs) {
      int places = static_cast<int>(waiting.count(one.get()) + over.count(one.get()));
      places += static_cast<int>(std::count(given_up.begin(), given_up.end(), one.get()));
      for (const worker& w : workers) places += static_cast<int>(std::count(w.lane.begin(), w.lane.end(), one.get()));
      ASSERT_EQ(places, 1);
    }
    for (unsigned w = 0; w < workers.size(); ++w) {
      ASSERT_EQ(std::vector<job*>(scheduler.lane(w).begin(), scheduler.lane(w).end()),
                std::vector<job*>(workers[w].lane.begin(), workers[w].lane.end()));
    }
    ASSERT_EQ(scheduler.backlog(), waiting.size());
    // Nobody is idle while something waits, but for those that have had enough.
    if (!waiting.empty() && rules.tasks_per_worker == 0 && !scheduler.is_stopped()) {
      for (const worker& w : workers) ASSERT_TRUE(!w.alive || w.retiring || w.lane.size() == rules.depth);
    }
  }

  const pool_scheduler::rules rules;
  std::vector<worker> workers;
  std::vector<std::unique_ptr<job>> jobs;
  std::set<job*> waiting, over;
  std::vector<job*> given_up, sent;
  pool_scheduler scheduler;
};

TEST(PoolScheduler, NothingIsSentBeforeAWorkerIsReady) {
  world pool({.workers = 2});
  pool.scheduler.open();
  job& first = pool.submit();
  EXPECT_THAT(pool.sent, IsEmpty());
  pool.is_ready(1);
  EXPECT_THAT(pool.sent, ElementsAre(&first));
  EXPECT_THAT(pool.workers[1].lane, ElementsAre(&first));
}

TEST(PoolScheduler, WhoHasLeastIsGivenTheNext) {
  world pool({.workers = 2, .depth = 3});
  pool.all_ready();
  for (int i = 0; i < 4; ++i) pool.submit();
  EXPECT_EQ(pool.workers[0].lane.size(), 2u);
  EXPECT_EQ(pool.workers[1].lane.size(), 2u);
}

TEST(PoolScheduler, WorkBehindALongJobGoesToWhoeverIsIdle) {
  world pool({.workers = 2});
  pool.all_ready();
  job& slow = pool.submit();
  pool.submit();
  job& behind = pool.submit();
  pool.submit();
  ASSERT_THAT(pool.workers[0].lane, ElementsAre(&slow, &behind));
  pool.begin(0);
  pool.begin(1);
  pool.end_item(1);
  pool.begin(1);
  pool.end_item(1);
  EXPECT_THAT(pool.workers[0].lane, ElementsAre(&slow));
  EXPECT_THAT(pool.workers[1].lane, ElementsAre(&behind));
}

TEST(PoolScheduler, ADeathIsChargedToTheItemThatHadBegun) {
  world pool({.workers = 1});
  pool.all_ready();
  job& chunk = pool.submit(3);
  job& next = pool.submit();
  pool.begin(0);
  pool.end_item(0);
  pool.begin(0);
  const auto death = pool.die(0);
  EXPECT_EQ(death.charged, &chunk);
  EXPECT_FALSE(death.again);
  EXPECT_FALSE(death.over);
  EXPECT_EQ(chunk.ended, 2u) << "one by itself, one by the death";
  pool.is_ready(0);
  EXPECT_THAT(pool.workers[0].lane, ElementsAre(&chunk, &next));
}

TEST(PoolScheduler, ADeathWithNothingBegunIsNobodysFault) {
  world pool({.workers = 1});
  pool.all_ready();
  job& only = pool.submit();
  EXPECT_EQ(pool.die(0).charged, nullptr);
  pool.is_ready(0);
  EXPECT_THAT(pool.workers[0].lane, ElementsAre(&only));
}

// A worker that always claims not to have begun would otherwise go round with its job for ever.
TEST(PoolScheduler, VainDeathsAreChargedInTheEnd) {
  world pool({.workers = 1});
  pool.all_ready();
  job& only = pool.submit();
  int deaths = 0;
  while (pool.over.count(&only) == 0) {
    ASSERT_LT(++deaths, 10);
    pool.die(0);
    pool.is_ready(0);
  }
  EXPECT_EQ(deaths, 3);
}

TEST(PoolScheduler, AnItemThatCostsWorkersIsTriedOnlySoOften) {
  world pool({.workers = 1, .retries = 2});
  pool.all_ready();
  job& poison = pool.submit();
  for (int i = 0; i < 2; ++i) {
    pool.begin(0);
    EXPECT_TRUE(pool.die(0).again);
    pool.is_ready(0);
  }
  pool.begin(0);
  const auto last = pool.die(0);
  EXPECT_FALSE(last.again);
  EXPECT_TRUE(last.over);
  EXPECT_EQ(last.charged, &poison);
}

TEST(PoolScheduler, WorkersAreReplacedBeforeTheyGetTooMuch) {
  world pool({.workers = 1, .depth = 4, .tasks_per_worker = 3});
  pool.all_ready();
  for (int i = 0; i < 4; ++i) pool.submit();
  EXPECT_EQ(pool.workers[0].lane.size(), 3u);
  for (int i = 0; i < 3; ++i) pool.end_item(0);
  EXPECT_TRUE(pool.workers[0].retiring);
  EXPECT_EQ(pool.die(0).charged, nullptr);
  EXPECT_TRUE(pool.workers[0].starting);
  pool.is_ready(0);
  EXPECT_EQ(pool.workers[0].lane.size(), 1u);
}

TEST(PoolScheduler, AWorkerThatCannotBeMadeBreaksThePoolInTheEnd) {
  world pool({.workers = 1, .start_attempts = 3});
  pool.scheduler.open();
  job& waits = pool.submit();
  EXPECT_EQ(pool.workers[0].starts, 1u);
  for (int i = 0; i < 2; ++i) {
    pool.workers[0].starting = false;
    EXPECT_TRUE(pool.scheduler.start_failed(0));
  }
  pool.workers[0].starting = false;
  EXPECT_FALSE(pool.scheduler.start_failed(0));
  EXPECT_THAT(pool.given_up, ElementsAre(&waits));
  EXPECT_THAT(pool.given_up, testing::Contains(&waits));
  job& late = pool.submit();
  EXPECT_THAT(pool.given_up, ElementsAre(&waits, &late));
}

TEST(PoolScheduler, WhatALyingWorkerHasBegunIsRunByNobodyElse) {
  for (const unsigned retries : {0u, 1u}) {
    world pool({.workers = 1, .depth = 3, .retries = retries});
    pool.all_ready();
    job& first = pool.submit();
    job& second = pool.submit(2);
    job& third = pool.submit();
    pool.begin(0);
    pool.workers[0].lane.pop_front();
    const auto lost = pool.scheduler.lost(0);
    EXPECT_EQ(lost.charged, &first);
    EXPECT_EQ(lost.over, retries == 0);
    EXPECT_EQ(lost.again, retries == 1);
    (lost.over ? pool.over : pool.waiting).insert(&first);
    const auto death = pool.die(0);
    EXPECT_EQ(death.charged, &second);
    EXPECT_FALSE(death.over);
    pool.check();
    pool.is_ready(0);
    std::deque<job*> expected{&second, &third};
    if (retries == 1) expected.push_back(&first);
    EXPECT_EQ(pool.workers[0].lane, expected);
  }
}

TEST(PoolScheduler, AStartThatOthersHaveCutShortIsNoFailure) {
  world pool({.workers = 1});
  pool.all_ready();
  pool.die(0);
  job& waits = pool.submit();
  for (unsigned i = 0; i < 10; ++i) {
    EXPECT_EQ(pool.workers[0].starts, i + 2);
    pool.workers[0].starting = false;
    pool.scheduler.start_again(0);
  }
  pool.is_ready(0);
  EXPECT_THAT(pool.workers[0].lane, ElementsAre(&waits));
  pool.scheduler.stop();
  pool.die(0);
  pool.scheduler.start_again(0);
  EXPECT_FALSE(pool.workers[0].starting) << "a pool that is over starts nothing";
}

TEST(PoolScheduler, BreakPoolGivesUpAllThatWaits) {
  world pool({.workers = 2, .replace = false});
  pool.all_ready();
  std::vector<job*> all;
  for (int i = 0; i < 6; ++i) all.push_back(&pool.submit());
  pool.begin(0);
  pool.begin(1);
  const auto death = pool.die(0);
  EXPECT_EQ(death.charged, all[0]);
  EXPECT_TRUE(death.over);
  EXPECT_FALSE(pool.workers[0].starting);
  EXPECT_EQ(pool.given_up.size(), 4u) << "all but the dead one's and the one that runs";
  EXPECT_THAT(pool.workers[1].lane, ElementsAre(all[1]));
}

TEST(PoolScheduler, CancellingTakesBackWhatHasNotBegunAndLeavesOthersWork) {
  world pool({.workers = 1, .depth = 4});
  pool.all_ready();
  job& runs = pool.submit(1, 7);
  job& unwanted = pool.submit(1, 7);
  job& others = pool.submit(1, 8);
  job& late = pool.submit(1, 7);
  pool.begin(0);
  pool.scheduler.cancel(7);
  EXPECT_TRUE(runs.cancelled);
  EXPECT_THAT(pool.given_up, testing::UnorderedElementsAre(&unwanted, &late));
  EXPECT_THAT(pool.workers[0].lane, ElementsAre(&runs, &others));
}

TEST(PoolScheduler, WhatAStuckWorkerHasNotBegunGoesToWhoeverIsIdle) {
  world pool({.workers = 2});
  pool.all_ready();
  job& waits = pool.submit();
  job& quick = pool.submit();
  ASSERT_THAT(pool.workers[0].lane, ElementsAre(&waits));
  EXPECT_FALSE(pool.seems_stuck(0)) << "nobody is idle";
  EXPECT_THAT(pool.workers[0].lane, ElementsAre(&waits));
  pool.end_item(1);
  EXPECT_TRUE(pool.seems_stuck(0));
  EXPECT_THAT(pool.workers[0].lane, IsEmpty());
  EXPECT_THAT(pool.workers[1].lane, ElementsAre(&waits));
  // It gets what nobody else has room for, and its full share once it is awake.
  job& second = pool.submit();
  EXPECT_THAT(pool.workers[1].lane, ElementsAre(&waits, &second));
  job& third = pool.submit();
  EXPECT_THAT(pool.workers[0].lane, ElementsAre(&third));
  pool.end_item(1);
  pool.end_item(1);
  EXPECT_TRUE(pool.seems_stuck(0));
  EXPECT_THAT(pool.workers[1].lane, ElementsAre(&third));
  job& fourth = pool.submit();
  ASSERT_THAT(pool.workers[1].lane, ElementsAre(&third, &fourth));
  pool.begin(1);
  pool.scheduler.awake(0);
  EXPECT_THAT(pool.workers[0].lane, ElementsAre(&fourth));
  EXPECT_THAT(pool.over, testing::UnorderedElementsAre(&waits, &quick, &second));
}

TEST(PoolScheduler, AWorkerThatHasBegunIsNotStuck) {
  world pool({.workers = 2});
  pool.all_ready();
  job& runs = pool.submit();
  pool.begin(0);
  EXPECT_FALSE(pool.seems_stuck(0));
  EXPECT_FALSE(pool.scheduler.is_stuck(0));
  EXPECT_THAT(pool.workers[0].lane, ElementsAre(&runs));
}

/// Everything that can happen, in any order; afterwards each item has ended exactly once.
TEST(PoolScheduler, RandomHistoriesLoseNothing) {
  for (std::uint32_t seed = 0; seed < 150; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 dice(seed);
    const auto roll = [&dice](unsigned sides) { return static_cast<unsigned>(dice() % sides); };
    world pool({.workers = 1 + roll(4),
                .depth = 1 + roll(4),
                .retries = roll(3),
                .tasks_per_worker = roll(2) * (8 + roll(8)),
                .replace = true,
                .start_attempts = 1'000'000});
    pool.scheduler.open();
    const auto step = [&](bool only_forward) {
      const unsigned w = roll(pool.rules.workers);
      auto& one = pool.workers[w];
      switch (roll(only_forward ? 4 : 12)) {
        case 0:
        case 1:
          if (one.starting) pool.is_ready(w);
          break;
        case 2:
          if (one.alive && !one.lane.empty()) {
            pool.begin(w);
            pool.end_item(w);
          }
          break;
        case 3:
          if (one.retiring) pool.die(w);
          break;
        case 4:
          if (one.alive && !one.lane.empty()) pool.begin(w);
          break;
        case 5:
          if (one.alive && roll(3) == 0) pool.die(w);
          break;
        case 6:
          if (one.starting) {
            one.starting = false;
            pool.scheduler.start_failed(w);
          }
          break;
        case 8:
          if (one.alive && !one.begun) pool.seems_stuck(w);
          break;
        case 9:
          if (pool.scheduler.is_stuck(w)) pool.scheduler.awake(w);
          break;
        case 7:
          if (roll(20) == 0) pool.scheduler.cancel(1 + roll(3));
          break;
        default:
          pool.submit(1 + roll(5), 1 + roll(3));
      }
    };
    for (int i = 0; i < 300; ++i) {
      step(false);
      if (i % 5 == 0) {
        ASSERT_NO_FATAL_FAILURE(pool.check());
      }
    }
    for (int i = 0; !pool.scheduler.is_idle(); ++i) {
      ASSERT_LT(i, 100'000) << "something is never run";
      step(true);
    }
    ASSERT_NO_FATAL_FAILURE(pool.check());
    for (const auto& one : pool.jobs) ASSERT_TRUE(one->ended == one->items || one->cancelled);
  }
}

}  // namespace
