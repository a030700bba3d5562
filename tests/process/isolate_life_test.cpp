// Isolates among themselves and with many threads: turns, ids, ends, what they leave, and errors that cross.

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <optional>
#include <set>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/pynisher.hpp>

#include "support/helper_process.hpp"
#include "support/isolates.hpp"
#include "support/outcomes.hpp"

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::isolate;
using pynisher::verdict;
using support::add;
using support::EndedAs;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

class IsolateLife : public support::per_isolate {};
FOR_EACH_START_METHOD(IsolateLife);

/// A started call that is at work until `finish`.
class busy_isolate {
 public:
  explicit busy_isolate(isolate& iso)
      : release_(log_.path() + ".release"), call_(iso.start(support::log_and_wait_for_file, log_.path(), release_)) {
    support::await_logged(log_.path(), 1);
  }
  busy_isolate(const busy_isolate&) = delete;
  busy_isolate& operator=(const busy_isolate&) = delete;
  ~busy_isolate() { std::filesystem::remove(release_); }
  void finish() {
    std::ofstream(release_) << "";
    call_.get();
  }

 private:
  support::process_log log_;
  std::string release_;
  pynisher::call<void> call_;
};

// --- turns --------------------------------------------------------------------------------------------------------

std::vector<int> order;
void note(int number) { order.push_back(number); }

TEST_P(IsolateLife, QueuedCallsTakeTheirTurnsInOrder) {
  isolate iso = make({.queued = true});
  busy_isolate first(iso);
  std::vector<pynisher::call<void>> waiting;
  std::vector<int> expected;
  for (int i = 0; i < 20; ++i) {
    waiting.push_back(iso.start(note, i));
    expected.push_back(i);
  }
  first.finish();
  for (auto& call : waiting) call.get();
  EXPECT_EQ(iso.call([] { return order; }), expected);
}

TEST_P(IsolateLife, AQueuedCallThatIsCancelledCostsOnlyItself) {
  isolate iso = make({.queued = true});
  busy_isolate first(iso);
  auto dropped = std::optional(iso.start(add, 100));
  auto cancelled = iso.start(add, 1000);
  std::stop_source stop;
  auto stopped = iso.start({.stop = stop.get_token()}, add, 10'000);
  auto kept = iso.start(add, 1);
  dropped.reset();
  cancelled.cancel();
  stop.request_stop();
  EXPECT_THAT(cancelled.get_outcome(), EndedAs(verdict::cancelled));
  EXPECT_THAT(stopped.get_outcome(), EndedAs(verdict::cancelled));
  {
    std::jthread waits(
        [&] { EXPECT_THAT(iso.try_call({.stop = stop.get_token()}, add, 100'000), EndedAs(verdict::cancelled)); });
  }
  first.finish();
  EXPECT_EQ(kept.get(), 1);
  EXPECT_TRUE(iso.is_alive());
}

TEST_P(IsolateLife, ACallThatIsCancelledBeforehandDoesNotBegin) {
  isolate iso = make();
  std::stop_source stop;
  stop.request_stop();
  EXPECT_THAT(iso.try_call({.stop = stop.get_token()}, add, 1), EndedAs(verdict::cancelled));
  EXPECT_THROW(iso.call({.stop = stop.get_token()}, add, 1), pynisher::CancelledException);
  EXPECT_EQ(iso.call(add, 0), 0);
}

TEST_P(IsolateLife, WaitingCallsHearOfAClosedIsolate) {
  isolate iso = make({.queued = true});
  support::process_log log;
  auto first = iso.start(support::log_and_sleep, log.path());
  support::await_logged(log.path(), 1);
  auto second = iso.start(add, 1);
  EXPECT_THROW(iso.close(), pynisher::IsolateError);
  iso.kill();
  EXPECT_THROW(first.get(), pynisher::IsolateDiedError);
  EXPECT_THROW(second.get(), pynisher::IsolateNotFoundError);
}

TEST_P(IsolateLife, StartsOfManyThreadsAllComeToTheirTurn) {
  isolate iso = make({.queued = true});
  std::atomic<int> good{0};
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 10; ++i) {
          auto pending = iso.start(add, 1);
          good += pending.get() > 0 && iso.call([](int x) { return x; }, i) == i ? 1 : 0;
        }
      });
    }
  }
  EXPECT_EQ(good, 80);
  EXPECT_EQ(iso.call(add, 0), 80);
}

// --- ends ---------------------------------------------------------------------------------------------------------

TEST_P(IsolateLife, KillDuringResetEndsBoth) {
  for (int i = 0; i < 10; ++i) {
    isolate iso = make();
    std::atomic<bool> killed{false};
    std::jthread killer([&] {
      while (!killed.load()) std::this_thread::yield();
      iso.kill();
    });
    try {
      for (;;) {
        iso.reset();
        killed = true;
      }
    } catch (const pynisher::IsolateNotFoundError&) {
    }
    killer.join();
    EXPECT_FALSE(iso.is_alive());
    EXPECT_TRUE(support::is_gone(static_cast<pid_t>(iso.pid())));
  }
}

TEST_P(IsolateLife, UsageIsTrueWhileItLivesAndAfterItsEnd) {
  isolate iso = make();
  iso.call(support::spin_for, std::chrono::nanoseconds(30ms));
  const auto living = iso.usage();
  EXPECT_GE(living.cpu_time(), 30ms);
  EXPECT_GT(living.peak_memory, 0u);
  EXPECT_GT(living.wall_time, 0ns);
  EXPECT_THROW(iso.call(support::write_to_null), pynisher::IsolateDiedError);
  const auto dead = iso.usage();
  EXPECT_GE(dead.cpu_time(), 30ms);
  EXPECT_EQ(iso.usage().wall_time, dead.wall_time) << "it has ended";
  iso.kill();
  EXPECT_EQ(iso.usage().cpu_time(), dead.cpu_time());
  EXPECT_GT(isolate::main().usage().peak_memory, 0u);
}

TEST_P(IsolateLife, ACallThatWasAcceptedIsRunning) {
  isolate iso = make();
  for (int i = 0; i < 20; ++i) {
    auto call = iso.start(add, 1);
    // Or it has ended already.
    EXPECT_TRUE(iso.is_running() || call.ready());
    call.get();
  }
  EXPECT_FALSE(iso.is_running());
}

void pause_for_ever() {
  for (;;) ::pause();
}

TEST_P(IsolateLife, WhoeverComesLaterIsToldWhichCallEndedIt) {
  isolate iso = make();
  EXPECT_FALSE(iso.try_call({.wall_time = 20ms}, pause_for_ever));
  try {
    iso.call(add, 1);
    FAIL() << "it has ended";
  } catch (const pynisher::IsolateDiedError& e) {
    EXPECT_THAT(e.what(), AllOf(HasSubstr("pause_for_ever()"), HasSubstr("wall time limit of 20 ms")));
  }
  iso.kill();
  try {
    iso.call(add, 1);
    FAIL() << "it was killed";
  } catch (const pynisher::IsolateNotFoundError& e) {
    EXPECT_THAT(e.what(), HasSubstr("was killed"));
  }
}

TEST_P(IsolateLife, UsageDuringResetIsThatOfOneProcessOrTheOther) {
  isolate iso = make();
  std::atomic<bool> over{false};
  std::atomic<int> asked{0};
  std::vector<std::thread> askers;
  for (int i = 0; i < 3; ++i) {
    askers.emplace_back([&] {
      while (!over) {
        EXPECT_GT(iso.usage().wall_time, 0s);
        ++asked;
      }
    });
  }
  for (int reset = 0; reset < 20; ++reset) {
    iso.reset();
    const int before = asked;
    support::await([&] { return asked > before + 3; });
  }
  over = true;
  for (std::thread& asker : askers) asker.join();
}

TEST_P(IsolateLife, NothingIsKeptOfADetachedOneThatDied) {
  const auto end = support::run_in_helper([] {
    const auto open = [] {
      return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator());
    };
    make().call(add, 1);
    pynisher::forkserver::stop();
    const auto before = open();
    std::int64_t pid = 0;
    {
      isolate iso = make();
      iso.detach();
      pid = iso.pid();
    }
    HELPER_CHECK(isolate::list_all().size() == 2);
    ::kill(static_cast<pid_t>(pid), SIGKILL);
    support::await([&] {
      pynisher::forkserver::stop();
      return open() <= before;
    });
    HELPER_CHECK(isolate::list_all().size() == 1);
    // The watch that outlives the program goes last, on another thread.
    support::await([] { return ::waitpid(-1, nullptr, WNOHANG | __WALL) == -1; });
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

TEST_P(IsolateLife, ADetachedOneMayBeReset) {
  std::int64_t id = 0;
  {
    isolate iso = make();
    iso.detach();
    id = iso.id();
    EXPECT_THROW(iso.call(support::write_to_null), pynisher::IsolateDiedError);
    iso.reset();
    iso.call(add, 7);
  }
  auto all = isolate::list_all();
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[1].id(), id);
  EXPECT_EQ(all[1].call(add, 0), 7);
  all[1].close();
}

TEST_P(IsolateLife, WhatAnIsolateHasMadeEndsWithItWhoeverDiesFirst) {
  SKIP_UNLESS_SUPPORTED("kill_tree");
  support::process_log log;
  const auto make_inner = [](const std::string& path) {
    static std::vector<isolate> inner;
    static std::vector<pynisher::call<void>> calls;
    inner.push_back(isolate::create({.limits = {.warnings = false}}));
    inner.back().detach();
    calls.push_back(inner.back().start(support::log_and_sleep, path));
  };
  isolate first = make();
  first.call(make_inner, log.path());
  support::await_logged(log.path(), 1);
  ::kill(static_cast<pid_t>(first.pid()), SIGKILL);
  EXPECT_TRUE(first.wait_for(1h));
  EXPECT_THAT(log.survivors(), testing::IsEmpty());
  isolate second = make();
  second.call(make_inner, log.path());
  support::await_logged(log.path(), 2);
  second.close();
  EXPECT_THAT(log.survivors(), testing::IsEmpty());
}

// --- ids ----------------------------------------------------------------------------------------------------------

std::vector<std::int64_t> make_three() {
  std::vector<std::int64_t> ids;
  for (int i = 0; i < 3; ++i) ids.push_back(isolate::create({.limits = {.warnings = false}}).id());
  return ids;
}

TEST_P(IsolateLife, IdsAreNeverUsedAgainWhoeverMakesThem) {
  std::vector<std::int64_t> all;
  const auto take = [&all](const std::vector<std::int64_t>& ids) {
    EXPECT_TRUE(std::is_sorted(ids.begin(), ids.end()));
    all.insert(all.end(), ids.begin(), ids.end());
  };
  isolate first = make();
  isolate second = make();
  all.push_back(first.id());
  all.push_back(second.id());
  take(first.call(make_three));
  take(second.call(make_three));
  take(first.call(make_three));
  take(pynisher::limit(make_three, with({}))());
  take(pynisher::limit(make_three, with({}))());
  take(first.call([] {
    isolate inner = isolate::create({.limits = {.warnings = false}});
    return inner.call(make_three);
  }));
  const auto id = make().id();
  EXPECT_EQ(id, second.id() + 1) << "what others do does not move the program's own count";
  all.push_back(id);
  EXPECT_EQ(std::set<std::int64_t>(all.begin(), all.end()).size(), all.size());
}

// --- errors that cross --------------------------------------------------------------------------------------------

template <class Error>
void throw_it() {
  throw Error("from within");
}

template <class Error>
void expect_arrives(isolate& iso) {
  try {
    iso.call(throw_it<Error>);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "from within");
    EXPECT_NE(dynamic_cast<const pynisher::ExecutionFailed*>(&e), nullptr);
  }
}

TEST_P(IsolateLife, ErrorsOfIsolatesArriveAsThemselves) {
  isolate iso = make();
  expect_arrives<pynisher::IsolateError>(iso);
  expect_arrives<pynisher::IsolateNotFoundError>(iso);
  expect_arrives<pynisher::IsolateDiedError>(iso);
  expect_arrives<pynisher::NotShareableError>(iso);
  expect_arrives<pynisher::LoadError>(iso);
  expect_arrives<pynisher::SourceError>(iso);
  EXPECT_THROW(iso.call([] { isolate::current().close(); }), pynisher::IsolateError);
  EXPECT_THROW(pynisher::limit(throw_it<pynisher::IsolateDiedError>, with({}))(), pynisher::IsolateDiedError);
}

TEST_P(IsolateLife, HandlesOfAnotherProcessAreNotFoundThere) {
  isolate iso = make();
  EXPECT_THROW(pynisher::limit([&iso] { (void)iso.call(add, 1); },
                               {.context = pynisher::start_method::fork, .warnings = false})(),
               pynisher::IsolateNotFoundError);
  EXPECT_EQ(iso.call(add, 1), 1);
}

// --- names --------------------------------------------------------------------------------------------------------

void set_global(std::string text) { isolate::current().set("global", text); }

TEST_P(IsolateLife, NamesAreThereFromWithinAndFromMoreThreadsThanOne) {
  isolate iso = make();
  iso.call(set_global, "text");
  EXPECT_EQ(iso.get<std::string>("global"), "text");
  iso.set_all({{"a", 1}, {"b", 2.5}, {"c", "three"}});
  EXPECT_EQ(iso.call([] {
    std::atomic<int> good{0};
    {
      std::vector<std::jthread> threads;
      for (int t = 0; t < 4; ++t) {
        threads.emplace_back([&good, t] {
          for (int i = 0; i < 100; ++i) {
            isolate::current().set("mine " + std::to_string(t), i);
            good += isolate::current().get<int>("mine " + std::to_string(t)) == i ? 1 : 0;
          }
        });
      }
    }
    return good.load();
  }),
            400);
  EXPECT_THAT(iso.names(), ElementsAre("a", "b", "c", "global", "mine 0", "mine 1", "mine 2", "mine 3"));
  EXPECT_EQ(iso.get_or<std::string>("c", ""), "three");
  EXPECT_THROW((void)iso.get_or<int>("c", 1), pynisher::NotShareableError);
}

TEST_P(IsolateLife, SetAllIsAllOrNone) {
  SKIP_UNLESS_SUPPORTED("memory");
  isolate iso = make({.limits = {.memory = 32_MiB}});
  iso.set("a", 1);
  EXPECT_THROW(iso.set_all({{"a", 2}, {"b", 3}, {"c", std::string(40 << 20, 'x')}}), std::bad_alloc);
  EXPECT_THAT(iso.names(), ElementsAre("a"));
  EXPECT_EQ(iso.get<int>("a"), 1);
}

// --- many ---------------------------------------------------------------------------------------------------------

TEST_P(IsolateLife, TwoHundredAreMadeInParallel) {
  std::mutex mutex;
  std::vector<isolate> all;
  {
    std::vector<std::jthread> makers;
    for (int i = 0; i < 200; ++i) {
      makers.emplace_back([&] {
        isolate iso = make();
        const std::lock_guard lock(mutex);
        all.push_back(iso);
      });
    }
  }
  ASSERT_EQ(all.size(), 200u);
  std::set<std::int64_t> ids, pids;
  for (isolate& iso : all) {
    ids.insert(iso.id());
    pids.insert(iso.call([] { return static_cast<std::int64_t>(::getpid()); }));
  }
  EXPECT_EQ(ids.size(), 200u);
  EXPECT_EQ(pids.size(), 200u);
  EXPECT_EQ(isolate::list_all().size(), 201u);
}

}  // namespace
