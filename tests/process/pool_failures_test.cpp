// What goes wrong in a pool costs the item that it went wrong with, and nothing else.

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <new>
#include <numeric>
#include <optional>
#include <ranges>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/pynisher.hpp>

#include "support/pools.hpp"
#include "support/processes.hpp"

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::make_pool;
using pynisher::on_death;
using pynisher::on_error;
using pynisher::order;
using testing::ElementsAre;
using testing::HasSubstr;

std::vector<int> numbers(int count) {
  std::vector<int> all(static_cast<std::size_t>(count));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

class PoolErrorsOf : public support::per_kind_of_worker {};
FOR_EACH_KIND_OF_WORKER(PoolErrorsOf);
class PoolDeaths : public support::per_kind_of_worker {};
FOR_EACH_KIND_OF_PROCESS(PoolDeaths);

int fails_at_three(int x) {
  if (x == 3) throw std::out_of_range("three");
  return x;
}

TEST_P(PoolErrorsOf, ComeWithTheItemThatThrew) {
  for (const std::size_t chunk : {1u, 4u}) {
    auto pool = make_pool(with({.workers = 2, .chunk = chunk}), &fails_at_three);
    std::size_t count = 0;
    for (auto&& one : pool.map(numbers(9))) {
      ++count;
      EXPECT_EQ(one.ok(), one.index() != 3);
      if (one.ok()) continue;
      EXPECT_THROW(one.value(), std::out_of_range);
      EXPECT_THAT(one.what(), HasSubstr("three"));
      EXPECT_THAT(one.what(), HasSubstr("item 3"));
      EXPECT_LT(one.worker(), 2u);
    }
    EXPECT_EQ(count, 9u);
  }
}

TEST_P(PoolErrorsOf, ImmediateEndsTheMapAndNotThePool) {
  for (const on_error policy : {on_error::immediate, on_error::immediate_wait_others}) {
    auto pool = make_pool(with({.workers = 2, .on_error = policy}), &fails_at_three);
    int given = 0;
    EXPECT_THROW(
        {
          for (auto&& one : pool.map(std::views::iota(0))) {
            EXPECT_TRUE(one.ok());
            ++given;
          }
        },
        std::out_of_range);
    EXPECT_LE(given, 3);
    int after = 0;
    for (auto&& one : pool.map({7, 8})) after += one.value();
    EXPECT_EQ(after, 15);
  }
}

TEST_P(PoolErrorsOf, CollectRunsAllAndThenThrowsAll) {
  auto pool = make_pool(with({.workers = 2, .on_error = on_error::collect}), [](int x) {
    if (x % 4 == 1) throw std::runtime_error("no " + std::to_string(x));
    return x;
  });
  std::vector<int> good;
  try {
    for (auto&& one : pool.map(numbers(10))) good.push_back(one.value());
    FAIL() << "nothing was thrown";
  } catch (const pynisher::PoolErrors& e) {
    ASSERT_EQ(e.failures().size(), 3u);
    EXPECT_EQ(e.failures()[0].index, 1u);
    EXPECT_EQ(e.failures()[2].index, 9u);
    EXPECT_THAT(e.failures()[1].what, HasSubstr("no 5"));
    EXPECT_THROW(std::rethrow_exception(e.failures()[1].error), std::runtime_error);
    EXPECT_THAT(e.what(), HasSubstr("3 items"));
  }
  EXPECT_THAT(good, ElementsAre(0, 2, 3, 4, 6, 7, 8));
}

/// Fails until it has been called so often, for all processes together.
int fails_until(std::pair<std::string, int> what) {
  support::log_process(what.first.c_str());
  if (static_cast<int>(support::logged_processes(what.first).size()) < what.second) throw std::runtime_error("not yet");
  return what.second;
}

TEST_P(PoolErrorsOf, AreTriedAgainAsOftenAsIsSaid) {
  for (const std::size_t chunk : {1u, 3u}) {
    support::call_log first, second, third;
    auto pool = make_pool(with({.workers = 1, .chunk = chunk, .retries = 2}), &fails_until);
    const std::vector<std::pair<std::string, int>> items{{first.path(), 1}, {second.path(), 3}, {third.path(), 4}};
    std::vector<bool> ok;
    for (auto&& one : pool.map(items)) ok.push_back(one.ok());
    EXPECT_THAT(ok, ElementsAre(true, true, false));
    EXPECT_EQ(first.pids().size(), 1u);
    EXPECT_EQ(second.pids().size(), 3u);
    EXPECT_EQ(third.pids().size(), 3u) << "one try and two more";
  }
}

// --- deaths ---------------------------------------------------------------------------------------------------------

/// Item 5 ends its process.
int dies_at_five(std::pair<int, int> what) {
  if (what.first == 5) {
    if (what.second == 0) ::_exit(7);
    if (what.second == -1) std::exit(0);
    ::signal(what.second, SIG_DFL);
    ::raise(what.second);
  }
  return what.first;
}

TEST_P(PoolDeaths, CostOneItem) {
  for (const std::size_t chunk : {1u, 4u}) {
    auto pool = make_pool(with({.workers = 2, .chunk = chunk}), &dies_at_five);
    for (const int how : {0, -1, SIGKILL, SIGSEGV, SIGABRT, SIGTERM}) {
      std::vector<std::pair<int, int>> items;
      for (int i = 0; i < 12; ++i) items.emplace_back(i, how);
      std::size_t count = 0;
      for (auto&& one : pool.map(items)) {
        ++count;
        EXPECT_EQ(one.ok(), one.index() != 5) << one.what();
        if (one.ok()) {
          EXPECT_EQ(one.value(), static_cast<int>(one.index()));
        } else if (how > 0) {
          EXPECT_THROW(one.value(), pynisher::SignalException) << one.what();
        } else {
          EXPECT_THROW(one.value(), pynisher::ExitException) << one.what();
        }
      }
      EXPECT_EQ(count, 12u);
    }
  }
}

int hangs_at_two(int x) {
  if (x == 2) {
    for (;;) ::pause();
  }
  return x;
}
int spins_at_two(int x) {
  while (x == 2) static_cast<void>(std::clock());
  return x;
}

TEST_P(PoolDeaths, AWallTimeIsEachItemsOwn) {
  for (const std::size_t chunk : {1u, 5u}) {
    auto pool = make_pool(with({.workers = 2, .limits = {.wall_time = 500ms}, .chunk = chunk}), &hangs_at_two);
    for (auto&& one : pool.map(numbers(10))) {
      // A machine that stands still for half a second breaks others' limits too, but not item 2's alone.
      if (one.index() == 2) {
        EXPECT_THROW(one.value(), pynisher::WallTimeoutException) << one.what();
        EXPECT_GE(one.usage().wall_time, 500ms);
      } else if (!one.ok()) {
        EXPECT_THROW(one.value(), pynisher::WallTimeoutException);
      }
    }
  }
}

TEST_P(PoolDeaths, ACpuTimeIsEachItemsOwn) {
  auto pool = make_pool(with({.workers = 2, .limits = {.cpu_time = 300ms}, .chunk = 3}), &spins_at_two);
  for (auto&& one : pool.map(numbers(7))) {
    EXPECT_EQ(one.ok(), one.index() != 2) << one.what();
    if (!one.ok()) {
      EXPECT_THROW(one.value(), pynisher::CpuTimeoutException);
    }
  }
}

// A limit is not a limit on what one worker does in all.
TEST_P(PoolDeaths, LimitsBeginAnewWithEachItem) {
  auto pool = make_pool(with({.workers = 1, .limits = {.cpu_time = 1s, .wall_time = 30s}}), [](int x) {
    const std::clock_t until = std::clock() + CLOCKS_PER_SEC / 5;
    while (std::clock() < until) {
    }
    return x;
  });
  const auto before = pool.pids();
  for (auto&& one : pool.map(numbers(8))) EXPECT_TRUE(one.ok()) << one.what();
  EXPECT_EQ(pool.pids(), before);
}

std::size_t fill(std::size_t megabytes) {
  std::vector<char> memory(megabytes << 20, 'x');
  return memory.size();
}

TEST_P(PoolDeaths, AMemoryLimitIsTheWorkers) {
  SKIP_UNLESS_SUPPORTED("memory");
  SKIP_UNDER_SANITIZER("allocates on its own account");
  auto pool = make_pool(with({.workers = 1, .limits = {.memory = 200_MiB}}), &fill);
  std::vector<bool> ok;
  for (auto&& one : pool.map(std::vector<std::size_t>{1, 500, 1})) {
    ok.push_back(one.ok());
    if (!one.ok()) {
      EXPECT_THROW(one.value(), pynisher::MemoryLimitException) << one.what();
    }
  }
  EXPECT_THAT(ok, ElementsAre(true, false, true));
}

int logged_then_dies(std::pair<std::string, int> what) {
  support::log_process(what.first.c_str());
  if (what.second == 1) ::kill(::getpid(), SIGKILL);
  return what.second;
}

TEST_P(PoolDeaths, APoisonousItemDoesNotGrindThePoolDown) {
  support::process_log log;
  auto pool = make_pool(with({.workers = 2, .chunk = 3, .retries = 3}), &logged_then_dies);
  std::vector<std::pair<std::string, int>> items;
  for (int i = 0; i < 9; ++i) items.emplace_back(log.path(), i);
  for (auto&& one : pool.map(items)) EXPECT_EQ(one.ok(), one.index() != 1);
  EXPECT_EQ(log.pids().size(), 8u + 4u);
}

TEST_P(PoolDeaths, BreakThePoolWhereThatIsWished) {
  auto pool = make_pool(with({.workers = 2, .on_death = on_death::break_pool}), &dies_at_five);
  int broken = 0, own = 0;
  for (auto&& one :
       pool.map(std::views::iota(0, 30) | std::views::transform([](int i) { return std::pair(i, SIGKILL); }))) {
    if (one.ok()) continue;
    try {
      one.value();
    } catch (const pynisher::BrokenPoolError& e) {
      EXPECT_THROW(std::rethrow_exception(e.cause()), pynisher::SignalException);
      ++broken;
    } catch (const pynisher::SignalException&) {
      ++own;
    }
  }
  EXPECT_EQ(own, 1);
  EXPECT_GE(broken, 20);
}

TEST_P(PoolDeaths, AWorkerThatIsKilledWhileItIsIdleIsReplaced) {
  auto pool = make_pool(with({.workers = 1}), [](int x) { return x; });
  for (int round = 0; round < 5; ++round) {
    const auto pid = static_cast<pid_t>(pool.pids().front());
    ASSERT_GT(pid, 0);
    ::kill(pid, SIGKILL);
    for (auto&& one : pool.map(numbers(3))) EXPECT_TRUE(one.ok()) << one.what();
    support::await([&] { return pool.pids().front() > 0 && pool.pids().front() != pid; });
  }
}

/// Its constructor does not come to an end while there is a certain file.
struct held_up {
  held_up(const std::string& log, const std::string& while_there_is) {
    support::log_process(log.c_str());
    while (::access(while_there_is.c_str(), F_OK) == 0) ::usleep(1000);
  }
  int operator()(int x) { return x; }
};

TEST_P(PoolDeaths, AWorkerThatIsKilledBeforeItIsMadeIsReplacedAsOftenAsThatHappens) {
  support::process_log log;
  const std::string barrier = log.path() + "-barrier";
  pynisher::worker_pool<held_up> pool(with({.workers = 1}), pynisher::shared(log.path(), barrier));
  std::ofstream(barrier) << "wait";
  ::kill(static_cast<pid_t>(pool.pids().front()), SIGKILL);
  constexpr std::size_t kills = 7;
  for (std::size_t i = 2; i < 2 + kills; ++i) {
    support::await_logged(log.path(), i);
    if (i == 1 + kills) std::filesystem::remove(barrier);
    ::kill(log.pids().back(), SIGKILL);
  }
  for (auto&& one : pool.map(numbers(3))) EXPECT_TRUE(one.ok()) << one.what();
}

/// The second one ends the first, which is there to be used, and never comes to an end itself.
struct deadly_neighbour {
  deadly_neighbour(const std::string& log, int number) {
    if (number == 0) {
      support::log_process(log.c_str());
      return;
    }
    support::await_logged(log, 1);
    // By then the first one says that it is made; if not, the pool hears of a death all the same.
    ::usleep(20'000);
    ::kill(support::logged_processes(log).front(), SIGKILL);
    for (;;) ::pause();
  }
  int operator()(int x) { return x; }
};

TEST_P(PoolDeaths, BreakThePoolThatIsBeingMade) {
  support::process_log log;
  const auto make = [&] {
    pynisher::worker_pool<deadly_neighbour>(with({.workers = 2, .on_death = on_death::break_pool}),
                                            pynisher::shared(log.path()), pynisher::per_worker(0, 1));
  };
  EXPECT_THROW(make(), pynisher::SignalException);
}

/// Two that wait for each other: each in a worker of its own.
int meets(const std::string& log, std::size_t how_many) {
  support::log_process(log.c_str());
  support::await_logged(log, how_many);
  return ::getpid();
}

/// Comes back when it runs no further.
void stop_worker(pid_t worker) {
  ::kill(worker, SIGSTOP);
  support::await([worker] {
    std::ifstream stat("/proc/" + std::to_string(worker) + "/stat");
    std::string text;
    std::getline(stat, text);
    const auto name_ends = text.rfind(") ");
    return name_ends != std::string::npos && text[name_ends + 2] == 'T';
  });
}

// Nobody ends it: it may only be slow. But nobody waits for it either, where another one is idle.
TEST_P(PoolDeaths, AWorkerThatIsStoppedHoldsUpNobody) {
  for (const order wanted : {order::input, order::completion}) {
    for (const std::size_t chunk : {1u, 3u}) {
      auto pool = make_pool(with({.workers = 2, .chunk = chunk}), &fails_at_three);
      const auto stopped = static_cast<pid_t>(pool.pids().front());
      stop_worker(stopped);
      std::size_t count = 0;
      for (auto&& one : pool.map(std::vector<int>(20, 1), wanted)) {
        EXPECT_TRUE(one.ok()) << one.what();
        EXPECT_EQ(one.worker(), 1u);
        ++count;
      }
      EXPECT_EQ(count, 20u);
      ::kill(stopped, SIGCONT);
      EXPECT_EQ(static_cast<pid_t>(pool.pids().front()), stopped) << "it lives";
    }
  }
}

TEST_P(PoolDeaths, AWorkerThatGoesOnHasItsShareAgain) {
  support::process_log log;
  pynisher::pool_executor pool(with({.workers = 2}));
  const auto stopped = static_cast<pid_t>(pool.pids().front());
  stop_worker(stopped);
  std::vector<pynisher::task_future<int>> tasks;
  for (int i = 0; i < 4; ++i) tasks.push_back(pool.submit(fails_at_three, 1));
  for (const auto& one : tasks) EXPECT_EQ(one.get(), 1);
  ::kill(stopped, SIGCONT);
  const auto one = pool.submit(meets, log.path(), std::size_t{2});
  const auto other = pool.submit(meets, log.path(), std::size_t{2});
  EXPECT_NE(one.get(), other.get());
}

/// Its constructor ends its own process, but for the first time.
struct made_once {
  explicit made_once(const std::string& log) {
    support::log_process(log.c_str());
    if (support::logged_processes(log).size() > 1) ::kill(::getpid(), SIGKILL);
  }
  int operator()(int x) {
    if (x == 0) ::kill(::getpid(), SIGKILL);
    return x;
  }
};

TEST_P(PoolDeaths, AConstructorThatKillsItsOwnProcessBreaksThePoolInTheEnd) {
  support::process_log log;
  pynisher::worker_pool<made_once> pool(with({.workers = 1}), pynisher::shared(log.path()));
  int broken = 0;
  for (auto&& one : pool.map(numbers(3))) {
    if (one.index() == 0) {
      EXPECT_THROW(one.value(), pynisher::SignalException) << "it has had a worker";
    } else {
      EXPECT_THROW(one.value(), pynisher::BrokenPoolError) << "item " << one.index();
      ++broken;
    }
  }
  EXPECT_EQ(broken, 2);
}

TEST_P(PoolDeaths, WorkersAreReplacedAfterSoManyTasks) {
  support::process_log log;
  auto pool = make_pool(with({.workers = 2, .chunk = 2, .tasks_per_worker = 5}), &logged_then_dies);
  std::vector<std::pair<std::string, int>> items(40, {log.path(), 0});
  for (auto&& one : pool.map(items)) EXPECT_TRUE(one.ok()) << one.what();
  std::map<pid_t, int> tasks;
  for (const pid_t pid : log.pids()) ++tasks[pid];
  EXPECT_GE(tasks.size(), 8u);
  for (const auto& [pid, count] : tasks) EXPECT_LE(count, 5);
}

/// Item 0 is done once another one hangs; those below 0 are done at once.
int hangs_unless_zero(std::pair<std::string, int> what) {
  if (what.second == 0) support::await_logged(what.first, 1);
  if (what.second <= 0) return 0;
  support::log_process(what.first.c_str());
  for (;;) ::pause();
}

TEST_P(PoolDeaths, DroppingTheResultsLeavesNoWorkerBusy) {
  support::process_log log;
  auto pool = make_pool(with({.workers = 2}), &hangs_unless_zero);
  const auto items = [&](int from) {
    return std::views::iota(from) | std::views::transform([&log](int i) { return std::pair(log.path(), i); });
  };
  for (int round = 0; round < 2; ++round) {
    log.clear();
    {
      auto results = pool.map(items(0));
      EXPECT_TRUE(results.begin()->ok());
      EXPECT_THAT(log.survivors(), testing::Not(testing::IsEmpty()));
    }
    EXPECT_THAT(log.survivors(), testing::IsEmpty());
    for (auto&& one : pool.map(std::vector<std::pair<std::string, int>>(5, {log.path(), -1}))) EXPECT_TRUE(one.ok());
  }
}

// What ends by itself within a moment keeps its worker, and the worker its state.
TEST_P(PoolDeaths, DroppingTheResultsOfShortTasksKeepsTheWorkers) {
  auto pool = make_pool(with({.workers = 2, .chunk = 2}), [](int x) { return x; });
  const auto before = pool.pids();
  for (int round = 0; round < 20; ++round) {
    for (auto&& one : pool.map(std::views::iota(0))) {
      if (one.index() == 3) break;
    }
  }
  EXPECT_EQ(pool.pids(), before);
}

}  // namespace
