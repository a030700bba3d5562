// No process that a call started outlives it, and no other process is touched.

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/handshake.hpp"
#include "support/helper_process.hpp"
#include "support/outcomes.hpp"
#include "support/scenarios.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::limit;
using pynisher::verdict;
using support::descendant;
using support::EndedAs;
using support::ending;
using support::process_log;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

verdict verdict_of(ending how) {
  switch (how) {
    case ending::returns:
      return verdict::returned;
    case ending::throws:
      return verdict::raised;
    case ending::segfault:
    case ending::aborts:
    case ending::kills_itself:
      return verdict::signalled;
    case ending::calls_exit:
    case ending::calls_underscore_exit:
    case ending::calls_quick_exit:
      return verdict::exited;
    case ending::sleeps:
      return verdict::wall_timeout;
    case ending::spins:
      return verdict::cpu_timeout;
  }
  return verdict::start_failed;
}

void start_and_end(descendant kind, ending how, const std::string& log) {
  support::start_descendant(kind, log);
  support::end_by(how);
}

using member_of_a_tree = std::tuple<pynisher::start_method, descendant, ending>;

class Tree : public ::testing::TestWithParam<member_of_a_tree> {
 protected:
  void SetUp() override {
    SKIP_UNLESS_SUPPORTED("kill_tree");
    if (how() == ending::segfault || how() == ending::aborts) SKIP_UNDER_SANITIZER("it turns crashes into exits");
  }
  static descendant kind() { return std::get<1>(GetParam()); }
  static ending how() { return std::get<2>(GetParam()); }
  static pynisher::options limits() {
    pynisher::options wanted{.warnings = false};
    wanted.context = std::get<0>(GetParam());
    if (how() == ending::sleeps) wanted.wall_time = 150ms;
    if (how() == ending::spins) wanted.cpu_time = 60ms;
    return wanted;
  }
};
INSTANTIATE_TEST_SUITE_P(By, Tree,
                         ::testing::Combine(::testing::ValuesIn(pynisher::start_methods()),
                                            ::testing::ValuesIn(support::all_descendants),
                                            ::testing::ValuesIn(support::all_endings)),
                         [](const auto& tree) {
                           return support::method_name(std::get<0>(tree.param)) + "_" +
                                  support::name_of(std::get<1>(tree.param)) + "_" +
                                  support::name_of(std::get<2>(tree.param));
                         });

TEST_P(Tree, IsGoneWhenTheCallHasEnded) {
  process_log log;
  const auto ended = support::with_time_enough(limits(), log, 1, [&](const pynisher::options& enough) {
    return limit(start_and_end, enough).try_call(kind(), how(), log.path());
  });
  // Looked at before anything else: they are to be gone now, not soon.
  const auto survivors = log.survivors();
  EXPECT_THAT(survivors, IsEmpty());
  EXPECT_FALSE(log.pids().empty()) << "nothing was started";
  EXPECT_THAT(ended, EndedAs(verdict_of(how())));
}

class TreeOf : public support::per_start_method {
 protected:
  void SetUp() override { SKIP_UNLESS_SUPPORTED("kill_tree"); }
};
FOR_EACH_START_METHOD(TreeOf);

void start_all_and_end(ending how, const std::string& log) {
  for (const auto kind : support::all_descendants) {
    if (kind != descendant::hops && kind != descendant::breeds) support::start_descendant(kind, log);
  }
  support::end_by(how);
}

TEST_P(TreeOf, EveryKindAtOnceIsGoneAfterEveryEnd) {
  for (const auto how : {ending::returns, ending::throws, ending::calls_exit, ending::kills_itself}) {
    const process_log log;
    const auto ended = limit(start_all_and_end, unlimited()).try_call(how, log.path());
    EXPECT_THAT(log.survivors(), IsEmpty());
    EXPECT_THAT(log.pids(), SizeIs(11));
    EXPECT_THAT(ended, EndedAs(verdict_of(how)));
  }
}

TEST_P(TreeOf, FiftyDaemonsAreGone) {
  const process_log log;
  const auto ended = limit(
                         [](const std::string& list) {
                           for (int i = 0; i < 50; ++i) {
                             support::start_descendant(descendant::double_forked_in_own_session, list);
                           }
                         },
                         unlimited())
                         .try_call(log.path());
  EXPECT_THAT(log.survivors(), IsEmpty());
  EXPECT_THAT(log.pids(), SizeIs(50));
  EXPECT_THAT(ended, EndedAs(verdict::returned));
}

TEST_P(TreeOf, AProgramThatTheFunctionStartedIsGone) {
  const process_log log;
  const auto ended = limit(
                         [](const std::string& list) {
                           if (::fork() == 0) {
                             support::log_process(list.c_str());
                             ::setsid();
                             ::execlp("sleep", "sleep", "120", nullptr);
                             ::_exit(1);
                           }
                           support::await_logged(list, 1);
                         },
                         unlimited())
                         .try_call(log.path());
  EXPECT_THAT(log.survivors(), IsEmpty());
  EXPECT_THAT(ended, EndedAs(verdict::returned));
}

TEST_P(TreeOf, DescendantsOfOtherThreadsAreGone) {
  const process_log log;
  const auto ended = limit(
                         [](const std::string& list) {
                           std::thread([&] { support::start_descendant(descendant::plain, list); }).join();
                           std::thread([&] {
                             support::start_descendant(descendant::double_forked, list);
                             support::sleep_two_minutes();
                           }).detach();
                           support::await_logged(list, 2);
                         },
                         unlimited())
                         .try_call(log.path());
  EXPECT_THAT(log.survivors(), IsEmpty());
  EXPECT_THAT(ended, EndedAs(verdict::returned));
}

TEST_P(TreeOf, AResultSentByAFunctionWithDescendantsIsWhole) {
  const process_log log;
  const auto call = limit(
      [](const std::string& list) {
        support::start_descendant(descendant::ignores_sigterm, list);
        return std::vector<int>(5'000'000, 3);
      },
      unlimited());
  EXPECT_EQ(call(log.path()), std::vector<int>(5'000'000, 3));
  EXPECT_THAT(log.survivors(), IsEmpty());
}

// --- those that are not the call's
// --------------------------------------------------------------------------------------

TEST_P(TreeOf, OtherChildrenOfTheCallerAreUntouchedAndStillWaitable) {
  const process_log log;
  support::handshake go_on;
  // One before, running; one before, dead and not waited for; both to be found as they are.
  const pid_t running = ::fork();
  if (running == 0) {
    go_on.close_writing();
    ::_exit(go_on.wait_while_writing());
  }
  const pid_t dead = ::fork();
  if (dead == 0) ::_exit(12);
  support::await_gone(dead);

  for (const auto how : support::all_endings) {
    if (support::sanitized && (how == ending::segfault || how == ending::aborts)) continue;
    pynisher::options wanted = with({.cpu_time = 100ms, .wall_time = 20s});
    if (how == ending::sleeps) wanted.wall_time = 100ms;
    EXPECT_THAT(limit(start_and_end, wanted).try_call(descendant::plain, how, log.path()), EndedAs(verdict_of(how)));
    ASSERT_FALSE(support::is_gone(running)) << "after " << support::name_of(how);
  }

  int status = 0;
  ASSERT_EQ(::waitpid(dead, &status, 0), dead);
  EXPECT_EQ(WEXITSTATUS(status), 12);
  go_on.signal(13);
  ASSERT_EQ(::waitpid(running, &status, 0), running);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 13);
  pynisher::forkserver::stop();
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD) << "a call has left a child behind";
}

TEST_P(TreeOf, ADaemonOfTheCallersOwnIsUntouched) {
  process_log own, of_the_call;
  support::start_descendant(descendant::double_forked_in_own_session, own.path());
  ASSERT_THAT(own.survivors(), SizeIs(1));
  while (::waitpid(-1, nullptr, 0) > 0) {
  }
  for (const auto how : {ending::returns, ending::kills_itself, ending::sleeps}) {
    const auto wanted = with({.wall_time = how == ending::sleeps ? 100ms : 60s});
    of_the_call.clear();
    const auto ended = support::with_time_enough(wanted, of_the_call, 1, [&](const pynisher::options& enough) {
      return limit(start_and_end, enough).try_call(descendant::double_forked, how, of_the_call.path());
    });
    EXPECT_THAT(ended, EndedAs(verdict_of(how)));
    EXPECT_THAT(of_the_call.survivors(), IsEmpty());
    ASSERT_THAT(own.survivors(), SizeIs(1)) << "after " << support::name_of(how);
  }
}

TEST_P(TreeOf, OneCallsEndLeavesWhatAnotherCallStartedAlone) {
  ONLY_BY_FORK("its callable has captures");
  // The first call's daemon lives while a second call of the same program starts and ends its own.
  support::shared_flag release;
  process_log first, second;
  std::atomic<bool>* flag = release.get();
  const std::string first_list = first.path(), second_list = second.path();
  const auto options = unlimited();
  const support::helper_result said = support::run_in_helper([&] {
    std::thread other([&] {
      limit(
          [flag](const std::string& list) {
            support::start_descendant(descendant::double_forked_in_own_session, list);
            support::await_flag(*flag);
          },
          options)(first_list);
    });
    support::await_logged(first_list, 1);
    limit(start_and_end, options)(descendant::double_forked_in_own_session, ending::returns, second_list);
    const bool first_lives = first.survivors().size() == 1, second_is_gone = second.survivors().empty();
    release->store(true);
    other.join();
    HELPER_CHECK(first_lives);
    HELPER_CHECK(second_is_gone);
    HELPER_CHECK(first.survivors().empty());
    return 0;
  });
  EXPECT_EQ(said.code, 0) << said;
}

// --- terminate_child_processes = false
// ------------------------------------------------------------------------------------

TEST_P(TreeOf, IsLeftAliveWhereThatIsWished) {
  for (const auto how : {ending::returns, ending::throws, ending::calls_exit, ending::kills_itself, ending::sleeps}) {
    for (const auto kind : {descendant::plain, descendant::in_own_group, descendant::double_forked_in_own_session}) {
      process_log log;
      const auto wanted = with({.wall_time = how == ending::sleeps ? 100ms : 60s, .terminate_child_processes = false});
      const auto ended = support::with_time_enough(wanted, log, 1, [&](const pynisher::options& enough) {
        return limit(start_and_end, enough).try_call(kind, how, log.path());
      });
      EXPECT_THAT(ended, EndedAs(verdict_of(how)));
      // More than one where an earlier attempt was too short, and what it had started went on.
      EXPECT_THAT(log.survivors(), Not(IsEmpty())) << support::name_of(kind) << ", " << support::name_of(how);
    }
  }
}

TEST_P(TreeOf, OnlyTheLimitedChildItselfIsEndedWhereTheRestIsToLive) {
  process_log limited, descendants;
  const auto fn = [](const std::string& own_list, const std::string& list) {
    support::log_process(own_list.c_str());
    support::start_descendant(descendant::plain, list);
    support::sleep_forever();
  };
  const auto wanted = with({.wall_time = 100ms, .terminate_child_processes = false});
  const auto ended = support::with_time_enough(wanted, descendants, 1, [&](const pynisher::options& enough) {
    return limit(fn, enough).try_call(limited.path(), descendants.path());
  });
  EXPECT_THAT(ended, EndedAs(verdict::wall_timeout));
  EXPECT_THAT(limited.pids(), Not(IsEmpty()));
  EXPECT_THAT(limited.survivors(), IsEmpty());
  EXPECT_THAT(descendants.survivors(), Not(IsEmpty()));
}

TEST_P(TreeOf, NothingSurvivesWhereTheParentHasNoDescriptorLeft) {
  ONLY_BY_FORK("its callable has captures");
  SKIP_UNDER_SANITIZER("its own checks need a descriptor");
  SKIP_UNLESS_SUPPORTED("kill_tree");
  support::process_log log;
  const auto end = support::run_in_helper([path = log.path()] {
    std::thread greedy([&path] {
      support::await_logged(path, 1);
      while (::open("/dev/null", O_RDONLY) >= 0) {
      }
      HELPER_CHECK(errno == EMFILE);
    });
    const auto ended = limit(
                           [path] {
                             support::start_descendant(support::descendant::double_forked_in_own_session, path);
                             support::sleep_forever();
                           },
                           with({.wall_time = 2s}))
                           .try_call();
    greedy.join();
    HELPER_CHECK(ended.verdict() == pynisher::verdict::wall_timeout);
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
  EXPECT_EQ(log.pids().size(), 1u);
  EXPECT_THAT(log.survivors(), ::testing::IsEmpty());
}

}  // namespace
