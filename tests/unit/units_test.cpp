#include <pynisher/units.hpp>

#include <chrono>
#include <cmath>
#include <compare>
#include <concepts>
#include <limits>
#include <string>
#include <type_traits>

#include <gtest/gtest.h>

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::memory_size;
using pynisher::time_span;
using pynisher::detail::quantity_fault;

constexpr std::uint64_t k = 1024;

// --- memory_size ------------------------------------------------------------------------------------------

TEST(MemorySize, CountsInPowersOf1024WhateverTheUnitIsCalled) {
  struct {
    const char* unit;
    std::uint64_t bytes;
  } const units[] = {{"B", 1},
                     {"KB", k},
                     {"KiB", k},
                     {"MB", k * k},
                     {"MiB", k * k},
                     {"GB", k * k * k},
                     {"GiB", k * k * k},
                     {"TB", k * k * k * k},
                     {"TiB", k * k * k * k}};
  for (const auto& [unit, bytes] : units) {
    EXPECT_EQ(memory_size(1, unit).bytes(), bytes) << unit;
    EXPECT_EQ(memory_size(3, unit).bytes(), 3 * bytes) << unit;
  }
}

TEST(MemorySize, ReadsUnitsInAnyCase) {
  for (const char* unit : {"kb", "KB", "Kb", "kB", "kib", "KIB", "KiB", "kiB"}) {
    EXPECT_EQ(memory_size(2, unit).bytes(), 2 * k) << unit;
  }
  EXPECT_EQ(memory_size(7, "b").bytes(), 7u);
}

TEST(MemorySize, LiteralsMeanWhatTheySay) {
  EXPECT_EQ((7_B).bytes(), 7u);
  EXPECT_EQ((2_KiB).bytes(), 2 * k);
  EXPECT_EQ((500_MiB).bytes(), 500 * k * k);
  EXPECT_EQ((3_GiB).bytes(), 3 * k * k * k);
  EXPECT_EQ((1_TiB).bytes(), k * k * k * k);
  EXPECT_EQ((1.5_KiB).bytes(), 1536u);
  EXPECT_EQ((0.5_MiB).bytes(), 512 * k);
  EXPECT_EQ((0.25_GiB).bytes(), 256 * k * k);
  EXPECT_EQ((1.5_TiB).bytes(), 1536 * k * k * k);
}

TEST(MemorySize, KeepsFractionsOfAUnitToTheByte) {
  EXPECT_EQ(memory_size(0.5, "GB").bytes(), k * k * k / 2);
  EXPECT_EQ(memory_size(0.0009765625, "KB").bytes(), 1u);  // 1/1024
  EXPECT_EQ(memory_size(1.000000000000000222L, "TB").bytes(), k * k * k * k) << "less than a byte more";
  EXPECT_EQ(memory_size(1.75f, "KiB").bytes(), 1792u);
}

TEST(MemorySize, IsExactForEveryByteCountThatTheKernelCanHold) {
  constexpr auto largest = std::numeric_limits<std::int64_t>::max();
  for (const std::int64_t bytes : {std::int64_t{1}, largest, largest - 1, (std::int64_t{1} << 53) + 1}) {
    EXPECT_EQ(memory_size(bytes).bytes(), static_cast<std::uint64_t>(bytes));
    EXPECT_EQ(memory_size(bytes).fault(), quantity_fault::none);
  }
  EXPECT_EQ(memory_size(static_cast<std::uint64_t>(largest) + 1).fault(), quantity_fault::too_large);
}

TEST(MemorySize, ComesFromEveryIntegerTypeButNotFromWhatIsNoNumberOfBytes) {
  EXPECT_EQ(memory_size(short{3}).bytes(), 3u);
  EXPECT_EQ(memory_size(3u).bytes(), 3u);
  EXPECT_EQ(memory_size(3LL).bytes(), 3u);
  EXPECT_EQ(memory_size(static_cast<signed char>(3)).bytes(), 3u);
  static_assert(!std::convertible_to<bool, memory_size>);
  static_assert(!std::convertible_to<char, memory_size>);
  static_assert(!std::convertible_to<double, memory_size>, "a bare fraction has no unit");
  static_assert(!std::convertible_to<std::chrono::seconds, memory_size>);
  static_assert(!std::convertible_to<const char*, memory_size>);
  static_assert(!std::constructible_from<memory_size, bool, const char*>);
  static_assert(!std::convertible_to<time_span, memory_size>);
}

TEST(MemorySize, IsUnsetByDefault) {
  constexpr memory_size unset;
  EXPECT_FALSE(unset.has_value());
  EXPECT_FALSE(static_cast<bool>(unset));
  EXPECT_EQ(unset.bytes(), 0u);
  EXPECT_EQ(unset.fault(), quantity_fault::none);
  EXPECT_TRUE(memory_size(0).has_value()) << "a zero that was given is not the same as none given";
  EXPECT_NE(unset, memory_size(0));
}

TEST(MemorySize, SaysWhatIsWrongWithIt) {
  EXPECT_EQ(memory_size(0).fault(), quantity_fault::not_positive);
  EXPECT_EQ(memory_size(-1).fault(), quantity_fault::not_positive);
  EXPECT_EQ(memory_size(-0.0, "B").fault(), quantity_fault::not_positive);
  EXPECT_EQ(memory_size(0.5, "B").fault(), quantity_fault::not_positive) << "less than a byte";
  EXPECT_EQ(memory_size(std::nan(""), "MB").fault(), quantity_fault::not_a_number);
  EXPECT_EQ(memory_size(1, "parsec").fault(), quantity_fault::unknown_unit);
  EXPECT_EQ(memory_size(1, "s").fault(), quantity_fault::unknown_unit);
  EXPECT_EQ(memory_size(1, "PB").fault(), quantity_fault::unknown_unit);
  EXPECT_EQ(memory_size(1, " MB").fault(), quantity_fault::unknown_unit);
  EXPECT_EQ(memory_size(8'388'608, "TiB").fault(), quantity_fault::too_large);
  EXPECT_EQ(memory_size(8'388'607, "TiB").fault(), quantity_fault::none);
  EXPECT_EQ(memory_size(std::numeric_limits<double>::infinity(), "B").fault(), quantity_fault::too_large);
  EXPECT_EQ(memory_size(-std::numeric_limits<double>::infinity(), "B").fault(), quantity_fault::not_positive);
  EXPECT_EQ(memory_size(std::numeric_limits<long double>::max(), "TB").fault(), quantity_fault::too_large);
}

TEST(MemorySize, FaultyOnesHaveNoBytes) {
  EXPECT_EQ(memory_size(-1).bytes(), 0u);
  EXPECT_EQ(memory_size(std::nan(""), "MB").bytes(), 0u);
  EXPECT_EQ(memory_size(1e300, "MB").bytes(), 0u);
}

// A unit longer than any known one must not turn into a known one by being cut.
TEST(MemorySize, DoesNotTakeALongUnitForAShortOne) {
  EXPECT_EQ(memory_size(1, "MBMBMBMBMBMBMBMBMBMB").fault(), quantity_fault::unknown_unit);
  EXPECT_EQ(memory_size(1, std::string(1000, 'B')).fault(), quantity_fault::unknown_unit);
  EXPECT_EQ(memory_size(1, std::string_view("MB\0", 3)).fault(), quantity_fault::unknown_unit);
}

TEST(MemorySize, DoesNotPointIntoTheUnitThatItWasGiven) {
  std::string unit = "MB";
  const memory_size size(2, unit);
  unit = "GB";
  EXPECT_EQ(size, 2_MiB);
}

TEST(MemorySize, ComparesByWhatItHolds) {
  EXPECT_EQ(1024_B, 1_KiB);
  EXPECT_EQ(1_KiB, 1024);
  EXPECT_EQ(1024, 1_KiB);
  EXPECT_LT(1_KiB, 1025);
  EXPECT_GT(1_MiB, 1023_KiB);
  EXPECT_LE(1_KiB, memory_size(1.0, "kb"));
  EXPECT_EQ(memory_size(std::nan(""), "B") <=> 1_B, std::partial_ordering::unordered);
}

TEST(MemorySize, IsALiteralType) {
  constexpr memory_size size{200, "MB"};
  static_assert(size == 200_MiB && size.bytes() == 209'715'200 && size.has_value());
  static_assert(memory_size(1, "x").fault() == quantity_fault::unknown_unit);
  static_assert(1_KiB < 1_MiB);
  static_assert(std::is_trivially_copyable_v<memory_size>);
}

TEST(MemorySize, ShowsWhatWasWritten) {
  EXPECT_EQ(memory_size(200, "MB").written(), "200 MB");
  EXPECT_EQ(memory_size(-1).written(), "-1");
  EXPECT_EQ(memory_size(std::numeric_limits<std::uint64_t>::max()).written(), "18446744073709551615");
  EXPECT_EQ(memory_size(-9'007'199'254'740'993).written(), "-9007199254740993");
  EXPECT_EQ(memory_size(0).written(), "0");
  EXPECT_EQ(memory_size(1e30, "GB").written(), "1e+30 GB");
  EXPECT_EQ(memory_size(0.1, "GiB").written(), "0.1 GiB");
  EXPECT_EQ(memory_size(std::nan(""), "MB").written(), "nan MB");
  EXPECT_EQ(memory_size().written(), "no limit");
}

// --- time_span --------------------------------------------------------------------------------------------

TEST(TimeSpan, ComesFromAnyChronoDuration) {
  EXPECT_EQ(time_span(5s).nanoseconds(), 5s);
  EXPECT_EQ(time_span(1.5h).nanoseconds(), 90min);
  EXPECT_EQ(time_span(1ms).nanoseconds(), 1ms);
  EXPECT_EQ(time_span(7ns).nanoseconds(), 7ns);
  EXPECT_EQ(time_span(std::chrono::days(2)).nanoseconds(), 48h);
  using frames = std::chrono::duration<int, std::ratio<1, 25>>;
  EXPECT_EQ(time_span(frames(1)).nanoseconds(), 40ms);
  using picoseconds = std::chrono::duration<long long, std::pico>;
  EXPECT_EQ(time_span(picoseconds(1'600)).nanoseconds(), 2ns) << "to the nearest nanosecond";
  using thirds = std::chrono::duration<long long, std::ratio<1, 3>>;
  EXPECT_EQ(time_span(thirds(1)).nanoseconds(), 333'333'333ns);
}

TEST(TimeSpan, ComesFromSecondsAndFromANumberWithAUnit) {
  EXPECT_EQ(time_span(90).nanoseconds(), 90s);
  EXPECT_EQ(time_span(0.25).nanoseconds(), 250ms);
  EXPECT_EQ(time_span(2.5f).nanoseconds(), 2500ms);
  EXPECT_EQ(time_span(3, "ms").nanoseconds(), 3ms);
  EXPECT_EQ(time_span(3, "s").nanoseconds(), 3s);
  EXPECT_EQ(time_span(3, "m").nanoseconds(), 3min);
  EXPECT_EQ(time_span(3, "h").nanoseconds(), 3h);
  EXPECT_EQ(time_span(3, "d").nanoseconds(), 72h);
  EXPECT_EQ(time_span(0.5, "H").nanoseconds(), 30min);
  EXPECT_EQ(time_span(0.5, "MS").nanoseconds(), 500us);
  static_assert(!std::convertible_to<bool, time_span>);
  static_assert(!std::convertible_to<char, time_span>);
  static_assert(!std::convertible_to<const char*, time_span>);
  static_assert(!std::convertible_to<memory_size, time_span>);
}

TEST(TimeSpan, IsExactToTheNanosecond) {
  EXPECT_EQ(time_span(0.1).nanoseconds(), 100'000'000ns);
  EXPECT_EQ(time_span(0.123456789).nanoseconds(), 123'456'789ns);
  EXPECT_EQ(time_span(1.000000001).nanoseconds(), 1'000'000'001ns);
  EXPECT_EQ(time_span(0.3, "ms").nanoseconds(), 300'000ns);
  EXPECT_EQ(time_span(0.1, "h").nanoseconds(), 6min);
  EXPECT_EQ(time_span(1e-9).nanoseconds(), 1ns);
  EXPECT_EQ(time_span(0.000001, "ms").nanoseconds(), 1ns);
  for (const std::chrono::nanoseconds exact :
       {std::chrono::nanoseconds(1), std::chrono::nanoseconds((std::int64_t{1} << 53) + 1),
        std::chrono::nanoseconds(4'611'686'018'427'387'905)}) {
    EXPECT_EQ(time_span(exact).nanoseconds(), exact);
  }
}

TEST(TimeSpan, InfinityMeansNoLimit) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (const time_span span :
       {time_span(infinity), time_span(infinity, "ms"), time_span(infinity, "d"),
        time_span(std::chrono::duration<double>(infinity)), time_span(std::numeric_limits<float>::infinity())}) {
    EXPECT_FALSE(span.has_value());
    EXPECT_EQ(span.fault(), quantity_fault::none);
    EXPECT_EQ(span.nanoseconds(), 0ns);
  }
  EXPECT_EQ(time_span(-infinity).fault(), quantity_fault::not_positive);
  EXPECT_EQ(time_span(infinity, "parsec").fault(), quantity_fault::unknown_unit);
}

TEST(TimeSpan, SaysWhatIsWrongWithIt) {
  EXPECT_EQ(time_span(0).fault(), quantity_fault::not_positive);
  EXPECT_EQ(time_span(0.0).fault(), quantity_fault::not_positive);
  EXPECT_EQ(time_span(-1ms).fault(), quantity_fault::not_positive);
  EXPECT_EQ(time_span(1e-10).fault(), quantity_fault::not_positive) << "rounds to no time at all";
  EXPECT_EQ(time_span(std::nan("")).fault(), quantity_fault::not_a_number);
  EXPECT_EQ(time_span(std::chrono::duration<double>(std::nan(""))).fault(), quantity_fault::not_a_number);
  EXPECT_EQ(time_span(1, "fortnight").fault(), quantity_fault::unknown_unit);
  EXPECT_EQ(time_span(1, "MB").fault(), quantity_fault::unknown_unit);
  EXPECT_EQ(time_span(1, "seconds").fault(), quantity_fault::unknown_unit);
  EXPECT_EQ(time_span(1e300).fault(), quantity_fault::too_large);
  EXPECT_EQ(time_span(std::numeric_limits<long long>::max()).fault(), quantity_fault::too_large);
  EXPECT_EQ(time_span(std::chrono::hours::max()).fault(), quantity_fault::too_large);
  EXPECT_EQ(time_span(std::numeric_limits<long double>::max(), "d").fault(), quantity_fault::too_large)
      << "a number too large to be counted in nanoseconds is no infinity";
  EXPECT_EQ(time_span(106'751, "d").fault(), quantity_fault::none);
  EXPECT_EQ(time_span(106'752, "d").fault(), quantity_fault::too_large);
}

TEST(TimeSpan, NeverOverflowsOnTheWayToNanoseconds) {
  EXPECT_EQ(time_span(std::chrono::nanoseconds::max()).fault(), quantity_fault::too_large);
  const time_span largest(std::chrono::nanoseconds::max() - 1ns);
  EXPECT_EQ(largest.fault(), quantity_fault::none);
  EXPECT_EQ(largest.nanoseconds(), std::chrono::nanoseconds::max() - 1ns);
  EXPECT_EQ(time_span(1e300).nanoseconds(), 0ns);
}

TEST(TimeSpan, IsUnsetByDefault) {
  constexpr time_span unset;
  EXPECT_FALSE(unset.has_value());
  EXPECT_FALSE(static_cast<bool>(unset));
  EXPECT_EQ(unset.fault(), quantity_fault::none);
  EXPECT_TRUE(time_span(0).has_value());
  EXPECT_NE(unset, time_span(0));
}

TEST(TimeSpan, ComparesWithChronoAndWithSeconds) {
  EXPECT_EQ(time_span(60, "s"), 1min);
  EXPECT_EQ(1min, time_span(60));
  EXPECT_EQ(time_span(1500ms), 1.5);
  EXPECT_EQ(time_span(2s), 2);
  EXPECT_LT(time_span(999, "ms"), 1s);
  EXPECT_GT(time_span(1, "d"), 23h);
  EXPECT_GE(time_span(1, "h"), 3600);
  EXPECT_EQ(time_span(std::nan("")) <=> time_span(1s), std::partial_ordering::unordered);
}

TEST(TimeSpan, IsALiteralType) {
  constexpr time_span span = 1.5h;
  static_assert(span == 90min && span.has_value() && span.nanoseconds() == 5'400'000ms);
  static_assert(time_span(0).fault() == quantity_fault::not_positive);
  static_assert(time_span{2, "m"} == 120s);
  static_assert(std::is_trivially_copyable_v<time_span>);
}

TEST(TimeSpan, ShowsWhatWasWritten) {
  EXPECT_EQ(time_span(1.5, "h").written(), "1.5 h");
  EXPECT_EQ(time_span(-3).written(), "-3");
  EXPECT_EQ(time_span(0.1).written(), "0.1");
  EXPECT_EQ(time_span(5, "fortnights").written(), "5 fortnights");
}

}  // namespace
