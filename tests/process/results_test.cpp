// What a function returns comes back; what it does to its own copies does not.

#include <array>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <variant>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/functions.hpp"
#include "support/outcomes.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::limit;
using pynisher::verdict;
using support::EndedAs;
using ::testing::ElementsAre;

class Results : public support::per_start_method {};
FOR_EACH_START_METHOD(Results);
class Arguments : public support::per_start_method {};
FOR_EACH_START_METHOD(Arguments);
class Callables : public support::per_start_method {};
FOR_EACH_START_METHOD(Callables);

// --- results ----------------------------------------------------------------------------------------------------

TEST_P(Results, NumbersComeBackToTheLastBit) {
  EXPECT_EQ(limit([] { return std::uint64_t{0xfedcba9876543210}; }, unlimited())(), 0xfedcba9876543210u);
  EXPECT_EQ(limit([] { return -7; }, unlimited())(), -7);
  EXPECT_EQ(limit([] { return 0.1 + 0.2; }, unlimited())(), 0.1 + 0.2);
  EXPECT_EQ(limit([] { return true; }, unlimited())(), true);
  EXPECT_EQ(limit([] { return 'x'; }, unlimited())(), 'x');
}

void do_nothing() {}

TEST_P(Results, NothingIsAResultToo) {
  const auto call = limit(do_nothing, unlimited());
  static_assert(std::is_void_v<decltype(call())>);
  EXPECT_NO_THROW(call());
  EXPECT_THAT(call.try_call(), EndedAs(verdict::returned));
}

TEST_P(Results, AReferenceBecomesAValue) {
  const auto call = limit(
      []() -> const std::string& {
        static const std::string text = "of the child";
        return text;
      },
      unlimited());
  static_assert(std::is_same_v<decltype(call()), std::string>);
  EXPECT_EQ(call(), "of the child");
}

TEST_P(Results, MoveOnlyValuesAreMovedOut) {
  const auto call = limit([] { return std::make_unique<std::vector<int>>(3, 9); }, unlimited());
  const std::unique_ptr<std::vector<int>> value = call();
  ASSERT_NE(value, nullptr);
  EXPECT_THAT(*value, ElementsAre(9, 9, 9));
  EXPECT_EQ(limit([] { return std::unique_ptr<int>(); }, unlimited())(), nullptr);
}

TEST_P(Results, StandardTypesComeBackEqual) {
  using everything =
      std::tuple<std::optional<int>, std::optional<int>, std::variant<int, std::string>, std::chrono::milliseconds,
                 std::filesystem::path, std::set<int>, std::deque<bool>, std::array<double, 3>, std::pair<int, char>>;
  const auto make = [] {
    return everything{std::nullopt, 4,       std::string("two"), 1500ms, "/usr/share", {3, 1, 2}, {true, false},
                      {1, 2, 3},    {5, 'c'}};
  };
  EXPECT_EQ(limit(make, unlimited())(), make());
}

TEST_P(Results, NestedContainersComeBackEqual) {
  using nest = std::map<std::string, std::vector<std::unordered_map<int, std::optional<std::string>>>>;
  const auto make = [] {
    nest value;
    for (int i = 0; i < 50; ++i) {
      auto& inner = value["key " + std::to_string(i)];
      inner.resize(static_cast<std::size_t>(i % 4));
      for (auto& map : inner) {
        map[i] = "value";
        map[-i - 1] = std::nullopt;
      }
    }
    value[""] = {};
    return value;
  };
  EXPECT_EQ(limit(make, unlimited())(), make());
}

TEST_P(Results, SixtyFourMebibytesArriveUnchanged) {
  const auto count = [](std::uint64_t size) {
    std::vector<std::uint64_t> numbers(size);
    std::iota(numbers.begin(), numbers.end(), std::uint64_t{17});
    return numbers;
  };
  EXPECT_TRUE(limit(count, unlimited())(std::uint64_t{8} << 20) == count(std::uint64_t{8} << 20));
}

TEST_P(Results, AMillionStringsArriveUnchanged) {
  const auto make = [] {
    std::vector<std::string> texts;
    texts.reserve(1'000'000);
    for (int i = 0; i < 1'000'000; ++i) texts.push_back(i % 1000 == 0 ? std::string(200, 'l') : std::to_string(i));
    return texts;
  };
  EXPECT_TRUE(limit(make, unlimited())() == make());
}

TEST_P(Results, EverySizeAroundTheEdgesOfABufferArrives) {
  const auto call = limit([](std::size_t size) { return std::string(size, 's'); }, unlimited());
  std::vector<std::size_t> sizes{0, 1};
  for (std::size_t edge = 4096; edge <= 8u << 20; edge *= 2) {
    for (const std::size_t size : {edge - 25, edge - 9, edge - 8, edge - 1, edge, edge + 1}) sizes.push_back(size);
  }
  for (const std::size_t size : sizes) {
    const std::string text = call(size);
    ASSERT_EQ(text.size(), size);
    ASSERT_EQ(text.find_first_not_of('s'), std::string::npos) << size;
  }
}

struct point {
  int x = 0, y = 0;
  template <class Archive>
  void serialize(Archive& ar) {
    ar(x, y);
  }
  friend bool operator==(const point&, const point&) = default;
};

TEST_P(Results, AUsersOwnTypeNeedsOnlySerialize) {
  EXPECT_EQ(limit([](int x, int y) { return point{x, y}; }, unlimited())(3, 4), (point{3, 4}));
  EXPECT_THAT(limit([] { return std::vector<point>{{1, 2}, {3, 4}}; }, unlimited())(),
              ElementsAre(point{1, 2}, point{3, 4}));
}

// --- arguments and captures -----------------------------------------------------------------------------------------

TEST_P(Arguments, ArriveAsTheyAre) {
  const auto call =
      limit([](int number, const std::string& text,
               const std::vector<double>& list) { return text + std::to_string(number) + std::to_string(list.size()); },
            unlimited());
  EXPECT_EQ(call(4, "text", {1.0, 2.0, 3.0}), "text43");
}

TEST_P(Arguments, AreCopiesThatTheCallerNeverSeesChange) {
  std::vector<int> numbers{1, 2, 3};
  const auto call = limit(
      [](std::vector<int>& changed) {
        changed.assign(10, 7);
        return changed;
      },
      unlimited());
  EXPECT_EQ(call(numbers), std::vector<int>(10, 7));
  EXPECT_THAT(numbers, ElementsAre(1, 2, 3));
}

TEST_P(Arguments, MoveOnlyOnesAreAccepted) {
  const auto call = limit([](std::unique_ptr<int> number) { return *number + 1; }, unlimited());
  EXPECT_EQ(call(std::make_unique<int>(41)), 42);
}

TEST_P(Arguments, CapturesAreCopiesToo) {
  ONLY_BY_FORK("its callable has captures");
  int counter = 0;
  auto counting = [&counter, own = 0]() mutable {
    ++own;
    return ++counter * 10 + own;
  };
  const auto call = limit(counting, unlimited());
  EXPECT_EQ(call(), 11);
  EXPECT_EQ(call(), 11);
  EXPECT_EQ(counter, 0);
}

int global_counter = 0;
int count_globally() { return ++global_counter; }

TEST_P(Arguments, GlobalsOfTheCallerAreNotChanged) {
  const auto call = limit(count_globally, unlimited());
  EXPECT_EQ(call(), 1);
  EXPECT_EQ(call(), 1);
  EXPECT_EQ(global_counter, 0);
}

// --- callables ------------------------------------------------------------------------------------------------------

TEST_P(Callables, OneObjectServesAnyNumberOfCalls) {
  const auto twice = limit([](int n) { return 2 * n; }, with({.wall_time = 60s}));
  for (int n = 0; n < 200; ++n) ASSERT_EQ(twice(n), 2 * n);
}

TEST_P(Callables, AFailedCallLeavesTheObjectUsable) {
  const auto picky = limit(
      [](int n) {
        if (n == 1) throw std::runtime_error("no");
        if (n == 2) std::_Exit(9);
        if (n == 3) support::spin_forever();
        return n;
      },
      with({.cpu_time = 1s}));
  EXPECT_THAT(picky.try_call(1), EndedAs(verdict::raised));
  EXPECT_THAT(picky.try_call(2), EndedAs(verdict::exited));
  EXPECT_THAT(picky.try_call(3), EndedAs(verdict::cpu_timeout));
  EXPECT_EQ(picky(4), 4);
}

TEST_P(Callables, CopiesAreIndependentAndKeepTheirLimits) {
  SKIP_UNLESS_SUPPORTED("memory");
  const auto first = limit([](int n) { return n + 1; }, with({.memory = 1_GiB, .wall_time = 30s}));
  const auto second = first;
  EXPECT_EQ(first(1), 2);
  EXPECT_EQ(second(2), 3);
  EXPECT_EQ(second.limits().memory, 1_GiB);
  EXPECT_EQ(second.limits().wall_time, 30s);
}

TEST_P(Callables, GenericLambdasStayGeneric) {
  const auto doubled = limit([](auto value) { return value + value; }, unlimited());
  EXPECT_EQ(doubled(21), 42);
  EXPECT_EQ(doubled(std::string("ab")), "abab");
}

struct account {
  int balance = 5;
  [[nodiscard]] int plus(int amount) const { return balance + amount; }
};

TEST_P(Callables, MembersAreCallables) {
  ONLY_BY_FORK("its argument cannot be made before it is read");
  const account mine{10};
  EXPECT_EQ(limit(&account::plus, unlimited())(mine, 3), 13);
  EXPECT_EQ(limit(&account::plus, unlimited())(&mine, 4), 14);
  EXPECT_EQ(limit(&account::balance, unlimited())(mine), 10);
}

TEST_P(Callables, MoveOnlyCallablesAreMovedIn) {
  ONLY_BY_FORK("its callable has captures");
  auto owner = [number = std::make_unique<int>(6)](int factor) { return *number * factor; };
  const auto call = limit(std::move(owner), unlimited());
  EXPECT_EQ(call(7), 42);
  EXPECT_EQ(call(2), 12);
}

TEST_P(Callables, AStdFunctionIsACallableAndAnEmptyOneIsRefusedAtOnce) {
  ONLY_BY_FORK("its callable has captures");
  const std::function<int(int)> square = [](int n) { return n * n; };
  EXPECT_EQ(limit(square, unlimited())(9), 81);
  EXPECT_THROW((void)limit(std::function<int(int)>(), unlimited()), std::invalid_argument);
}

}  // namespace
