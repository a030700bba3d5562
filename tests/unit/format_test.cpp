// The library's values as text. Nothing of fmt is included here: <pynisher/format.hpp> has to be enough.

#include <pynisher/format.hpp>

#include <chrono>
#include <cstdint>
#include <limits>
#include <stdexcept>

#include <gtest/gtest.h>

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::memory_size;
using pynisher::time_span;

TEST(AsText, ASizeUsesTheLargestUnitThatLeavesAtLeastOne) {
  EXPECT_EQ(to_string(500_MiB), "500 MiB");
  EXPECT_EQ(to_string(1.5_GiB), "1.5 GiB");
  EXPECT_EQ(to_string(1023_B), "1023 B");
  EXPECT_EQ(to_string(1024_B), "1 KiB");
  EXPECT_EQ(to_string(2_TiB), "2 TiB");
  EXPECT_EQ(to_string(memory_size()), "no limit");
}

TEST(AsText, ATimeUsesTheLargestUnitThatReadsWell) {
  EXPECT_EQ(to_string(time_span(1500ms)), "1.5 s");
  EXPECT_EQ(to_string(time_span(40ms)), "40 ms");
  EXPECT_EQ(to_string(time_span(3us)), "3 us");
  EXPECT_EQ(to_string(time_span(9ns)), "9 ns");
  EXPECT_EQ(to_string(time_span(60s)), "1 min");
  EXPECT_EQ(to_string(time_span(61s)), "61 s");
  EXPECT_EQ(to_string(time_span(90s)), "1.5 min");
  EXPECT_EQ(to_string(time_span(2min)), "2 min");
  EXPECT_EQ(to_string(time_span(1.5h)), "1.5 h") << "as it was written";
  EXPECT_EQ(to_string(time_span(100'345ms)), "100.3 s");
  EXPECT_EQ(to_string(time_span(200'345ms)), "3.339 min");
  EXPECT_EQ(pynisher::to_string(0ns), "0 ns");
  EXPECT_EQ(pynisher::to_string(-1500us), "-1.5 ms");
  EXPECT_EQ(to_string(time_span(3h)), "3 h");
  EXPECT_EQ(to_string(time_span(std::numeric_limits<double>::infinity())), "no limit");
}

// A text that says "held 500 MiB, above its limit of 500 MiB" helps nobody.
TEST(AsText, WhatIsRoundedDoesNotLookExact) {
  EXPECT_EQ(to_string(memory_size((500u << 20) + 1)), "500.000001 MiB");
  EXPECT_EQ(to_string(memory_size((500u << 20) - 1)), "499.999999 MiB");
  EXPECT_EQ(to_string(memory_size((std::uint64_t{3} << 29) + 1)), "1.500000001 GiB");
  EXPECT_EQ(to_string(memory_size(83'931'136)), "80.04 MiB");
  EXPECT_EQ(to_string(memory_size(10'000 * 1024)), "9.766 MiB");
  EXPECT_EQ(to_string(memory_size(std::numeric_limits<std::int64_t>::max())), "8388607.999999999999 TiB");
  EXPECT_EQ(to_string(memory_size(20'000, "TiB")), "20000 TiB");
  EXPECT_EQ(to_string(time_span(1'000'000'001ns)), "1.000000001 s");
  EXPECT_EQ(to_string(time_span(12'345'678ns)), "12.35 ms");
}

// Two overloads that both take it by conversion would make the plainest use ambiguous.
TEST(AsText, TakesAnyChronoDuration) {
  EXPECT_EQ(pynisher::to_string(40ms), "40 ms");
  EXPECT_EQ(pynisher::to_string(1500us), "1.5 ms");
  EXPECT_EQ(pynisher::to_string(7ns), "7 ns");
}

TEST(AsText, IsWhatFmtWrites) {
  EXPECT_EQ(fmt::format("{} in {}", 500_MiB, time_span(40ms)), "500 MiB in 40 ms");
  EXPECT_EQ(fmt::format("[{:>8}]", 7_KiB), "[   7 KiB]");
  const pynisher::usage used{2s, 1s, 500ms, 80u << 20, 12};
  EXPECT_EQ(fmt::format("{}", used), "2 s wall, 1.5 s CPU, 80 MiB");
  EXPECT_EQ(fmt::format("{}", pynisher::verdict::cpu_timeout), "cpu_timeout");
}

TEST(AsText, AnOutcomeIsItsSentence) {
  const pynisher::outcome<int> failed{pynisher::verdict::raised,
                                      {},
                                      std::make_exception_ptr(std::out_of_range("no such thing")),
                                      "f() threw std::out_of_range: no such thing",
                                      std::nullopt};
  EXPECT_EQ(fmt::format("{}", failed), "f() threw std::out_of_range: no such thing");
  EXPECT_EQ(fmt::format("{}", pynisher::outcome<void>{pynisher::verdict::returned, {}, nullptr, "fine"}), "fine");
}

}  // namespace
