// Functions that do odd things to processes: their own, the parent's helpers, their descendants.

#include <dirent.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <stop_token>
#include <string>
#include <thread>
#include <tuple>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "hostile/attack.hpp"
#include "support/handshake.hpp"
#include "support/scenarios.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using hostile::expect_verdict;
using hostile::on_a_victim;
using hostile::Survived;
using pynisher::limit;
using pynisher::verdict;
using support::descendant;

class HostileProcess : public support::per_start_method {};
FOR_EACH_START_METHOD(HostileProcess);

pynisher::options by(pynisher::start_method method, pynisher::options limits = {}) {
  limits.context = method;
  limits.warnings = false;
  return limits;
}

// --- another program in the middle
// ------------------------------------------------------------------------------------

struct program {
  const char* name;
  const char* script;
  verdict expected;
  int value;  ///< exit code or signal
  friend void PrintTo(const program& p, std::ostream* os) { *os << p.name; }
};

int execute(const std::string& script) {
  ::execl("/bin/sh", "sh", "-c", script.c_str(), static_cast<char*>(nullptr));
  return 7;
}

class AnotherProgram : public ::testing::TestWithParam<std::tuple<pynisher::start_method, program>> {};

TEST_P(AnotherProgram, InTheMiddleEndsTheCallAsItEnds) {
  const auto [method, what] = GetParam();
  // One that does end has all the time that it needs.
  const auto time = what.expected == verdict::wall_timeout ? 1s : 60s;
  EXPECT_THAT(on_a_victim(
                  [what, limits = by(method, {.wall_time = time})] {
                    const auto result = limit(execute, limits).try_call(what.script);
                    expect_verdict(result, {what.expected});
                    try {
                      std::rethrow_exception(result.error());
                    } catch (const pynisher::ExitException& e) {
                      HELPER_CHECK(e.exit_code() == what.value);
                    } catch (const pynisher::SignalException& e) {
                      HELPER_CHECK(e.signal() == what.value);
                    } catch (const pynisher::WallTimeoutException&) {
                    }
                  },
                  method),
              Survived());
}

INSTANTIATE_TEST_SUITE_P(
    That, AnotherProgram,
    ::testing::Combine(::testing::ValuesIn(pynisher::start_methods()),
                       ::testing::Values(program{"succeeds", "exit 0", verdict::exited, 0},
                                         program{"fails", "exit 7", verdict::exited, 7},
                                         program{"is_killed", "kill -9 $$", verdict::signalled, 9},
                                         program{"never_ends", "while :; do sleep 9; done", verdict::wall_timeout, 0})),
    [](const auto& p) { return support::method_name(std::get<0>(p.param)) + "_" + std::get<1>(p.param).name; });

void leave_a_daemon_and_execute(const std::string& log) {
  support::start_descendant(descendant::double_forked_in_own_session, log);
  execute("exit 7");
}

TEST_P(HostileProcess, ADaemonOfAnotherProgramInTheMiddleIsGone) {
  support::process_log log;
  EXPECT_THAT(on_a_victim(
                  [path = log.path()] {
                    const auto result = limit(leave_a_daemon_and_execute, unlimited()).try_call(path);
                    expect_verdict(result, {verdict::exited});
                  },
                  GetParam()),
              Survived());
  EXPECT_EQ(log.pids().size(), 1u);
  EXPECT_THAT(log.survivors(), ::testing::IsEmpty());
}

// --- stopping and going on
// ----------------------------------------------------------------------------------------------

void stop_itself() { ::raise(SIGSTOP); }
void tell_and_stop_itself(const std::string& log) {
  support::log_process(log.c_str());
  ::raise(SIGSTOP);
}

TEST_P(HostileProcess, StoppingItselfIsNoEndButEndsAtTheLimit) {
  EXPECT_THAT(on_a_victim(
                  [] {
                    const auto result = limit(stop_itself, with({.wall_time = 100ms})).try_call();
                    expect_verdict(result, {verdict::wall_timeout});
                  },
                  GetParam()),
              Survived());
}

TEST_P(HostileProcess, StoppingItselfDoesNotKeepItFromBeingCancelled) {
  support::process_log log;
  EXPECT_THAT(on_a_victim(
                  [path = log.path()] {
                    std::stop_source stop;
                    std::jthread canceller([&] {
                      support::await_logged(path, 1);
                      const pid_t child = support::logged_processes(path).front();
                      support::await([&] { return support::process_state(child) == 'T'; });
                      stop.request_stop();
                    });
                    const auto result = limit(tell_and_stop_itself, with({.stop = stop.get_token()})).try_call(path);
                    expect_verdict(result, {verdict::cancelled});
                  },
                  GetParam()),
              Survived());
}

// The parent freezes the child before it looks for descendants. One of them thaws it, and it goes on forking.
void have_itself_thawed() {
  const pid_t self = ::getpid();
  ::signal(SIGCHLD, SIG_IGN);
  for (int i = 0; i < 8; ++i) {
    if (::fork() != 0) continue;
    for (;;) ::kill(self, SIGCONT);
  }
  // Bounded in number, since each ends by itself, and in time.
  const auto end = std::chrono::steady_clock::now() + 60s;
  while (std::chrono::steady_clock::now() < end) {
    if (::fork() == 0) {
      for (int i = 0; i < 1000; ++i) ::kill(self, SIGCONT);
      ::_exit(0);
    }
  }
}

TEST_P(HostileProcess, BeingThawedWhileItsTreeIsKilledDoesNotKeepTheParentBusyForEver) {
  EXPECT_THAT(on_a_victim(
                  [] {
                    const auto result = limit(have_itself_thawed, with({.wall_time = 200ms})).try_call();
                    expect_verdict(result, {verdict::wall_timeout});
                  },
                  GetParam()),
              Survived());
}

// --- leaving the tree
// ---------------------------------------------------------------------------------------------------

/// The ways of a function to get a process out of sight.
enum class escape {
  subreaper_given_up,
  sibling,             ///< made as a child of the caller's
  first_thread_ended,  ///< its process reads as a zombie, and is none
  behind_a_crash,      ///< another descendant crashes, in the library's own handler
  own_pid_namespace,
};
constexpr escape all_escapes[] = {escape::subreaper_given_up, escape::sibling, escape::first_thread_ended,
                                  escape::behind_a_crash, escape::own_pid_namespace};

const char* name_of(escape how) {
  switch (how) {
    case escape::subreaper_given_up:
      return "subreaper_given_up";
    case escape::sibling:
      return "sibling";
    case escape::first_thread_ended:
      return "first_thread_ended";
    case escape::behind_a_crash:
      return "behind_a_crash";
    case escape::own_pid_namespace:
      return "own_pid_namespace";
  }
  return "unknown";
}

/// Alive in any of its threads: the state of a process is that of its first one.
bool runs(pid_t pid) {
  const std::string tasks = "/proc/" + std::to_string(pid) + "/task";
  DIR* directory = ::opendir(tasks.c_str());
  if (directory == nullptr) return false;
  bool found = false;
  while (const dirent* entry = ::readdir(directory)) {
    if (entry->d_name[0] != '.' && !support::is_gone(std::atoi(entry->d_name))) found = true;
  }
  ::closedir(directory);
  return found;
}

void flee(escape how, const std::string& log) {
  const char* path = log.c_str();
  switch (how) {
    case escape::subreaper_given_up:
      ::prctl(PR_SET_CHILD_SUBREAPER, 0);
      support::start_descendant(descendant::double_forked_in_own_session, log);
      break;
    case escape::sibling: {
      clone_args arguments{};
      arguments.flags = CLONE_PARENT;
      // With CLONE_PARENT the signal is that of the caller's own end.
      if (::syscall(SYS_clone3, &arguments, sizeof arguments) == 0) {
        support::log_process(path);
        support::sleep_two_minutes();
      }
      support::await_logged(log, 1);
      break;
    }
    case escape::first_thread_ended: {
      const pid_t pid = ::fork();
      if (pid == 0) {
        const pid_t self = ::gettid();
        std::thread([path, self] {
          support::await([self] { return support::process_state(self) == 'Z'; });
          support::log_process(path);
          support::sleep_two_minutes();
        }).detach();
        ::syscall(SYS_exit, 0);
      }
      support::await_logged(log, 1);
      break;
    }
    case escape::behind_a_crash: {
      support::start_descendant(descendant::double_forked_in_own_session, log);
      const pid_t crashing = ::fork();
      if (crashing == 0) support::write_to_null();
      ::waitpid(crashing, nullptr, 0);
      break;
    }
    case escape::own_pid_namespace:
      if (::unshare(CLONE_NEWPID) != 0) {
        support::start_descendant(descendant::plain, log);
        break;
      }
      if (const pid_t pid = ::fork(); pid == 0) {
        ::setsid();
        support::sleep_two_minutes();
      } else {
        const int fd = ::open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
        if (::write(fd, &pid, sizeof pid) != sizeof pid) ::_exit(97);
        ::close(fd);
      }
      break;
  }
}

void flee_and_end(int how, int ends, const std::string& log) {
  flee(static_cast<escape>(how), log);
  support::end_by(static_cast<support::ending>(ends));
}

class Escapes : public ::testing::TestWithParam<std::tuple<pynisher::start_method, escape, support::ending>> {};

TEST_P(Escapes, OutOfTheTreeDoNotOutliveTheCall) {
  const auto [method, how, ends] = GetParam();
  support::process_log log;
  EXPECT_THAT(on_a_victim(
                  [method, how, ends, path = log.path()] {
                    // The one that never ends is cancelled when the other has fled.
                    std::stop_source stop;
                    std::jthread canceller([&] {
                      if (ends != support::ending::sleeps) return;
                      support::await_logged(path, 1);
                      stop.request_stop();
                    });
                    const auto result = limit(flee_and_end, by(method, {.stop = stop.get_token()}))
                                            .try_call(static_cast<int>(how), static_cast<int>(ends), path);
                    HELPER_CHECK(!result.explain().empty());
                  },
                  method),
              Survived());
  ASSERT_EQ(log.pids().size(), 1u);
  const pid_t fled = log.pids().front();
  EXPECT_FALSE(runs(fled));
  if (runs(fled)) ::kill(fled, SIGKILL);
}

INSTANTIATE_TEST_SUITE_P(By, Escapes,
                         ::testing::Combine(::testing::ValuesIn(pynisher::start_methods()),
                                            ::testing::ValuesIn(all_escapes),
                                            ::testing::Values(support::ending::returns, support::ending::throws,
                                                              support::ending::calls_underscore_exit,
                                                              support::ending::segfault, support::ending::sleeps)),
                         [](const auto& p) {
                           return support::method_name(std::get<0>(p.param)) + "_" + name_of(std::get<1>(p.param)) +
                                  "_and_" + support::name_of(std::get<2>(p.param));
                         });

// --- the parent's helper
// ------------------------------------------------------------------------------------------------

/// The library's watch of `program`, or 0.
pid_t find_watch(pid_t program) { return hostile::find_helper(program, "pynisher-watch"); }

int attack_the_watch(int signal) {
  const pid_t parent = ::getppid();
  support::await([parent] { return find_watch(parent) != 0; });
  ::kill(find_watch(parent), signal);
  return 42;
}

class DeathWatch : public ::testing::TestWithParam<std::tuple<pynisher::start_method, int>> {};

TEST_P(DeathWatch, AttackedByTheFunctionDoesNotHarmTheParent) {
  const auto [method, signal] = GetParam();
  EXPECT_THAT(on_a_victim(
                  [method, signal] {
                    for (int i = 0; i < 3; ++i) {
                      const auto result = limit(attack_the_watch, by(method)).try_call(signal);
                      expect_verdict(result, {verdict::returned});
                    }
                  },
                  method),
              Survived());
}

INSTANTIATE_TEST_SUITE_P(BySignal, DeathWatch,
                         ::testing::Combine(::testing::ValuesIn(pynisher::start_methods()),
                                            ::testing::Values(SIGKILL, SIGSTOP, SIGTERM, SIGSEGV, SIGABRT)),
                         [](const auto& p) {
                           return support::method_name(std::get<0>(p.param)) + "_" +
                                  ::sigabbrev_np(std::get<1>(p.param));
                         });

// --- calls within calls
// ---------------------------------------------------------------------------------------------------

/// A process that the call has forked makes a call, and so does the call itself, whose ends in disorder: the parent
/// sweeps.
int call_in_two_processes() {
  const support::shared_counter inside_counter, done_counter;
  auto* const inside = inside_counter.get();
  auto* const done = done_counter.get();
  const pid_t other = ::fork();
  if (other == 0) {
    const auto inner = limit([inside, done] {
                         inside->fetch_add(1);
                         support::await([done] { return done->load() == 1; });
                         return 42;
                       }).try_call();
    ::_exit(inner.verdict() == verdict::returned ? 0 : 1);
  }
  (void)limit([inside] {
    support::await([inside] { return inside->load() == 1; });
    ::_exit(3);
  }).try_call();
  done->store(1);
  int status = 0;
  ::waitpid(other, &status, 0);
  return status;
}

// Marks that each counts for itself would be equal, and the sweep after the one would take the other.
TEST_P(HostileProcess, CallsOfTwoProcessesOfOneCallDoNotEndEachOther) {
  EXPECT_THAT(on_a_victim(
                  [] {
                    const auto result = limit(call_in_two_processes, unlimited()).try_call();
                    expect_verdict(result, {verdict::returned});
                    HELPER_CHECK(*result == 0);
                  },
                  GetParam()),
              Survived());
}

void fork_and_end(int how) {
  if (::fork() == 0) support::sleep_two_minutes();
  support::end_by(static_cast<support::ending>(how));
}

// What the caller has started itself is not the call's, whatever the call does.
TEST_P(HostileProcess, TheCallersOtherChildrenAreNotTouched) {
  EXPECT_THAT(on_a_victim(
                  [] {
                    support::handshake up;
                    const pid_t own = ::fork();
                    if (own == 0) {
                      up.signal();
                      support::sleep_two_minutes();
                    }
                    up.wait();
                    for (const auto how : support::all_endings) {
                      const auto result =
                          limit(fork_and_end, with({.wall_time = 50ms})).try_call(static_cast<int>(how));
                      HELPER_CHECK(!result.explain().empty());
                    }
                    HELPER_CHECK(!support::is_gone(own));
                    ::kill(own, SIGKILL);
                    int status = 0;
                    HELPER_CHECK(::waitpid(own, &status, 0) == own);
                    HELPER_CHECK(WIFSIGNALED(status));
                  },
                  GetParam()),
              Survived());
}

}  // namespace
