// A function that tries to get out of its memory limit, or never thought of it, stays in it.

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <new>
#include <thread>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/outcomes.hpp"
#include "support/scenarios.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::limit;
using pynisher::verdict;
using support::EndedAs;
using support::MiB;

class MemoryEvasion : public support::per_start_method {
 protected:
  void SetUp() override { SKIP_UNLESS_SUPPORTED("memory"); }
  template <class F>
  static void expect_limited(F fn) {
    EXPECT_THAT(limit(fn, with({.memory = 64_MiB, .wall_time = 20s})).try_call(), EndedAs(verdict::memory_limit));
  }
};
FOR_EACH_START_METHOD(MemoryEvasion);

/// As far as it goes: for ever, else up to the hard limit.
void free_limit(__rlimit_resource resource) {
  rlimit wanted{RLIM_INFINITY, RLIM_INFINITY};
  if (::setrlimit(resource, &wanted) == 0) return;
  ::getrlimit(resource, &wanted);
  wanted.rlim_cur = wanted.rlim_max;
  ::setrlimit(resource, &wanted);
}

TEST_P(MemoryEvasion, BySetrlimit) {
  expect_limited([] {
    for (const auto resource : {RLIMIT_DATA, RLIMIT_AS, RLIMIT_RSS, RLIMIT_STACK}) free_limit(resource);
    support::touch_memory_forever();
  });
}

TEST_P(MemoryEvasion, BySetrlimitInAChildOfItsOwn) {
  // Not even a program that the function starts gets more: the refusal is what its exit code tells.
  const auto call = limit(
      [] {
        const pid_t child = ::fork();
        if (child == 0) {
          free_limit(RLIMIT_DATA);
          try {
            support::touch_memory(128 * MiB);
          } catch (const std::bad_alloc&) {
            ::_exit(7);
          }
          ::_exit(0);
        }
        int status = 0;
        ::waitpid(child, &status, 0);
        return WEXITSTATUS(status);
      },
      with({.memory = 64_MiB}));
  EXPECT_EQ(call(), 7);
}

TEST_P(MemoryEvasion, BySbrk) {
  expect_limited([] {
    for (;;) {
      void* block = ::sbrk(static_cast<intptr_t>(MiB));
      if (block == reinterpret_cast<void*>(-1)) throw std::bad_alloc();
      support::touch(block, MiB);
    }
  });
}

TEST_P(MemoryEvasion, ByReservingFirstAndUsingLater) {
  expect_limited([] {
    void* reserved = ::mmap(nullptr, 256 * MiB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (::mprotect(reserved, 256 * MiB, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
    support::touch(reserved, 256 * MiB);
    support::sleep_forever();
  });
}

TEST_P(MemoryEvasion, ByGrowingABlockInPlace) {
  expect_limited([] {
    std::size_t size = MiB;
    void* block = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (;;) {
      block = ::mremap(block, size, size + MiB, MREMAP_MAYMOVE);
      if (block == MAP_FAILED) throw std::bad_alloc();
      size += MiB;
      support::touch(static_cast<char*>(block) + size - MiB, MiB);
    }
  });
}

TEST_P(MemoryEvasion, BySharedAnonymousMemory) { expect_limited(support::touch_shared_memory_forever); }

TEST_P(MemoryEvasion, ByOneLargeSharedBlockThatIsKept) {
  expect_limited([] {
    void* block = ::mmap(nullptr, 128 * MiB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    support::touch(block, 128 * MiB);
    support::sleep_forever();
  });
}

TEST_P(MemoryEvasion, BySharedMemoryOfAMemfd) {
  expect_limited([] {
    const int fd = ::memfd_create("evasion", 0);
    if (::ftruncate(fd, static_cast<off_t>(128 * MiB)) != 0) ::_exit(95);
    support::touch(::mmap(nullptr, 128 * MiB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), 128 * MiB);
    support::sleep_forever();
  });
}

TEST_P(MemoryEvasion, ByPrivateAndSharedMemoryThatTogetherAreTooMuch) {
  expect_limited([] {
    const support::held_memory own(40 * MiB);
    void* block = ::mmap(nullptr, 40 * MiB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    support::touch(block, 40 * MiB);
    support::sleep_forever();
  });
}

TEST_P(MemoryEvasion, ByMakingFullPagesReadOnly) {
  // The kernel's RLIMIT_DATA counts writable mappings only.
  expect_limited([] {
    for (int i = 0; i < 16; ++i) {
      void* block = ::mmap(nullptr, 16 * MiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (block == MAP_FAILED) throw std::bad_alloc();
      support::touch(block, 16 * MiB);
      ::mprotect(block, 16 * MiB, PROT_READ);
    }
    support::sleep_forever();
  });
}

[[gnu::noinline]] int use_stack(int pieces) {
  volatile char piece[64 * support::KiB];
  support::touch(const_cast<char*>(piece), sizeof piece);
  if (pieces == 0) {
    ::pause();
    return 0;
  }
  return use_stack(pieces - 1) + piece[0];
}

TEST_P(MemoryEvasion, ByADeepStack) {
  // The stack may not grow without end either; where it may not, that is a stack overflow.
  const auto ended = limit(
                         [] {
                           free_limit(RLIMIT_STACK);
                           use_stack(static_cast<int>(256 * MiB / (64 * support::KiB)));
                         },
                         with({.memory = 64_MiB, .wall_time = 20s}))
                         .try_call();
  EXPECT_THAT(ended, support::FailedWith<pynisher::SignalException>(
                         [](const auto& e) { EXPECT_THAT(e.what(), ::testing::HasSubstr("stack overflow")); }));
}

TEST_P(MemoryEvasion, ByManyThreads) {
  expect_limited([] {
    for (int i = 0; i < 4; ++i) {
      std::thread([] { support::touch_memory_forever(); }).detach();
    }
    support::sleep_forever();
  });
}

TEST_P(MemoryEvasion, CannotRaiseTheHardLimitNotEvenAsRoot) {
  const auto raised = limit(
      [] {
        const rlimit none{RLIM_INFINITY, RLIM_INFINITY};
        return ::setrlimit(RLIMIT_DATA, &none) == 0;
      },
      with({.memory = 64_MiB}));
  EXPECT_FALSE(raised());
}

TEST_P(MemoryEvasion, TheCallersLimitsAreWhatTheyWere) {
  rlimit before[3], after[3];
  const __rlimit_resource resources[] = {RLIMIT_DATA, RLIMIT_AS, RLIMIT_CPU};
  for (int i = 0; i < 3; ++i) ::getrlimit(resources[i], &before[i]);
  const auto call = limit([] { return 1; }, with({.memory = 64_MiB, .cpu_time = 5s, .wall_time = 5s}));
  EXPECT_EQ(call(), 1);
  for (int i = 0; i < 3; ++i) ::getrlimit(resources[i], &after[i]);
  EXPECT_EQ(std::memcmp(before, after, sizeof before), 0);
}

}  // namespace
