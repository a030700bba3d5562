// What `limit()` makes of options before anything runs: defaults, and every value that is refused.

#include <pynisher/options.hpp>

#include <chrono>
#include <cmath>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/pynisher.hpp>

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::options;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

int one() { return 1; }

TEST(Options, HaveTheDocumentedDefaults) {
  const options o;
  EXPECT_EQ(o.name, "");
  EXPECT_FALSE(o.memory.has_value());
  EXPECT_FALSE(o.cpu_time.has_value());
  EXPECT_FALSE(o.wall_time.has_value());
  EXPECT_EQ(o.context, pynisher::start_method::automatic);
  EXPECT_EQ(o.measure, pynisher::memory_measure::growth);
  EXPECT_EQ(o.processes, 0u);
  EXPECT_TRUE(o.warnings);
  EXPECT_FALSE(o.wrap_errors.wraps_all());
  EXPECT_TRUE(o.wrap_errors.rules().empty());
  EXPECT_TRUE(o.terminate_child_processes);
  EXPECT_TRUE(o.forceful_keyboard_interrupt);
  EXPECT_FALSE(o.stop.stop_possible());
}

// Compiles only while the fields are there, in this order.
TEST(Options, AreAnAggregateWithItsFieldsInTheDocumentedOrder) {
  static_assert(std::is_aggregate_v<options>);
  std::stop_source source;
  const options o{.name = "worker",
                  .memory = {200, "MB"},
                  .cpu_time = 3s,
                  .wall_time = {1.5, "h"},
                  .context = pynisher::start_method::fork,
                  .measure = pynisher::memory_measure::address_space,
                  .processes = 3,
                  .warnings = false,
                  .wrap_errors = true,
                  .terminate_child_processes = false,
                  .forceful_keyboard_interrupt = false,
                  .stop = source.get_token()};
  EXPECT_EQ(o.name, "worker");
  EXPECT_EQ(o.memory, 200_MiB);
  EXPECT_EQ(o.cpu_time, 3s);
  EXPECT_EQ(o.wall_time, 90min);
  EXPECT_TRUE(o.wrap_errors.wraps_all());
  EXPECT_TRUE(o.stop.stop_possible());
}

TEST(Options, AreKeptByTheLimitedCallableAsTheyWereGiven) {
  const auto limited = pynisher::limit(one, {.name = "x", .wall_time = 1500ms, .warnings = false});
  EXPECT_EQ(limited.limits().name, "x");
  EXPECT_EQ(limited.limits().wall_time, 1.5);
  EXPECT_FALSE(limited.limits().warnings);
  EXPECT_FALSE(limited.limits().memory.has_value());
  const auto quiet = pynisher::limit(one, {.wall_time = 2min}, pynisher::no_raise);
  EXPECT_EQ(quiet.limits().wall_time, 120s);
}

TEST(Options, WrapErrorsTakesABoolOrAListOfRules) {
  const options o{.wrap_errors = {pynisher::wrap<std::logic_error>(),
                                  pynisher::wrap("ml::NotFitted", pynisher::wrap_as::memory),
                                  pynisher::wrap(std::errc::not_enough_memory, pynisher::wrap_as::cpu_time)}};
  const auto& rules = o.wrap_errors.rules();
  ASSERT_EQ(rules.size(), 3u);
  EXPECT_FALSE(o.wrap_errors.wraps_all());
  EXPECT_EQ(rules[0].type_name, "std::logic_error");
  EXPECT_EQ(rules[0].target, pynisher::wrap_as::pynisher);
  EXPECT_EQ(rules[1].type_name, "ml::NotFitted");
  EXPECT_EQ(rules[1].target, pynisher::wrap_as::memory);
  EXPECT_TRUE(rules[2].by_code);
  EXPECT_EQ(rules[2].code, std::errc::not_enough_memory);
  EXPECT_EQ(rules[2].target, pynisher::wrap_as::cpu_time);
  static_assert(!std::is_convertible_v<int, pynisher::error_wrapping>, "1 is no bool");
  static_assert(!std::is_convertible_v<const char*, pynisher::error_wrapping>, "a pointer is no bool");
}

// --- refused values ---------------------------------------------------------------------------------------

constexpr double infinity = std::numeric_limits<double>::infinity();

struct refusal {
  const char* title;
  options given;
  const char* option;  ///< the text begins with it
  const char* value;   ///< and shows it
  const char* why;
};

// The name of a parametrised test; gtest would print the options as bytes otherwise.
void PrintTo(const refusal& r, std::ostream* out) { *out << r.title; }

class RefusedValue : public testing::TestWithParam<refusal> {};

TEST_P(RefusedValue, IsRefusedByLimitWithItsOptionItsValueAndTheReason) {
  const refusal& r = GetParam();
  const auto text_of = [](const auto& attempt) -> std::string {
    try {
      attempt();
    } catch (const std::invalid_argument& e) {
      return e.what();
    }
    return "(it was accepted)";
  };
  const auto expected = AllOf(StartsWith(std::string(r.option) + ":"), HasSubstr(r.value), HasSubstr(r.why));
  EXPECT_THAT(text_of([&] { (void)pynisher::limit(one, r.given); }), expected);
  EXPECT_THAT(text_of([&] { (void)pynisher::limit(one, r.given, pynisher::no_raise); }), expected);
}

const refusal refusals[] = {
    {"MemoryZero", {.memory = 0}, "memory", "0", "greater than zero"},
    {"MemoryNegative", {.memory = -5}, "memory", "-5", "greater than zero"},
    {"MemoryNegativeWithUnit", {.memory = {-2.5, "MB"}}, "memory", "-2.5 MB", "greater than zero"},
    {"MemoryBelowAByte", {.memory = {0.25, "B"}}, "memory", "0.25 B", "greater than zero"},
    {"MemoryNan", {.memory = {std::nan(""), "GB"}}, "memory", "nan GB", "NaN"},
    {"MemoryUnknownUnit", {.memory = {5, "parsec"}}, "memory", "5 parsec", "unknown unit"},
    {"MemoryTimeUnit", {.memory = {5, "s"}}, "memory", "5 s", "unknown unit"},
    {"MemoryLongUnit", {.memory = {5, "megabytesandmore"}}, "memory", "5 megabytes", "unknown unit"},
    {"MemoryOverflow", {.memory = {1e18, "TB"}}, "memory", "1e+18 TB", "too large"},
    {"MemoryInfinite", {.memory = {infinity, "MB"}}, "memory", "inf MB", "too large"},
    {"MemoryAboveSigned", {.memory = 10'000'000'000'000'000'000u}, "memory", "1", "too large"},
    {"CpuZero", {.cpu_time = 0}, "cpu_time", "0", "greater than zero"},
    {"CpuZeroSeconds", {.cpu_time = 0s}, "cpu_time", "0", "greater than zero"},
    {"CpuNegative", {.cpu_time = -1.5}, "cpu_time", "-1.5", "greater than zero"},
    {"CpuNegativeInfinite", {.cpu_time = -infinity}, "cpu_time", "-inf", "greater than zero"},
    {"CpuNan", {.cpu_time = std::nan("")}, "cpu_time", "nan", "NaN"},
    {"CpuUnknownUnit", {.cpu_time = {3, "y"}}, "cpu_time", "3 y", "unknown unit"},
    {"CpuOverflow", {.cpu_time = 1e300}, "cpu_time", "1e+300", "too large"},
    {"WallZero", {.wall_time = {0, "m"}}, "wall_time", "0 m", "greater than zero"},
    {"WallNegative", {.wall_time = -1s}, "wall_time", "-1", "greater than zero"},
    {"WallBelowANanosecond", {.wall_time = 1e-12}, "wall_time", "1e-12", "greater than zero"},
    {"WallNan", {.wall_time = {std::nan(""), "h"}}, "wall_time", "nan h", "NaN"},
    {"WallUnknownUnit", {.wall_time = {3, "min"}}, "wall_time", "3 min", "unknown unit"},
    {"WallInfiniteOfNothing", {.wall_time = {infinity, "MB"}}, "wall_time", "inf MB", "unknown unit"},
    {"WallOverflow", {.wall_time = {200'000, "d"}}, "wall_time", "200000 d", "too large"},
    {"WallChronoMax", {.wall_time = std::chrono::hours::max()}, "wall_time", "", "too large"},
    {"CpuBelowAMillisecond", {.cpu_time = {0.5, "ms"}}, "cpu_time", "0.5 ms", "at least 1 ms"},
    {"WallBelowAMillisecond", {.wall_time = 0.0009}, "wall_time", "0.0009", "at least 1 ms"},
    {"WallOfMicroseconds", {.wall_time = 999us}, "wall_time", "999000 ns", "at least 1 ms"},
    {"WrapNothing", {.wrap_errors = {pynisher::wrap("")}}, "wrap_errors", "\"\"", "name of a type"},
    {"WrapNoError", {.wrap_errors = {pynisher::wrap(std::errc{})}}, "wrap_errors", "0", "no error"},
    {"WrapAsNothing",
     {.wrap_errors = {pynisher::wrap("E"), pynisher::wrap("F", static_cast<pynisher::wrap_as>(9))}},
     "wrap_errors",
     "9",
     "wrapped as"},
    {"NameWithAZeroByte", {.name = std::string("a\0b", 3)}, "name", "3", "zero byte"},
};

INSTANTIATE_TEST_SUITE_P(Each, RefusedValue, testing::ValuesIn(refusals),
                         [](const auto& param_info) { return std::string(param_info.param.title); });

TEST(ShortestTime, IsAMillisecond) {
  EXPECT_NO_THROW((void)pynisher::limit(one, {.cpu_time = 1ms, .wall_time = {1, "ms"}}));
  EXPECT_NO_THROW((void)pynisher::limit(one, {.cpu_time = 0.001, .wall_time = 1'000'000ns}));
}

// A value shown in another unit than the one it was given in would not be found in the caller's source.
TEST(RefusedDuration, IsShownAsAHumanWouldWriteIt) {
  try {
    (void)pynisher::limit(one, {.wall_time = -1s});
    FAIL() << "it was accepted";
  } catch (const std::invalid_argument& e) {
    EXPECT_THAT(e.what(), HasSubstr("given: -1 s")) << e.what();
  }
}

TEST(RefusedValues, NameTheKnownUnits) {
  const auto text_of = [](options o) -> std::string {
    try {
      (void)pynisher::limit(one, std::move(o));
    } catch (const std::invalid_argument& e) {
      return e.what();
    }
    return {};
  };
  EXPECT_THAT(text_of({.memory = {1, "x"}}), AllOf(HasSubstr("KiB"), HasSubstr("GB")));
  EXPECT_THAT(text_of({.wall_time = {1, "x"}}), AllOf(HasSubstr("ms"), HasSubstr("d")));
}

// A unit that was given and is empty is unknown too; only a unit that was not given at all is a default.
TEST(RefusedValues, IncludeAnEmptyUnit) {
  EXPECT_THROW((void)pynisher::limit(one, {.memory = {5, ""}}), std::invalid_argument);
  EXPECT_THROW((void)pynisher::limit(one, {.wall_time = {5, ""}}), std::invalid_argument);
}

TEST(RefusedValues, AreRefusedBeforeTheFunctionIsEverCalled) {
  bool called = false;
  EXPECT_THROW((void)pynisher::limit([&] { called = true; }, {.wall_time = 0}), std::invalid_argument);
  EXPECT_FALSE(called);
}

TEST(AcceptedValues, IncludeInfiniteTimes) {
  const auto limited = pynisher::limit(one, {.cpu_time = infinity, .wall_time = {infinity, "h"}});
  EXPECT_FALSE(limited.limits().wall_time.has_value());
  EXPECT_EQ(limited(), 1);
}

// --- what this version or machine cannot do -----------------------------------------------------------------

template <class Attempt>
std::string unsupported_text(const Attempt& attempt) {
  try {
    attempt();
  } catch (const pynisher::UnsupportedException& e) {
    return e.what();
  }
  return "(it was accepted)";
}

TEST(Unsupported, IsSaidByLimitAndNotByTheCall) {
  const struct {
    pynisher::feature needed;
    const char* option;
    options given;
  } wishes[] = {
      {pynisher::feature::memory_tree, "m", {.memory = 1_GiB, .measure = pynisher::memory_measure::resident_tree}},
      {pynisher::feature::memory_tree, "m", {.measure = pynisher::memory_measure::resident_tree}},
      {pynisher::feature::spawn, "context", {.context = pynisher::start_method::spawn}},
      {pynisher::feature::forkserver, "context", {.context = pynisher::start_method::forkserver}},
      {pynisher::feature::process_count, "processes", {.processes = 5}},
      {pynisher::feature::memory, "memory", {.memory = 1_GiB}},
      {pynisher::feature::memory_address_space,
       "me",  // "memory" or "measure"
       {.memory = 1_TiB, .measure = pynisher::memory_measure::address_space}},
      {pynisher::feature::cpu_time, "cpu_time", {.cpu_time = 1s}},
      {pynisher::feature::wall_time, "wall_time", {.wall_time = 1s}},
  };
  for (const auto& [needed, option, given] : wishes) {
    const std::string text = unsupported_text([&] { (void)pynisher::limit(one, given); });
    if (pynisher::supports(needed)) {
      EXPECT_EQ(text, "(it was accepted)") << option;
    } else {
      EXPECT_THAT(text, AllOf(StartsWith(option), HasSubstr(pynisher::why_not(needed))));
    }
  }
}

TEST(Unsupported, EnumeratorsThatDoNotExistAreInvalidArguments) {
  EXPECT_THROW((void)pynisher::limit(one, {.context = static_cast<pynisher::start_method>(77)}), std::invalid_argument);
  EXPECT_THROW((void)pynisher::limit(one, {.measure = static_cast<pynisher::memory_measure>(77)}),
               std::invalid_argument);
}

}  // namespace
