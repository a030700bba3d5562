// Executors: tasks by every start method, and in threads.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <functional>
#include <future>
#include <iterator>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <ostream>
#include <ranges>
#include <sstream>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/copies.hpp"
#include "support/handshake.hpp"
#include "support/no_threads.hpp"
#include "support/outcomes.hpp"
#include "support/processes.hpp"
#include "support/scenarios.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::BrokenPoolError;
using pynisher::CancelledException;
using pynisher::pool_executor;
using pynisher::pool_options;
using pynisher::task_future;
using pynisher::verdict;
using support::FailedWith;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Le;
using ::testing::SizeIs;

/// What workers are.
struct kind {
  pynisher::backend backend = pynisher::backend::processes;
  pynisher::start_method method = pynisher::start_method::automatic;

  [[nodiscard]] bool has_threads() const { return backend == pynisher::backend::threads; }
  [[nodiscard]] std::string name() const { return has_threads() ? "threads" : support::method_name(method); }
  friend std::ostream& operator<<(std::ostream& os, const kind& which) { return os << which.name(); }
};

std::vector<kind> processes() {
  std::vector<kind> all;
  for (const auto method : pynisher::start_methods()) all.push_back({pynisher::backend::processes, method});
  return all;
}
std::vector<kind> all_kinds() {
  auto all = processes();
  all.push_back({pynisher::backend::threads, pynisher::start_method::automatic});
  return all;
}

class per_kind : public ::testing::TestWithParam<kind> {
 protected:
  [[nodiscard]] static pool_options with(pool_options wanted = {}) {
    if (wanted.workers == 0) wanted.workers = 2;
    wanted.backend = GetParam().backend;
    wanted.context = GetParam().method;
    wanted.limits.warnings = false;
    return wanted;
  }
};
/// For all workers.
class PoolExecutor : public per_kind {};
INSTANTIATE_TEST_SUITE_P(By, PoolExecutor, ::testing::ValuesIn(all_kinds()),
                         [](const auto& which) { return which.param.name(); });
/// For workers that are processes.
class PoolExecutorProcesses : public per_kind {};
INSTANTIATE_TEST_SUITE_P(By, PoolExecutorProcesses, ::testing::ValuesIn(processes()),
                         [](const auto& which) { return which.param.name(); });

/// Where a task waits until the test lets it go on: a named pipe, which any worker finds by its path.
class gate {
 public:
  gate() {
    char name[] = "/tmp/pynisher-gate-XXXXXX";
    if (::mkdtemp(name) == nullptr) throw std::runtime_error("no temporary directory");
    directory_ = name;
    if (::mkfifo(path().c_str(), 0600) != 0) throw std::runtime_error("no named pipe");
  }
  gate(const gate&) = delete;
  gate& operator=(const gate&) = delete;
  ~gate() {
    open();
    std::filesystem::remove_all(directory_);
  }
  [[nodiscard]] std::string path() const { return directory_ + "/gate"; }
  /// Comes back when a task stands before it.
  void await_task() {
    if (end_ < 0) end_ = ::open(path().c_str(), O_WRONLY | O_CLOEXEC);
  }
  /// Lets the one go on for which `await_task` was called.
  void open() {
    if (end_ >= 0) ::close(std::exchange(end_, -1));
  }

 private:
  std::string directory_;
  int end_ = -1;
};

/// Until the gate is opened.
int wait_at(const std::string& gate) {
  const int end = ::open(gate.c_str(), O_RDONLY | O_CLOEXEC);
  char nothing = 0;
  while (::read(end, &nothing, 1) < 0 && errno == EINTR) {
  }
  ::close(end);
  return 1;
}

int add(int a, int b) { return a + b; }
int twice(int number) {
  if (number < 0) throw std::domain_error("negative");
  return 2 * number;
}
std::size_t length(const std::string& text) { return text.size(); }
std::size_t view_length(std::string_view text) { return text.size(); }
std::unique_ptr<int> pass(std::unique_ptr<int> number) { return number; }
std::int64_t own_pid() { return ::getpid(); }
int exit_with(int code) { std::_Exit(code); }
int kill_self() {
  support::signal_self(SIGKILL);
  return 0;
}

struct multiplier {
  int factor = 1;
  int operator()(int number) const { return factor * number; }
  template <class Archive>
  void serialize(Archive& archive) {
    archive(factor);
  }
};

/// Objects to being sent.
struct stubborn {
  template <class Archive>
  void save(Archive& /*archive*/) const {
    throw std::runtime_error("I am not going");
  }
  template <class Archive>
  void load(Archive& /*archive*/) {}
};

// --- values
// -------------------------------------------------------------------------------------------------------------

TEST_P(PoolExecutor, GivesValuesAndExceptions) {
  pool_executor pool(with());
  const task_future<int> sum = pool.submit(add, 1, 2);
  const auto failing = pool.submit(twice, -1);
  const auto nothing = pool.submit([] {});
  EXPECT_EQ(sum.get(), 3);
  EXPECT_EQ(sum.get(), 3);
  EXPECT_THROW(failing.get(), std::domain_error);
  nothing.get();
  EXPECT_TRUE(sum.done() && failing.done() && nothing.done());
  EXPECT_FALSE(sum.running() || sum.cancelled());
  EXPECT_EQ(failing.get_outcome().verdict(), verdict::raised);
  EXPECT_EQ(sum.get_outcome().value(), 3);
}

TEST_P(PoolExecutor, CallsWhateverTravels) {
  pool_executor pool(with());
  const auto lambda = pool.submit([](int n) { return n + 1; }, 1);
  const auto generic = pool.submit([](auto n) { return n + 1; }, 1.5);
  const auto functor = pool.submit(multiplier{7}, 6);
  const auto converted = pool.submit(length, "four");
  const auto viewed = pool.submit(view_length, "fives");
  const auto moved = pool.submit(pass, std::make_unique<int>(9));
  const auto member = pool.submit(&std::string::size, std::string("sixsix"));
  EXPECT_EQ(lambda.get(), 2);
  EXPECT_EQ(generic.get(), 2.5);
  EXPECT_EQ(functor.get(), 42);
  EXPECT_EQ(converted.get(), 4u);
  EXPECT_EQ(viewed.get(), 5u);
  EXPECT_EQ(*moved.get(), 9);
  EXPECT_EQ(member.get(), 6u);
}

TEST_P(PoolExecutor, RefusesWhatIsEmpty) {
  pool_executor pool(with());
  int (*nothing)() = nullptr;
  EXPECT_THROW(pool.submit(nothing), std::invalid_argument);
}

TEST_P(PoolExecutor, TakesTasksFromManyThreads) {
  pool_executor pool(with());
  std::atomic<int> sum = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        std::vector<task_future<int>> futures;
        for (int i = 0; i < 100; ++i) futures.push_back(pool.submit(add, t, i));
        for (auto& one : pynisher::as_completed(futures)) sum += one.get();
      });
    }
  }
  EXPECT_EQ(sum, 100 * (0 + 1 + 2 + 3) + 4 * 4950);
}

TEST_P(PoolExecutor, AWorkerThatIsBusyHoldsUpNobodyElse) {
  gate before;
  pool_executor pool(with({.workers = 2}));
  const auto busy = pool.submit(wait_at, before.path());
  before.await_task();
  std::vector<task_future<int>> others;
  for (int i = 0; i < 50; ++i) others.push_back(pool.submit(twice, i));
  EXPECT_THAT(pynisher::wait(others).done, SizeIs(50));
  EXPECT_FALSE(busy.done());
  before.open();
  EXPECT_EQ(busy.get(), 1);
}

TEST_P(PoolExecutor, LargeValuesGoBothWays) {
  pool_executor pool(with());
  std::vector<double> numbers(1 << 20);
  std::iota(numbers.begin(), numbers.end(), 0.0);
  const auto back = pool.submit([](std::vector<double> all) { return all; }, numbers);
  EXPECT_EQ(back.get(), numbers);
}

// --- map
// ----------------------------------------------------------------------------------------------------------------

TEST_P(PoolExecutor, MapsInTheOrderOfTheInput) {
  pool_executor pool(with());
  std::vector<int> results;
  auto mapped = pool.map(twice, std::views::iota(0, 50));
  EXPECT_EQ(mapped.size(), 50);
  for (const int result : mapped) results.push_back(result);
  ASSERT_THAT(results, SizeIs(50));
  for (std::size_t i = 0; i < results.size(); ++i) EXPECT_EQ(results[i], 2 * static_cast<int>(i));
}

TEST_P(PoolExecutor, MapReadsNoFurtherThanItsWindow) {
  pool_executor pool(with({.window = 3}));
  int read = 0;
  auto mapped = pool.map(twice, std::views::iota(0) | std::views::transform([&read](int n) { return ++read, n; }));
  EXPECT_EQ(read, 0);
  int taken = 0;
  for (const int result : mapped) {
    EXPECT_EQ(result, 2 * taken);
    ++taken;
    EXPECT_THAT(read, Le(taken + 3));
    if (taken == 20) break;
  }
}

TEST_P(PoolExecutor, MapThrowsAtTheItemAndGoesOnBehindIt) {
  pool_executor pool(with());
  auto mapped = pool.map(twice, std::vector{1, -1, 2});
  auto item = mapped.begin();
  EXPECT_EQ(*item, 2);
  ++item;
  EXPECT_THROW(*item, std::domain_error);
  ++item;
  EXPECT_EQ(*item, 4);
  ++item;
  EXPECT_TRUE(item == mapped.end());
}

TEST_P(PoolExecutor, MapOfNothingAndMapForNothing) {
  pool_executor pool(with());
  for ([[maybe_unused]] const int result : pool.map(twice, std::vector<int>())) FAIL();
  int count = 0;
  for ([[maybe_unused]] const auto result : pool.map([](int) {}, std::views::iota(0, 5))) ++count;
  EXPECT_EQ(count, 5);
}

TEST_P(PoolExecutor, MapThatIsDroppedCancelsWhatDoesNotRun) {
  gate before;
  {
    pool_executor pool(with({.workers = 1, .window = 50}));
    const auto first = pool.submit(wait_at, before.path());
    before.await_task();
    {
      auto mapped = pool.map(wait_at, std::vector<std::string>(50, "/there/is/no/such/gate"));
      [[maybe_unused]] const auto item = mapped.begin();
    }
    before.open();
    EXPECT_EQ(first.get(), 1);
    EXPECT_EQ(pool.submit(add, 1, 1).get(), 2);
  }
}

TEST_P(PoolExecutor, MapIsMovedWithWhatIsOnItsWay) {
  pool_executor pool(with());
  // Its iterators know the view that they are of.
  std::istringstream text("0 1 2 3 4 5");
  auto first = pool.map(twice, std::views::istream<int>(text));
  auto at = first.begin();
  EXPECT_EQ(*at, 0);
  auto second = std::move(first);
  EXPECT_EQ(*++at, 2);
  std::vector<int> rest;
  for (++at; at != second.end(); ++at) rest.push_back(*at);
  EXPECT_THAT(rest, ElementsAre(4, 6, 8, 10));
}

TEST_P(PoolExecutor, MapGivesWhatWasReadBeforeItsInputThrew) {
  pool_executor pool(with({.window = 10}));
  auto mapped = pool.map(twice, std::views::iota(0) | std::views::transform([](int n) {
                                  if (n == 3) throw std::out_of_range("no more");
                                  return n;
                                }));
  std::vector<int> results;
  const auto read_all = [&] {
    for (const int result : mapped) results.push_back(result);
  };
  EXPECT_THROW(read_all(), std::out_of_range);
  EXPECT_THAT(results, ElementsAre(0, 2, 4));
  read_all();
  EXPECT_THAT(results, SizeIs(3));
}

TEST_P(PoolExecutor, MapDrivesAProgressBar) {
  pool_executor pool(with());
  int sum = 0;
  for (const int result : pynisher::progress_bar(pool.map(twice, std::vector{1, 2, 3}), {.label = "test"}))
    sum += result;
  EXPECT_EQ(sum, 12);
}

// --- states and cancellation
// --------------------------------------------------------------------------------------------

TEST_P(PoolExecutor, CancelsWhatIsQueuedAndNotWhatRuns) {
  gate before;
  pool_executor pool(with({.workers = 1}));
  const auto running = pool.submit(wait_at, before.path());
  before.await_task();
  const auto queued = pool.submit(add, 1, 1);
  const auto after = pool.submit(add, 2, 2);
  EXPECT_TRUE(running.running());
  EXPECT_FALSE(running.done());
  EXPECT_FALSE(queued.running());
  EXPECT_FALSE(running.cancel());
  EXPECT_TRUE(queued.cancel());
  EXPECT_TRUE(queued.cancelled());
  EXPECT_TRUE(queued.done());
  EXPECT_THROW(queued.get(), CancelledException);
  before.open();
  EXPECT_EQ(running.get(), 1);
  EXPECT_EQ(after.get(), 4);
  EXPECT_FALSE(running.cancel(pynisher::kill)) << "it is done";
}

// What was sent for a task lies in the worker's socket until the worker comes to it: it was left there.
TEST_P(PoolExecutor, ManyLargeTasksThatAreCancelledLeaveRoomForOthers) {
  gate before;
  pool_executor pool(with({.workers = 1, .window = 6}));
  const auto running = pool.submit(wait_at, before.path());
  before.await_task();
  const std::string text(100'000, 'x');
  const auto kept = pool.submit(length, text);
  for (int i = 0; i < 1500; ++i) EXPECT_TRUE(pool.submit(length, text).cancel());
  const auto after = pool.submit(length, text + text);
  before.open();
  EXPECT_EQ(running.get(), 1);
  EXPECT_EQ(kept.get(), text.size());
  EXPECT_EQ(after.get(), 2 * text.size());
  EXPECT_EQ(pool.submit(length, text).get(), text.size());
}

TEST_P(PoolExecutorProcesses, KillsWhatRunsAndReplacesItsWorker) {
  gate before;
  pool_executor pool(with({.workers = 1}));
  const auto pid = pool.submit(own_pid).get();
  const auto running = pool.submit(wait_at, before.path());
  before.await_task();
  EXPECT_TRUE(running.cancel(pynisher::kill));
  EXPECT_TRUE(running.cancelled());
  EXPECT_THROW(running.get(), CancelledException);
  EXPECT_NE(pool.submit(own_pid).get(), pid);
  EXPECT_TRUE(support::is_gone(static_cast<pid_t>(pid)));
}

TEST_P(PoolExecutor, AStopEndsOrForgetsItsTask) {
  gate before;
  pool_executor pool(with({.workers = 1}));
  std::stop_source stop;
  const auto running = pool.submit({.stop = stop.get_token()}, wait_at, before.path());
  const auto queued = pool.submit({.stop = stop.get_token()}, add, 1, 1);
  before.await_task();
  stop.request_stop();
  EXPECT_THROW(queued.get(), CancelledException);
  if (GetParam().has_threads()) {
    EXPECT_FALSE(running.done()) << "nobody can end a thread";
    before.open();
    EXPECT_EQ(running.get(), 1);
  } else {
    EXPECT_THROW(running.get(), CancelledException);
  }
  EXPECT_THROW(pool.submit({.stop = stop.get_token()}, add, 1, 1).get(), CancelledException) << "requested already";
  EXPECT_EQ(pool.submit({.stop = std::stop_source().get_token()}, add, 1, 1).get(), 2);
}

TEST_P(PoolExecutor, FuturesOutliveTheirPool) {
  std::vector<task_future<int>> futures;
  {
    pool_executor pool(with());
    for (int i = 0; i < 20; ++i) futures.push_back(pool.submit(twice, i));
  }
  for (int i = 0; i < 20; ++i) {
    const auto& one = futures[static_cast<std::size_t>(i)];
    EXPECT_TRUE(one.done());
    EXPECT_EQ(one.get(), 2 * i);
    EXPECT_FALSE(one.cancel(pynisher::kill));
    EXPECT_FALSE(one.running());
  }
}

TEST_P(PoolExecutor, ContinuationsRunInThisProgramBeforeItsEnd) {
  const auto here = own_pid();
  std::vector<std::int64_t> seen;
  task_future<int> chained;
  {
    pool_executor pool(with());
    static_cast<void>(pool.submit(twice, 4).then([&seen](int) { seen.push_back(own_pid()); }));
    chained =
        pool.submit(twice, 4).then([&pool](int n) { return pool.submit(twice, n); }).then([](int n) { return n + 1; });
    EXPECT_EQ(chained.get(), 17);
  }
  EXPECT_THAT(seen, ElementsAre(here));
}

// --- limits
// -------------------------------------------------------------------------------------------------------------

TEST_P(PoolExecutorProcesses, LimitsOneTaskAndNoOther) {
  pool_executor pool(with({.workers = 1}));
  const auto late = pool.submit({.wall_time = 100ms}, [] { support::sleep_forever(); });
  const auto busy = pool.submit({.cpu_time = 50ms}, [] { support::spin_forever(); });
  const auto fine = pool.submit({.cpu_time = 60s, .wall_time = 60s}, twice, 2);
  EXPECT_THAT(late.get_outcome(), FailedWith<pynisher::WallTimeoutException>());
  EXPECT_EQ(late.get_outcome().verdict(), verdict::wall_timeout);
  EXPECT_THAT(busy.get_outcome(), FailedWith<pynisher::CpuTimeoutException>());
  EXPECT_EQ(fine.get(), 4);
}

/// Its time begins when the one before it, which had no limit or a longer one, is over.
TEST_P(PoolExecutorProcesses, LimitsATaskThatWaitedBehindAnother) {
  for (const auto& limits : {pynisher::options{}, pynisher::options{.wall_time = 1h}}) {
    pool_executor pool(with({.workers = 1}));
    gate before;
    const auto first = pool.submit(limits, wait_at, before.path());
    const auto late = pool.submit({.wall_time = 100ms}, [] { support::sleep_forever(); });
    before.await_task();
    before.open();
    EXPECT_EQ(first.get(), 1);
    EXPECT_THAT(late.get_outcome(), FailedWith<pynisher::WallTimeoutException>());
  }
}

TEST_P(PoolExecutorProcesses, HoldsEachTaskToThePoolsLimits) {
  pool_executor pool(with({.workers = 1, .limits = {.wall_time = 200ms}}));
  const auto late = pool.submit([] { support::sleep_forever(); });
  EXPECT_THAT(late.get_outcome(), FailedWith<pynisher::WallTimeoutException>());
  const auto both = pool.submit({.cpu_time = 60s}, [] { support::sleep_forever(); });
  EXPECT_THAT(both.get_outcome(), FailedWith<pynisher::WallTimeoutException>()) << "what is not set is the pool's";
  EXPECT_EQ(pool.submit({.wall_time = 60s}, twice, 2).get(), 4);
}

TEST_P(PoolExecutor, WrapsExceptionsAsThePoolsOptionsSay) {
  pool_executor pool(with({.limits = {.wrap_errors = true}}));
  EXPECT_THROW(pool.submit(twice, -1).get(), pynisher::WrappedException);
}

TEST_P(PoolExecutor, RefusesLimitsThatAreNotATasks) {
  pool_executor pool(with());
  EXPECT_THROW(pool.submit({.memory = 1 << 20}, twice, 1), std::invalid_argument);
  EXPECT_THROW(pool.submit({.name = "worker"}, twice, 1), std::invalid_argument);
  EXPECT_THROW(pool.submit({.wrap_errors = true}, twice, 1), std::invalid_argument);
  if (!GetParam().has_threads()) {
    EXPECT_THROW(pool.submit({.wall_time = -1s}, twice, 1), std::invalid_argument);
  }
  EXPECT_EQ(pool.submit(twice, 1).get(), 2);
}

TEST(PoolExecutorThreads, CannotLimit) {
  pool_executor pool({.workers = 1, .backend = pynisher::backend::threads});
  EXPECT_THROW(pool.submit({.wall_time = 1s}, twice, 1), pynisher::UnsupportedException);
}

// --- what cannot be sent
// ------------------------------------------------------------------------------------------------

TEST_P(PoolExecutorProcesses, RefusesWhatCanNeverBeSent) {
  pool_executor pool(with());
  const auto captured = ::getpid();
  const auto reason_of = [](const std::exception_ptr& error) -> std::string {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const std::invalid_argument& e) {
      return e.what();
    } catch (...) {
    }
    return "not refused";
  };
  EXPECT_THAT(reason_of(support::thrown_by([&] { pool.submit([captured] { return captured; }); })),
              HasSubstr("captures"));
  EXPECT_THAT(reason_of(support::thrown_by([&] { pool.submit([](int* p) { return p != nullptr; }, nullptr); })),
              HasSubstr("argument"));
  EXPECT_THAT(reason_of(support::thrown_by([&] { pool.submit([] { return std::make_shared<int>(1); }); })),
              HasSubstr("result"));
  EXPECT_EQ(pool.submit(twice, 1).get(), 2);
}

TEST_P(PoolExecutorProcesses, FailsOnlyTheFutureOfWhatCannotBePacked) {
  pool_executor pool(with({.workers = 1}));
  const auto before = pool.submit(own_pid);
  const auto argument = pool.submit([](const stubborn&) {}, stubborn());
  const auto result = pool.submit([] { return stubborn(); });
  const auto after = pool.submit(own_pid);
  EXPECT_THAT(argument.get_outcome(), FailedWith<pynisher::SerializationException>());
  EXPECT_THAT(result.get_outcome(), FailedWith<pynisher::SerializationException>());
  EXPECT_EQ(before.get(), after.get()) << "the worker is as good as ever";
}

TEST(PoolExecutorThreads, TakeAnything) {
  pool_executor pool({.workers = 2, .backend = pynisher::backend::threads});
  int seen = 0;
  std::mutex mutex;
  const auto captured = pool.submit([&seen, &mutex, held = std::make_unique<int>(5)] {
    const std::lock_guard lock(mutex);
    return seen += *held;
  });
  EXPECT_EQ(captured.get(), 5);
  const std::shared_ptr<int> shared = pool.submit([] { return std::make_shared<int>(7); }).get();
  EXPECT_EQ(*shared, 7);
  int target = 0;
  pool.submit([](int* where) { *where = 9; }, &target).get();
  pool.submit([](int& where) { ++where; }, std::ref(target)).get();
  EXPECT_EQ(target, 10);
  struct local_error {
    int code;
  };
  try {
    pool.submit([] { throw local_error{3}; }).get();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const local_error& e) {
    EXPECT_EQ(e.code, 3) << "itself, not a likeness";
  }
}

std::ptrdiff_t own_threads() {
  const auto all = std::filesystem::directory_iterator("/proc/self/task");
  return std::distance(begin(all), end(all));
}

// The thread that ends a task ended the executor with it, and waited for itself.
TEST(PoolExecutorThreads, ATaskMayHoldTheLastHandle) {
  static_cast<void>(pool_executor({.workers = 1, .backend = pynisher::backend::threads}).submit([] {}).get());
  const auto before = own_threads();
  for (const bool lets_go_itself : {false, true}) {
    std::promise<void> go;
    auto pool = std::make_shared<pool_executor>(pool_options{.workers = 2, .backend = pynisher::backend::threads});
    const auto task = pool->submit([pool, &go, lets_go_itself]() mutable {
      go.get_future().wait();
      if (lets_go_itself) pool.reset();
      return 1;
    });
    const auto other = pool->submit([] { return 2; });
    pool.reset();
    go.set_value();
    EXPECT_EQ(task.get(), 1);
    EXPECT_EQ(other.get(), 2);
    support::await([before] { return own_threads() == before; });
  }
}

TEST(PoolExecutorThreads, AContinuationMayHoldTheLastHandle) {
  static_cast<void>(pool_executor({.workers = 1, .backend = pynisher::backend::threads}).submit([] {}).get());
  const auto before = own_threads();
  std::promise<void> go;
  auto pool = std::make_shared<pool_executor>(pool_options{.workers = 1, .backend = pynisher::backend::threads});
  const auto task = pool->submit([&go] { go.get_future().wait(); });
  const auto after = task.then([pool] { return 3; });
  pool.reset();
  go.set_value();
  EXPECT_EQ(after.get(), 3);
  support::await([before] { return own_threads() == before; });
}

TEST(PoolExecutorThreads, ATaskThatShutsItsPoolDownDoesNotWaitForItself) {
  pool_executor pool({.workers = 1, .backend = pynisher::backend::threads});
  const auto task = pool.submit([&pool] {
    pool.shutdown();
    return 1;
  });
  EXPECT_EQ(task.get(), 1);
  EXPECT_THROW(pool.submit([] {}), BrokenPoolError);
}

// --- tasks that are tried again -----------------------------------------------------------------------------------

std::atomic<int> tries{0};
int succeed_at_the_third_try(std::string text) {
  if (++tries < 3) throw std::runtime_error(std::exchange(text, ""));
  return static_cast<int>(text.size());
}

TEST_P(PoolExecutor, TriesAgainWithTheSameArguments) {
  tries = 0;
  pool_executor pool(with({.workers = 1, .retries = 2}));
  EXPECT_EQ(pool.submit(succeed_at_the_third_try, "four").get(), 4);
  EXPECT_THROW(pool.submit(twice, -1).get(), std::domain_error);
}

constexpr std::size_t most_counted = 1000;
std::atomic<int>* counts = nullptr;
int count(std::size_t which, int microseconds) {
  ++counts[which];
  const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(microseconds);
  while (std::chrono::steady_clock::now() < until) {
  }
  return 1;
}

// A worker that is ended for one task may have come to the next one meanwhile, which was run again then.
TEST(PoolExecutorByFork, ATaskThatWasBegunIsNotRunAgain) {
  const support::shared<std::array<std::atomic<int>, most_counted>> counted;
  counts = counted->data();
  pool_executor pool({.workers = 1, .limits = {.warnings = false}, .context = pynisher::start_method::fork});
  for (std::size_t i = 0; i < most_counted; i += 2) {
    const auto first = pool.submit(count, i, 200);
    const auto second = pool.submit(count, i + 1, 1000);
    while (counts[i] == 0) {
    }
    const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(i * 7 % 200);
    while (std::chrono::steady_clock::now() < until) {
    }
    const bool cancelled = first.cancel(pynisher::kill);
    EXPECT_EQ(first.cancelled(), cancelled);
    EXPECT_EQ(second.get(), 1);
    EXPECT_EQ(counts[i], 1);
    EXPECT_EQ(counts[i + 1], 1);
  }
}

// --- workers that die
// ---------------------------------------------------------------------------------------------------

TEST_P(PoolExecutorProcesses, ADeadWorkerCostsItsTaskAlone) {
  pool_executor pool(with());
  std::vector<task_future<int>> well;
  for (int i = 0; i < 10; ++i) well.push_back(pool.submit(twice, i));
  const auto exits = pool.submit(exit_with, 7);
  const auto killed = pool.submit(kill_self);
  const auto crashes = pool.submit([] { support::write_to_null(); });
  for (int i = 10; i < 20; ++i) well.push_back(pool.submit(twice, i));
  for (int i = 0; i < 20; ++i) EXPECT_EQ(well[static_cast<std::size_t>(i)].get(), 2 * i);
  EXPECT_THAT(exits.get_outcome(),
              FailedWith<pynisher::ExitException>([](const auto& e) { EXPECT_EQ(e.exit_code(), 7); }));
  EXPECT_THAT(killed.get_outcome(),
              FailedWith<pynisher::SignalException>([](const auto& e) { EXPECT_EQ(e.signal(), SIGKILL); }));
  if (!support::sanitized) {
    EXPECT_THAT(crashes.get_outcome(), FailedWith<pynisher::SignalException>());
  }
  EXPECT_TRUE(crashes.error());
}

TEST_P(PoolExecutorProcesses, ADeadWorkerBreaksAPoolThatIsToBreak) {
  gate before;
  pool_executor pool(with({.workers = 1, .on_death = pynisher::on_death::break_pool}));
  const auto first = pool.submit(wait_at, before.path());
  before.await_task();
  const auto dying = pool.submit(kill_self);
  const auto pending = pool.submit(twice, 1);
  before.open();
  EXPECT_EQ(first.get(), 1);
  EXPECT_THAT(dying.get_outcome(), FailedWith<pynisher::SignalException>());
  EXPECT_THROW(pending.get(), BrokenPoolError);
  EXPECT_THROW(pool.submit(twice, 1).get(), BrokenPoolError);
}

// --- initializers
// -------------------------------------------------------------------------------------------------------

std::atomic<int> prepared{0};
void prepare() { prepared = 42; }
int what_is_prepared() { return prepared; }

TEST_P(PoolExecutor, InitializesEachWorker) {
  prepared = 0;
  pool_executor pool(with({.initializer = prepare}));
  std::vector<task_future<int>> seen;
  for (int i = 0; i < 10; ++i) seen.push_back(pool.submit(what_is_prepared));
  for (const auto& one : seen) EXPECT_EQ(one.get(), 42);
  EXPECT_EQ(prepared, GetParam().has_threads() ? 42 : 0);
}

TEST_P(PoolExecutorProcesses, InitializesTheWorkerThatReplacesAnother) {
  pool_executor pool(with({.workers = 1, .initializer = prepare}));
  EXPECT_TRUE(pool.submit(kill_self).error());
  EXPECT_EQ(pool.submit(what_is_prepared).get(), 42);
}

void fail_to_prepare() { throw std::runtime_error("no such device"); }
void die_preparing() { std::_Exit(3); }

TEST_P(PoolExecutor, AnInitializerThatFailsFailsAllTasksWithTheCause) {
  pool_executor pool(with({.initializer = fail_to_prepare}));
  for (int i = 0; i < 3; ++i) {
    const auto never = pool.submit(twice, i);
    try {
      never.get();
      ADD_FAILURE() << "it ran";
    } catch (const BrokenPoolError& e) {
      EXPECT_THAT(e.what(), HasSubstr("no such device"));
      ASSERT_TRUE(e.cause());
      EXPECT_THROW(std::rethrow_exception(e.cause()), std::runtime_error);
      EXPECT_THROW(std::rethrow_if_nested(e), std::runtime_error);
    }
  }
  for (const int i : {0, 1}) {
    auto mapped = pool.map(twice, std::vector{i});
    EXPECT_THROW(*mapped.begin(), BrokenPoolError);
  }
}

TEST_P(PoolExecutorProcesses, AnInitializerThatDiesFailsAllTasks) {
  pool_executor pool(with({.initializer = die_preparing}));
  EXPECT_THROW(pool.submit(twice, 1).get(), BrokenPoolError);
  EXPECT_THROW(pool.submit(twice, 1).get(), BrokenPoolError);
}

TEST_P(PoolExecutor, RefusesOptionsThatMakeNoSense) {
  EXPECT_THROW(pool_executor(with({.limits = {.wall_time = -1s}})), std::invalid_argument);
}

// --- the end
// ------------------------------------------------------------------------------------------------------------

TEST_P(PoolExecutor, ShutdownWaitsForWhatWasSubmittedAndTakesNoMore) {
  pool_executor pool(with());
  std::vector<task_future<int>> futures;
  for (int i = 0; i < 20; ++i) futures.push_back(pool.submit(twice, i));
  pool.shutdown();
  for (const auto& one : futures) EXPECT_TRUE(one.done() && !one.error());
  EXPECT_THROW(pool.submit(twice, 1), BrokenPoolError);
  pool.shutdown();
}

TEST_P(PoolExecutor, ShutdownNeedNotWait) {
  gate before;
  pool_executor pool(with({.workers = 1}));
  const auto running = pool.submit(wait_at, before.path());
  const auto queued = pool.submit(twice, 2);
  before.await_task();
  pool.shutdown(false);
  EXPECT_FALSE(running.done());
  EXPECT_THROW(pool.submit(twice, 1), BrokenPoolError);
  before.open();
  EXPECT_EQ(queued.get(), 4);
}

TEST_P(PoolExecutor, ShutdownMayCancelWhatIsPending) {
  gate before;
  pool_executor pool(with({.workers = 1}));
  const auto running = pool.submit(wait_at, before.path());
  const auto queued = pool.submit(twice, 2);
  before.await_task();
  pool.shutdown(false, true);
  EXPECT_THROW(queued.get(), CancelledException);
  before.open();
  pool.shutdown();
  EXPECT_EQ(running.get(), 1);
}

TEST_P(PoolExecutorProcesses, WorkersAreEndedAtOnce) {
  for (const bool kill : {false, true}) {
    gate before;
    pool_executor pool(with({.workers = 1}));
    const auto running = pool.submit(wait_at, before.path());
    const auto queued = pool.submit(twice, 2);
    before.await_task();
    const auto pids = pool.pids();
    ASSERT_THAT(pids, SizeIs(1));
    if (kill) {
      pool.kill_workers();
    } else {
      pool.terminate_workers();
    }
    EXPECT_TRUE(running.error());
    EXPECT_TRUE(queued.error());
    EXPECT_THROW(pool.submit(twice, 1), BrokenPoolError);
    support::await_gone(static_cast<pid_t>(pids[0]));
  }
}

TEST_P(PoolExecutor, IsMovedWithItsTasks) {
  pool_executor first(with());
  const auto before = first.submit(twice, 1);
  pool_executor second = std::move(first);
  const auto after = second.submit(twice, 2);
  EXPECT_EQ(before.get(), 2);
  EXPECT_EQ(after.get(), 4);
  second = pool_executor(with());
  EXPECT_EQ(second.submit(twice, 3).get(), 6);
}

TEST_P(PoolExecutor, LeavesNothingBehind) {
  const auto descriptors = [] {
    const auto all = std::filesystem::directory_iterator("/proc/self/fd");
    return std::distance(begin(all), end(all));
  };
  // What is made once, and kept, is made before.
  static_cast<void>(pool_executor(with()).submit(twice, 1).get());
  const auto before = descriptors();
  std::vector<std::int64_t> pids;
  for (int i = 0; i < 3; ++i) {
    pool_executor pool(with());
    for (const auto pid : pool.pids()) pids.push_back(pid);
    EXPECT_EQ(pool.submit(twice, 1).then([](int n) { return n; }).get(), 2);
  }
  EXPECT_EQ(descriptors(), before);
  for (const auto pid : pids) {
    if (pid > 0) {
      EXPECT_TRUE(support::is_gone(static_cast<pid_t>(pid)));
    }
  }
  if (!GetParam().has_threads()) {
    EXPECT_THAT(pids, SizeIs(6));
  }
}

TEST_P(PoolExecutorProcesses, IsNotACopysToEnd) {
  auto pool = std::make_unique<pool_executor>(with({.workers = 1}));
  const auto pid = pool->submit(own_pid).get();
  support::expect_in_a_copy([&] {
    pool.reset();
    return true;
  });
  EXPECT_EQ(pool->submit(own_pid).get(), pid);
}

TEST_P(PoolExecutor, IsNotACopysToUse) {
  pool_executor pool(with({.workers = 1, .window = 3}));
  gate held_up;
  const auto runs = pool.submit(wait_at, held_up.path());
  held_up.await_task();
  const auto queued = pool.submit(twice, 1);
  auto results = pool.map(twice, std::vector<int>(10, 2));
  auto at = results.begin();
  support::expect_in_a_copy([&] {
    bool fine = !queued.cancel() && !runs.cancel(pynisher::kill) && !runs.running() && !queued.done();
    fine = support::is_refused([&] { static_cast<void>(pool.submit(twice, 1)); }) && fine;
    fine = support::is_refused([&] { queued.wait(); }) && fine;
    fine = support::is_refused([&] { static_cast<void>(queued.then([](int n) { return n; })); }) && fine;
    fine = support::is_refused([&] { static_cast<void>(pynisher::wait(std::vector{queued})); }) && fine;
    fine = support::is_refused([&] { pool.shutdown(); }) && fine;
    fine = support::is_refused([&] { pool.kill_workers(); }) && fine;
    fine = support::is_refused([&] { static_cast<void>(pool.pids()); }) && fine;
    { const auto gone = std::move(results); }
    { const auto gone = std::move(pool); }
    return fine;
  });
  held_up.open();
  EXPECT_EQ(queued.get(), 2);
  int count = 0;
  for (; at != results.end(); ++at) count += *at;
  EXPECT_EQ(count, 40);
}

TEST_P(PoolExecutor, NeedsNoFurtherThreadOnceItIsMade) {
  std::atomic<int> told{0};
  {
    auto wanted = with();
    wanted.progress = [&told](const pynisher::pool_progress& /*now*/) { ++told; };
    pool_executor pool(std::move(wanted));
    const support::no_threads none;
    EXPECT_EQ(pool.submit(twice, 1).get(), 2);
  }
  EXPECT_EQ(told, 1);
}

TEST_P(PoolExecutor, SaysWhereItCannotEndLater) {
  pool_executor pool(with());
  {
    const support::no_threads none;
    EXPECT_THROW(pool.shutdown(false), std::system_error);
    EXPECT_EQ(pool.submit(twice, 1).get(), 2) << "nothing has happened";
  }
  pool.shutdown(false);
  EXPECT_THROW(static_cast<void>(pool.submit(twice, 1)), BrokenPoolError);
}

TEST_P(PoolExecutor, ThatWasMovedFromSaysSo) {
  pool_executor first(with());
  pool_executor second = std::move(first);
  EXPECT_THROW(static_cast<void>(first.submit(twice, 1)), std::logic_error);
  EXPECT_THROW(static_cast<void>(first.map(twice, std::vector{1})), std::logic_error);
  EXPECT_THROW(first.shutdown(), std::logic_error);
  EXPECT_THROW(first.kill_workers(), std::logic_error);
  EXPECT_THROW(first.terminate_workers(), std::logic_error);
  EXPECT_THROW(static_cast<void>(first.pids()), std::logic_error);
  EXPECT_EQ(second.submit(twice, 1).get(), 2);
}

TEST_P(PoolExecutor, RefusesOptionsThatWouldDoNothing) {
  const auto refusal = [](pool_options wanted) {
    try {
      static_cast<void>(pool_executor(with(std::move(wanted))));
    } catch (const std::invalid_argument& e) {
      return std::string(e.what());
    }
    return std::string("none");
  };
  EXPECT_THAT(refusal({.passing = pynisher::passing::unpack}), ::testing::StartsWith("passing: "));
  EXPECT_THAT(refusal({.passing = pynisher::passing::named}), ::testing::StartsWith("passing: "));
  EXPECT_THAT(refusal({.on_error = pynisher::on_error::collect}), ::testing::StartsWith("on_error: "));
  EXPECT_THAT(refusal({.on_error = pynisher::on_error::immediate}), ::testing::StartsWith("on_error: "));
  EXPECT_EQ(refusal({.chunk = 2, .window = 8, .retries = 1, .join_timeout = 1s}), "none");
}

TEST(PoolExecutorThreads, ATaskMayEndTheWorkersAndItself) {
  for (const bool kill : {false, true}) {
    pool_executor pool({.workers = 2, .backend = pynisher::backend::threads, .join_timeout = 1h});
    const auto ended = pool.submit([&pool, kill] {
      kill ? pool.kill_workers() : pool.terminate_workers();
      return 7;
    });
    EXPECT_EQ(ended.get(), 7) << "it goes on";
    EXPECT_THROW(static_cast<void>(pool.submit(twice, 1)), BrokenPoolError);
  }
}

/// Throws what is no std::exception: 13 where it is packed, 14 where it is unpacked.
struct ill_mannered {
  int value = 0;
  template <class Archive>
  void save(Archive& archive) const {
    if (value == 13) throw value;
    archive(value);
  }
  template <class Archive>
  void load(Archive& archive) {
    archive(value);
    if (value == 14) throw value;
  }
};
ill_mannered make_ill_mannered(int value) { return {value}; }
int value_of(ill_mannered what) { return what.value; }

TEST_P(PoolExecutorProcesses, WhatThrowsNoExceptionCostsItsTaskOnly) {
  pool_executor pool(with());
  for (const int value : {13, 14}) {
    for (const bool comes_back : {false, true}) {
      const auto outcome =
          comes_back ? [](const auto& of) { return of.get_outcome().verdict(); }(pool.submit(make_ill_mannered, value))
                     : pool.submit(value_of, ill_mannered{value}).get_outcome().verdict();
      EXPECT_NE(outcome, verdict::returned) << value << comes_back;
    }
  }
  EXPECT_THROW(pool.submit(make_ill_mannered, 13).get(), pynisher::SerializationException);
  EXPECT_THROW(pool.submit(make_ill_mannered, 14).get(), pynisher::SerializationException);
  EXPECT_THROW(pool.submit(value_of, ill_mannered{13}).get(), pynisher::SerializationException);
  EXPECT_EQ(pool.submit(value_of, ill_mannered{1}).get(), 1);
}

// --- progress
// -----------------------------------------------------------------------------------------------------------

TEST_P(PoolExecutor, TellsItsProgressAfterEachTask) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> told;
  {
    auto options = with({.workers = 1});
    options.progress = [&told](const pynisher::pool_progress& now) {
      EXPECT_FALSE(now.total);
      EXPECT_GE(now.elapsed, 0ns);
      told.emplace_back(now.done, now.failed);
    };
    pool_executor pool(std::move(options));
    static_cast<void>(pool.submit(twice, 1));
    static_cast<void>(pool.submit(twice, -1));
    static_cast<void>(pool.submit(twice, 1));
  }
  EXPECT_THAT(told, ElementsAre(std::pair(1, 0), std::pair(2, 1), std::pair(3, 1)));
}

}  // namespace
