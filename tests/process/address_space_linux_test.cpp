// The memory limit, measured as address space, which mappings are: reserved, raised, and warned of.

#include <sys/mman.h>
#include <sys/resource.h>

#include <chrono>
#include <cstdint>
#include <string>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "process/limit_fixtures.hpp"
#include "support/helper_process.hpp"
#include "support/outcomes.hpp"
#include "support/scenarios.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::limit;
using pynisher::verdict;
using support::EndedAs;
using support::mapped_here;
using support::MiB;
using ::testing::HasSubstr;

class AddressSpaceOnLinux : public support::address_space_tests {};
FOR_EACH_START_METHOD(AddressSpaceOnLinux);

int answer() { return 42; }

TEST_P(AddressSpaceOnLinux, CountsWhatIsMerelyReserved) {
  const auto call = limit(
      [] {
        return ::mmap(nullptr, 200 * MiB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == MAP_FAILED;
      },
      space(mapped_here() + 100 * MiB));
  EXPECT_TRUE(call());
}

TEST_P(AddressSpaceOnLinux, CannotBeRaisedByTheFunction) {
  const auto call = limit(
      [] {
        const rlimit none{RLIM_INFINITY, RLIM_INFINITY};
        if (::setrlimit(RLIMIT_AS, &none) == 0) return 1;
        support::touch_memory_forever();
      },
      space(mapped_here() + 100 * MiB));
  EXPECT_THAT(call.try_call(), EndedAs(verdict::memory_limit));
}

TEST_P(AddressSpaceOnLinux, WithoutASinkTheWarningGoesToStderrOnce) {
  const auto limits = space(MiB, true);
  const auto said = support::run_in_helper([&] { return limit(answer, limits)() == 42 ? 0 : 1; });
  EXPECT_EQ(said.code, 0) << said;
  EXPECT_THAT(said.err, HasSubstr("pynisher: warning"));
  EXPECT_EQ(said.err.find("1048576"), said.err.rfind("1048576")) << said;
  EXPECT_EQ(said.out, "");
}

}  // namespace
