// Programs in which nobody, or somebody else, waits for children.

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <tuple>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/handshake.hpp"
#include "support/helper_process.hpp"
#include "support/scenarios.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::limit;
using pynisher::verdict;

enum class reaping { as_usual, ignored, no_wait_flag, by_a_handler };

const char* name_of(reaping who) {
  switch (who) {
    case reaping::as_usual:
      return "as_usual";
    case reaping::ignored:
      return "ignored";
    case reaping::no_wait_flag:
      return "no_wait_flag";
    case reaping::by_a_handler:
      return "by_a_handler";
  }
  return "unknown";
}
void PrintTo(reaping who, std::ostream* os) { *os << name_of(who); }

volatile sig_atomic_t reaped_by_handler = 0;

void reap_everything(int /*signal*/) {
  const int last_error = errno;
  while (::waitpid(-1, nullptr, WNOHANG) > 0) reaped_by_handler = reaped_by_handler + 1;
  errno = last_error;
}

void set_up(reaping who) {
  struct sigaction action{};
  switch (who) {
    case reaping::as_usual:
      return;
    case reaping::ignored:
      action.sa_handler = SIG_IGN;
      break;
    case reaping::no_wait_flag:
      action.sa_handler = SIG_DFL;
      action.sa_flags = SA_NOCLDWAIT;
      break;
    case reaping::by_a_handler:
      action.sa_handler = reap_everything;
      action.sa_flags = SA_RESTART;
      break;
  }
  ::sigaction(SIGCHLD, &action, nullptr);
}

class Sigchld : public ::testing::TestWithParam<std::tuple<pynisher::start_method, reaping>> {
 protected:
  static pynisher::options with(pynisher::options limits) {
    limits.context = std::get<0>(GetParam());
    return limits;
  }
  /// Runs `body` in a process that reaps so; many times, since it is about who is faster.
  template <class Body>
  static void many_times(int count, Body body) {
    const auto end = support::run_in_helper([&] {
      ::alarm(50);
      set_up(std::get<1>(GetParam()));
      for (int i = 0; i < count; ++i) body(i);
      pynisher::forkserver::stop();
      HELPER_CHECK(::waitpid(-1, nullptr, WNOHANG | __WALL) == -1 && errno == ECHILD);
      return 0;
    });
    EXPECT_EQ(end.code, 0) << end;
  }
};

INSTANTIATE_TEST_SUITE_P(Reaped, Sigchld,
                         ::testing::Combine(::testing::ValuesIn(pynisher::start_methods()),
                                            ::testing::Values(reaping::as_usual, reaping::ignored,
                                                              reaping::no_wait_flag, reaping::by_a_handler)),
                         [](const auto& p) {
                           return support::method_name(std::get<0>(p.param)) + "_" + name_of(std::get<1>(p.param));
                         });

TEST_P(Sigchld, ValuesArrive) {
  many_times(100, [](int i) { HELPER_CHECK(limit([](int x) { return x + 1; }, with({}))(i) == i + 1); });
}

TEST_P(Sigchld, LargeValuesArrive) {
  many_times(20, [](int) {
    HELPER_CHECK(limit([] { return std::string(4 << 20, 'x'); }, with({}))() == std::string(4 << 20, 'x'));
  });
}

TEST_P(Sigchld, ExceptionsArrive) {
  many_times(50, [](int i) {
    std::string got;
    try {
      limit([](int x) { throw std::out_of_range(std::to_string(x)); }, with({}))(i);
    } catch (const std::out_of_range& e) {
      got = e.what();
    }
    HELPER_CHECK(got == std::to_string(i));
  });
}

void end_by_exit(int code) { std::exit(code); }
void end_at_once(int code) { ::_exit(code); }
void raise_signal(int signal) { ::raise(signal); }
void await_end_of(pid_t process) {
  support::await([process] { return support::is_gone(process); });
}
void start_descendant_and_end(support::ending how, const std::string& path) {
  support::start_descendant(support::descendant::double_forked_in_own_session, path);
  support::end_by(how);
}

int exit_code_of(void (*fn)(int), int code, const pynisher::options& limits) {
  try {
    limit(fn, limits)(code);
  } catch (const pynisher::ExitException& e) {
    return e.exit_code();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
  }
  return -1;
}

TEST_P(Sigchld, ExitCodesAreKnown) {
  many_times(100, [](int i) { HELPER_CHECK(exit_code_of(end_by_exit, i, with({})) == i); });
}

// Over before the parent has come back from its fork, perhaps.
TEST_P(Sigchld, ExitCodesOfTheQuickestAreKnown) {
  many_times(300, [](int i) { HELPER_CHECK(exit_code_of(end_at_once, i % 256, with({})) == i % 256); });
}

TEST_P(Sigchld, SignalsAreKnown) {
  many_times(100, [](int i) {
    const int signal = i % 2 == 0 ? SIGKILL : SIGSEGV;
    int got = 0;
    try {
      limit(raise_signal, with({}))(signal);
    } catch (const pynisher::SignalException& e) {
      got = e.signal();
    } catch (const std::exception& e) {
      std::fprintf(stderr, "%s\n", e.what());
    }
    HELPER_CHECK(got == signal);
  });
}

TEST_P(Sigchld, LimitsHold) {
  many_times(10, [](int) {
    HELPER_CHECK(limit(support::sleep_forever, with({.wall_time = 10ms})).try_call().verdict() ==
                 verdict::wall_timeout);
    HELPER_CHECK(limit(support::spin_forever, with({.cpu_time = 10ms})).try_call().verdict() == verdict::cpu_timeout);
  });
}

TEST_P(Sigchld, UsageIsSensible) {
  many_times(5, [](int) {
    const auto result = limit(
                            [] {
                              support::spin_for(30ms);
                              return support::touch_memory(8 * support::MiB);
                            },
                            with({}))
                            .try_call();
    HELPER_CHECK(result.verdict() == verdict::returned);
    HELPER_CHECK(result.usage().cpu_time() >= 30ms);
    HELPER_CHECK(result.usage().wall_time >= 30ms);
    // Linux counts a process's pages for each processor in batches: a peak may be some hundred KiB short.
    HELPER_CHECK(result.usage().peak_memory >= 7 * support::MiB);
    HELPER_CHECK(result.usage().peak_memory < 512 * support::MiB);
    HELPER_CHECK(result.usage().page_faults > 0);
  });
}

TEST_P(Sigchld, UsageOfACallThatWasEndedIsSensible) {
  many_times(3, [](int) {
    const auto result = limit(support::spin_forever, with({.wall_time = 60ms})).try_call();
    HELPER_CHECK(result.verdict() == verdict::wall_timeout);
    HELPER_CHECK(result.usage().wall_time >= 60ms);
    HELPER_CHECK(result.usage().cpu_time() > 0ms);
  });
}

TEST_P(Sigchld, DescendantsAreGone) {
  SKIP_UNLESS_SUPPORTED("kill_tree");
  for (const auto how : {support::ending::returns, support::ending::calls_underscore_exit, support::ending::sleeps}) {
    support::process_log log;
    many_times(3, [&](int i) {
      // The one that never ends is cancelled when its tree stands.
      std::stop_source stop;
      std::jthread canceller([&] {
        if (how != support::ending::sleeps) return;
        support::await_logged(log.path(), static_cast<std::size_t>(i) + 1);
        stop.request_stop();
      });
      const auto result = limit(start_descendant_and_end, with({.warnings = false, .stop = stop.get_token()}))
                              .try_call(how, log.path());
      HELPER_CHECK(!result.explain().empty());
    });
    EXPECT_EQ(log.pids().size(), 3u);
    EXPECT_THAT(log.survivors(), ::testing::IsEmpty());
  }
}

// The application's handler stays, and still gets the application's own children.
TEST_P(Sigchld, TheApplicationsOwnChildrenStayItsOwn) {
  const auto end = support::run_in_helper([] {
    const reaping who = std::get<1>(GetParam());
    set_up(who);
    struct sigaction before{};
    ::sigaction(SIGCHLD, nullptr, &before);
    const pid_t own = ::fork();
    if (own == 0) ::_exit(5);
    // Not before it has ended, so that a wait for just any child would find it.
    limit(await_end_of, with({}))(own);
    int status = 0;
    if (who == reaping::as_usual) {
      HELPER_CHECK(::waitpid(own, &status, 0) == own);
      HELPER_CHECK(WEXITSTATUS(status) == 5);
    } else if (who == reaping::by_a_handler) {
      HELPER_CHECK(reaped_by_handler >= 1);
    }
    struct sigaction after{};
    ::sigaction(SIGCHLD, nullptr, &after);
    HELPER_CHECK(after.sa_handler == before.sa_handler && after.sa_flags == before.sa_flags);
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

}  // namespace
