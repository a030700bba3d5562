// Functions that lay hands on descriptors which they did not open.

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

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

constexpr int highest = 1023;
constexpr std::size_t large = std::size_t{3} << 20;  // does not fit into what is shared

class HostileDescriptors : public support::per_start_method {};
FOR_EACH_START_METHOD(HostileDescriptors);

void write_garbage_everywhere() {
  char garbage[4096];
  for (std::size_t i = 0; i < sizeof garbage; ++i) garbage[i] = static_cast<char>(i * 37 + 11);
  for (const std::size_t size : {std::size_t{1}, std::size_t{8}, std::size_t{64}, sizeof garbage}) {
    for (int fd = 0; fd <= highest; ++fd) [[maybe_unused]] const ssize_t ignored = ::write(fd, garbage, size);
  }
}

void close_everything() {
  for (int fd = 0; fd <= highest; ++fd) ::close(fd);
}

TEST_P(HostileDescriptors, GarbageWrittenToAllOfThemDoesNotSpoilAValue) {
  EXPECT_THAT(on_a_victim(
                  [] {
                    const auto result = limit(
                                            [] {
                                              write_garbage_everywhere();
                                              return 42;
                                            },
                                            unlimited())
                                            .try_call();
                    expect_verdict(result, {verdict::returned});
                    HELPER_CHECK(*result == 42);
                  },
                  GetParam()),
              Survived());
}

TEST_P(HostileDescriptors, GarbageWrittenToAllOfThemDoesNotSpoilALargeValue) {
  EXPECT_THAT(on_a_victim(
                  [] {
                    const auto result = limit(
                                            [] {
                                              write_garbage_everywhere();
                                              return std::string(large, 'v');
                                            },
                                            unlimited())
                                            .try_call();
                    expect_verdict(result, {verdict::returned});
                    HELPER_CHECK(*result == std::string(large, 'v'));
                  },
                  GetParam()),
              Survived());
}

TEST_P(HostileDescriptors, ClosingAllOfThemLeavesAValueWhole) {
  EXPECT_THAT(on_a_victim(
                  [] {
                    const auto result = limit(
                                            [] {
                                              close_everything();
                                              return 42;
                                            },
                                            unlimited())
                                            .try_call();
                    expect_verdict(result, {verdict::returned});
                    HELPER_CHECK(*result == 42);
                  },
                  GetParam()),
              Survived());
}

// What every daemon does first. No wall limit is there to hide that nobody would be woken any more.
TEST_P(HostileDescriptors, ClosingAllOfThemDoesNotHangALargeValue) {
  EXPECT_THAT(on_a_victim(
                  [] {
                    const auto result = limit(
                                            [] {
                                              close_everything();
                                              return std::string(large, 'v');
                                            },
                                            unlimited())
                                            .try_call();
                    expect_verdict(result, {verdict::returned, verdict::protocol_error, verdict::exited});
                  },
                  GetParam()),
              Survived());
}

// A descriptor's number is nobody's: after a close it may be a file of the function's.
TEST_P(HostileDescriptors, AFileThatGotAClosedDescriptorsNumberIsNotWrittenTo) {
  support::process_log file;
  EXPECT_THAT(on_a_victim(
                  [path = file.path()] {
                    const auto result = limit(
                                            [](const std::string& name) {
                                              close_everything();
                                              for (int fd = 0; fd < 64; ++fd)
                                                ::open(name.c_str(), O_RDWR | O_CREAT, 0600);
                                              return std::string(large, 'v');
                                            },
                                            with({.wall_time = 2s}))
                                            .try_call(path);
                    (void)result.verdict();
                  },
                  GetParam()),
              Survived());
  struct stat about {};
  ASSERT_EQ(::stat(file.path().c_str(), &about), 0);
  EXPECT_EQ(about.st_size, 0);
}

TEST_P(HostileDescriptors, StealingTheParentsWakeUpsDoesNotOutlastTheWallLimit) {
  EXPECT_THAT(on_a_victim(
                  [] {
                    const auto result = limit(
                                            [] {
                                              for (const int bell : hostile::doorbells()) {
                                                std::thread([bell] {
                                                  for (std::uint64_t taken = 0;;) {
                                                    [[maybe_unused]] const auto n = ::read(bell, &taken, sizeof taken);
                                                  }
                                                }).detach();
                                              }
                                              return std::string(16 * large, 'v');
                                            },
                                            with({.wall_time = 300ms}))
                                            .try_call();
                    expect_verdict(result, {verdict::returned, verdict::wall_timeout});
                  },
                  GetParam()),
              Survived());
}

/// Rings, and a moment later takes it back, if the parent has not been faster.
void ring_and_take_back(int bell, unsigned moment) {
  std::uint64_t count = 1;
  [[maybe_unused]] ssize_t n = ::write(bell, &count, sizeof count);
  const auto until = std::chrono::steady_clock::now() + moment * 1us;
  while (std::chrono::steady_clock::now() < until) {
  }
  iovec into{&count, sizeof count};
  n = ::preadv2(bell, &into, 1, -1, RWF_NOWAIT);
}

/// Where the system tells whom it waits for.
bool waits_in_read(pid_t pid) {
  std::this_thread::sleep_for(1ms);
  std::ifstream file("/proc/" + std::to_string(pid) + "/syscall");
  std::string number;
  file >> number;
  return number == std::to_string(SYS_read);
}

// File status flags belong to the open file, which parent and child share: a parent that reads what it was told is
// readable may wait for ever if the child may take it away and make reading block.
TEST_P(HostileDescriptors, MakingTheDoorbellBlockDoesNotFreezeTheParent) {
  EXPECT_THAT(on_a_victim(
                  [] {
                    const auto result = limit(
                                            [] {
                                              const auto bells = hostile::doorbells();
                                              if (bells.size() != 1) ::_exit(97);
                                              const int bell = bells.front();
                                              ::fcntl(bell, F_SETFL, 0);
                                              for (unsigned round = 0;; ++round) {
                                                ring_and_take_back(bell, round % 64);
                                                if (waits_in_read(::getppid())) support::sleep_forever();
                                              }
                                            },
                                            with({.wall_time = 1s}))
                                            .try_call();
                    expect_verdict(result, {verdict::wall_timeout});
                  },
                  GetParam()),
              Survived());
}

volatile sig_atomic_t interrupted = 0;

// The handler of SIGINT rings the same bell.
TEST_P(HostileDescriptors, AFullDoorbellThatBlocksDoesNotFreezeTheSignalHandler) {
  ONLY_BY_FORK("what is shared with the victim is inherited");
  EXPECT_THAT(on_a_victim([] {
                ::signal(SIGINT, [](int) { interrupted = 1; });
                const support::shared_flag full;
                const auto result = limit(
                                        [full = full.get()] {
                                          const auto bells = hostile::doorbells();
                                          if (bells.empty()) ::_exit(97);
                                          for (const int bell : bells) {
                                            ::fcntl(bell, F_SETFL, 0);
                                            std::thread([bell, full] {
                                              const std::uint64_t most = 0xfffffffffffffffe;
                                              // Each turn waits until the parent has emptied it.
                                              while (::write(bell, &most, sizeof most) > 0) full->store(true);
                                            }).detach();
                                          }
                                          support::await_flag(*full);
                                          for (;;) {
                                            ::kill(::getppid(), SIGINT);
                                            std::this_thread::sleep_for(1ms);
                                          }
                                        },
                                        {.wall_time = 20s})
                                        .try_call();
                HELPER_CHECK(full->load());
                expect_verdict(result, {verdict::cancelled});
                HELPER_CHECK(interrupted == 1);
              }),
              Survived());
}

// The end of the child is told apart from the noise that its children make.
TEST_P(HostileDescriptors, RingingWithoutEndDoesNotDrownTheChildsExit) {
  ONLY_BY_FORK("what is shared with the victim is inherited");
  EXPECT_THAT(on_a_victim([] {
                const support::shared_counter ringing;
                const auto result = limit([ringing = ringing.get()] {
                                      const auto bells = hostile::doorbells();
                                      if (bells.empty()) ::_exit(97);
                                      for (int i = 0; i < 4; ++i) {
                                        if (::fork() != 0) continue;
                                        for (bool first = true;; first = false) {
                                          for (const int bell : bells) {
                                            const std::uint64_t one = 1;
                                            [[maybe_unused]] const auto n = ::write(bell, &one, sizeof one);
                                          }
                                          if (first) ringing->fetch_add(1);
                                        }
                                      }
                                      support::await([ringing] { return ringing->load() == 4; });
                                      ::_exit(3);
                                    }).try_call();
                expect_verdict(result, {verdict::exited});
              }),
              Survived());
}

TEST_P(HostileDescriptors, ExitWhileAGrandchildHoldsEverythingOpenIsSeenAtOnce) {
  support::process_log log;
  EXPECT_THAT(on_a_victim(
                  [path = log.path()] {
                    const auto result =
                        limit(
                            [](const std::string& name) {
                              support::start_descendant(support::descendant::double_forked_in_own_session, name);
                              ::_exit(3);
                            },
                            unlimited())
                            .try_call(path);
                    expect_verdict(result, {verdict::exited});
                  },
                  GetParam()),
              Survived());
  EXPECT_EQ(log.pids().size(), 1u);
  EXPECT_THAT(log.survivors(), ::testing::IsEmpty());
}

TEST_P(HostileDescriptors, ALoweredDescriptorLimitDoesNotSpoilTheReply) {
  if (support::sanitized) GTEST_SKIP() << "a sanitizer needs descriptors to look at objects";
  EXPECT_THAT(on_a_victim(
                  [] {
                    const auto result = limit(
                                            [] {
                                              const rlimit none{0, 0};
                                              ::setrlimit(RLIMIT_NOFILE, &none);
                                              return std::string(large, 'v');
                                            },
                                            unlimited())
                                            .try_call();
                    expect_verdict(result, {verdict::returned});
                  },
                  GetParam()),
              Survived());
}

}  // namespace
