// The memory limit, measured as address space, and the warning that it is below what is mapped.

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <fstream>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/helper_process.hpp"
#include "support/outcomes.hpp"
#include "support/scenarios.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::limit;
using pynisher::memory_measure;
using pynisher::verdict;
using support::EndedAs;
using support::MiB;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

std::uint64_t mapped_here() {
  std::uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

/// Warnings that come while it exists.
class collected_warnings {
 public:
  collected_warnings()
      : before_(pynisher::set_warning_sink([this](std::string_view text) {
          const std::lock_guard lock(mutex_);
          texts_.emplace_back(text);
        })) {}
  collected_warnings(const collected_warnings&) = delete;
  collected_warnings& operator=(const collected_warnings&) = delete;
  ~collected_warnings() { pynisher::set_warning_sink(before_); }
  [[nodiscard]] std::vector<std::string> texts() const {
    const std::lock_guard lock(mutex_);
    return texts_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> texts_;
  pynisher::warning_sink before_;
};

class AddressSpace : public support::per_start_method {
 protected:
  void SetUp() override { SKIP_UNLESS_SUPPORTED("memory_address_space"); }
  static pynisher::options space(std::uint64_t bytes, bool warnings = false) {
    auto limits = with({.memory = bytes, .wall_time = 50s, .measure = memory_measure::address_space});
    limits.warnings = warnings;
    return limits;
  }
};
FOR_EACH_START_METHOD(AddressSpace);

int answer() { return 42; }

std::size_t hold(std::size_t bytes) {
  const support::held_memory memory(bytes);
  return bytes;
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

TEST_P(AddressSpace, CountsWhatIsMerelyReserved) {
  const auto call = limit(
      [] {
        return ::mmap(nullptr, 200 * MiB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == MAP_FAILED;
      },
      space(mapped_here() + 100 * MiB));
  EXPECT_TRUE(call());
}

TEST_P(AddressSpace, CannotBeRaisedByTheFunction) {
  const auto call = limit(
      [] {
        const rlimit none{RLIM_INFINITY, RLIM_INFINITY};
        if (::setrlimit(RLIMIT_AS, &none) == 0) return 1;
        support::touch_memory_forever();
      },
      space(mapped_here() + 100 * MiB));
  EXPECT_THAT(call.try_call(), EndedAs(verdict::memory_limit));
}

TEST_P(AddressSpace, BelowWhatIsMappedWarnsWithBothNumbersAndSetsTheLimitAllTheSame) {
  // The first call maps what is kept between calls.
  EXPECT_EQ(limit(answer, space(MiB))(), 42);
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
  const collected_warnings warnings;
  EXPECT_EQ(limit(answer, space(mapped_here() + 200 * MiB, true))(), 42);
  EXPECT_THAT(warnings.texts(), IsEmpty());
}

TEST_P(AddressSpace, WarningsCanBeSwitchedOff) {
  const collected_warnings warnings;
  EXPECT_EQ(limit(answer, space(MiB, false))(), 42);
  EXPECT_THAT(warnings.texts(), IsEmpty());
}

TEST_P(AddressSpace, WithoutASinkTheWarningGoesToStderrOnce) {
  const auto limits = space(MiB, true);
  const auto said = support::run_in_helper([&] { return limit(answer, limits)() == 42 ? 0 : 1; });
  EXPECT_EQ(said.code, 0) << said;
  EXPECT_THAT(said.err, HasSubstr("pynisher: warning"));
  EXPECT_EQ(said.err.find("1048576"), said.err.rfind("1048576")) << said;
  EXPECT_EQ(said.out, "");
}

TEST_P(AddressSpace, GrowthNeverWarns) {
  SKIP_UNLESS_SUPPORTED("memory");
  const collected_warnings warnings;
  auto limits = with({.memory = 1_MiB});
  limits.warnings = true;
  EXPECT_EQ(limit(answer, limits)(), 42);
  EXPECT_THAT(warnings.texts(), IsEmpty());
}

TEST_P(AddressSpace, AResidentTreeIsRefusedAtOnceWhereItCannotBeCounted) {
  if (pynisher::supports("memory_tree")) GTEST_SKIP() << "it can be counted here";
  EXPECT_THROW((void)limit(answer, with({.memory = 1_GiB, .measure = memory_measure::resident_tree})),
               pynisher::UnsupportedException);
}

}  // namespace
