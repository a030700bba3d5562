// Futures of tasks that somebody else makes done: here, by hand.

#include <chrono>
#include <cstddef>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <ranges>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/no_threads.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::as_completed;
using pynisher::CancelledException;
using pynisher::task_future;
using pynisher::verdict;
using pynisher::wait;
using pynisher::detail::raised_here;
using pynisher::detail::returned_here;
using pynisher::detail::task_runner;
using pynisher::detail::task_state;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

/// A task that is done when the test says so.
template <class R>
struct promised {
  std::shared_ptr<task_runner> runner = std::make_shared<task_runner>();
  std::shared_ptr<task_state<R>> state = std::make_shared<task_state<R>>(runner);
  task_future<R> future{state};

  template <class... V>
  void give(V&&... value) const {
    state->keep(std::forward<V>(value)...);
    state->complete(returned_here());
  }
  template <class E>
  void fail(E error) const {
    state->complete(raised_here(std::make_exception_ptr(std::move(error))));
  }
};

// --- one future -----------------------------------------------------------------------------------------------------

TEST(TaskFuture, GivesItsValueToWhoeverWaits) {
  const promised<int> task;
  EXPECT_FALSE(task.future.done());
  EXPECT_FALSE(task.future.wait_for(0s));
  EXPECT_EQ(task.future.get_for(1ms), std::nullopt);
  std::optional<int> seen;
  std::jthread waiting([&] { seen = task.future.get(); });
  task.give(42);
  waiting.join();
  EXPECT_EQ(seen, 42);
  EXPECT_TRUE(task.future.done());
  EXPECT_FALSE(task.future.cancelled());
  EXPECT_FALSE(task.future.error());
  EXPECT_EQ(task.future.get(), 42) << "again";
  EXPECT_EQ(task.future.get_for(0s), 42);
}

TEST(TaskFuture, ThrowsWhatTheTaskThrewEachTime) {
  const promised<std::string> task;
  task.fail(std::out_of_range("there is none"));
  EXPECT_THROW(task.future.get(), std::out_of_range);
  EXPECT_THROW(task.future.get(), std::out_of_range);
  EXPECT_TRUE(task.future.error());
  const auto outcome = task.future.get_outcome();
  EXPECT_EQ(outcome.verdict(), verdict::raised);
  EXPECT_THROW(outcome.value(), std::out_of_range);
  EXPECT_EQ(task.future.get_outcome().explain(), "there is none");
}

TEST(TaskFuture, GivesAnOutcome) {
  const promised<int> task;
  task.give(3);
  EXPECT_EQ(task.future.get_outcome().value(), 3);
  const promised<void> nothing;
  EXPECT_FALSE(nothing.future.get_for(0s));
  nothing.give();
  EXPECT_TRUE(nothing.future.get_for(0s));
  nothing.future.get();
  nothing.future.get_outcome().value();
}

TEST(TaskFuture, GivesOnceWhatCannotBeCopied) {
  const promised<std::unique_ptr<int>> task;
  task.give(std::make_unique<int>(7));
  EXPECT_EQ(*task.future.get(), 7);
  EXPECT_THROW(task.future.get(), std::logic_error);
}

TEST(TaskFuture, OfNoTaskSaysSo) {
  const task_future<int> none;
  EXPECT_FALSE(none.valid());
  EXPECT_THROW(none.get(), std::logic_error);
  EXPECT_THROW(static_cast<void>(none.done()), std::logic_error);
  EXPECT_THROW(none.cancel(), std::logic_error);
  EXPECT_THROW(wait(std::vector{none}), std::logic_error);
  EXPECT_THROW(as_completed(std::vector{none}), std::logic_error);
}

TEST(TaskFuture, IsEqualToItsCopiesOnly) {
  const promised<int> one;
  const promised<int> other;
  const task_future<int> copy = one.future;
  EXPECT_EQ(copy, one.future);
  EXPECT_NE(copy, other.future);
}

TEST(TaskFuture, IsCancelledBeforeItBegins) {
  const promised<int> task;
  EXPECT_TRUE(task.future.cancel());
  EXPECT_TRUE(task.future.cancelled());
  EXPECT_TRUE(task.future.done());
  EXPECT_TRUE(task.future.cancel()) << "it is";
  EXPECT_THROW(task.future.get(), CancelledException);
  EXPECT_EQ(task.future.get_outcome().verdict(), verdict::cancelled);
  task.give(1);
  EXPECT_THROW(task.future.get(), CancelledException) << "what comes late changes nothing";
}

TEST(TaskFuture, IsNotCancelledOnceItRunsHereOrIsDone) {
  const promised<int> task;
  ASSERT_TRUE(task.state->begin_here());
  EXPECT_TRUE(task.future.running());
  EXPECT_FALSE(task.future.cancel());
  EXPECT_FALSE(task.future.cancel(pynisher::kill));
  task.give(1);
  EXPECT_FALSE(task.future.running());
  EXPECT_FALSE(task.future.cancel(pynisher::kill));
  EXPECT_EQ(task.future.get(), 1);
}

TEST(TaskFuture, IsNotBegunOnceCancelled) {
  const promised<int> task;
  EXPECT_TRUE(task.future.cancel());
  EXPECT_FALSE(task.state->begin_here());
}

// --- what follows ---------------------------------------------------------------------------------------------------

TEST(Then, GetsTheValueOnTheThreadOfContinuations) {
  const promised<int> task;
  std::thread::id where;
  const task_future<std::string> text = task.future.then([&where](int n) {
    where = std::this_thread::get_id();
    return std::to_string(n);
  });
  EXPECT_FALSE(text.done());
  task.give(12);
  EXPECT_EQ(text.get(), "12");
  EXPECT_NE(where, std::this_thread::get_id());
}

TEST(Then, RunsHereWhereItIsDoneAlready) {
  const promised<int> task;
  task.give(12);
  std::thread::id where;
  EXPECT_EQ(task.future.then([&where](int n) { return where = std::this_thread::get_id(), n + 1; }).get(), 13);
  EXPECT_EQ(where, std::this_thread::get_id());
}

TEST(Then, IsPassedOverByExceptionsAndCancellations) {
  const promised<int> failing;
  const promised<int> cancelled;
  bool called = false;
  const auto call = [&called](int n) { return called = true, n; };
  const auto after = failing.future.then(call).then(call);
  const auto later = cancelled.future.then(call).then(call);
  failing.fail(std::domain_error("no"));
  EXPECT_THROW(after.get(), std::domain_error);
  EXPECT_TRUE(cancelled.future.cancel());
  EXPECT_THROW(later.get(), CancelledException);
  EXPECT_TRUE(later.cancelled());
  EXPECT_FALSE(called);
}

TEST(Then, MayTakeTheFutureAndIsCalledInAnyCase) {
  const promised<int> task;
  const auto after = task.future.then([](const task_future<int>& of) { return of.error() ? -1 : of.get(); });
  task.fail(std::domain_error("no"));
  EXPECT_EQ(after.get(), -1);
}

TEST(Then, IsRefusedWhereThereCanBeNoThreadForIt) {
  const promised<int> task;
  {
    const support::no_threads none;
    ASSERT_THROW(std::thread([] {}).join(), std::system_error);
    EXPECT_THROW(static_cast<void>(task.future.then([](int n) { return n; })), std::system_error);
  }
  const auto later = task.future.then([](int n) { return n + 1; });
  const support::no_threads none;
  task.give(1);
  EXPECT_EQ(later.get(), 2);
  EXPECT_EQ(task.future.then([](int n) { return n + 2; }).get(), 3) << "which is run here";
}

TEST(Then, MayThrowItself) {
  const promised<int> task;
  const auto after = task.future.then([](int) -> int { throw std::runtime_error("follower"); });
  task.give(1);
  EXPECT_THROW(after.get(), std::runtime_error);
}

TEST(Then, TakesAndGivesNothing) {
  const promised<void> task;
  int calls = 0;
  const task_future<void> after = task.future.then([&calls] { ++calls; }).then([&calls] { ++calls; });
  task.give();
  after.get();
  EXPECT_EQ(calls, 2);
}

TEST(Then, TakesMoveOnlyCallablesAndGivesMoveOnlyValues) {
  const promised<int> task;
  const auto after =
      task.future.then([held = std::make_unique<int>(5)](int n) { return std::make_unique<int>(n + *held); });
  task.give(1);
  EXPECT_EQ(*after.get(), 6);
}

TEST(Then, IsDoneWithTheFutureThatItReturns) {
  const promised<int> first;
  const promised<std::string> second;
  const task_future<std::string> after = first.future.then([&second](int) { return second.future; });
  first.give(1);
  EXPECT_FALSE(after.wait_for(0s));
  second.give("there");
  EXPECT_EQ(after.get(), "there");

  const promised<std::string> failing;
  const auto failed = first.future.then([&failing](int) { return failing.future; });
  failing.fail(std::domain_error("no"));
  EXPECT_THROW(failed.get(), std::domain_error);
}

TEST(Then, IsCancelledWithoutItsTask) {
  const promised<int> task;
  bool called = false;
  const auto after = task.future.then([&called](int) { called = true; });
  EXPECT_TRUE(after.cancel());
  task.give(1);
  task.runner->finish();
  EXPECT_FALSE(called);
  EXPECT_EQ(task.future.get(), 1);
}

TEST(Then, RunsAllThatFollowsBeforeItsThreadEnds) {
  const promised<int> task;
  int sum = 0;
  const auto after = task.future.then([&](int n) { return sum += n; }).then([&](int n) { return sum += n; });
  task.give(1);
  task.runner->finish();
  EXPECT_EQ(sum, 2);
  EXPECT_EQ(after.get(), 2);
}

TEST(Then, WorksWhereNobodyKeepsTheFuture) {
  const auto runner = std::make_shared<task_runner>();
  std::optional<int> seen;
  {
    const auto state = std::make_shared<task_state<int>>(runner);
    static_cast<void>(task_future<int>(state).then([&seen](int n) { seen = n; }));
    state->keep(3);
    state->complete(returned_here());
  }
  runner->finish();
  EXPECT_EQ(seen, 3);
}

TEST(Then, MayLetGoOfItsOwnThread) {
  // The last of everything goes on the thread of continuations.
  auto task = std::make_unique<promised<int>>();
  const auto after = task->future.then([](int n) { return n; });
  const auto state = task->state;
  task.reset();
  state->keep(1);
  state->complete(returned_here());
  EXPECT_EQ(after.get(), 1);
}

// --- many -----------------------------------------------------------------------------------------------------------

class Many : public ::testing::Test {
 protected:
  static std::vector<task_future<int>> futures_of(const std::vector<promised<int>>& tasks) {
    std::vector<task_future<int>> futures;
    for (const auto& task : tasks) futures.push_back(task.future);
    return futures;
  }
  std::vector<promised<int>> tasks_ = std::vector<promised<int>>(3);
  std::vector<task_future<int>> futures_ = futures_of(tasks_);
};

TEST_F(Many, WaitForAll) {
  std::jthread giver([this] {
    for (const auto& task : tasks_) task.give(1);
  });
  const auto [done, not_done] = wait(futures_);
  EXPECT_EQ(done, futures_);
  EXPECT_THAT(not_done, IsEmpty());
}

TEST_F(Many, WaitForTheFirst) {
  tasks_[1].fail(std::runtime_error("done all the same"));
  const auto [done, not_done] = wait(futures_, pynisher::first_completed);
  EXPECT_THAT(done, ElementsAre(futures_[1]));
  EXPECT_THAT(not_done, ElementsAre(futures_[0], futures_[2]));
}

TEST_F(Many, WaitForTheFirstException) {
  tasks_[0].give(1);
  EXPECT_TRUE(futures_[1].cancel()) << "which is no exception";
  {
    const auto [done, not_done] = wait(futures_, pynisher::first_exception, 1ms);
    EXPECT_EQ(done.size(), 2u);
    EXPECT_THAT(not_done, ElementsAre(futures_[2]));
  }
  std::jthread giver([this] { tasks_[2].fail(std::runtime_error("one")); });
  EXPECT_EQ(wait(futures_, pynisher::first_exception).done.size(), 3u);
}

TEST_F(Many, WaitForTheFirstExceptionLeavesTheOthers) {
  tasks_[2].fail(std::runtime_error("one"));
  EXPECT_THAT(wait(futures_, pynisher::first_exception).done, ElementsAre(futures_[2]));
}

TEST_F(Many, WaitNoLongerThanIsSaid) {
  tasks_[0].give(1);
  const auto [done, not_done] = wait(futures_, pynisher::all, 1ms);
  EXPECT_THAT(done, ElementsAre(futures_[0]));
  EXPECT_EQ(not_done.size(), 2u);
}

TEST_F(Many, WaitForNone) {
  EXPECT_THAT(wait(std::vector<task_future<int>>()).done, IsEmpty());
  EXPECT_THAT(wait(std::vector<task_future<int>>(), pynisher::first_completed).not_done, IsEmpty());
}

TEST_F(Many, WaitForAnyRangeAndTheSameTwice) {
  for (const auto& task : tasks_) task.give(1);
  EXPECT_EQ(wait(futures_ | std::views::take(2)).done.size(), 2u);
  EXPECT_EQ(wait(std::vector{futures_[0], futures_[0]}).done.size(), 2u);
}

TEST_F(Many, ComeAsTheyAreCompleted) {
  // Each is given when the one before has come.
  tasks_[2].give(2);
  std::vector<int> order;
  for (auto& one : as_completed(futures_)) {
    order.push_back(one.get());
    if (order.size() == 1) tasks_[0].give(0);
    if (order.size() == 2) tasks_[1].give(1);
  }
  EXPECT_THAT(order, ElementsAre(2, 0, 1));
}

TEST_F(Many, ComeAsCompletedOnceEach) {
  tasks_[2].give(2);
  tasks_[0].give(0);
  auto all = as_completed(std::vector{futures_[0], futures_[2], futures_[0]});
  std::vector<int> seen;
  for (auto& one : all) seen.push_back(one.get());
  EXPECT_THAT(seen, ::testing::UnorderedElementsAre(0, 2));
}

TEST_F(Many, MayTakeAsLongAsAnyTimeSays) {
  for (const int which : {0, 1, 2}) tasks_[static_cast<std::size_t>(which)].give(which);
  const auto count = [this](auto time) {
    int seen = 0;
    for (auto& one : as_completed(futures_, time)) seen += one.done();
    return seen;
  };
  EXPECT_EQ(count(std::chrono::hours::max()), 3);
  EXPECT_EQ(count(std::chrono::duration<double>(std::numeric_limits<double>::infinity())), 3);
  EXPECT_EQ(count(std::chrono::hours::min()), 3) << "what is there is there";
  const promised<int> late;
  EXPECT_FALSE(late.future.wait_for(std::chrono::hours::min()));
  EXPECT_FALSE(late.future.wait_for(std::chrono::duration<double>(-std::numeric_limits<double>::infinity())));
  const auto no_time = std::chrono::duration<double>(std::numeric_limits<double>::quiet_NaN());
  EXPECT_THROW(static_cast<void>(late.future.wait_for(no_time)), std::invalid_argument);
  EXPECT_THROW(static_cast<void>(as_completed(std::vector{late.future}, no_time)), std::invalid_argument);
  std::jthread giving([&late] { late.give(1); });
  for (auto& one : as_completed(std::vector{late.future}, std::chrono::hours::max())) EXPECT_EQ(one.get(), 1);
}

/// Cannot be copied where it is 13.
struct unlucky {
  int value = 0;
  explicit unlucky(int number) : value(number) {}
  unlucky(const unlucky& other) : value(other.value) {
    if (value == 13) throw value;
  }
};

TEST(TaskFuture, AnOutcomeTellsOfAValueThatCannotBeHad) {
  const promised<unlucky> task;
  task.give(13);
  const auto outcome = task.future.get_outcome();
  EXPECT_FALSE(outcome);
  EXPECT_EQ(outcome.verdict(), verdict::protocol_error);
}

TEST_F(Many, ComeAsCompletedUntilTimeIsUp) {
  tasks_[1].give(1);
  std::vector<int> seen;
  EXPECT_THROW(
      {
        for (auto& one : as_completed(futures_, 5ms)) seen.push_back(one.get());
      },
      pynisher::TimeoutException);
  EXPECT_THAT(seen, ElementsAre(1));
}

TEST_F(Many, ThreadsAndContinuationsAtOnce) {
  std::vector<promised<int>> tasks(50);
  std::vector<task_future<int>> futures;
  for (const auto& task : tasks) {
    futures.push_back(task.future.then([](int n) { return n + 1; }).then([](int n) { return n + 1; }));
  }
  std::vector<std::jthread> threads;
  for (std::size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = t; i < tasks.size(); i += 4) tasks[i].give(static_cast<int>(i));
    });
    threads.emplace_back([&] { EXPECT_EQ(wait(futures).done.size(), futures.size()); });
  }
  int sum = 0;
  for (auto& one : as_completed(futures)) sum += one.get();
  EXPECT_EQ(sum, 50 * 49 / 2 + 2 * 50);
}

}  // namespace
