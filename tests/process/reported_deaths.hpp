#pragma once

// Rows of the contract's table of deaths: each by every start method, without limits and with all of them.

#include <chrono>
#include <ostream>
#include <string>
#include <tuple>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/outcomes.hpp"
#include "support/start_methods.hpp"

namespace support {

struct death {
  const char* name;
  void (*function)();
  pynisher::verdict expected;
  int number;  ///< signal or exit code
  bool crash = false;

  friend void PrintTo(const death& how, std::ostream* os) { *os << how.name; }
};

using row_of_death = std::tuple<pynisher::start_method, death>;

class reported_deaths : public ::testing::TestWithParam<row_of_death> {
 protected:
  static void expect_reported_without_limits() {
    const death& how = std::get<1>(GetParam());
    if (how.crash) SKIP_UNDER_SANITIZER("it turns crashes into reports and exits");
    check(how, {});
  }
  static void expect_reported_under_every_limit() {
    using namespace std::chrono_literals;
    using namespace pynisher::literals;
    const death& how = std::get<1>(GetParam());
    if (how.crash) SKIP_UNDER_SANITIZER("it turns crashes into reports and exits");
    SKIP_UNLESS_SUPPORTED("memory");
    check(how, {.memory = 256_MiB, .cpu_time = 60s, .wall_time = 60s});
  }

 private:
  static void check(const death& how, pynisher::options limits) {
    limits.context = std::get<0>(GetParam());
    limits.warnings = false;
    const auto ended = pynisher::limit(how.function, limits).try_call();
    EXPECT_THAT(ended, EndedAs(how.expected));
    if (how.expected == pynisher::verdict::signalled) {
      EXPECT_THAT(ended,
                  FailedWith<pynisher::SignalException>([&](auto& e) { EXPECT_EQ(e.signal(), how.number); }));
    } else {
      EXPECT_THAT(ended,
                  FailedWith<pynisher::ExitException>([&](auto& e) { EXPECT_EQ(e.exit_code(), how.number); }));
    }
  }
};

}  // namespace support

#define FOR_EACH_START_METHOD_AND_DEATH(Suite, deaths)                                                             \
  INSTANTIATE_TEST_SUITE_P(                                                                                        \
      By, Suite, ::testing::Combine(::testing::ValuesIn(pynisher::start_methods()), ::testing::ValuesIn(deaths)),  \
      [](const auto& r) { return ::support::method_name(std::get<0>(r.param)) + "_" + std::get<1>(r.param).name; })
