// Isolates: state from call to call, names, limits, ends.

#include <dlfcn.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <new>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/pynisher.hpp>

#include "support/functions.hpp"
#include "support/handshake.hpp"
#include "support/helper_process.hpp"
#include "support/outcomes.hpp"
#include "support/processes.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::isolate;
using pynisher::verdict;
using support::EndedAs;
using testing::ElementsAre;
using testing::HasSubstr;

class Isolate : public support::per_start_method {
 protected:
  static isolate make(pynisher::isolate_options wanted = {}) {
    wanted.context = GetParam();
    wanted.limits.warnings = false;
    return isolate::create(std::move(wanted));
  }
};
FOR_EACH_START_METHOD(Isolate);

int total = 0;
int add(int what) { return total += what; }
std::size_t length(std::string text) { return text.size(); }
std::string exclaim(const std::string& text, int times = 2) { return text + std::string(static_cast<std::size_t>(times), '!'); }
[[noreturn]] void throw_out_of_range(int row) { throw std::out_of_range("row " + std::to_string(row)); }
int process_number() { return ::getpid(); }
void log_and_sleep(const std::string& path) {
  support::log_process(path.c_str());
  support::sleep_two_minutes();
}
void log_and_wait_for_file(const std::string& path, const std::string& release) {
  support::log_process(path.c_str());
  support::await([&] { return std::filesystem::exists(release); });
}

// --- calls ------------------------------------------------------------------------------------------------------

TEST_P(Isolate, KeepsItsStateFromCallToCall) {
  isolate iso = make();
  EXPECT_EQ(iso.call(add, 3), 3);
  EXPECT_EQ(iso.call(add, 4), 7);
  EXPECT_EQ(total, 0);
  isolate other = make();
  EXPECT_EQ(other.call(add, 1), 1);
  EXPECT_EQ(iso.call(add, 0), 7);
}

TEST_P(Isolate, TakesArgumentsAsTheFunctionDoes) {
  isolate iso = make();
  EXPECT_EQ(iso.call(length, "spam"), 4u);
  EXPECT_EQ(iso.call(exclaim, "spam", 1), "spam!");
  EXPECT_EQ(iso.call([](auto a, auto b) { return a + b; }, 1.5, 2), 3.5);
  EXPECT_EQ(iso.call([](const std::vector<int>& v) { return std::accumulate(v.begin(), v.end(), 0); },
                     std::vector<int>{1, 2, 3}),
            6);
  iso.call([](int) {}, 1);
  EXPECT_EQ(iso.call(process_number), iso.pid());
}

TEST_P(Isolate, LargeValuesCrossBothWays) {
  isolate iso = make();
  std::vector<std::uint64_t> values(2'000'000);
  std::iota(values.begin(), values.end(), 0);
  const auto back = iso.call([](std::vector<std::uint64_t> v) { return v; }, values);
  EXPECT_TRUE(back == values);
  EXPECT_EQ(iso.call([](std::size_t n) { return std::string(n, 'x'); }, 5'000'000u), std::string(5'000'000, 'x'));
}

TEST_P(Isolate, ExceptionsArriveAsThemselvesAndItGoesOn) {
  isolate iso = make();
  iso.call(add, 5);
  EXPECT_THAT(iso.try_call(throw_out_of_range, 7), support::RaisedAs<std::out_of_range>("row 7"));
  EXPECT_THROW(iso.call(throw_out_of_range, 8), pynisher::ExecutionFailed);
  EXPECT_EQ(iso.call(add, 0), 5);
}

struct half {
  template <class Archive>
  void save(Archive& archive) const {
    archive(std::string(1'000'000, 'x'));
    throw std::runtime_error("half-way");
  }
  template <class Archive>
  void load(Archive&) {}
};

TEST_P(Isolate, AnExceptionInTheMiddleOfAResultIsAnException) {
  isolate iso = make();
  const auto ended = iso.try_call([] { return half(); });
  EXPECT_FALSE(ended);
  EXPECT_THAT(ended.explain(), HasSubstr("half-way"));
  EXPECT_EQ(iso.call(add, 1), 1);
}

TEST_P(Isolate, OutputIsThereWhenTheCallIsBack) {
  const auto said = support::run_in_helper([] {
    isolate iso = make();
    iso.call([] { std::printf("first;"); });
    std::printf("second;");
    std::fflush(stdout);
    iso.call([] { std::printf("third"); });
    return 0;
  });
  EXPECT_EQ(said.out, "first;second;third") << said;
}

TEST_P(Isolate, StartedCallsComeBackAtOnce) {
  isolate iso = make();
  support::process_log log;
  const std::string release = log.path() + ".release";
  auto pending = iso.start(log_and_wait_for_file, log.path(), release);
  support::await_logged(log.path(), 1);
  EXPECT_FALSE(pending.ready());
  EXPECT_TRUE(iso.is_running());
  EXPECT_EQ(pending.pid(), iso.pid());
  std::ofstream(release) << "";
  pending.get();
  EXPECT_FALSE(iso.is_running());
  std::filesystem::remove(release);
  auto value = iso.start(length, "spam");
  EXPECT_EQ(value.get(), 4u);
}

TEST_P(Isolate, ASecondCallIsRefusedOrWaitsItsTurn) {
  for (const bool queued : {false, true}) {
    isolate iso = make({.queued = queued});
    support::process_log log;
    const std::string release = log.path() + ".release";
    auto first = iso.start(log_and_wait_for_file, log.path(), release);
    support::await_logged(log.path(), 1);
    if (queued) {
      auto second = iso.start(length, "spam");
      auto third = iso.start(length, "eggs!");
      EXPECT_FALSE(second.ready());
      std::ofstream(release) << "";
      EXPECT_EQ(second.get() + third.get(), 9u);
    } else {
      EXPECT_THROW(iso.call(add, 1), pynisher::IsolateError);
      EXPECT_THROW((void)iso.start(add, 1), pynisher::IsolateError);
      EXPECT_THROW(iso.set("x", 1), pynisher::IsolateError);
      EXPECT_THROW(iso.close(), pynisher::IsolateError);
      std::ofstream(release) << "";
    }
    first.get();
    EXPECT_EQ(iso.call(add, 1), 1);
    std::filesystem::remove(release);
  }
}

// --- limits -----------------------------------------------------------------------------------------------------

TEST_P(Isolate, LimitsOfOneCallEndTheIsolate) {
  isolate iso = make();
  EXPECT_EQ(iso.call({.cpu_time = 1min, .wall_time = 1min}, add, 1), 1);
  EXPECT_THAT(iso.try_call({.wall_time = 50ms}, support::sleep_forever), EndedAs(verdict::wall_timeout));
  EXPECT_FALSE(iso.is_alive());
  EXPECT_THROW(iso.call(add, 1), pynisher::IsolateDiedError);
  iso.reset();
  EXPECT_EQ(iso.call(add, 1), 1);
  EXPECT_THAT(iso.try_call({.cpu_time = 20ms}, support::spin_forever), EndedAs(verdict::cpu_timeout));
  iso.reset();
  std::stop_source stop;
  stop.request_stop();
  EXPECT_THAT(iso.try_call({.stop = stop.get_token()}, support::sleep_forever), EndedAs(verdict::cancelled));
  iso.reset();
  EXPECT_THROW((void)iso.call({.memory = 1_GiB}, add, 1), std::invalid_argument);
  EXPECT_THROW((void)iso.call({.wall_time = -1s}, add, 1), std::invalid_argument);
}

TEST_P(Isolate, MemoryOfItsWholeLifeIsLimited) {
  SKIP_UNLESS_SUPPORTED("memory");
  isolate iso = make({.limits = {.memory = 64_MiB}});
  EXPECT_EQ(iso.call(add, 1), 1);
  EXPECT_THAT(iso.try_call(support::touch_memory_forever), EndedAs(verdict::memory_limit));
  // A refused allocation is an exception, and it goes on.
  EXPECT_EQ(iso.call(add, 1), 2);
}

// --- its end ----------------------------------------------------------------------------------------------------

TEST_P(Isolate, ADeathIsToldAndCostsNobodyElseAnything) {
  isolate iso = make({.name = "fragile"});
  isolate other = make();
  const auto crashed = iso.try_call(support::write_to_null);
  EXPECT_FALSE(crashed);
  EXPECT_THAT(crashed.explain(), AllOf(HasSubstr("fragile"), HasSubstr("SIGSEGV")));
  EXPECT_THROW(crashed.value(), pynisher::IsolateDiedError);
  EXPECT_THROW(iso.call(add, 1), pynisher::IsolateDiedError);
  EXPECT_FALSE(iso.is_alive());
  EXPECT_TRUE(iso.wait_for(0s));
  iso.reset();
  EXPECT_THAT(iso.try_call([] { std::exit(3); }).explain(), HasSubstr("exited with code 3"));
  EXPECT_EQ(other.call(add, 1), 1);
}

TEST_P(Isolate, AWaitingCallerLearnsThatItWasKilled) {
  isolate iso = make();
  support::process_log log;
  auto pending = iso.start(log_and_sleep, log.path());
  support::await_logged(log.path(), 1);
  ::kill(static_cast<pid_t>(iso.pid()), SIGKILL);
  EXPECT_THROW(pending.get(), pynisher::IsolateDiedError);
}

TEST_P(Isolate, CanBeKilledWhileItRunsAndClosedWhenItDoesNot) {
  isolate iso = make();
  support::process_log log;
  auto pending = iso.start(log_and_sleep, log.path());
  support::await_logged(log.path(), 1);
  EXPECT_FALSE(iso.wait_for(0s));
  iso.kill();
  EXPECT_THROW(pending.get(), pynisher::IsolateDiedError);
  EXPECT_TRUE(support::is_gone(log.pids().at(0)));
  EXPECT_THROW(iso.kill(), pynisher::IsolateNotFoundError);

  isolate second = make();
  const auto pid = static_cast<pid_t>(second.pid());
  second.close();
  EXPECT_TRUE(support::is_gone(pid));
  EXPECT_FALSE(second.is_alive());
  EXPECT_THROW(second.close(), pynisher::IsolateNotFoundError);
  EXPECT_THROW(second.call(add, 1), pynisher::IsolateNotFoundError);
  EXPECT_THROW(second.set("x", 1), pynisher::IsolateNotFoundError);
}

TEST_P(Isolate, DroppingAStartedCallEndsIt) {
  isolate iso = make();
  support::process_log log;
  {
    auto pending = iso.start(log_and_sleep, log.path());
    support::await_logged(log.path(), 1);
  }
  EXPECT_FALSE(iso.is_alive());
}

TEST_P(Isolate, TheLastHandleClosesIt) {
  pid_t pid = 0;
  {
    isolate iso = make();
    const isolate copy = iso;  // NOLINT
    pid = static_cast<pid_t>(iso.pid());
    EXPECT_FALSE(support::is_gone(pid));
  }
  EXPECT_TRUE(support::is_gone(pid));
}

TEST_P(Isolate, ADetachedOneGoesOnUntilItIsClosed) {
  std::int64_t id = 0;
  {
    isolate iso = make();
    iso.call(add, 5);
    iso.detach();
    id = iso.id();
  }
  for (isolate& one : std::vector<isolate>(isolate::list_all())) {
    if (one.id() != id) continue;
    EXPECT_EQ(one.call(add, 1), 6);
    one.close();
    id = 0;
  }
  EXPECT_EQ(id, 0) << "it was not listed";
}

TEST_P(Isolate, NothingIsLeftOfOneThatStartedADaemon) {
  SKIP_UNLESS_SUPPORTED("kill_tree");
  support::process_log log;
  {
    isolate iso = make();
    iso.call(
        [](const std::string& path) {
          if (::fork() != 0) return;
          ::setsid();
          if (::fork() != 0) ::_exit(0);
          support::log_process(path.c_str());
          support::sleep_two_minutes();
        },
        log.path());
    support::await_logged(log.path(), 1);
  }
  EXPECT_THAT(log.survivors(), testing::IsEmpty());
}

TEST_P(Isolate, DiesWithTheProgram) {
  support::process_log log;
  support::helper_process program([&] {
    isolate iso = make();
    iso.call(log_and_sleep, log.path());
    return 0;
  });
  support::await_logged(log.path(), 1);
  program.send(SIGKILL);
  support::await_gone(log.pids().at(0));
}

TEST_P(Isolate, LeavesNoDescriptorAndNoChild) {
  const auto open = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator());
  };
  const auto end = support::run_in_helper([&] {
    make().call(add, 1);
    pynisher::forkserver::stop();
    const auto before = open();
    for (int i = 0; i < 5; ++i) {
      isolate iso = make();
      iso.call(add, 1);
      (void)iso.try_call(support::write_to_null);
      iso.reset();
      iso.call(add, 1);
    }
    pynisher::forkserver::stop();
    HELPER_CHECK(open() <= before);
    HELPER_CHECK(::waitpid(-1, nullptr, WNOHANG | __WALL) == -1);
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

// --- identity ---------------------------------------------------------------------------------------------------

TEST_P(Isolate, IdsRiseAndHandlesAreEqualById) {
  const isolate first = make({.name = "one"});
  isolate second = make();
  EXPECT_LT(0, first.id());
  EXPECT_LT(first.id(), second.id());
  EXPECT_EQ(first.name(), "one");
  const isolate copy = first;
  EXPECT_TRUE(copy == first);
  EXPECT_FALSE(first == second);
  const std::unordered_set<isolate> set{first, copy, second};
  EXPECT_EQ(set.size(), 2u);
  const auto all = isolate::list_all();
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0], isolate::main());
  EXPECT_EQ(all[1], first);
  EXPECT_EQ(all[2], second);
  const auto id = second.id();
  second.close();
  EXPECT_EQ(isolate::list_all().size(), 2u);
  EXPECT_GT(make().id(), id);
}

TEST_P(Isolate, KnowsItselfAndMainIsTheProgram) {
  EXPECT_EQ(isolate::main().id(), 0);
  EXPECT_EQ(isolate::current(), isolate::main());
  EXPECT_EQ(isolate::main().pid(), ::getpid());
  isolate iso = make({.name = "me"});
  EXPECT_EQ(iso.call([] { return isolate::current().id(); }), iso.id());
  EXPECT_EQ(iso.call([] { return isolate::current().name(); }), "me");
  EXPECT_THROW(isolate::main().close(), pynisher::IsolateError);
  EXPECT_THROW(isolate::main().call(add, 1), pynisher::IsolateError);
  // In the isolate it is an IsolateError.
  EXPECT_THROW(iso.call([] { isolate::current().close(); }), std::runtime_error);
}

TEST_P(Isolate, ResetKeepsIdAndOptionsOnly) {
  isolate iso = make({.name = "again"});
  iso.call(add, 5);
  iso.set("spam", 1);
  const auto id = iso.id();
  const auto pid = iso.pid();
  iso.reset();
  EXPECT_EQ(iso.id(), id);
  EXPECT_EQ(iso.name(), "again");
  EXPECT_NE(iso.pid(), pid);
  EXPECT_EQ(iso.call(add, 1), 1);
  EXPECT_THAT(iso.names(), testing::IsEmpty());
}

// --- names ------------------------------------------------------------------------------------------------------

TEST_P(Isolate, NamesAreKeptThereAndSeenFromBothSides) {
  isolate iso = make();
  iso.set("spam", 42);
  iso.set("text", "eggs");
  EXPECT_EQ(iso.get<int>("spam"), 42);
  EXPECT_EQ(iso.get<std::string>("text"), "eggs");
  EXPECT_EQ(iso.call([] { return isolate::current().get<int>("spam") + 1; }), 43);
  iso.call([] { isolate::current().set("made", std::vector<double>{0.5}); });
  EXPECT_THAT(iso.get<std::vector<double>>("made"), ElementsAre(0.5));
  EXPECT_THAT(iso.names(), ElementsAre("made", "spam", "text"));
  iso.set_all({{"a", 1}, {"b", std::string("two")}});
  EXPECT_EQ(iso.get<std::string>("b"), "two");
  EXPECT_TRUE(iso.erase("a"));
  EXPECT_FALSE(iso.erase("a"));
  EXPECT_EQ(iso.get_or("a", 7), 7);
  iso.reset_main();
  EXPECT_THAT(iso.names(), testing::IsEmpty());
  iso.call(add, 1);
  EXPECT_EQ(iso.call(add, 0), 1) << "reset_main is about names only";
}

TEST_P(Isolate, NamesThatAreNotThereOrOfAnotherTypeAreErrors) {
  isolate iso = make();
  EXPECT_THROW((void)iso.get<int>("spam"), std::out_of_range);
  iso.set("spam", 42);
  EXPECT_THROW((void)iso.get<std::string>("spam"), pynisher::NotShareableError);
  EXPECT_THROW(iso.set("", 1), std::invalid_argument);
  EXPECT_THROW(iso.set_all({{"a", 1}, {"", 2}}), std::invalid_argument);
  EXPECT_THAT(iso.names(), ElementsAre("spam"));
}

// --- libraries --------------------------------------------------------------------------------------------------

TEST_P(Isolate, LoadsALibraryAndCallsASymbol) {
  isolate iso = make();
  EXPECT_EQ(iso.exec(PLUGIN, "plugin_main"), 3);
  EXPECT_EQ(iso.exec(PLUGIN, "plugin_main"), 6) << "its globals are kept";
  EXPECT_THROW((void)iso.exec("/no/such/library.so"), pynisher::LoadError);
  EXPECT_THROW((void)iso.exec(PLUGIN, "no_such_symbol"), pynisher::LoadError);
}

// --- many -------------------------------------------------------------------------------------------------------

TEST_P(Isolate, ManyAreMadeAndUsedAtOnce) {
  std::vector<std::jthread> makers;
  std::atomic<int> good{0};
  for (int i = 0; i < 8; ++i) {
    makers.emplace_back([&, i] {
      for (int k = 0; k < 5; ++k) {
        isolate iso = make();
        good += iso.call(add, i) == i && iso.call(add, 1) == i + 1 ? 1 : 0;
      }
    });
  }
  makers.clear();
  EXPECT_EQ(good, 40);
}

}  // namespace
