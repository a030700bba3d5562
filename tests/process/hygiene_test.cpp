// What a child has of its parent, and what it leaves behind.

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <utility>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/helper_process.hpp"
#include "support/scenarios.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::limit;
using support::run_in_helper;

class Hygiene : public support::per_start_method {};
FOR_EACH_START_METHOD(Hygiene);

std::string line_of(const std::string& file) {
  std::string line;
  std::getline(std::ifstream(file) >> std::ws, line);
  return line;
}

// --- output
// -------------------------------------------------------------------------------------------------------------

void print_everywhere() {
  std::printf("child printf;");
  std::cout << "child cout;";
  std::fprintf(stderr, "child stderr;");
  std::clog << "child clog;";
}

TEST_P(Hygiene, NothingIsPrintedTwiceAndEverythingOnce) {
  const auto options = unlimited();
  const auto said = run_in_helper([&] {
    // Into a pipe this is buffered: a child that inherited the buffer would print it again.
    std::printf("before;");
    std::cout << "before cout;";
    std::clog << "before clog;";
    limit(print_everywhere, options)();
    std::printf("after;");
    return 0;
  });
  EXPECT_EQ(said.code, 0);
  EXPECT_EQ(said.out, "before;before cout;child printf;child cout;after;");
  EXPECT_EQ(said.err, "before clog;child stderr;child clog;");
}

TEST_P(Hygiene, OutputOfAChildThatThrowsOrExitsIsFlushed) {
  ONLY_BY_FORK("its callable has captures");
  const auto options = unlimited();
  for (const auto how : {support::ending::throws, support::ending::calls_exit}) {
    const auto said = run_in_helper([&] {
      (void)limit(
          [how] {
            print_everywhere();
            support::end_by(how);
          },
          options)
          .try_call();
      return 0;
    });
    EXPECT_EQ(said.out, "child printf;child cout;") << support::name_of(how);
  }
}

TEST_P(Hygiene, AFailedCallPrintsTheParentsOutputNoSecondTime) {
  const auto options = with({.wall_time = 60ms});
  for (const auto how : support::all_endings) {
    if (support::sanitized && (how == support::ending::segfault || how == support::ending::aborts)) continue;
    const auto said = run_in_helper([&] {
      std::printf("once;");
      std::cout << "and once;";
      (void)limit(support::end_by, options).try_call(how);
      return 0;
    });
    EXPECT_EQ(said.out, "once;and once;") << support::name_of(how);
    EXPECT_EQ(said.err, "") << support::name_of(how);
  }
}

TEST_P(Hygiene, FilesOfTheParentAreWrittenOnce) {
  const std::string path = "/tmp/pynisher-test-" + std::to_string(::getpid());
  const auto options = unlimited();
  const auto said = run_in_helper([&] {
    std::FILE* file = std::fopen(path.c_str(), "w");
    std::fprintf(file, "line of the parent\n");
    limit([] {}, options)();
    (void)limit([] { std::exit(3); }, options).try_call();
    std::fclose(file);
    return 0;
  });
  EXPECT_EQ(said.code, 0) << said;
  std::ifstream in(path);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(in), {}), "line of the parent\n");
  ::unlink(path.c_str());
}

// --- leaving
// --------------------------------------------------------------------------------------------------------------

struct prints_at_the_end {
  const char* text;
  ~prints_at_the_end() {
    const ssize_t ignored = ::write(1, text, std::char_traits<char>::length(text));
    static_cast<void>(ignored);
  }
};

TEST_P(Hygiene, NoExitHandlerAndNoDestructorOfAStaticRunsInTheChild) {
  for (const auto how : {support::ending::returns, support::ending::throws, support::ending::calls_exit,
                         support::ending::calls_quick_exit, support::ending::calls_underscore_exit}) {
    const auto options = unlimited();
    const auto said = run_in_helper([&]() -> int {
      static prints_at_the_end of_the_parent{"static;"};
      std::atexit([] { [[maybe_unused]] const ssize_t n = ::write(1, "atexit;", 7); });
      std::at_quick_exit([] { [[maybe_unused]] const ssize_t n = ::write(1, "quick;", 6); });
      (void)limit(support::end_by, options).try_call(how);
      const ssize_t ignored = ::write(1, "parent;", 7);
      static_cast<void>(ignored);
      std::exit(0);
    });
    // The parent's own end runs them, once.
    EXPECT_THAT(said.out, ::testing::Eq("parent;atexit;static;"))
        << support::name_of(how);
  }
}

// What an earlier call has left behind must not stand before them.
TEST_P(Hygiene, NorDoesOneThatWasRegisteredAfterAnEarlierCall) {
  for (const auto how : {support::ending::returns, support::ending::calls_exit, support::ending::calls_quick_exit}) {
    const auto options = unlimited();
    const auto said = run_in_helper([&]() -> int {
      for (int i = 0; i < 3; ++i) limit([] {}, options)();
      std::atexit([] { [[maybe_unused]] const ssize_t n = ::write(1, "atexit;", 7); });
      std::at_quick_exit([] { [[maybe_unused]] const ssize_t n = ::write(1, "quick;", 6); });
      (void)limit(support::end_by, options).try_call(how);
      [[maybe_unused]] const ssize_t n = ::write(1, "parent;", 7);
      how == support::ending::calls_quick_exit ? std::quick_exit(0) : std::exit(0);
    });
    EXPECT_EQ(said.out, how == support::ending::calls_quick_exit ? "parent;quick;" : "parent;atexit;")
        << support::name_of(how);
  }
}

// Nor does what a call has left behind end a copy of the program as if that were a child.
TEST_P(Hygiene, ACopyOfTheProgramEndsByItsOwnHandlers) {
  for (const bool quickly : {false, true}) {
    const auto options = unlimited();
    const auto said = run_in_helper([&]() -> int {
      std::atexit([] { [[maybe_unused]] const ssize_t n = ::write(1, "atexit;", 7); });
      std::at_quick_exit([] { [[maybe_unused]] const ssize_t n = ::write(1, "quick;", 6); });
      (void)limit(support::end_by, options).try_call(support::ending::calls_exit);
      const pid_t copy = ::fork();
      if (copy == 0) {
        const auto how = quickly ? support::ending::calls_quick_exit : support::ending::calls_exit;
        const bool fine = limit(support::end_by, options).try_call(how).verdict() == pynisher::verdict::exited;
        quickly ? std::quick_exit(fine ? 9 : 1) : std::exit(fine ? 9 : 1);
      }
      int status = 0;
      HELPER_CHECK(::waitpid(copy, &status, 0) == copy);
      HELPER_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 9);
      ::_exit(0);
    });
    EXPECT_EQ(said.code, 0) << said;
    EXPECT_EQ(said.out, quickly ? "quick;" : "atexit;");
  }
}

TEST_P(Hygiene, TheTerminateHandlerIsTheProgramsOwnAfterACall) {
  const std::terminate_handler before = std::get_terminate();
  limit([] {}, unlimited())();
  EXPECT_EQ(std::get_terminate(), before);
  const std::terminate_handler own = [] { std::abort(); };
  std::set_terminate(own);
  limit([] {}, unlimited())();
  EXPECT_EQ(std::set_terminate(before), own);
}

TEST_P(Hygiene, LocalObjectsOfTheFunctionAreDestroyed) {
  const auto options = unlimited();
  const auto said = run_in_helper([&] {
    limit([] { const prints_at_the_end local{"local;"}; }, options)();
    (void)limit(
        [] {
          const prints_at_the_end local{"thrown past;"};
          throw 1;
        },
        options)
        .try_call();
    return 0;
  });
  EXPECT_EQ(said.out, "local;thrown past;");
}

// --- input and surroundings
// -------------------------------------------------------------------------------------------------

TEST_P(Hygiene, StandardInputIsEmptyAndTheParentsStaysUnread) {
  const auto options = unlimited();
  const auto said = run_in_helper([&] {
    int ends[2];
    HELPER_CHECK(::pipe(ends) == 0);
    HELPER_CHECK(::write(ends[1], "for the parent\n", 15) == 15);
    ::dup2(ends[0], 0);
    ::close(ends[0]);
    ::close(ends[1]);
    const auto read_all = limit(
        [] {
          std::string text;
          std::getline(std::cin, text);
          char c = 0;
          return text + (std::fgetc(stdin) == EOF ? "" : "stdio") + (::read(0, &c, 1) == 0 ? "" : "read");
        },
        options);
    HELPER_CHECK(read_all() == "");
    std::string text;
    std::getline(std::cin, text);
    HELPER_CHECK(text == "for the parent");
    return 0;
  });
  EXPECT_EQ(said.code, 0) << said;
}

TEST_P(Hygiene, InputThatTheParentHasReadAheadIsNotTheChilds) {
  const auto options = unlimited();
  const auto said = run_in_helper([&] {
    int ends[2];
    HELPER_CHECK(::pipe(ends) == 0);
    HELPER_CHECK(::write(ends[1], "abc", 3) == 3);
    ::dup2(ends[0], 0);
    ::close(ends[0]);
    ::close(ends[1]);
    HELPER_CHECK(std::fgetc(stdin) == 'a');
    HELPER_CHECK(limit([] { return std::fgetc(stdin); }, options)() == EOF);
    HELPER_CHECK(std::fgetc(stdin) == 'b');
    return 0;
  });
  EXPECT_EQ(said.code, 0) << said;
}

TEST_P(Hygiene, DirectoryAndEnvironmentAreInherited) {
  ::setenv("PYNISHER_TEST_VARIABLE", "as set", 1);
  EXPECT_EQ(limit([] { return std::string(std::getenv("PYNISHER_TEST_VARIABLE")); }, unlimited())(), "as set");
  ::unsetenv("PYNISHER_TEST_VARIABLE");
  EXPECT_EQ(limit([] { return std::filesystem::current_path(); }, unlimited())(), std::filesystem::current_path());
}

TEST_P(Hygiene, ChangesOfTheChildsSurroundingsStayInTheChild) {
  const auto before = std::filesystem::current_path();
  limit(
      [] {
        std::filesystem::current_path("/");
        ::setenv("PYNISHER_TEST_VARIABLE", "of the child", 1);
        ::umask(0);
        support::ignore(SIGUSR1);
      },
      unlimited())();
  EXPECT_EQ(std::filesystem::current_path(), before);
  EXPECT_EQ(std::getenv("PYNISHER_TEST_VARIABLE"), nullptr);
  struct sigaction now{};
  ::sigaction(SIGUSR1, nullptr, &now);
  EXPECT_EQ(now.sa_handler, SIG_DFL);
}

TEST_P(Hygiene, SignalMaskAndHandlersOfTheChildAreThoseOfTheCaller) {
  const auto call = limit(
      [] {
        sigset_t now;
        ::sigprocmask(SIG_SETMASK, nullptr, &now);
        int blocked = 0;
        for (int signal = 1; signal < NSIG; ++signal) blocked += ::sigismember(&now, signal) == 1;
        struct sigaction interrupt{};
        ::sigaction(SIGINT, nullptr, &interrupt);
        return std::pair(blocked, interrupt.sa_handler == SIG_DFL);
      },
      unlimited());
  EXPECT_EQ(call(), std::pair(0, true));
}

// --- names
// ------------------------------------------------------------------------------------------------------------------

std::string name_in_comm() { return line_of("/proc/self/comm"); }

TEST_P(Hygiene, TheNameIsWhatTopShows) { EXPECT_EQ(limit(name_in_comm, with({.name = "guarded"}))(), "guarded"); }

TEST_P(Hygiene, ALongNameIsShownAsFarAsItGoes) {
  EXPECT_EQ(limit(name_in_comm, with({.name = "a name of more than fifteen bytes"}))(), "a name of more ");
  EXPECT_THAT(
      limit([] { return line_of("/proc/self/cmdline"); }, with({.name = "a name of more than fifteen bytes"}))(),
      ::testing::StartsWith("a name of more"));
}

TEST_P(Hygiene, WithoutANameTheChildHasTheProgramsAndTheProgramKeepsItsOwn) {
  const std::string own = name_in_comm();
  EXPECT_EQ(limit(name_in_comm, unlimited())(), own);
  EXPECT_EQ(limit(name_in_comm, with({.name = "other"}))(), "other");
  EXPECT_EQ(name_in_comm(), own);
}

// --- descriptors
// ------------------------------------------------------------------------------------------------------------

long open_descriptors() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator());
}

TEST_P(Hygiene, NoDescriptorAndNoChildIsLeftHoweverTheCallEnds) {
  const auto options = with({.wall_time = 50ms});
  (void)limit(support::end_by, options).try_call(support::ending::returns);
  const long before = open_descriptors();
  for (const auto how : support::all_endings) {
    (void)limit(support::end_by, options).try_call(how);
    EXPECT_EQ(open_descriptors(), before) << support::name_of(how);
  }
  pynisher::forkserver::stop();
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
}

}  // namespace
