// RESTRICTED wherever an expression may stand.

#include <chrono>
#include <limits>
#include <memory>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/pynisher.hpp>

#include "unit/restricted_header.hpp"

using namespace std::chrono_literals;
using namespace pynisher::literals;

namespace {

int twice(int x) { return 2 * x; }
std::string joined(const std::vector<std::string>& parts) {
  std::string all;
  for (const auto& part : parts) all += part;
  return all;
}
[[noreturn]] int broken(int) { throw std::runtime_error("it broke"); }

// --- namespace scope ----------------------------------------------------------------------------------------

const auto with_lambda = RESTRICTED(.wall_time = 30s)[](int x) { return x + 1; };
const auto with_function = RESTRICTED(.wall_time = {0.5, "m"}, .warnings = false) twice;
const auto with_qualified_name = RESTRICTED(.wall_time = 1min) restricted_in_header::twice;
auto quiet = RESTRICTED_NO_RAISE(.wall_time = 30s) broken;
auto without_options = RESTRICTED() twice;

TEST(Restricted, StandsAtNamespaceScope) {
  EXPECT_EQ(with_lambda(1), 2);
  EXPECT_EQ(with_function(4), 8);
  EXPECT_EQ(with_function.limits().wall_time, 30s);
  EXPECT_FALSE(with_function.limits().warnings);
  EXPECT_EQ(with_qualified_name(5), 10);
  EXPECT_EQ(quiet(1), pynisher::EMPTY);
  EXPECT_EQ(without_options(3), 6);
  EXPECT_FALSE(without_options.limits().wall_time.has_value());
}

// --- class scope --------------------------------------------------------------------------------------------

struct machine {
  static inline const auto as_static = RESTRICTED(.wall_time = 30s)[](int x) { return x * 3; };
  pynisher::limited<int (*)(int)> as_member = RESTRICTED(.cpu_time = 20s) twice;
  int factor = 5;
  std::chrono::seconds patience{30};

  // A member's own values are limits too.
  [[nodiscard]] int run(int x) const {
    const auto multiply = RESTRICTED(.wall_time = patience)[this](int y) { return factor * y; };
    return multiply(x);
  }
};

TEST(Restricted, StandsAtClassScope) {
  EXPECT_EQ(machine::as_static(2), 6);
  const machine m;
  EXPECT_EQ(m.as_member(2), 4);
  EXPECT_EQ(m.as_member.limits().cpu_time, 20s);
  EXPECT_EQ(m.run(3), 15);
}

// --- block scope --------------------------------------------------------------------------------------------

TEST(Restricted, StandsAtBlockScopeAndCaptures) {
  std::string greeting = "hello, ";
  const auto greet = RESTRICTED(.wall_time = 30s)[&greeting](const std::string& name) { return greeting + name; };
  EXPECT_EQ(greet("world"), "hello, world");
  EXPECT_EQ((RESTRICTED(.wall_time = 30s)[](int x) { return x; })(7), 7) << "called on the spot";
  auto notify = RESTRICTED_NO_RAISE(.wall_time = 30s)[](const std::string& host) {
    if (host.empty()) throw std::invalid_argument("no host");
  };
  EXPECT_TRUE(notify("here"));
  EXPECT_FALSE(notify(""));
}

TEST(Restricted, TakesLimitsThatAreKnownOnlyAtRunTime) {
  volatile int seconds = 30;
  const std::string unit = seconds > 10 ? "MB" : "GB";
  const auto limited = RESTRICTED(.wall_time = std::chrono::seconds(seconds)) twice;
  EXPECT_EQ(limited.limits().wall_time, 30s);
  EXPECT_EQ(limited(2), 4);
  const pynisher::time_span span(seconds, "m");
  EXPECT_EQ((RESTRICTED(.cpu_time = span) twice).limits().cpu_time, 30min);
  if (pynisher::supports("memory")) {
    const auto with_memory = RESTRICTED(.memory = {seconds, unit}) twice;
    EXPECT_EQ(with_memory.limits().memory, 30_MiB);
  }
}

// What the compiler cannot see is refused when the expression is evaluated, as by limit().
TEST(Restricted, RefusesBadLimitsThatAreKnownOnlyAtRunTime) {
  volatile int zero = 0;
  volatile double nan = std::numeric_limits<double>::quiet_NaN();
  const std::string unit = zero == 0 ? "parsec" : "MB";
  EXPECT_THROW((void)(RESTRICTED(.wall_time = std::chrono::seconds(zero)) twice), std::invalid_argument);
  EXPECT_THROW((void)(RESTRICTED(.cpu_time = static_cast<double>(nan)) twice), std::invalid_argument);
  EXPECT_THROW((void)(RESTRICTED(.memory = {1, unit}) twice), std::invalid_argument);
  EXPECT_THROW((void)(RESTRICTED_NO_RAISE(.wall_time = std::chrono::seconds(zero)) twice), std::invalid_argument);
}

TEST(Restricted, RefusesWhatIsNotThereYet) {
  if (pynisher::supports("spawn")) GTEST_SKIP() << "spawn is there";
  EXPECT_THROW((void)(RESTRICTED(.context = pynisher::start_method::spawn) twice), pynisher::UnsupportedException);
}

template <class Unit>
int in_a_template(Unit limit) {
  const auto limited = RESTRICTED(.wall_time = limit)[](auto x) { return x + 1; };
  return limited(1);
}

TEST(Restricted, StandsInTemplatesAndLambdas) {
  EXPECT_EQ(in_a_template(30s), 2);
  EXPECT_EQ(in_a_template(30.0), 2);
  const auto seconds = 30s;
  const auto make = [seconds](int offset) {
    return RESTRICTED(.wall_time = seconds)[offset](int x) { return x + offset; };
  };
  EXPECT_EQ(make(3)(4), 7);
}

TEST(Restricted, NamesEveryOption) {
  std::stop_source source;
  const auto limited =
      RESTRICTED(.name = "every one", .memory = {}, .cpu_time = 20s, .wall_time = {1, "m"},
                 .context = pynisher::start_method::fork, .measure = pynisher::memory_measure::growth, .processes = 0,
                 .warnings = false, .wrap_errors = {pynisher::wrap<std::runtime_error>(), pynisher::wrap("NotFitted")},
                 .terminate_child_processes = false, .forceful_keyboard_interrupt = false, .stop = source.get_token())
          twice;
  const pynisher::options& o = limited.limits();
  EXPECT_EQ(o.name, "every one");
  EXPECT_EQ(o.cpu_time, 20s);
  EXPECT_EQ(o.wall_time, 60);
  EXPECT_EQ(o.context, pynisher::start_method::fork);
  EXPECT_EQ(o.measure, pynisher::memory_measure::growth);
  EXPECT_FALSE(o.warnings);
  EXPECT_EQ(o.wrap_errors.rules().size(), 2u);
  EXPECT_FALSE(o.terminate_child_processes);
  EXPECT_FALSE(o.forceful_keyboard_interrupt);
  EXPECT_TRUE(o.stop.stop_possible());
  EXPECT_EQ(limited(2), 4);
}

TEST(Restricted, HandsItsOptionsToTheCall) {
  const auto wrapping = RESTRICTED(.wrap_errors = true) broken;
  EXPECT_THROW(wrapping(1), pynisher::WrappedException);
  const auto plain = RESTRICTED(.wrap_errors = false) broken;
  EXPECT_THROW(plain(1), std::runtime_error);
  const auto endless = RESTRICTED(.wall_time = 100ms)[] {
    for (;;) {
    }
  };
  EXPECT_THROW(endless(), pynisher::WallTimeoutException);
}

TEST(Restricted, KeepsBracesAndConversions) {
  const auto join = RESTRICTED(.wall_time = 30s) joined;
  EXPECT_EQ(join({"a", "b"}), "ab");
  EXPECT_EQ(with_function('\x02'), 4);
}

TEST(Restricted, TakesMoveOnlyCallables) {
  auto number = std::make_unique<int>(7);
  const auto limited = RESTRICTED(.wall_time = 30s)[number = std::move(number)] { return *number; };
  EXPECT_EQ(limited(), 7);
}

// --- headers ------------------------------------------------------------------------------------------------

TEST(Restricted, StandsInHeadersOfSeveralTranslationUnits) {
  using namespace restricted_in_header;
  EXPECT_EQ(limited_function(2), 4);
  EXPECT_EQ(limited_lambda("abcd"), 4u);
  EXPECT_EQ(shared_lambda(1), 2);
  EXPECT_EQ(service::parse("12"), 12);
  EXPECT_EQ(service().member(6), 12);
  EXPECT_EQ(call_all_of_them(10), 20 + 3 + 11 + 100 + 20);
}

}  // namespace
