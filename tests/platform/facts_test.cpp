// The contract's small things: facts, descriptors, doorbells, stdio, waiting in shared memory.

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <iostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/supports.hpp>

#include "platform/contract.hpp"
#include "support/handshake.hpp"
#include "support/helper_process.hpp"
#include "support/scenarios.hpp"
#include "support/start_methods.hpp"

namespace {

namespace platform = pynisher::platform;
using ::testing::IsEmpty;
using ::testing::Not;

// --- facts ----------------------------------------------------------------------------------------------------------

TEST(PlatformFacts, AReasonIsGivenExactlyForWhatIsNotSupported) {
  for (int i = 0; i <= static_cast<int>(pynisher::feature::cancel); ++i) {
    const auto what = static_cast<pynisher::feature>(i);
    EXPECT_EQ(platform::why_not(what).empty(), pynisher::supports(what)) << i;
  }
}

TEST(PlatformFacts, MappedMemoryFollowsAMapping) {
  constexpr std::size_t size = 64 * support::MiB;
  const auto before = platform::mapped();
  EXPECT_GT(before.private_writable, 0u);
  EXPECT_GE(before.address_space, before.private_writable);
  void* block = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const auto with_block = platform::mapped();
  EXPECT_GE(with_block.address_space, before.address_space + size);
  EXPECT_GE(with_block.private_writable, before.private_writable + size);
  ::munmap(block, size);
  void* reserved = ::mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const auto with_reserve = platform::mapped();
  EXPECT_GE(with_reserve.address_space, before.address_space + size);
  EXPECT_LT(with_reserve.private_writable, before.private_writable + size);
  ::munmap(reserved, size);
}

TEST(PlatformFacts, ASecondThreadIsSeenForAsLongAsItLives) {
  SKIP_UNDER_THREAD_SANITIZER("it has a thread of its own");
  const auto end = support::run_in_helper([] {
    HELPER_CHECK(platform::threads() == 1);
    std::atomic<bool> release{false};
    std::thread second([&] { support::await_flag(release); });
    HELPER_CHECK(platform::threads() == 2);
    release.store(true);
    second.join();
    HELPER_CHECK(platform::threads() == 1);
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

TEST(PlatformFacts, ReservedMemoryIsUsableToItsLastByte) {
  constexpr std::size_t size = 5 * support::MiB + 3;
  std::byte* memory = platform::reserve_memory(size);
  ASSERT_NE(memory, nullptr);
  EXPECT_EQ(memory[0], std::byte{0});
  memory[size - 1] = std::byte{7};
  EXPECT_EQ(memory[size - 1], std::byte{7});
  platform::advise_huge_pages(memory, size);
  EXPECT_EQ(memory[size - 1], std::byte{7});
  platform::release_memory(memory, size);
}

TEST(PlatformFacts, MoreThanThereIsAddressSpaceIsRefused) {
  EXPECT_EQ(platform::reserve_memory(std::size_t{1} << 62), nullptr);
}

TEST(PlatformFacts, TheMachineHasMemory) { EXPECT_GT(platform::physical_memory(), 64 * support::MiB); }

// --- descriptors
// ------------------------------------------------------------------------------------------------------

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

TEST(PlatformDescriptor, IsClosedWithItsOwnerAndOnlyThen) {
  const int number = ::dup(0);
  {
    platform::unique_fd first(number);
    platform::unique_fd second(std::move(first));
    EXPECT_FALSE(first);
    EXPECT_EQ(second.get(), number);
    platform::unique_fd third;
    third = std::move(second);
    EXPECT_TRUE(third);
    EXPECT_TRUE(is_open(number));
    third = platform::unique_fd();
    EXPECT_FALSE(is_open(number));
  }
  EXPECT_FALSE(is_open(number));
}

bool rings(const platform::doorbell& bell) {
  pollfd watched{bell.descriptor(), POLLIN, 0};
  return ::poll(&watched, 1, 0) == 1;
}

TEST(PlatformDoorbell, RingsFromRaiseToClear) {
  platform::doorbell bell;
  ASSERT_TRUE(bell);
  EXPECT_FALSE(rings(bell));
  bell.clear();  // does not wait
  platform::doorbell::raise(bell.descriptor());
  platform::doorbell::raise(bell.descriptor());
  EXPECT_TRUE(rings(bell));
  bell.clear();
  EXPECT_FALSE(rings(bell));
}

TEST(PlatformDoorbell, IsHeardFromAnotherProcess) {
  platform::doorbell bell;
  const pid_t pid = ::fork();
  if (pid == 0) {
    platform::doorbell::raise(bell.descriptor());
    ::_exit(0);
  }
  ::waitpid(pid, nullptr, 0);
  EXPECT_TRUE(rings(bell));
}

TEST(PlatformDoorbell, DoesNotReachAnotherProgram) {
  const platform::doorbell bell;
  EXPECT_NE(::fcntl(bell.descriptor(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST(PlatformDoorbell, KeepsErrnoAndToleratesNoDescriptor) {
  errno = EDOM;
  platform::doorbell::raise(-1);
  EXPECT_EQ(errno, EDOM);
}

TEST(PlatformDoorbell, SaysWhenThereIsNoDescriptorLeft) {
  const auto end = support::run_in_helper([] {
    const rlimit none{0, 0};
    ::setrlimit(RLIMIT_NOFILE, &none);
    const platform::doorbell bell;
    return bell ? 1 : errno == EMFILE ? 0 : 2;
  });
  EXPECT_EQ(end.code, 0) << end;
}

// --- stdio
// --------------------------------------------------------------------------------------------------------------

TEST(PlatformStdio, FlushedTextIsOut) {
  const auto end = support::run_in_helper([]() -> int {
    std::printf("printf ");
    std::cout << "cout ";
    std::clog << "clog ";
    platform::flush_stdio();
    ::_exit(0);
  });
  EXPECT_EQ(end.out, "printf cout ");
  EXPECT_EQ(end.err, "clog ");
}

TEST(PlatformStdio, FlushedFilesAreOut) {
  const support::process_log file;
  const auto end = support::run_in_helper([&]() -> int {
    std::FILE* own = std::fopen(file.path().c_str(), "w");
    std::fputs("12345678", own);
    platform::flush_stdio();
    ::_exit(0);
  });
  EXPECT_EQ(end.code, 0) << end;
  EXPECT_EQ(file.pids().size(), 8 / sizeof(pid_t));
}

TEST(PlatformStdio, ForgottenTextIsNeverOut) {
  const auto end = support::run_in_helper([] {
    std::printf("not to be seen");
    platform::forget_stdio();
    std::printf("seen");
    return 0;
  });
  EXPECT_EQ(end.out, "seen");
}

TEST(PlatformStdio, InputReadAheadIsForgotten) {
  const auto end = support::run_in_helper([] {
    int ends[2];
    HELPER_CHECK(::pipe(ends) == 0 && ::write(ends[1], "abc", 3) == 3);
    ::dup2(ends[0], 0);
    ::close(ends[1]);
    HELPER_CHECK(std::getchar() == 'a');
    platform::forget_stdio();
    HELPER_CHECK(std::getchar() == EOF);
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

// --- waiting in shared memory
// --------------------------------------------------------------------------------------------

TEST(PlatformWait, DoesNotWaitForAChangeThatHasBeen) {
  const support::shared<std::atomic<std::uint32_t>> word(3u);
  platform::wait_for_change(*word, 2);
  SUCCEED();
}

TEST(PlatformWait, EndsWhenWokenFromAnotherProcess) {
  const support::shared<std::atomic<std::uint32_t>> word;
  const support::shared_flag woken;
  const pid_t waiter = ::fork();
  if (waiter == 0) {
    while (word->load() == 0) platform::wait_for_change(*word, 0);
    woken->store(true);
    ::_exit(0);
  }
  support::await([&] { return support::process_state(waiter) == 'S'; });
  EXPECT_FALSE(woken->load());
  word->store(1);
  platform::wake_waiters(*word);
  int status = -1;
  EXPECT_EQ(::waitpid(waiter, &status, 0), waiter);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(woken->load());
}

TEST(PlatformWait, WakingNobodyIsNothing) {
  const support::shared<std::atomic<std::uint32_t>> word;
  platform::wake_waiters(*word);
  SUCCEED();
}

// --- leaving
// ----------------------------------------------------------------------------------------------------------------

TEST(PlatformLeave, RunsNoHandlerAndNoDestructor) {
  const auto end = support::run_in_helper([]() -> int {
    std::atexit([] { ::_exit(1); });
    std::printf("not flushed");
    platform::leave(7);
  });
  EXPECT_EQ(end.code, 7) << end;
  EXPECT_EQ(end.out, "");
}

TEST(PlatformOuterCall, OutsideOfACallThereIsNoCpuTimeToShare) { EXPECT_FALSE(platform::outer_cpu_left().has_value()); }

}  // namespace
