// What can be limited, and how it is called afterwards: as the callable itself would be.

#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/limit.hpp>

namespace {

using pynisher::limit;
using pynisher::limited;
using pynisher::limited_no_raise;
using pynisher::no_raise;

int add(int a, int b) { return a + b; }
int add_quietly(int a, int b) noexcept { return a + b; }
std::size_t total(const std::vector<std::string>& parts) {
  std::size_t sum = 0;
  for (const auto& part : parts) sum += part.size();
  return sum;
}
const std::string& first_of(const std::vector<std::string>& parts) { return parts.front(); }
[[noreturn]] void fail() { throw std::runtime_error("it broke"); }

struct point {
  int x = 0;
  int y = 0;
};
int sum_of(point p) { return p.x + p.y; }

struct account {
  int balance = 0;
  explicit account(int b) : balance(b) {}
  [[nodiscard]] int doubled() const { return 2 * balance; }
  int add(int amount) { return balance += amount; }
  template <class Archive>
  void serialize(Archive& ar) {
    ar(balance);
  }
};

struct overloaded {
  int operator()(int x) const { return x; }
  std::string operator()(const std::string& s) const { return s + "!"; }
};
struct counting {
  int calls = 0;
  int operator()() { return ++calls; }
};
struct for_lvalues_only {
  int operator()(int x) & { return x + 1; }
};
struct quiet_functor {
  int operator()(int x) const noexcept { return x + 2; }
};
struct taken_by_pointer {
  int value = 0;
};

TEST(Callable, AFunctionKeepsItsSignature) {
  const auto limited_add = limit(add);
  static_assert(std::is_same_v<std::remove_const_t<decltype(limited_add)>, limited<int (*)(int, int), int(int, int)>>);
  EXPECT_EQ(limited_add(1, 2), 3);
  EXPECT_EQ(limited_add('\1', 2L), 3) << "conversions as at the function's own call";
  EXPECT_EQ(limit(&add)(1, 2), 3);
  EXPECT_EQ(limit(add_quietly)(1, 2), 3);
  static_assert(!std::is_invocable_v<decltype(limited_add), int>);
  static_assert(!std::is_invocable_v<decltype(limited_add), int, std::string>);
}

TEST(Callable, BracesWorkAsAtTheFunctionsOwnCall) {
  EXPECT_EQ(limit(total)({"a", "bb", "ccc"}), 6u);
  EXPECT_EQ(limit(sum_of)({1, 2}), 3);
  EXPECT_EQ(limit(sum_of)({.x = 1, .y = 3}), 4);
  EXPECT_EQ(limit(total, {}, no_raise)({"a", "b"}), 2u);
  EXPECT_EQ(*limit(total).try_call({"a", "b"}), 2u);
  EXPECT_EQ(limit([](const std::vector<int>& v) { return v.size(); })({1, 2, 3}), 3u);
}

TEST(Callable, AGenericLambdaStaysGeneric) {
  const auto plus_one = limit([](auto x) { return x + 1; });
  EXPECT_EQ(plus_one(1), 2);
  EXPECT_EQ(plus_one(1.5), 2.5);
  static_assert(std::is_same_v<decltype(plus_one(1.5)), double>);
  static_assert(std::is_same_v<decltype(plus_one.try_call(1)), pynisher::outcome<int>>);
  EXPECT_EQ(*plus_one.try_call(2), 3);
  const auto any = limit([](const auto&... all) { return sizeof...(all); }, {}, no_raise);
  EXPECT_EQ(any(1, "two", 3.0), 3u);
  static_assert(!std::is_invocable_v<decltype(plus_one), std::vector<int>, int>);
}

TEST(Callable, OverloadedFunctorsKeepTheirOverloads) {
  const auto both = limit(overloaded{});
  EXPECT_EQ(both(3), 3);
  EXPECT_EQ(both(std::string("x")), "x!");
}

TEST(Callable, DefaultArgumentsWorkAsAtTheLambdasOwnCall) {
  const auto plain = [](int x, int y = 10) { return x + y; };
  const auto guarded = limit(plain);
  EXPECT_EQ(guarded(1, 2), 3);
  EXPECT_TRUE((std::is_invocable_v<decltype(plain), int>));
  EXPECT_TRUE((std::is_invocable_v<decltype(guarded), int>)) << "what the lambda takes, the limited lambda takes";
  EXPECT_EQ(guarded(1), 11);
  EXPECT_EQ(*guarded.try_call(2), 12);
  EXPECT_EQ(limit(plain, {}, no_raise)(3), 13);
  EXPECT_EQ(*limit(plain, {}, no_raise).try_call(4), 14);
  const auto all_by_default =
      limit([](const std::vector<int>& v = {1, 2}, std::string s = "abc") { return v.size() + s.size(); });
  EXPECT_EQ(all_by_default(), 5u);
  EXPECT_EQ(all_by_default(std::vector<int>()), 3u);
  EXPECT_EQ(all_by_default({1}, {'x', 'y'}), 3u) << "the whole signature still takes braces";
  static_assert(!std::is_invocable_v<decltype(guarded)>);
  static_assert(!std::is_invocable_v<decltype(guarded), int, int, int>);
  static_assert(!std::is_invocable_v<decltype(guarded), std::string>);
}

TEST(Callable, MayBeMoveOnly) {
  auto number = std::make_unique<int>(7);
  auto take = limit([number = std::move(number)](int x) { return *number + x; });
  static_assert(!std::is_copy_constructible_v<decltype(take)>);
  EXPECT_EQ(take(1), 8);
  auto moved = std::move(take);
  EXPECT_EQ(moved(2), 9);
  EXPECT_EQ(moved(2), 9) << "any number of times";
}

TEST(Callable, IsCopyableWhereTheFunctionIs) {
  const auto original = limit([text = std::string("x")] { return text; });
  static_assert(std::is_copy_constructible_v<std::remove_const_t<decltype(original)>>);
  const auto copy = original;  // NOLINT(performance-unnecessary-copy-initialization)
  EXPECT_EQ(copy(), "x");
  EXPECT_EQ(original(), "x");
}

TEST(Callable, TakesAndGivesMoveOnlyValues) {
  const auto increment = limit([](std::unique_ptr<int> p) {
    ++*p;
    return p;
  });
  EXPECT_EQ(*increment(std::make_unique<int>(1)), 2);
  EXPECT_EQ(**limit([] { return std::make_unique<int>(4); }, {}, no_raise)(), 4);
}

TEST(Callable, MayBeAMemberFunctionOrAMember) {
  EXPECT_EQ(limit(&account::doubled)(account(4)), 8);
  account mine(10);
  EXPECT_EQ(limit(&account::add)(mine, 5), 15);
  EXPECT_EQ(limit(&account::add)(&mine, 6), 16);
  EXPECT_EQ(mine.balance, 10) << "the child had a copy";
  EXPECT_EQ(limit(&account::balance)(mine), 10);
  EXPECT_EQ(limit(&account::doubled, {}, no_raise)(std::make_unique<account>(2)), 4);
}

TEST(Callable, MayBeAStdFunctionOrABinding) {
  const std::function<int(int, int)> function = add;
  EXPECT_EQ(limit(function)(2, 3), 5);
  EXPECT_EQ(limit(std::function<std::size_t(std::vector<std::string>)>(total))({"ab"}), 2u);
  EXPECT_EQ(limit(std::bind_front(add, 1))(2), 3);
  EXPECT_EQ(limit(std::bind(add, std::placeholders::_1, 10))(2), 12);
  EXPECT_EQ(limit(std::ref(add))(2, 2), 4);
  EXPECT_EQ(limit(std::plus<>())(2, 2.5), 4.5);
}

TEST(Callable, MayBeAFunctorOfAnyQualification) {
  EXPECT_EQ(limit(for_lvalues_only{})(1), 2);
  EXPECT_EQ(limit(quiet_functor{})(1), 3);
  const auto count = limit(counting{});
  EXPECT_EQ(count(), 1);
  EXPECT_EQ(count(), 1) << "the state that changes is the child's";
  EXPECT_EQ(limit([n = 0]() mutable { return ++n; })(), 1);
}

TEST(Callable, WhatIsEmptyIsRefusedAtOnce) {
  EXPECT_THROW((void)limit(std::function<int()>()), std::invalid_argument);
  EXPECT_THROW((void)limit(static_cast<int (*)(int, int)>(nullptr)), std::invalid_argument);
  EXPECT_THROW((void)limit(static_cast<int (account::*)() const>(nullptr)), std::invalid_argument);
  EXPECT_THROW((void)limit(static_cast<int account::*>(nullptr)), std::invalid_argument);
  EXPECT_THROW((void)limit(std::function<int()>(), {}, no_raise), std::invalid_argument);
  try {
    (void)limit(std::function<int()>());
  } catch (const std::invalid_argument& e) {
    EXPECT_THAT(e.what(), testing::HasSubstr("empty"));
  }
}

TEST(Callable, ReferencesDecay) {
  const auto first = limit(first_of);
  static_assert(std::is_same_v<decltype(first({})), std::string>);
  EXPECT_EQ(first({"a", "b"}), "a");
  int here = 5;
  const auto by_reference = limit([&here]() -> int& { return ++here; });
  static_assert(std::is_same_v<decltype(by_reference()), int>);
  EXPECT_EQ(by_reference(), 6);
  EXPECT_EQ(here, 5);
}

TEST(Callable, ArgumentsArePassedAsTheyAre) {
  std::vector<int> values{1, 2};
  const auto push = limit([](std::vector<int>& v) {
    v.push_back(3);
    return v.size();
  });
  EXPECT_EQ(push(values), 3u);
  EXPECT_EQ(values.size(), 2u);
  const auto by_rvalue = limit([](std::string&& s) { return std::move(s) + "!"; });
  EXPECT_EQ(by_rvalue(std::string("x")), "x!");
  const auto by_pointer = limit([](const taken_by_pointer* p) { return p->value; });
  const taken_by_pointer object{9};
  EXPECT_EQ(by_pointer(&object), 9) << "with fork the child has the parent's memory";
}

TEST(Callable, NoRaiseGivesAnOptionalOrABool) {
  const auto quiet_add = limit(add, {}, no_raise);
  static_assert(std::is_same_v<decltype(quiet_add(1, 2)), std::optional<int>>);
  EXPECT_EQ(quiet_add(1, 2), 3);
  const auto quiet_fail = limit(fail, {}, no_raise);
  static_assert(std::is_same_v<decltype(quiet_fail()), bool>);
  EXPECT_FALSE(quiet_fail());
  EXPECT_TRUE(limit([] {}, {}, no_raise)());
  const auto generic = limit([](auto x) { return x.at(5); }, {}, no_raise);
  EXPECT_EQ(generic(std::string("short")), pynisher::EMPTY);
  EXPECT_EQ(generic(std::string("longer")), 'r');
  EXPECT_EQ(quiet_fail.try_call().verdict(), pynisher::verdict::raised);
}

TEST(Callable, IsNamedInTheSentence) {
  EXPECT_THAT(limit(fail).try_call().explain(), testing::HasSubstr("runtime_error: it broke"));
  const auto result =
      limit([](int, const std::string&, bool) -> int { throw std::runtime_error("x"); }).try_call(3, "text", true);
  EXPECT_THAT(result.explain(), testing::HasSubstr("(3, \"text\", true)"));
}

}  // namespace
