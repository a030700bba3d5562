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

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <stop_token>
#include <string>
#include <thread>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "hostile/attack.hpp"
#include "support/handshake.hpp"
#include "support/scenarios.hpp"

namespace {

using namespace std::chrono_literals;
using hostile::expect_verdict;
using hostile::on_a_victim;
using hostile::Survived;
using pynisher::limit;
using pynisher::verdict;
using support::descendant;

// --- another program in the middle
// ------------------------------------------------------------------------------------

struct program {
  const char* name;
  const char* script;
  verdict expected;
  int value;  ///< exit code or signal
  friend void PrintTo(const program& p, std::ostream* os) { *os << p.name; }
};

class AnotherProgram : public ::testing::TestWithParam<program> {};

TEST_P(AnotherProgram, InTheMiddleEndsTheCallAsItEnds) {
  EXPECT_THAT(on_a_victim([what = GetParam()] {
                const auto result = limit(
                                        [what] {
                                          ::execl("/bin/sh", "sh", "-c", what.script, static_cast<char*>(nullptr));
                                          return 7;
                                        },
                                        {.wall_time = 1s})
                                        .try_call();
                expect_verdict(result, {what.expected});
                try {
                  std::rethrow_exception(result.error());
                } catch (const pynisher::ExitException& e) {
                  HELPER_CHECK(e.exit_code() == what.value);
                } catch (const pynisher::SignalException& e) {
                  HELPER_CHECK(e.signal() == what.value);
                } catch (const pynisher::WallTimeoutException&) {
                }
              }),
              Survived());
}

INSTANTIATE_TEST_SUITE_P(
    That, AnotherProgram,
    ::testing::Values(program{"succeeds", "exit 0", verdict::exited, 0}, program{"fails", "exit 7", verdict::exited, 7},
                      program{"is_killed", "kill -9 $$", verdict::signalled, 9},
                      program{"never_ends", "while :; do sleep 9; done", verdict::wall_timeout, 0}),
    [](const auto& p) { return std::string(p.param.name); });

TEST(HostileProcess, ADaemonOfAnotherProgramInTheMiddleIsGone) {
  support::process_log log;
  EXPECT_THAT(on_a_victim([path = log.path()] {
                const auto result = limit([path] {
                                      support::start_descendant(descendant::double_forked_in_own_session, path);
                                      ::execl("/bin/sh", "sh", "-c", "exit 7", static_cast<char*>(nullptr));
                                    }).try_call();
                expect_verdict(result, {verdict::exited});
              }),
              Survived());
  EXPECT_EQ(log.pids().size(), 1u);
  EXPECT_THAT(log.survivors(), ::testing::IsEmpty());
}

// --- stopping and going on
// ----------------------------------------------------------------------------------------------

TEST(HostileProcess, StoppingItselfIsNoEndButEndsAtTheLimit) {
  EXPECT_THAT(on_a_victim([] {
                const auto result = limit([] { ::raise(SIGSTOP); }, {.wall_time = 100ms}).try_call();
                expect_verdict(result, {verdict::wall_timeout});
              }),
              Survived());
}

TEST(HostileProcess, StoppingItselfDoesNotKeepItFromBeingCancelled) {
  EXPECT_THAT(on_a_victim([] {
                const support::shared<std::atomic<pid_t>> child;
                std::stop_source stop;
                std::jthread canceller([&] {
                  support::await([&] { return child->load() != 0 && support::process_state(child->load()) == 'T'; });
                  stop.request_stop();
                });
                const auto result = limit(
                                        [child = child.get()] {
                                          child->store(::getpid());
                                          ::raise(SIGSTOP);
                                        },
                                        {.warnings = false, .stop = stop.get_token()})
                                        .try_call();
                expect_verdict(result, {verdict::cancelled});
              }),
              Survived());
}

// The parent freezes the child before it looks for descendants. One of them thaws it, and it goes on forking.
TEST(HostileProcess, BeingThawedWhileItsTreeIsKilledDoesNotKeepTheParentBusyForEver) {
  EXPECT_THAT(on_a_victim([] {
                const auto result = limit(
                                        [] {
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
                                        },
                                        {.wall_time = 200ms})
                                        .try_call();
                expect_verdict(result, {verdict::wall_timeout});
              }),
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

class Escapes : public ::testing::TestWithParam<std::tuple<escape, support::ending>> {};

TEST_P(Escapes, OutOfTheTreeDoNotOutliveTheCall) {
  const auto [how, ends] = GetParam();
  support::process_log log;
  EXPECT_THAT(on_a_victim([how, ends, path = log.path()] {
                // The one that never ends is cancelled when the other has fled.
                std::stop_source stop;
                std::jthread canceller([&] {
                  if (ends != support::ending::sleeps) return;
                  support::await_logged(path, 1);
                  stop.request_stop();
                });
                const auto result = limit(
                                        [how, ends, path] {
                                          flee(how, path);
                                          support::end_by(ends);
                                        },
                                        {.warnings = false, .stop = stop.get_token()})
                                        .try_call();
                HELPER_CHECK(!result.explain().empty());
              }),
              Survived());
  ASSERT_EQ(log.pids().size(), 1u);
  const pid_t fled = log.pids().front();
  EXPECT_FALSE(runs(fled));
  if (runs(fled)) ::kill(fled, SIGKILL);
}

INSTANTIATE_TEST_SUITE_P(By, Escapes,
                         ::testing::Combine(::testing::ValuesIn(all_escapes),
                                            ::testing::Values(support::ending::returns, support::ending::throws,
                                                              support::ending::calls_underscore_exit,
                                                              support::ending::segfault, support::ending::sleeps)),
                         [](const auto& p) {
                           return std::string(name_of(std::get<0>(p.param))) + "_and_" +
                                  support::name_of(std::get<1>(p.param));
                         });

// --- the parent's helper
// ------------------------------------------------------------------------------------------------

/// The library's watch of `program`, or 0.
pid_t find_watch(pid_t program) {
  std::ifstream children("/proc/" + std::to_string(program) + "/task/" + std::to_string(program) + "/children");
  for (pid_t pid = 0; children >> pid;) {
    std::ifstream comm("/proc/" + std::to_string(pid) + "/comm");
    std::string name;
    std::getline(comm, name);
    if (name == "pynisher-watch") return pid;
  }
  return 0;
}

class DeathWatch : public ::testing::TestWithParam<int> {};

TEST_P(DeathWatch, AttackedByTheFunctionDoesNotHarmTheParent) {
  EXPECT_THAT(on_a_victim([signal = GetParam()] {
                for (int i = 0; i < 3; ++i) {
                  const auto result = limit([signal] {
                                        const pid_t parent = ::getppid();
                                        support::await([parent] { return find_watch(parent) != 0; });
                                        ::kill(find_watch(parent), signal);
                                        return 42;
                                      }).try_call();
                  expect_verdict(result, {verdict::returned});
                }
              }),
              Survived());
}

INSTANTIATE_TEST_SUITE_P(BySignal, DeathWatch, ::testing::Values(SIGKILL, SIGSTOP, SIGTERM, SIGSEGV, SIGABRT),
                         [](const auto& p) { return std::string(::sigabbrev_np(p.param)); });

// --- calls within calls
// ---------------------------------------------------------------------------------------------------

// Two processes of one call each make a call of their own: marks that each counts for itself would be equal, and the
// sweep after the one would take the other.
TEST(HostileProcess, CallsOfTwoProcessesOfOneCallDoNotEndEachOther) {
  EXPECT_THAT(on_a_victim([] {
                const support::shared_counter inside, done;
                const auto result = limit([inside = inside.get(), done = done.get()] {
                                      const pid_t other = ::fork();
                                      if (other == 0) {
                                        const auto inner = limit([inside, done] {
                                                             inside->fetch_add(1);
                                                             support::await([done] { return done->load() == 1; });
                                                             return 42;
                                                           }).try_call();
                                        ::_exit(inner.verdict() == verdict::returned ? 0 : 1);
                                      }
                                      // Ends in disorder, so that the parent has to sweep.
                                      (void)limit([inside] {
                                        support::await([inside] { return inside->load() == 1; });
                                        ::_exit(3);
                                      }).try_call();
                                      done->store(1);
                                      int status = 0;
                                      ::waitpid(other, &status, 0);
                                      return status;
                                    }).try_call();
                expect_verdict(result, {verdict::returned});
                HELPER_CHECK(*result == 0);
              }),
              Survived());
}

// What the caller has started itself is not the call's, whatever the call does.
TEST(HostileProcess, TheCallersOtherChildrenAreNotTouched) {
  EXPECT_THAT(on_a_victim([] {
                support::handshake up;
                const pid_t own = ::fork();
                if (own == 0) {
                  up.signal();
                  support::sleep_two_minutes();
                }
                up.wait();
                for (const auto how : support::all_endings) {
                  const auto result = limit(
                                          [how] {
                                            if (::fork() == 0) support::sleep_two_minutes();
                                            support::end_by(how);
                                          },
                                          {.wall_time = 50ms})
                                          .try_call();
                  HELPER_CHECK(!result.explain().empty());
                }
                HELPER_CHECK(!support::is_gone(own));
                ::kill(own, SIGKILL);
                int status = 0;
                HELPER_CHECK(::waitpid(own, &status, 0) == own);
                HELPER_CHECK(WIFSIGNALED(status));
              }),
              Survived());
}

}  // namespace
