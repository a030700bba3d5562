// Forks out of a program whose other threads hold locks at any moment.

#include <sched.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <memory>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/handshake.hpp"
#include "support/helper_process.hpp"
#include "support/outcomes.hpp"
#include "support/scenarios.hpp"
#include "support/suites.hpp"

namespace {

using pynisher::limit;
using pynisher::start_method;
using pynisher::verdict;

/// Threads that allocate, print and lock until this goes.
class busy_threads {
 public:
  explicit busy_threads(int count) {
    log_ = std::fopen("/dev/null", "w");
    for (int i = 0; i < count; ++i) threads_.emplace_back([this, i] { work(i); });
    support::await([&] { return at_work_.load() == count; });
  }
  busy_threads(const busy_threads&) = delete;
  busy_threads& operator=(const busy_threads&) = delete;
  ~busy_threads() {
    stop_.store(true);
    for (auto& thread : threads_) thread.join();
    std::fclose(log_);
  }

 private:
  void work(int number) {
    // They always have something to do, and take every moment that is left; but not the calls' time.
    ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), 19);
    std::vector<std::unique_ptr<std::string>> held;
    for (unsigned turn = 0; !stop_.load(); ++turn) {
      if (held.size() > 64) held.clear();
      held.push_back(std::make_unique<std::string>(64 + (turn * 977) % 50'000, 'x'));
      std::fprintf(log_, "thread %d, turn %u\n", number, turn);
      std::ostringstream text;
      text << number << turn << 0.5;
      try {
        if (turn % 16 == 0) throw std::runtime_error(text.str());
      } catch (const std::exception&) {
      }
      {
        const std::lock_guard lock(mutex_);
        ++counted_;
      }
      if (turn == 0) at_work_.fetch_add(1);
      if (turn % 4 == 0) std::this_thread::yield();
    }
  }

  std::FILE* log_ = nullptr;
  std::mutex mutex_;
  unsigned counted_ = 0;
  std::atomic<bool> stop_{false};
  std::atomic<int> at_work_{0};
  std::vector<std::thread> threads_;
};

/// What a function may well do, and what needs the locks that threads held when it was forked.
std::string allocate_print_and_throw(int call) {
  auto text = std::make_unique<std::string>(std::to_string(call));
  std::vector<char> block(static_cast<std::size_t>(call % 7 + 1) * 40'000);
  std::FILE* log = std::fopen("/dev/null", "w");
  std::fprintf(log, "%d", call);
  std::fclose(log);
  std::ostringstream stream;
  stream << call;
  try {
    throw std::runtime_error(stream.str());
  } catch (const std::exception& e) {
    *text += e.what();
  }
  if (call % 5 == 0) throw std::out_of_range(*text);
  return *text;
}

TEST(ForkSafety, ChildrenOfAProgramFullOfLocksDoNotHangAndItIsWarnedOnce) {
  const auto end = support::run_in_helper([] {
    const busy_threads others(32);
    const auto guarded = limit(allocate_print_and_throw);  // warnings are on
    const char* wanted = std::getenv("FORK_SAFETY_CALLS");
    const int calls = wanted != nullptr ? std::atoi(wanted) : 2000;
    for (int call = 0; call < calls; ++call) {
      const std::string expected = std::to_string(call) + std::to_string(call);
      const auto result = guarded.try_call(call);
      if (call % 5 == 0) {
        HELPER_CHECK(result.verdict() == verdict::raised);
      } else {
        HELPER_CHECK(result.verdict() == verdict::returned);
        HELPER_CHECK(*result == expected);
      }
    }
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
  const std::string warning = "more than one thread";
  const std::size_t first = end.err.find(warning);
  ASSERT_NE(first, std::string::npos) << end;
  EXPECT_EQ(end.err.find(warning, first + 1), std::string::npos) << end;
}

TEST(ForkSafety, OneThreadIsNoReasonToWarn) {
  if (support::sanitized) GTEST_SKIP() << "a sanitizer may have a thread of its own";
  const auto end = support::run_in_helper([] { return limit([] { return 0; })(); });
  EXPECT_EQ(end.code, 0) << end;
  EXPECT_EQ(end.err, "");
}

TEST(ForkSafety, TheLibrarysOwnThreadIsNoReasonToWarn) {
  if (support::sanitized) GTEST_SKIP() << "a sanitizer may have a thread of its own";
  const auto end = support::run_in_helper([] {
    const auto answer = limit([] { return 21; });
    auto first = answer.start();
    auto second = answer.start();
    return answer() + first.get() + second.get() == 63 ? 0 : 1;
  });
  EXPECT_EQ(end.code, 0) << end;
  EXPECT_EQ(end.err, "");
}

TEST(ForkSafety, TheWarningComesOnceHoweverManyThreadsCallFirst) {
  const auto end = support::run_in_helper([] {
    std::atomic<int> warned{0};
    pynisher::set_warning_sink([&](std::string_view) { warned.fetch_add(1); });
    std::atomic<bool> go{false};
    std::vector<std::thread> threads;
    for (int i = 0; i < 16; ++i) {
      threads.emplace_back([&] {
        support::await_flag(go);
        for (int call = 0; call < 10; ++call) limit([] {})();
      });
    }
    go.store(true);
    for (auto& thread : threads) thread.join();
    return warned.load();
  });
  EXPECT_EQ(end.code, 1) << end;
}

// A thread that waits for input holds its stream's lock for as long as nothing comes.
TEST(ForkSafety, AThreadThatWaitsForInputHoldsNobodyUp) {
  const auto end = support::run_in_helper([] {
    ::alarm(30);
    int ends[2];
    HELPER_CHECK(::pipe(ends) == 0);
    std::FILE* input = ::fdopen(ends[0], "r");
    std::atomic<int> got{0};
    std::thread reader([&] { got.store(std::fgetc(input)); });
    // Once it holds the lock it waits: nothing has been written.
    support::await([&] {
      if (::ftrylockfile(input) != 0) return true;
      ::funlockfile(input);
      return false;
    });
    const int value = limit([] { return 42; }, {.warnings = false})();
    HELPER_CHECK(::write(ends[1], "x", 1) == 1);
    reader.join();
    HELPER_CHECK(got.load() == 'x');
    return value;
  });
  EXPECT_EQ(end.code, 42) << end;
}

// The same in the child, which flushes when it ends; and in the parent while another call flushes.
TEST(ForkSafety, AThreadThatHoldsAStreamHoldsNoChildUp) {
  const auto end = support::run_in_helper([] {
    ::alarm(30);
    std::FILE* log = std::fopen("/dev/null", "w");
    std::atomic<bool> held{false}, release{false};
    std::thread holder([&] {
      ::flockfile(log);
      held.store(true);
      support::await_flag(release);
      ::funlockfile(log);
    });
    support::await_flag(held);
    const int value = limit([] { return 42; }, {.warnings = false})();
    release.store(true);
    holder.join();
    return value;
  });
  EXPECT_EQ(end.code, 42) << end;
}

// The library's own locks, held by calls in other threads at the moment of a fork of the application's.
TEST(ForkSafety, AForkOfTheApplicationsOwnCanMakeCallsToo) {
  const auto end = support::run_in_helper([] {
    std::atomic<bool> stop{false};
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        while (!stop.load()) limit([] { return 1; }, {.warnings = false})();
      });
    }
    for (int i = 0; i < 100; ++i) {
      const pid_t pid = ::fork();
      if (pid == 0) {
        ::alarm(30);
        const auto result = limit([] { return 42; }, {.warnings = false}).try_call();
        ::_exit(result && *result == 42 ? 0 : 1);
      }
      int status = -1;
      HELPER_CHECK(::waitpid(pid, &status, 0) == pid);
      HELPER_CHECK(status == 0);
    }
    stop.store(true);
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

// Whoever takes the handler that stands there for the program's own would call it from a handler of his.
TEST(ForkSafety, NoThreadMeetsAnythingOfTheLibrarysInPlaceOfTheTerminateHandler) {
  const std::terminate_handler own = std::get_terminate();
  std::atomic<bool> done{false};
  std::jthread caller([&] {
    for (int i = 0; i < 300; ++i) limit([] { return 1; }, {.context = start_method::fork, .warnings = false})();
    done.store(true);
  });
  long looks = 0, strangers = 0;
  while (!done.load()) {
    ++looks;
    strangers += std::get_terminate() != own;
  }
  EXPECT_GT(looks, 0);
  EXPECT_EQ(strangers, 0);
}

#if defined(CLONE_NEWPID)
/// Forks into a namespace of processes of its own, where the copy is number 1. The exit code of what runs there.
template <class Run>
int as_number_one(Run run) {
  if (::unshare(CLONE_NEWPID) != 0) return 77;
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(run());
  int status = -1;
  return ::waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : 99;
}

TEST(ForkSafety, ACopyThatHasItsOriginalsNumberCanMakeCallsToo) {
  const auto call_once = [] {
    const auto result = limit([] { return 42; }, {.context = start_method::fork, .warnings = false}).try_call();
    return result && *result == 42 ? 0 : 1;
  };
  const auto end = support::run_in_helper([&] {
    return as_number_one([&] {
      if (::getpid() != 1 || call_once() != 0) return 2;
      return as_number_one([&] { return ::getpid() != 1 ? 3 : call_once(); });
    });
  });
  if (end.code == 77) GTEST_SKIP() << "a namespace of processes is not to be had here";
  EXPECT_EQ(end.code, 0) << end;
}
#endif

}  // namespace
