// The memory limit, measured as growth: what fits and what does not, and how the refusal is told.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/functions.hpp"
#include "support/outcomes.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::limit;
using pynisher::MemoryLimitException;
using pynisher::verdict;
using support::EndedAs;
using support::FailedWith;
using support::held_memory;
using support::MiB;

class MemoryLimit : public support::per_start_method {
 protected:
  void SetUp() override { SKIP_UNLESS_SUPPORTED("memory"); }

  template <class F>
  static void expect_limited(F fn, pynisher::memory_size memory = 64_MiB) {
    const auto ended = limit(fn, with({.memory = memory, .wall_time = 20s})).try_call();
    EXPECT_THAT(ended, EndedAs(verdict::memory_limit));
    EXPECT_THAT(ended, FailedWith<MemoryLimitException>([&](const auto& e) { EXPECT_EQ(e.limit(), memory); }));
  }
};
FOR_EACH_START_METHOD(MemoryLimit);

std::size_t hold(std::size_t bytes) {
  const held_memory memory(bytes);
  return bytes;
}

/// Where somebody only looks now and then, until they have looked.
std::size_t hold_until_noticed(std::size_t bytes) {
  const held_memory memory(bytes);
  if (!support::memory_is_refused()) support::sleep_forever();
  return bytes;
}

TEST_P(MemoryLimit, EndsWhoHoldsMoreAndNobodyElse) {
  EXPECT_EQ(limit(hold, with({.memory = 100_MiB}))(90 * MiB), 90 * MiB);
  EXPECT_THAT(limit(hold_until_noticed, with({.memory = 100_MiB})).try_call(110 * MiB), EndedAs(verdict::memory_limit));
}

TEST_P(MemoryLimit, IsExactForOneBlock) {
  SKIP_WHERE_MEMORY_IS_SAMPLED();
  const auto call = limit(hold, with({.memory = 100_MiB}));
  EXPECT_EQ(call(90 * MiB), 90 * MiB);
  EXPECT_EQ(call(98 * MiB), 98 * MiB);
  EXPECT_THAT(call.try_call(110 * MiB), EndedAs(verdict::memory_limit));
  EXPECT_THAT(call.try_call(101 * MiB), EndedAs(verdict::memory_limit));
}

TEST_P(MemoryLimit, IsExactForManySmallBlocks) {
  SKIP_WHERE_MEMORY_IS_SAMPLED();
  const auto call = limit(support::touch_memory, with({.memory = 100_MiB}));
  EXPECT_EQ(call(90 * MiB), 90 * MiB);
  EXPECT_THAT(call.try_call(110 * MiB), EndedAs(verdict::memory_limit));
}

TEST_P(MemoryLimit, IsTheSameFromAParentThatHoldsHalfAGibibyte) {
  const held_memory of_the_parent(512 * MiB);
  const auto call = limit(hold, with({.memory = 100_MiB}));
  const auto too_much = limit(hold_until_noticed, with({.memory = 100_MiB}));
  EXPECT_EQ(call(90 * MiB), 90 * MiB);
  EXPECT_THAT(too_much.try_call(110 * MiB), EndedAs(verdict::memory_limit));
}

TEST_P(MemoryLimit, IsTheSameWhateverTheParentsHeapHasFree) {
  // Memory that the parent's malloc keeps in hand is the parent's growth and not the call's.
  std::vector<std::vector<char>> blocks;
  for (int i = 0; i < 2000; ++i) blocks.emplace_back(60'000, 'x');
  for (std::size_t i = 0; i < blocks.size(); i += 2) blocks[i] = {};
  const auto call = limit(hold, with({.memory = 50_MiB}));
  const auto too_much = limit(hold_until_noticed, with({.memory = 50_MiB}));
  EXPECT_EQ(call(45 * MiB), 45 * MiB);
  EXPECT_THAT(too_much.try_call(55 * MiB), EndedAs(verdict::memory_limit));
}

TEST_P(MemoryLimit, LetsMemoryGoAndComeAgain) {
  const auto call = limit(
      [] {
        for (int i = 0; i < 20; ++i) hold(40 * MiB);
        return 1;
      },
      with({.memory = 50_MiB}));
  EXPECT_EQ(call(), 1);
}

TEST_P(MemoryLimit, AFunctionMayCatchTheRefusalAndGoOn) {
  SKIP_WHERE_MEMORY_IS_SAMPLED();
  const auto call = limit(
      [] {
        try {
          hold(200 * MiB);
        } catch (const std::bad_alloc&) {
          return std::string("refused");
        }
        return std::string("granted");
      },
      with({.memory = 50_MiB}));
  EXPECT_EQ(call(), "refused");
}

TEST_P(MemoryLimit, IsCaughtAsBadAllocAndAsStdException) {
  const auto call = limit(support::touch_memory_forever, with({.memory = 20_MiB}));
  EXPECT_THROW(call(), MemoryLimitException);
  EXPECT_THROW(call(), std::bad_alloc);
  EXPECT_THROW(call(), pynisher::PynisherException);
  try {
    call();
    ADD_FAILURE() << "returned";
  } catch (const std::exception& e) {
    EXPECT_THAT(e.what(), ::testing::HasSubstr("20 MiB"));
  }
}

// --- the ways in which a refusal ends a function
// ----------------------------------------------------------------------

TEST_P(MemoryLimit, BadAllocThatLeavesTheFunction) { expect_limited(support::touch_memory_forever); }
TEST_P(MemoryLimit, BadAllocThroughNoexcept) { expect_limited(support::touch_memory_noexcept); }
TEST_P(MemoryLimit, BadAllocFromAnotherThread) { expect_limited(support::touch_memory_in_a_thread); }
TEST_P(MemoryLimit, CodeThatWritesWhereMallocWasRefused) { expect_limited(support::write_where_malloc_was_refused); }

TEST_P(MemoryLimit, CodeThatComplainsAndAbortsWhenMallocWasRefused) {
  expect_limited([] {
    if (support::malloc_until_refused()) {
      std::fprintf(stderr, "%s", "");
      std::abort();
    }
  });
}

TEST_P(MemoryLimit, CodeThatTrapsWhenMallocWasRefused) {
  expect_limited([] {
    if (support::malloc_until_refused()) support::illegal_instruction();
  });
}

TEST_P(MemoryLimit, CodeThatCrashesInAnotherThreadWhenMallocWasRefused) {
  expect_limited(
      [] {
        std::thread(support::write_where_malloc_was_refused).join();
        std::_Exit(96);
      },
      128_MiB);
}

TEST_P(MemoryLimit, AnInnocentBadAllocCountsAsTheLimit) {
  expect_limited([] { throw std::bad_alloc(); });
}

TEST_P(MemoryLimit, ARequestForMoreThanThereIsInTheWorld) {
  expect_limited([] {
    const std::vector<char> all(std::size_t{1} << 46);
    return all.size();
  });
}

// --- what does not count -------------------------------------------------------------------------------------------

TEST_P(MemoryLimit, ArenasOfThreadsDoNotCount) {
  // Eight arenas reserve 512 MiB; the stacks of eight threads are memory and take 64 MiB.
  const auto call = limit(
      [] {
        std::vector<std::thread> threads;
        for (int i = 0; i < 8; ++i) {
          threads.emplace_back([] {
            void* a_little = std::malloc(64 * support::KiB);
            support::touch(a_little, 64 * support::KiB);
            std::free(a_little);
          });
        }
        for (auto& thread : threads) thread.join();
        return 1;
      },
      with({.memory = 100_MiB}));
  EXPECT_EQ(call(), 1);
}

TEST_P(MemoryLimit, AddressSpaceThatIsMerelyReservedDoesNotCount) {
  const auto call = limit(
      [] {
        return support::reserve_address_space(4 * support::GiB) && hold(40 * MiB) == 40 * MiB;
      },
      with({.memory = 50_MiB}));
  EXPECT_TRUE(call());
}

TEST_P(MemoryLimit, PackingTheResultIsNotCharged) {
  const auto call = limit([](std::size_t size) { return std::vector<char>(size, 'r'); }, with({.memory = 100_MiB}));
  const std::vector<char> result = call(95 * MiB);
  EXPECT_EQ(result.size(), 95 * MiB);
  EXPECT_EQ(result.back(), 'r');
}

TEST_P(MemoryLimit, PackingManySmallValuesIsNotCharged) {
  const auto call = limit(
      [] {
        // About 96 bytes each: 64 for the text, and the string itself.
        return std::vector<std::string>(700'000, std::string(63, 's'));
      },
      with({.memory = 80_MiB}));
  EXPECT_EQ(call().size(), 700'000u);
}

TEST_P(MemoryLimit, TheExceptionOfAFunctionThatHoldsAllThereIsStillArrives) {
  SKIP_WHERE_MEMORY_IS_SAMPLED();
  const auto call = limit(
      [] {
        static std::vector<void*> kept;
        kept.reserve(1 << 20);
        for (std::size_t size = MiB; size >= 16; size /= 2) {
          while (void* block = std::malloc(size)) kept.push_back(block);
        }
        throw 17;
      },
      with({.memory = 50_MiB}));
  EXPECT_THROW(call(), int);
}

TEST_P(MemoryLimit, TheCallersOwnMemoryIsNotLimited) {
  const auto call = limit(hold, with({.memory = 20_MiB}));
  EXPECT_EQ(call(10 * MiB), 10 * MiB);
  EXPECT_EQ(hold(200 * MiB), 200 * MiB);
}

}  // namespace
