#pragma once

// What the tests of a limit that every system has share with those of Linux alone.

#include <chrono>
#include <cstdint>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/outcomes.hpp"
#include "support/suites.hpp"

namespace support {

class wall_limit_tests : public per_start_method {
 protected:
  template <class F>
  static void expect_ended(F fn, std::chrono::milliseconds wall = std::chrono::milliseconds(60)) {
    const auto ended = pynisher::limit(fn, with({.wall_time = wall})).try_call();
    EXPECT_THAT(ended, EndedAs(pynisher::verdict::wall_timeout));
    EXPECT_THAT(ended, FailedWith<pynisher::WallTimeoutException>([&](const auto& e) {
                  EXPECT_EQ(e.limit(), wall);
                  EXPECT_GE(e.measured(), wall);
                }));
    EXPECT_GE(ended.usage().wall_time, wall);
  }
};

class cpu_limit_tests : public per_start_method {
 protected:
  /// The call ends by its CPU limit and by nothing else.
  template <class F>
  static void expect_ended(F fn, std::chrono::milliseconds cpu = std::chrono::milliseconds(60)) {
    const auto ended = pynisher::limit(fn, with({.cpu_time = cpu})).try_call();
    EXPECT_THAT(ended, EndedAs(pynisher::verdict::cpu_timeout));
    EXPECT_THAT(ended, FailedWith<pynisher::CpuTimeoutException>([&](const auto& e) {
                  EXPECT_EQ(e.limit(), cpu);
                  EXPECT_GE(e.measured(), cpu);
                  EXPECT_GE(e.usage().cpu_time(), cpu);
                }));
  }
};

class address_space_tests : public per_start_method {
 protected:
  void SetUp() override { SKIP_UNLESS_SUPPORTED("memory_address_space"); }
  static pynisher::options space(std::uint64_t bytes, bool warnings = false) {
    auto limits = with({.memory = bytes, .wall_time = std::chrono::seconds(50), .measure = pynisher::memory_measure::address_space});
    limits.warnings = warnings;
    return limits;
  }
};

}  // namespace support
