// What every start method has in common, and what those that start afresh refuse.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/pynisher.hpp>

#include "support/functions.hpp"
#include "support/outcomes.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::limit;
using pynisher::start_method;
using pynisher::verdict;
using support::EndedAs;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

class StartMethods : public support::per_start_method {};
FOR_EACH_START_METHOD(StartMethods);

// --- arguments and callables ------------------------------------------------------------------------------------

std::string all_kinds(const char* c_string, std::string_view view, const std::string& text, std::unique_ptr<int> owned,
                      const std::map<std::string, std::vector<int>>& map, std::optional<double> maybe,
                      std::tuple<bool, char> pair) {
  std::ostringstream said;
  said << c_string << ' ' << view << ' ' << text << ' ' << *owned << ' ' << map.at("key").size() << ' ' << *maybe << ' '
       << std::get<0>(pair) << std::get<1>(pair);
  return said.str();
}

TEST_P(StartMethods, ArgumentsOfAllKindsArrive) {
  const auto call = limit(all_kinds, unlimited());
  EXPECT_EQ(call("c", "view", "text", std::make_unique<int>(7), {{"key", {1, 2, 3}}}, 0.5, {true, 'x'}),
            "c view text 7 3 0.5 1x");
}

std::vector<std::uint64_t> reversed(std::vector<std::uint64_t> values) {
  std::ranges::reverse(values);
  return values;
}

TEST_P(StartMethods, LargeArgumentsAndLargeResultsCrossAtOnce) {
  std::vector<std::uint64_t> values(4'000'000);
  std::iota(values.begin(), values.end(), 0);
  const auto back = limit(reversed, with({.wall_time = 1min}))(values);
  std::ranges::reverse(values);
  EXPECT_TRUE(back == values);
}

std::size_t length(const std::string& text) { return text.size(); }

TEST_P(StartMethods, ArgumentsAroundTheRoomThatIsSharedArriveWhole) {
  const auto call = limit(length, unlimited());
  for (const std::size_t size : {(1u << 20) - 2000u, (1u << 20) - 512u, 1u << 20, (1u << 20) + 1u, 3u << 20}) {
    EXPECT_EQ(call(std::string(size, 'a')), size);
  }
}

struct scaled {
  int factor = 1;
  int operator()(int x) const { return factor * x; }
  template <class Archive>
  void serialize(Archive& archive) {
    archive(factor);
  }
};
struct without_state {
  int operator()(int x) const { return x + 1; }
};
struct animal {
  int legs = 0;
  virtual int count(int of) const { return legs * of; }
  [[nodiscard]] int doubled() const { return 2 * legs; }
  virtual ~animal() = default;
  template <class Archive>
  void serialize(Archive& archive) {
    archive(legs);
  }
};
struct spider : animal {
  spider() { legs = 8; }
  int count(int of) const override { return 1000 + legs * of; }
};
int plus_one(int x) noexcept { return x + 1; }

TEST_P(StartMethods, CallablesOfAllKindsAreCalled) {
  EXPECT_EQ(limit(plus_one, unlimited())(1), 2);
  EXPECT_EQ(limit(&plus_one, unlimited())(1), 2);
  EXPECT_EQ(limit([](int x) { return x - 1; }, unlimited())(1), 0);
  EXPECT_EQ(limit([](auto x) { return x * 2; }, unlimited())(1.5), 3.0);
  EXPECT_EQ(limit(scaled{5}, unlimited())(3), 15);
  EXPECT_EQ(limit(without_state{}, unlimited())(3), 4);
  EXPECT_EQ(limit(&animal::doubled, unlimited())(spider()), 16);
  EXPECT_EQ(limit(&animal::count, unlimited())(spider(), 2), 1016);
  EXPECT_EQ(limit(&animal::legs, unlimited())(spider()), 8);
}

int counter = 0;
int count_up() { return ++counter; }

TEST_P(StartMethods, ArraysOfCharactersStayArrays) {
  const auto size_of = limit([](const auto& text) { return sizeof text; }, unlimited());
  EXPECT_EQ(size_of("hello"), 6u);
  const char not_terminated[4] = {'R', 'I', 'F', 'F'};
  EXPECT_EQ(limit([](const auto& text) { return static_cast<int>(text[3]); }, unlimited())(not_terminated), 'F');
}

int legs_of(const animal& one) { return one.count(1); }

TEST_P(StartMethods, AnObjectIsNotSentAsItsBase) {
  const spider one;
  if (GetParam() == start_method::fork) {
    EXPECT_EQ(limit(legs_of, unlimited())(one), 1008);
  } else {
    EXPECT_THROW((void)limit(legs_of, unlimited())(one), pynisher::SerializationException);
    EXPECT_EQ(limit(legs_of, unlimited())(animal{}), 0);
  }
}

TEST_P(StartMethods, EachCallIsAProcessOfItsOwn) {
  const auto call = limit(count_up, unlimited());
  EXPECT_EQ(call(), 1);
  EXPECT_EQ(call(), 1);
  EXPECT_EQ(counter, 0);
}

struct refusal_of_the_test : std::runtime_error {
  using std::runtime_error::runtime_error;
};
[[noreturn]] void refuse(int why) { throw refusal_of_the_test("reason " + std::to_string(why)); }

TEST_P(StartMethods, ExceptionsRegisteredBeforeMainArriveAsThemselves) {
  EXPECT_THAT(limit(refuse, unlimited()).try_call(4), support::RaisedAs<refusal_of_the_test>("reason 4"));
}

// --- what cannot be sent ----------------------------------------------------------------------------------------

struct not_serialisable {
  int value = 0;
  int operator()() const { return value; }
};

template <class F>
std::string refusal(F fn, const pynisher::options& given) {
  try {
    (void)limit(std::move(fn), given);
  } catch (const std::invalid_argument& e) {
    return e.what();
  }
  return "(it was accepted)";
}

int take_pointer(const int* p) { return *p; }
int take_callback(int (*f)(int)) { return f(1); }

TEST_P(StartMethods, WhatCannotBeSentIsRefusedByLimitWithAWayOut) {
  const std::string accepted = "(it was accepted)";
  const int captured = static_cast<int>(support::own_pid());
  const std::string texts[] = {
      refusal([captured] { return captured; }, unlimited()), refusal(std::function<int()>(not_serialisable{}), unlimited()),
      refusal(not_serialisable{}, unlimited()),
      refusal(take_pointer, unlimited()), refusal(take_callback, unlimited())};
  for (const auto& text : texts) {
    if (GetParam() == start_method::fork) {
      EXPECT_EQ(text, accepted);
    } else {
      EXPECT_THAT(text, AllOf(StartsWith("context: "), HasSubstr("use context = fork")));
    }
  }
}

TEST_P(StartMethods, AnArgumentOfAGenericCallableThatCannotBeSentIsSaidByTheCall) {
  const auto call = limit([](auto p) { return *p; }, unlimited());
  const int value = 7;
  if (GetParam() == start_method::fork) {
    EXPECT_EQ(call(&value), 7);
    return;
  }
  EXPECT_THROW(call(&value), pynisher::SerializationException);
  EXPECT_THAT(call.try_call(&value), EndedAs(verdict::start_failed));
}

TEST_P(StartMethods, ANullCStringCannotBeSent) {
  const auto call = limit([](const char* text) { return text == nullptr; }, unlimited());
  if (GetParam() == start_method::fork) {
    EXPECT_TRUE(call(nullptr));
  } else {
    EXPECT_THROW(call(nullptr), pynisher::SerializationException);
  }
}

struct fails_to_pack {
  template <class Archive>
  void save(Archive& /*archive*/) const {
    throw std::runtime_error("not today");
  }
  template <class Archive>
  void load(Archive& /*archive*/) {}
};
struct fails_to_unpack {
  template <class Archive>
  void save(Archive& archive) const {
    archive(1);
  }
  template <class Archive>
  void load(Archive& archive) {
    int one = 0;
    archive(one);
    throw std::runtime_error("not there");
  }
};

TEST_P(StartMethods, AnArgumentThatFailsToBePackedOrUnpackedIsSaid) {
  if (GetParam() == start_method::fork) GTEST_SKIP() << "nothing is packed";
  const auto pack = limit([](const fails_to_pack&) { return 1; }, unlimited()).try_call({});
  EXPECT_THAT(pack, EndedAs(verdict::start_failed));
  EXPECT_THAT(pack.explain(), HasSubstr("not today"));
  EXPECT_THROW(pack.value(), pynisher::SerializationException);
  // What throws in the child arrives as what it is.
  EXPECT_THAT(limit([](const fails_to_unpack&) { return 1; }, unlimited()).try_call({}),
              support::RaisedAs<std::runtime_error>("not there"));
}

// --- surroundings -----------------------------------------------------------------------------------------------

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "(none)" : value;
}
std::string directory() { return std::filesystem::current_path().string(); }

TEST_P(StartMethods, EnvironmentAndDirectoryAreTheCallersOfThatMoment) {
  const std::string here = directory();
  EXPECT_EQ(limit(variable, unlimited())("PYNISHER_TEST_VARIABLE"), "(none)");
  EXPECT_EQ(limit(directory, unlimited())(), here);
  support::set_environment("PYNISHER_TEST_VARIABLE", "set later");
  std::filesystem::current_path(std::filesystem::temp_directory_path());
  EXPECT_EQ(limit(variable, unlimited())("PYNISHER_TEST_VARIABLE"), "set later");
  EXPECT_EQ(limit(variable, unlimited())("PYNISHER_STARTED_AS"), "(none)");
  EXPECT_NE(directory(), here);
  EXPECT_EQ(limit(directory, unlimited())(), directory());
  support::unset_environment("PYNISHER_TEST_VARIABLE");
  std::filesystem::current_path(here);
  EXPECT_EQ(limit(variable, unlimited())("PYNISHER_TEST_VARIABLE"), "(none)");
  EXPECT_EQ(limit(directory, unlimited())(), here);
}

TEST_P(StartMethods, MoreArgumentsThanTheMemoryLimitAllowsAreNotTheFunctionsAffair) {
  SKIP_UNLESS_SUPPORTED("memory");
  EXPECT_EQ(limit(length, with({.memory = 8_MiB}))(std::string(32u << 20, 'a')), 32u << 20);
}

std::size_t count(const std::list<char>& values) {
  // Longer than the parent looks away.
  support::spin_for(30ms);
  return values.size();
}

TEST_P(StartMethods, ArgumentsThatTakeMuchMoreUnpackedAreNotTheFunctionsAffair) {
  SKIP_UNLESS_SUPPORTED("memory");
  EXPECT_EQ(limit(count, with({.memory = 8_MiB}))(std::list<char>(1'000'000)), 1'000'000u);
  EXPECT_EQ(limit(length, with({.memory = 1_MiB}))(std::string(1'000'000, 'a')), 1'000'000u);
}

// --- calls in calls -----------------------------------------------------------------------------------------------

int one_less(int method, int depth) {
  if (depth == 0) return 100;
  const pynisher::options inner{.wall_time = 30s, .context = static_cast<start_method>(method), .warnings = false};
  return 1 + limit(one_less, inner)(method, depth - 1);
}
void spin_within(int method) {
  const pynisher::options inner{.wall_time = 30s, .context = static_cast<start_method>(method), .warnings = false};
  limit(support::spin_forever, inner)();
}
void take_memory_within(int method) {
  const pynisher::options inner{.memory = 1_GiB, .context = static_cast<start_method>(method), .warnings = false};
  limit(support::touch_memory_forever, inner)();
}

TEST_P(StartMethods, CallsWithinCallsWorkInEveryPair) {
  for (const auto inner : pynisher::start_methods()) {
    EXPECT_EQ(limit(one_less, with({.wall_time = 30s}))(static_cast<int>(inner), 2), 102)
        << support::method_name(inner);
  }
}

TEST_P(StartMethods, WhatTheProgramHoldsIsNoMemoryForAnInnerCall) {
  SKIP_UNLESS_SUPPORTED("memory");
  const support::held_memory ballast(std::size_t{300} << 20);
  for (const auto inner : pynisher::start_methods()) {
    const auto eaten = limit(take_memory_within, with({.memory = 50_MiB})).try_call(static_cast<int>(inner));
    EXPECT_THROW(eaten.value(), std::bad_alloc) << support::method_name(inner);
    if (!support::memory_is_refused()) continue;
    EXPECT_LT(eaten.usage().peak_memory, std::size_t{120} << 20) << support::method_name(inner);
  }
}

TEST_P(StartMethods, AnInnerCallIsWithinTheOuterLimitsInEveryPair) {
  for (const auto inner : pynisher::start_methods()) {
    EXPECT_THAT(limit(spin_within, with({.wall_time = 200ms})).try_call(static_cast<int>(inner)),
                EndedAs(verdict::wall_timeout))
        << support::method_name(inner);
    if (!pynisher::supports("memory")) continue;
    const auto eaten = limit(take_memory_within, with({.memory = 100_MiB})).try_call(static_cast<int>(inner));
    EXPECT_FALSE(eaten.has_value()) << support::method_name(inner);
    EXPECT_THROW(eaten.value(), std::bad_alloc) << support::method_name(inner);
  }
}

}  // namespace

PYNISHER_EXCEPTION(refusal_of_the_test);
