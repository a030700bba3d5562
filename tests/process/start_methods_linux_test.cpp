// What a child of each start method finds: signal mask, descriptors, output.

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/helper_process.hpp"
#include "support/suites.hpp"

namespace {

using pynisher::limit;
using pynisher::start_method;
using testing::ElementsAre;

class StartMethodsOnLinux : public support::per_start_method {};
FOR_EACH_START_METHOD(StartMethodsOnLinux);

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "(none)" : value;
}
std::string directory() { return std::filesystem::current_path(); }
bool is_blocked(int signal) {
  sigset_t now;
  pthread_sigmask(SIG_SETMASK, nullptr, &now);
  return sigismember(&now, signal) == 1;
}

TEST_P(StartMethodsOnLinux, EnvironmentDirectoryAndSignalMaskAreTheCallersOfThatMoment) {
  EXPECT_EQ(limit(variable, unlimited())("PYNISHER_TEST_VARIABLE"), "(none)");
  EXPECT_EQ(limit(directory, unlimited())(), directory());
  const auto end = support::run_in_helper([] {
    ::setenv("PYNISHER_TEST_VARIABLE", "set later", 1);
    HELPER_CHECK(::chdir("/") == 0);
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &blocked, nullptr);
    HELPER_CHECK(limit(variable, unlimited())("PYNISHER_TEST_VARIABLE") == "set later");
    HELPER_CHECK(limit(variable, unlimited())("PYNISHER_STARTED_AS") == "(none)");
    HELPER_CHECK(limit(directory, unlimited())() == "/");
    HELPER_CHECK(limit(is_blocked, unlimited())(SIGUSR2));
    HELPER_CHECK(!limit(is_blocked, unlimited())(SIGTERM));
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

std::vector<std::string> open_files() {
  std::vector<std::string> files;
  for (int fd = 0; fd < 200; ++fd) {
    std::error_code none;
    const auto target = std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(fd), none);
    if (!none && fd != 1 && fd != 2) files.push_back(target);
  }
  return files;
}

TEST_P(StartMethodsOnLinux, AFreshChildHasNoDescriptorButItsOwn) {
  if (GetParam() == start_method::fork) GTEST_SKIP() << "a copy has what the program has";
  const int foreign = ::open("/etc/passwd", O_RDONLY);
  EXPECT_THAT(limit(open_files, unlimited())(), ElementsAre("/dev/null", "anon_inode:[eventfd]"));
  ::close(foreign);
}

void print_a_line() { std::puts("printed by the child"); }

TEST_P(StartMethodsOnLinux, OutputGoesWhereTheCallersGoesAtThatMoment) {
  limit(print_a_line, unlimited())();
  const auto said = support::run_in_helper([] {
    limit(print_a_line, unlimited())();
    const int elsewhere = ::dup(1);
    const int nothing = ::open("/dev/null", O_WRONLY);
    ::dup2(nothing, 1);
    limit(print_a_line, unlimited())();
    ::dup2(elsewhere, 1);
    limit(print_a_line, unlimited())();
    return 0;
  });
  EXPECT_EQ(said.out, "printed by the child\nprinted by the child\n");
}

/// In a program that has asked for nothing yet.
std::vector<std::string> reasons_while_there_are_no_descriptors_and_after() {
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  const rlimit none{3, files.rlim_max};
  ::setrlimit(RLIMIT_NOFILE, &none);
  std::vector<std::string> reasons{pynisher::why_not("wall_time")};
  try {
    static_cast<void>(limit(directory));
  } catch (const pynisher::UnsupportedException& e) {
    reasons.emplace_back(e.what());
  }
  ::setrlimit(RLIMIT_NOFILE, &files);
  reasons.push_back(pynisher::why_not("wall_time"));
  return reasons;
}

TEST(StartMethodsThatAreNotThere, AreAskedForAgainWhenThereAreDescriptors) {
  const auto reasons = limit(reasons_while_there_are_no_descriptors_and_after, {.context = start_method::spawn})();
  EXPECT_THAT(reasons, ElementsAre(testing::HasSubstr("Too many open files"), testing::HasSubstr("Too many open files"), ""));
}

}  // namespace
