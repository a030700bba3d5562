// Workers: where and from what they are made, that none is left over.

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <concepts>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <ranges>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/pynisher.hpp>

#include "support/copies.hpp"
#include "support/helper_process.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::make_pool;
using pynisher::per_worker;
using pynisher::shared;
using pynisher::worker_pool;
using testing::ElementsAre;
using testing::HasSubstr;

class Workers : public support::per_kind_of_worker {};
FOR_EACH_KIND_OF_WORKER(Workers);
class WorkerProcesses : public support::per_kind_of_worker {};
FOR_EACH_KIND_OF_PROCESS(WorkerProcesses);

struct speaker {
  std::string text;
  int calls = 0;
  std::int64_t made_in = ::getpid();
  speaker(std::string a, int b, std::string own, int number)
      : text(a + std::to_string(b) + own + std::to_string(number)) {}
  std::tuple<std::string, int, std::int64_t, std::int64_t> operator()(int /*item*/) {
    return {text, ++calls, made_in, ::getpid()};
  }
};

TEST_P(Workers, AreMadeOfSharedThenOwnArgumentsWhereTheyWork) {
  worker_pool<speaker> pool(with({.workers = 2}), shared("a", 1), per_worker(std::tuple("x", 10), std::tuple("y", 20)));
  std::map<unsigned, int> calls;
  // As they come: in input order an item that was moved to an idle worker comes out before what that has done already.
  for (auto&& one : pool.map(std::views::iota(0, 20), pynisher::order::completion)) {
    const auto& [text, call, made_in, called_in] = one.value();
    EXPECT_EQ(text, one.worker() == 0 ? "a1x10" : "a1y20");
    EXPECT_EQ(call, ++calls[one.worker()]) << "state is kept from call to call";
    EXPECT_EQ(made_in, called_in);
    EXPECT_EQ(called_in == ::getpid(), in_threads());
  }
}

struct with_one {
  int own;
  explicit with_one(int x) : own(x) {}
  int operator()(int item) const { return own + item; }
};
int twice(int x) { return 2 * x; }
struct closing {
  int operator()(std::uintptr_t pool) const {
    reinterpret_cast<worker_pool<closing>*>(pool)->close();
    return 7;
  }
};
struct with_none {
  int operator()(int item) const { return item; }
};
struct plain {
  int a;
  std::string b;
  std::string operator()(int item) const { return b + std::to_string(a + item); }
};

TEST_P(Workers, EitherKindOfArgumentsMayBeLeftOut) {
  worker_pool<with_one> own(with({.workers = 2}), per_worker(100, 200));
  for (auto&& one : own.map({1, 2, 3})) EXPECT_EQ(one.value(), (one.worker() + 1) * 100 + one.index() + 1);
  worker_pool<with_one> common(with({.workers = 2}), shared(7));
  for (auto&& one : common.map({1})) EXPECT_EQ(one.value(), 8);
  worker_pool<with_none> nothing(with({.workers = 2}));
  for (auto&& one : nothing.map({1})) EXPECT_EQ(one.value(), 1);
  worker_pool<plain> aggregate(with({.workers = 1}), shared(5, "five and more: "));
  for (auto&& one : aggregate.map({1})) EXPECT_EQ(one.value(), "five and more: 6");
}

TEST_P(Workers, AWrongNumberOfArgumentsIsRefused) {
  EXPECT_THROW(worker_pool<with_one>(with({.workers = 3}), per_worker(1, 2)), std::invalid_argument);
  EXPECT_THROW(worker_pool<with_one>(with({.workers = 1}), per_worker(1, 2)), std::invalid_argument);
}

struct refuses {
  refuses(std::string log, int number) {
    support::log_process(log.c_str());
    if (number == 1) throw std::out_of_range("not with one");
  }
  int operator()(int x) { return x; }
};

TEST_P(Workers, AConstructorThatThrowsIsThePoolsConstructorThatThrows) {
  support::call_log log;
  try {
    const worker_pool<refuses> pool(with({.workers = 2}), shared(log.path()), per_worker(0, 1));
    FAIL() << "nothing was thrown";
  } catch (const std::out_of_range& e) {
    EXPECT_THAT(e.what(), HasSubstr("not with one"));
  }
  EXPECT_GE(log.pids().size(), 1u);
  EXPECT_THAT(log.survivors(), testing::IsEmpty());
}

/// In threads all of them count here.
std::atomic<int> initialized{0};
void initialize() { ++initialized; }
void refuse_to_initialize() { throw std::length_error("not here"); }
int how_often(int /*x*/) { return initialized; }

TEST_P(Workers, TheInitializerRunsOnceInEach) {
  initialized = 0;
  auto pool = make_pool(with({.workers = 2, .initializer = &initialize}), &how_often);
  for (auto&& one : pool.map(std::views::iota(0, 10))) EXPECT_EQ(one.value(), in_threads() ? 2 : 1);
  EXPECT_THROW(static_cast<void>(make_pool(with({.workers = 2, .initializer = &refuse_to_initialize}), &how_often)),
               std::length_error);
}

/// Has state, and perhaps cannot be copied.
template <class Held>
struct counting_initializer {
  std::mutex* mutex;
  std::vector<int>* seen;
  std::atomic<int>* inside;
  Held held{};
  int calls = 0;
  void operator()() {
    const int at_once = ++*inside;
    ++calls;
    const std::lock_guard lock(*mutex);
    seen->push_back(std::copy_constructible<Held> ? calls : at_once);
    --*inside;
  }
};

TEST(WorkerThreads, EachRunACopyOfTheInitializerOrTakeTurns) {
  for (int round = 0; round < 20; ++round) {
    std::mutex mutex;
    std::vector<int> seen;
    std::atomic<int> inside{0};
    const auto make = [&](auto initializer) {
      static_cast<void>(make_pool(
          {.workers = 4, .backend = pynisher::backend::threads, .initializer = std::move(initializer)}, &twice));
    };
    make(counting_initializer<int>{&mutex, &seen, &inside});
    EXPECT_THAT(seen, ElementsAre(1, 1, 1, 1)) << "calls of one object";
    seen.clear();
    make(counting_initializer<std::unique_ptr<int>>{&mutex, &seen, &inside});
    EXPECT_THAT(seen, ElementsAre(1, 1, 1, 1)) << "threads at once in one object";
  }
}

TEST(WorkerThreads, MayCloseTheirPool) {
  worker_pool<closing> pool({.workers = 1, .backend = pynisher::backend::threads, .join_timeout = 1h});
  for (auto&& one : pool.map(std::vector{reinterpret_cast<std::uintptr_t>(&pool)})) EXPECT_EQ(one.value(), 7);
}

TEST_P(Workers, OfAPoolThatWasMovedFromAreAnothers) {
  auto pool = make_pool(with({.workers = 2}), &twice);
  auto other = std::move(pool);
  EXPECT_EQ(pool.workers(), 0u);
  EXPECT_THROW(static_cast<void>(pool.pids()), std::logic_error);
  EXPECT_THROW(static_cast<void>(pool.map(std::vector{1})), std::logic_error);
  EXPECT_THROW(pool.close(), std::logic_error);
  for (auto&& one : other.map(std::vector{1})) EXPECT_EQ(one.value(), 2);
}

// Its copies of the pool's mutexes may be locked by threads that it has not.
TEST_P(Workers, AreNotAForkedCopys) {
  auto pool = make_pool(with({.workers = 2, .window = 4}), &twice);
  auto results = pool.map(std::views::iota(0, 100));
  auto at = results.begin();
  std::atomic<bool> stop{false};
  // Somebody who has the mutex, most of the time.
  std::thread other([&] {
    while (!stop) static_cast<void>(pool.pids());
  });
  for (int round = 0; round < 10; ++round) {
    support::expect_in_a_copy([&] {
      bool fine = support::is_refused([&] { pool.close(); });
      fine = support::is_refused([&] { static_cast<void>(pool.pids()); }) && fine;
      fine = support::is_refused([&] { static_cast<void>(pool.map(std::vector{1}).begin()); }) && fine;
      fine = support::is_refused([&] {
               for (int i = 0; i < 20; ++i) ++at;
             }) &&
             fine;
      { const auto gone = std::move(results); }
      { const auto gone = std::move(pool); }
      return fine;
    });
  }
  stop = true;
  other.join();
  int value = 0;
  for (; at != results.end(); ++at) EXPECT_EQ(at->value(), 2 * value++);
  EXPECT_EQ(value, 100);
}

TEST_P(Workers, EndWithThePool) {
  for (int round = 0; round < 3; ++round) {
    std::vector<std::int64_t> pids;
    {
      auto pool = make_pool(with({.workers = 3}), [](int x) { return x; });
      pids = pool.pids();
    }
    for (const std::int64_t pid : pids) {
      if (pid > 0) {
        EXPECT_TRUE(support::is_gone(static_cast<pid_t>(pid)));
      }
    }
  }
}

struct lingers {
  std::string file;
  explicit lingers(std::string path) : file(std::move(path)) {}
  lingers(const lingers&) = delete;
  ~lingers() { support::log_process(file.c_str()); }
  int operator()(int x) { return x; }
};

TEST_P(Workers, AreDestroyedInOrder) {
  support::call_log log;
  {
    worker_pool<lingers> pool(with({.workers = 2, .join_timeout = 60s}), shared(log.path()));
    for (auto&& one : pool.map({1, 2, 3})) EXPECT_TRUE(one.ok());
  }
  EXPECT_EQ(log.pids().size(), 2u);
}

TEST_P(Workers, OptionsThatMakeNoSenseAreRefusedByName) {
  const auto refused = [](pynisher::pool_options wanted) -> std::string {
    try {
      static_cast<void>(make_pool(with(std::move(wanted)), [](int x) { return x; }));
    } catch (const std::invalid_argument& e) {
      return e.what();
    }
    return "nothing";
  };
  EXPECT_THAT(refused({.workers = 1, .chunk = 0}), HasSubstr("chunk"));
  EXPECT_THAT(refused({.workers = 1'000'000}), HasSubstr("workers"));
  EXPECT_THAT(refused({.workers = 1, .join_timeout = -1s}), HasSubstr("join_timeout"));
  EXPECT_THAT(refused({.workers = 1, .passing = static_cast<pynisher::passing>(9)}), HasSubstr("passing"));
  EXPECT_THAT(refused({.workers = 1, .limits = {.wall_time = 0s}}), HasSubstr("wall_time"));
}

TEST(WorkerThreads, CannotHaveLimits) {
  const auto open = [](pynisher::options limits) {
    static_cast<void>(make_pool({.workers = 1, .limits = std::move(limits), .backend = pynisher::backend::threads},
                                [](int x) { return x; }));
  };
  EXPECT_NO_THROW(open({}));
  EXPECT_THROW(open({.memory = 1_GiB}), pynisher::UnsupportedException);
  EXPECT_THROW(open({.wall_time = 1s}), pynisher::UnsupportedException);
  EXPECT_THROW(open({.cpu_time = 1s}), pynisher::UnsupportedException);
}

// --- processes -----------------------------------------------------------------------------------------------------

struct dies_in_constructor {
  explicit dies_in_constructor(int signal) { ::kill(::getpid(), signal); }
  int operator()(int x) { return x; }
};

TEST_P(WorkerProcesses, DeathInTheConstructorIsWhatThePoolThrows) {
  EXPECT_THROW(worker_pool<dies_in_constructor>(with({.workers = 2}), shared(SIGKILL)), pynisher::SignalException);
}

int doubled(int x) { return 2 * x; }
int sum_by_pools_of_its_own(int count) {
  auto pool = make_pool({.workers = 2, .limits = {.warnings = false}}, &doubled);
  int sum = 0;
  for (auto&& one : pool.map(std::views::iota(0, count))) sum += one.value();
  pynisher::pool_executor executor({.workers = 1, .limits = {.warnings = false}});
  return sum + executor.submit(doubled, sum).get();
}
int sum_by_a_worker_of_a_worker(int count) {
  auto pool = make_pool({.workers = 1, .limits = {.warnings = false}}, &sum_by_pools_of_its_own);
  int sum = 0;
  for (auto&& one : pool.map(std::views::iota(count, count + 1))) sum += one.value();
  return sum;
}

TEST_P(WorkerProcesses, MayHavePoolsOfTheirOwn) {
  auto pool = make_pool(with({.workers = 2}), &sum_by_pools_of_its_own);
  std::vector<int> sums;
  for (auto&& one : pool.map(std::views::iota(1, 4))) sums.push_back(one.value());
  EXPECT_THAT(sums, ElementsAre(0, 6, 18));
  auto outer = make_pool(with({.workers = 1}), &sum_by_a_worker_of_a_worker);
  for (auto&& one : outer.map(std::views::iota(3, 4))) EXPECT_EQ(one.value(), 18);
}

TEST_P(WorkerProcesses, AStuckWorkerDoesNotHoldUpThePoolsEnd) {
  support::process_log log;
  std::vector<std::int64_t> pids;
  {
    auto pool = make_pool(with({.workers = 2, .join_timeout = 50ms}), [](std::string path) {
      support::log_process(path.c_str());
      for (;;) ::pause();
      return 0;
    });
    pids = pool.pids();
    std::jthread consumer([&] {
      for (auto&& one : pool.map(std::vector<std::string>{log.path(), log.path()})) EXPECT_FALSE(one.ok());
    });
    support::await_logged(log.path(), 2);
    pool.close();
  }
  for (const std::int64_t pid : pids) EXPECT_TRUE(support::is_gone(static_cast<pid_t>(pid)));
}

TEST_P(WorkerProcesses, DieWithAProgramThatIsKilled) {
  support::process_log log;
  const auto kind = GetParam();
  support::helper_process program([&] {
    auto pool = make_pool({.workers = 2, .limits = {.warnings = false}, .context = kind.context}, [](std::string path) {
      support::log_process(path.c_str());
      for (;;) ::pause();
      return 0;
    });
    for (auto&& one : pool.map(std::vector<std::string>{log.path(), log.path()})) static_cast<void>(one.ok());
    return 0;
  });
  support::await_logged(log.path(), 2);
  program.send(SIGKILL);
  for (const pid_t pid : log.pids()) support::await_gone(pid);
}

TEST(WorkerArguments, OfAnyKindAreInheritedByFork) {
  SKIP_UNLESS_SUPPORTED("fork");
  struct owner {
    std::unique_ptr<int> value;
    explicit owner(std::unique_ptr<int> v) : value(std::move(v)) {}
    int operator()(int x) { return *value + x; }
  };
  worker_pool<owner> pool({.workers = 2, .limits = {.warnings = false}, .context = pynisher::start_method::fork},
                          per_worker(std::make_unique<int>(10), std::make_unique<int>(20)));
  for (auto&& one : pool.map({1, 2, 3})) EXPECT_EQ(one.value(), (one.worker() + 1) * 10 + one.index() + 1);
  int captured = 5;
  auto closure = make_pool({.workers = 1, .limits = {.warnings = false}, .context = pynisher::start_method::fork},
                           [captured](int x) { return x + captured; });
  for (auto&& one : closure.map({1})) EXPECT_EQ(one.value(), 6);
}

TEST(WorkerArguments, ThatCannotBeSentAreRefused) {
  SKIP_UNLESS_SUPPORTED("spawn");
  int captured = 5;
  EXPECT_THROW(static_cast<void>(make_pool({.workers = 1, .context = pynisher::start_method::spawn},
                                           [captured](int x) { return x + captured; })),
               std::invalid_argument);
}

}  // namespace
