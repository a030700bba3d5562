// The task that outlives a killed program for a moment.

#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

#include "platform/started_child.hpp"
#include "support/handshake.hpp"
#include "support/helper_process.hpp"
#include "support/scenarios.hpp"

namespace {

using platform_tests::started_child;
namespace platform = pynisher::platform;
using support::descendant;

/// The watches of this process. They are children of whichever thread started them.
std::vector<pid_t> watches() {
  std::vector<pid_t> found;
  DIR* tasks = ::opendir("/proc/self/task");
  while (const dirent* task = ::readdir(tasks)) {
    if (task->d_name[0] == '.') continue;
    std::ifstream children("/proc/self/task/" + std::string(task->d_name) + "/children");
    for (pid_t pid = 0; children >> pid;) {
      std::string name;
      std::getline(std::ifstream("/proc/" + std::to_string(pid) + "/comm"), name);
      if (name == "pynisher-watch") found.push_back(pid);
    }
  }
  ::closedir(tasks);
  return found;
}

/// It names itself when it begins to run.
void await_one_watch() {
  support::await([] { return watches().size() == 1; });
}

bool has_no_children() { return ::waitpid(-1, nullptr, WNOHANG | __WALL) == -1 && errno == ECHILD; }

TEST(DeathWatch, IsThereFromTheFirstStartToTheLastEnd) {
  const auto end = support::run_in_helper([] {
    std::optional<platform::parent_death_watch> first, second;
    first.emplace();
    second.emplace();
    HELPER_CHECK(has_no_children());
    first->start();
    await_one_watch();
    const auto only = watches();
    second->start();
    HELPER_CHECK(watches() == only);
    first.reset();
    HELPER_CHECK(watches() == only);
    second.reset();
    HELPER_CHECK(watches().empty());
    HELPER_CHECK(has_no_children());
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

TEST(DeathWatch, IsNeverStartedByOneThatOnlyExists) {
  const auto end = support::run_in_helper([] {
    {
      const platform::parent_death_watch unused;
    }
    return has_no_children() ? 0 : 1;
  });
  EXPECT_EQ(end.code, 0) << end;
}

// A program's own wait for any child would otherwise wait for it, or take it away.
TEST(DeathWatch, IsNotSeenByAnOrdinaryWait) {
  const auto end = support::run_in_helper([] {
    platform::parent_death_watch watch;
    watch.start();
    await_one_watch();
    HELPER_CHECK(::waitpid(-1, nullptr, WNOHANG) == -1 && errno == ECHILD);
    HELPER_CHECK(::waitpid(-1, nullptr, 0) == -1 && errno == ECHILD);
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

TEST(DeathWatch, IsOneForManyThreadsAndNoneAfterThem) {
  const auto end = support::run_in_helper([] {
    std::atomic<bool> more_than_one{false}, stop{false};
    std::thread counter([&] {
      while (!stop.load()) {
        // One may be met before it ends, and another when it has begun: what counts is who is alive together.
        const auto found = watches();
        if (std::count_if(found.begin(), found.end(), [](pid_t pid) { return !support::is_gone(pid); }) > 1) {
          more_than_one.store(true);
        }
      }
    });
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([] {
        for (int turn = 0; turn < 200; ++turn) {
          platform::parent_death_watch watch;
          watch.start();
          if (turn % 3 == 0) std::this_thread::yield();
        }
      });
    }
    for (auto& thread : threads) thread.join();
    stop.store(true);
    counter.join();
    HELPER_CHECK(!more_than_one.load());
    HELPER_CHECK(watches().empty());
    HELPER_CHECK(has_no_children());
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

TEST(DeathWatch, OutlivesTheThreadThatStartedIt) {
  const auto end = support::run_in_helper([] {
    auto first = std::make_unique<platform::parent_death_watch>();
    platform::parent_death_watch second;
    std::thread([&] { first->start(); }).join();
    second.start();
    await_one_watch();
    const auto only = watches();
    first.reset();
    HELPER_CHECK(watches() == only);
    HELPER_CHECK(support::process_state(only.front()) != 'Z');
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

TEST(DeathWatch, OfAForkedCopyIsItsOwn) {
  const auto end = support::run_in_helper([] {
    platform::parent_death_watch watch;
    watch.start();
    await_one_watch();
    const auto copy = support::run_in_helper([] {
      HELPER_CHECK(watches().empty());
      {
        platform::parent_death_watch own;
        own.start();
        await_one_watch();
      }
      HELPER_CHECK(has_no_children());
      return 0;
    });
    HELPER_CHECK(copy.code == 0);
    HELPER_CHECK(watches().size() == 1);
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

TEST(DeathWatch, EndsWithTheProgramThoughNothingIsLeftToKill) {
  const support::shared<std::atomic<pid_t>> watch;
  support::helper_process program([&] {
    platform::parent_death_watch held;
    held.start();
    await_one_watch();
    watch->store(watches().front());
    support::sleep_forever();
    return 0;
  });
  support::await([&] { return watch->load() != 0; });
  program.send(SIGKILL);
  program.wait();
  support::await_gone(watch->load());
}

TEST(DeathWatch, EndsMarkedProcessesOfAKilledProgramAndNoOthers) {
  support::process_log marked, unmarked;
  support::helper_process program([&] {
    support::start_descendant(descendant::double_forked_in_own_session, unmarked.path());
    platform::parent_death_watch held;
    held.start();
    await_one_watch();
    started_child child([&] { support::double_fork_and_sleep(marked.path()); });
    support::sleep_forever();
    return 0;
  });
  support::await_logged(marked.path(), 1);
  EXPECT_EQ(marked.survivors().size(), 1u);
  program.send(SIGKILL);
  program.wait();
  support::await_gone(marked.pids().front());
  EXPECT_EQ(unmarked.survivors().size(), 1u);
}

// Every signal but SIGKILL and SIGSTOP is blocked there, whatever the program does with it.
TEST(DeathWatch, IsNotDisturbedBySignalsToIt) {
  support::process_log marked;
  support::helper_process program([&] {
    platform::parent_death_watch held;
    held.start();
    await_one_watch();
    for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGSEGV, SIGCHLD}) ::kill(watches().front(), signal);
    started_child child([&] { support::double_fork_and_sleep(marked.path()); });
    support::sleep_forever();
    return 0;
  });
  support::await_logged(marked.path(), 1);
  EXPECT_EQ(marked.survivors().size(), 1u);
  program.send(SIGKILL);
  program.wait();
  support::await_gone(marked.pids().front());
}

}  // namespace
