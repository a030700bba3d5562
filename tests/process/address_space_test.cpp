// The memory limit, measured as address space, and the warning that it is below what is mapped.

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "process/limit_fixtures.hpp"
#include "support/collected_warnings.hpp"
#include "support/functions.hpp"
#include "support/outcomes.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::limit;
using pynisher::memory_measure;
using pynisher::verdict;
using support::collected_warnings;
using support::EndedAs;
using support::mapped_here;
using support::MiB;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class AddressSpace : public support::address_space_tests {};
FOR_EACH_START_METHOD(AddressSpace);

int answer() { return 42; }

std::size_t hold(std::size_t bytes) {
  const support::held_memory memory(bytes);
  return bytes;
}

/// Of how memory is limited here the first call tells, and no other.
void hear_what_the_first_call_tells() {
  const collected_warnings warnings;
  EXPECT_EQ(limit(answer, {.memory = 1_GiB})(), 42);
  if (support::memory_is_refused()) {
    EXPECT_THAT(warnings.texts(), IsEmpty());
  }
}

std::vector<std::string> warnings_of_a_call(const pynisher::options& limits) {
  const collected_warnings warnings;
  EXPECT_EQ(limit(answer, limits)(), 42);
  return warnings.texts();
}

TEST_P(AddressSpace, CountsFromWhatIsMapped) {
  const auto call = limit(hold, space(mapped_here() + 100 * MiB));
  EXPECT_EQ(call(80 * MiB), 80 * MiB);
  EXPECT_THAT(call.try_call(120 * MiB), EndedAs(verdict::memory_limit));
}

TEST_P(AddressSpace, CountsTheParentsOwnMappingsWithFork) {
  const auto limits = space(mapped_here() + 100 * MiB);
  if (limits.context != pynisher::start_method::fork) GTEST_SKIP() << "only a fork inherits mappings";
  const support::held_memory of_the_parent(60 * MiB);
  EXPECT_EQ(limit(hold, limits)(20 * MiB), 20 * MiB);
  EXPECT_THAT(limit(hold, limits).try_call(80 * MiB), EndedAs(verdict::memory_limit));
}

TEST_P(AddressSpace, BelowWhatIsMappedWarnsWithBothNumbersAndSetsTheLimitAllTheSame) {
  // The first call maps what is kept between calls.
  EXPECT_EQ(limit(answer, space(MiB))(), 42);
  hear_what_the_first_call_tells();
  const collected_warnings warnings;
  const auto ended = limit(hold, space(MiB, true)).try_call(40 * MiB);
  EXPECT_THAT(ended, EndedAs(verdict::memory_limit));
  ASSERT_THAT(warnings.texts(), SizeIs(1));
  const std::string text = warnings.texts().front();
  EXPECT_THAT(text, HasSubstr("1048576"));
  // What is mapped may have changed by a page or two since; its first digits have not.
  EXPECT_THAT(text, HasSubstr(std::to_string(mapped_here()).substr(0, 2)));
}

TEST_P(AddressSpace, ACallThatNeedsNoMemoryStillReturnsFromBelow) { EXPECT_EQ(limit(answer, space(MiB))(), 42); }

TEST_P(AddressSpace, AboveWhatIsMappedWarnsOfNothing) {
  hear_what_the_first_call_tells();
  EXPECT_THAT(warnings_of_a_call(space(mapped_here() + 200 * MiB, true)), IsEmpty());
}

TEST_P(AddressSpace, WarningsCanBeSwitchedOff) {
  EXPECT_THAT(warnings_of_a_call(space(MiB, false)), IsEmpty());
}

TEST_P(AddressSpace, GrowthNeverWarns) {
  SKIP_UNLESS_SUPPORTED("memory");
  hear_what_the_first_call_tells();
  auto limits = with({.memory = 1_MiB});
  limits.warnings = true;
  EXPECT_THAT(warnings_of_a_call(limits), IsEmpty());
}

TEST_P(AddressSpace, AResidentTreeIsRefusedAtOnceWhereItCannotBeCounted) {
  if (pynisher::supports("memory_tree")) GTEST_SKIP() << "it can be counted here";
  EXPECT_THROW((void)limit(answer, with({.memory = 1_GiB, .measure = memory_measure::resident_tree})),
               pynisher::UnsupportedException);
}

}  // namespace
