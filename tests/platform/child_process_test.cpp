// Starting, watching and ending one child.

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include <gmock/gmock.h>

#include "platform/started_child.hpp"
#include "support/handshake.hpp"
#include "support/helper_process.hpp"
#include "support/scenarios.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using platform_tests::started_child;
namespace platform = pynisher::platform;
using how = platform::exit_status::kind;
using woken = platform::child_process::woken_by;

// --- what a child is
// ----------------------------------------------------------------------------------------------------

TEST(PlatformChild, IsMarkedAndIsTheReaperOfItsDescendants) {
  started_child child([] {
    int subreaper = 0, death_signal = 0;
    ::prctl(PR_GET_CHILD_SUBREAPER, &subreaper);
    ::prctl(PR_GET_PDEATHSIG, &death_signal);
    return subreaper == 1 && death_signal == SIGKILL ? 0 : 1;
  });
  child.await_end();
  EXPECT_EQ(child.end(true).value, 0);
  EXPECT_EQ(child.region().not_begun.load(), 0u);
  EXPECT_EQ(child.region().failed_stage.load(), 0u);
}

TEST(PlatformChild, HasAnEmptyInputAndTheCallersSignalMask) {
  sigset_t odd, before;
  sigemptyset(&odd);
  sigaddset(&odd, SIGUSR1);
  ::sigprocmask(SIG_SETMASK, &odd, &before);
  started_child child([] {
    sigset_t now;
    ::sigprocmask(SIG_SETMASK, nullptr, &now);
    char c = 0;
    return ::read(0, &c, 1) == 0 && sigismember(&now, SIGUSR1) == 1 && sigismember(&now, SIGUSR2) == 0 ? 0 : 1;
  });
  sigset_t after;
  ::sigprocmask(SIG_SETMASK, &before, &after);
  EXPECT_EQ(sigismember(&after, SIGUSR1), 1);
  EXPECT_EQ(sigismember(&after, SIGUSR2), 0);
  child.await_end();
  EXPECT_EQ(child.end(true).value, 0);
}

TEST(PlatformChild, KnowsWhatCpuTimeItsCallHasLeft) {
  started_child child(
      [] {
        const auto left = platform::outer_cpu_left();
        return left && *left > 1min && *left <= 1h ? 0 : 1;
      },
      {.cpu_time = 1h});
  child.await_end();
  EXPECT_EQ(child.end(true).value, 0);
}

// Another call's reply is not for it to write.
TEST(PlatformChild, HasNoRegionButItsOwn) {
  const pynisher::detail::reply_region_owner other(false);
  started_child child([&other] {
    // A page that is not there is ENOMEM.
    unsigned char pages[pynisher::detail::reply_region::size / 4096];
    return ::mincore(&other.get(), pynisher::detail::reply_region::size, pages) < 0 && errno == ENOMEM ? 0 : 1;
  });
  child.await_end();
  EXPECT_EQ(child.end(true).value, 0);
}

TEST(PlatformChild, CannotBeStartedWhereNoProcessMayBe) {
  const auto end = support::run_in_helper([] {
    // Root is not bound by the limit.
    const rlimit none{1, 1};
    ::setrlimit(RLIMIT_NPROC, &none);
    if (::setuid(65534) != 0) return 0;
    const pynisher::detail::reply_region_owner region(false);
    platform::child_plan plan;
    plan.region = &region.get();
    const auto forked = platform::fork_child(plan);
    if (forked.where == platform::fork_result::side::child) ::_exit(0);
    HELPER_CHECK(forked.where == platform::fork_result::side::failed);
    HELPER_CHECK(forked.error == EAGAIN);
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

// --- waiting
// --------------------------------------------------------------------------------------------------------------

TEST(PlatformChild, WaitIsWokenByItsEnd) {
  started_child child([] { return 3; });
  EXPECT_EQ(child.child().wait(child.bell(), nullptr, std::nullopt), woken::end);
  EXPECT_EQ(child.child().wait(child.bell(), nullptr, std::nullopt), woken::end) << "it stays ended";
  EXPECT_EQ(child.end(true).value, 3);
}

TEST(PlatformChild, WaitIsWokenByTheDoorbell) {
  started_child child([&] { support::sleep_forever(); });
  platform::doorbell::raise(child.bell().descriptor());
  EXPECT_EQ(child.child().wait(child.bell(), nullptr, std::nullopt), woken::doorbell);
  child.bell().clear();
  EXPECT_EQ(child.child().wait(child.bell(), nullptr, platform::clock::now() + 5ms), woken::nothing);
}

TEST(PlatformChild, WaitEndsNotBeforeItsTime) {
  started_child child([] { support::sleep_forever(); });
  const auto until = platform::clock::now() + 20ms;
  EXPECT_EQ(child.child().wait(child.bell(), nullptr, until), woken::nothing);
  EXPECT_GE(platform::clock::now(), until);
  EXPECT_EQ(child.child().wait(child.bell(), nullptr, platform::clock::now() - 1h), woken::nothing) << "a time long past";
}

TEST(PlatformChild, WaitIsWokenByASignal) {
  const auto end = support::run_in_helper([] {
    ::signal(SIGUSR1, [](int) {});
    started_child child([parent = ::getpid()] {
      for (;;) {
        ::kill(parent, SIGUSR1);
        ::usleep(1000);
      }
    });
    return child.child().wait(child.bell(), nullptr, std::nullopt) == woken::nothing ? 0 : 1;
  });
  EXPECT_EQ(end.code, 0) << end;
}

TEST(PlatformChild, AStoppedOneHasNotEnded) {
  started_child child([] { ::raise(SIGSTOP); });
  support::await_stopped(child.pid());
  EXPECT_EQ(child.child().wait(child.bell(), nullptr, platform::clock::now() + 5ms), woken::nothing);
}

TEST(PlatformChild, GetsTheSignalThatIsSent) {
  started_child child([] { support::sleep_forever(); });
  child.child().send(SIGUSR1);
  child.await_end();
  const auto status = child.end(true);
  EXPECT_EQ(status.how, how::signalled);
  EXPECT_EQ(status.value, SIGUSR1);
  child.child().send(SIGKILL);  // to nobody
}

// --- measuring
// --------------------------------------------------------------------------------------------------------------

TEST(PlatformChild, CpuTimeIsThatOfAllThreads) {
  const support::shared_flag done;
  started_child child([done = done.get()] {
    std::thread(support::spin_for, 15ms).join();
    support::spin_for(30ms);
    done->store(true);
    support::sleep_forever();
  });
  support::await_flag(*done);
  const auto used = child.child().cpu_time();
  ASSERT_TRUE(used.has_value());
  EXPECT_GE(*used, 30ms);
}

TEST(PlatformChild, CpuTimeIsKnownUntilItIsReaped) {
  started_child child([] { support::spin_for(10ms); });
  child.await_end();
  const auto used = child.child().cpu_time();
  if (used) {
    EXPECT_GE(*used, 10ms);
  }
  EXPECT_GE(child.end(true).usage.cpu_time(), 8ms) << "the kernel counts these by its tick";
}

TEST(PlatformChild, GrowthIsPrivateAndSharedMemory) {
  SKIP_UNDER_THREAD_SANITIZER("what it notes of the memory counts too");
  const platform::mapped_memory at_start = platform::mapped();
  const support::shared_counter stage;
  started_child child([stage = stage.get()] {
    const auto map = [](int flags) {
      void* block = ::mmap(nullptr, 32 * support::MiB, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
      support::touch(block, 32 * support::MiB);
    };
    stage->store(1);
    support::await([stage] { return stage->load() == 2; });
    map(MAP_PRIVATE);
    stage->store(3);
    support::await([stage] { return stage->load() == 4; });
    map(MAP_SHARED);
    stage->store(5);
    support::sleep_forever();
  });
  const auto growth_at = [&](long reached) {
    support::await([&] { return stage->load() == reached; });
    const auto growth = child.child().memory_growth(at_start);
    stage->store(reached + 1);
    return growth.value_or(0);
  };
  const std::uint64_t none = growth_at(1), with_private = growth_at(3), with_both = growth_at(5);
  EXPECT_LT(none, 16 * support::MiB);
  EXPECT_GE(with_private, 32 * support::MiB);
  EXPECT_LT(with_private, 48 * support::MiB);
  EXPECT_GE(with_both, 64 * support::MiB);
  EXPECT_LT(with_both, 80 * support::MiB);
}

// --- ending
// -------------------------------------------------------------------------------------------------------------------

enum class condition { running, spinning, stopped, exited, signalled, blocking_everything, many_threads };

class EndOfAChild : public ::testing::TestWithParam<std::tuple<condition, bool>> {};

TEST_P(EndOfAChild, IsSeenAndLeavesNoProcess) {
  const auto [state, whole_tree] = GetParam();
  const support::shared_flag ready;
  started_child child([state, ready = ready.get()] {
    if (state == condition::blocking_everything) support::block_all_signals();
    if (state == condition::many_threads) {
      for (int i = 0; i < 8; ++i) std::thread(support::sleep_forever).detach();
    }
    ready->store(true);
    switch (state) {
      case condition::exited:
        return 3;
      case condition::signalled:
        ::raise(SIGKILL);
        break;
      case condition::stopped:
        ::raise(SIGSTOP);
        break;
      case condition::spinning:
        support::spin_forever();
      default:
        break;
    }
    support::sleep_forever();
  });
  support::await_flag(*ready);
  if (state == condition::stopped) support::await_stopped(child.pid());
  if (state == condition::exited || state == condition::signalled) support::await_gone(child.pid());
  const pid_t pid = child.pid();
  const auto status = child.end(whole_tree);
  if (state == condition::exited) {
    EXPECT_EQ(status.how, how::exited);
    EXPECT_EQ(status.value, 3);
  } else {
    EXPECT_EQ(status.how, how::signalled);
    EXPECT_EQ(status.value, SIGKILL);
  }
  EXPECT_TRUE(status.usage_known);
  EXPECT_GT(status.usage.page_faults, 0u);
  EXPECT_GT(status.usage.peak_memory, 0u);
  EXPECT_EQ(support::process_state(pid), 0) << "reaped";
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG | __WALL), -1);
}

std::string name_of_end(const ::testing::TestParamInfo<std::tuple<condition, bool>>& info) {
  static constexpr const char* names[] = {
      "running", "spinning", "stopped", "exited", "signalled", "blocking_everything", "many_threads"};
  const auto& [state, whole_tree] = info.param;
  return std::string(names[static_cast<int>(state)]) + (whole_tree ? "_with_its_tree" : "_alone");
}

INSTANTIATE_TEST_SUITE_P(
    InEveryCondition, EndOfAChild,
    ::testing::Combine(::testing::Values(condition::running, condition::spinning, condition::stopped, condition::exited,
                                         condition::signalled, condition::blocking_everything, condition::many_threads),
                       ::testing::Bool()),
    name_of_end);

class EndOfATree : public ::testing::TestWithParam<support::descendant> {};

TEST_P(EndOfATree, TakesADescendantOfARunningChild) {
  support::process_log log;
  const support::shared_flag ready;
  started_child child([&] {
    support::start_descendant(GetParam(), log.path());
    ready->store(true);
    support::sleep_forever();
  });
  support::await_flag(*ready);
  EXPECT_EQ(child.end(true).value, SIGKILL);
  EXPECT_GE(log.pids().size(), 1u);
  EXPECT_THAT(log.survivors(), ::testing::IsEmpty());
}

TEST_P(EndOfATree, TakesADescendantOfADeadChild) {
  support::process_log log;
  started_child child([&] {
    support::start_descendant(GetParam(), log.path());
    ::raise(SIGKILL);
  });
  child.await_end();
  EXPECT_EQ(child.end(true).value, SIGKILL);
  EXPECT_GE(log.pids().size(), 1u);
  EXPECT_THAT(log.survivors(), ::testing::IsEmpty());
}

TEST_P(EndOfATree, IsTakenInTheChildItself) {
  SKIP_UNDER_THREAD_SANITIZER("a child has a thread of its, and only a single one can say that nothing is left");
  support::process_log log;
  started_child child([&] {
    support::start_descendant(GetParam(), log.path());
    platform::end_tree_in_child();
    return log.survivors().empty() ? 0 : 1;
  });
  child.await_end();
  EXPECT_EQ(child.region().orderly.load(), 1u);
  EXPECT_EQ(child.end(true).value, 0);
  EXPECT_GE(log.pids().size(), 1u);
}

INSTANTIATE_TEST_SUITE_P(Of, EndOfATree, ::testing::ValuesIn(support::all_descendants),
                         [](const auto& p) { return std::string(support::name_of(p.param)); });

TEST(PlatformChild, EndedAloneLeavesItsDescendants) {
  support::process_log log;
  const support::shared_flag ready;
  started_child child(
      [&] {
        support::start_descendant(support::descendant::plain, log.path());
        ready->store(true);
        support::sleep_forever();
      },
      {.terminate_child_processes = false});
  support::await_flag(*ready);
  child.end(false);
  EXPECT_EQ(log.survivors().size(), 1u);
}

// One with other threads may have started something that it does not know of.
TEST(PlatformChild, WithOtherThreadsDoesNotClaimThatNothingIsLeft) {
  started_child child([] {
    std::thread(support::sleep_forever).detach();
    platform::end_tree_in_child();
  });
  child.await_end();
  EXPECT_EQ(child.region().orderly.load(), 0u);
  EXPECT_EQ(child.end(true).value, 0);
}

}  // namespace
