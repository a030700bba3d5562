#include <pynisher/outcome.hpp>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <pynisher/exceptions.hpp>

namespace {

using namespace std::chrono_literals;
using pynisher::outcome;
using pynisher::verdict;

const pynisher::usage used{3ms, 2ms, 1ms, 4096, 7};

template <class R>
outcome<R> returned(R value) {
  return {verdict::returned, used, nullptr, "f() returned", std::move(value)};
}
template <class R>
outcome<R> failed() {
  return {verdict::raised, used, std::make_exception_ptr(std::out_of_range("no such thing")), "f() threw",
          std::nullopt};
}

TEST(Outcome, GivesTheValueInEveryWay) {
  auto result = returned(std::string("spam"));
  EXPECT_TRUE(static_cast<bool>(result));
  EXPECT_TRUE(result.has_value());
  EXPECT_EQ(result.value(), "spam");
  EXPECT_EQ(*result, "spam");
  EXPECT_EQ(result->size(), 4u);
  EXPECT_EQ(result.value_or("eggs"), "spam");
  EXPECT_EQ(std::as_const(result).value(), "spam");
  EXPECT_EQ(*std::as_const(result), "spam");
  EXPECT_EQ(std::as_const(result)->size(), 4u);
  result.value() += " and eggs";
  EXPECT_EQ(*result, "spam and eggs");
  EXPECT_EQ(std::move(result).to_optional(), std::optional<std::string>("spam and eggs"));
}

TEST(Outcome, KnowsHowTheCallEnded) {
  const auto result = returned(1);
  EXPECT_EQ(result.verdict(), verdict::returned);
  EXPECT_EQ(result.usage(), used);
  EXPECT_EQ(result.error(), nullptr);
  EXPECT_EQ(result.explain(), "f() returned");
}

TEST(Outcome, ThrowsTheErrorWhereverItsValueIsAskedFor) {
  auto result = failed<std::string>();
  EXPECT_FALSE(static_cast<bool>(result));
  EXPECT_FALSE(result.has_value());
  EXPECT_THROW((void)result.value(), std::out_of_range);
  EXPECT_THROW((void)std::as_const(result).value(), std::out_of_range);
  EXPECT_THROW((void)*result, std::out_of_range);
  EXPECT_THROW((void)*std::as_const(result), std::out_of_range);
  EXPECT_THROW((void)result->size(), std::out_of_range);
  EXPECT_THROW((void)std::move(result).value(), std::out_of_range);  // NOLINT(bugprone-use-after-move)
}

TEST(Outcome, KeepsUsageAndSentenceAfterFailure) {
  const auto result = failed<int>();
  EXPECT_EQ(result.verdict(), verdict::raised);
  EXPECT_EQ(result.usage(), used);
  EXPECT_NE(result.error(), nullptr);
  EXPECT_EQ(result.explain(), "f() threw");
}

TEST(Outcome, ValueOrGivesTheOtherOnlyWhereThereIsNone) {
  EXPECT_EQ(returned(1).value_or(2), 1);
  EXPECT_EQ(failed<int>().value_or(2), 2);
  const auto without = failed<std::string>();
  EXPECT_EQ(without.value_or("otherwise"), "otherwise");
  const auto with = returned(std::string("here"));
  EXPECT_EQ(with.value_or("otherwise"), "here");
}

TEST(Outcome, ComparesWithEmpty) {
  static_assert(std::is_same_v<std::remove_cv_t<decltype(pynisher::EMPTY)>, std::nullopt_t>);
  EXPECT_TRUE(failed<int>() == pynisher::EMPTY);
  EXPECT_TRUE(pynisher::EMPTY == failed<int>());
  EXPECT_TRUE(returned(0) != pynisher::EMPTY) << "a false value is a value";
  EXPECT_TRUE(pynisher::EMPTY != returned(false));
  EXPECT_TRUE(failed<int>() == std::nullopt);
}

TEST(Outcome, HoldsMoveOnlyValues) {
  using pointer = std::unique_ptr<int>;
  static_assert(!std::is_copy_constructible_v<outcome<pointer>>);
  static_assert(std::is_nothrow_move_constructible_v<outcome<pointer>>);
  auto result = returned(std::make_unique<int>(7));
  EXPECT_EQ(**result, 7);
  auto moved = std::move(result);
  pointer out = std::move(moved).value();
  EXPECT_EQ(*out, 7);
  EXPECT_EQ(*returned(std::make_unique<int>(8)).value_or(nullptr), 8);
  EXPECT_EQ(failed<pointer>().value_or(nullptr), nullptr);
  pointer starred = *returned(std::make_unique<int>(9));
  EXPECT_EQ(*starred, 9);
}

TEST(Outcome, CopiesWhereItsValueDoes) {
  const auto result = returned(std::vector<int>{1, 2, 3});
  const auto copy = result;
  EXPECT_EQ(*copy, *result);
  EXPECT_EQ(copy.explain(), result.explain());
}

TEST(Outcome, HoldsAnOptionalWithoutTakingItsEmptinessForFailure) {
  const outcome<std::optional<int>> result{verdict::returned, used, nullptr, "",
                                           std::optional<std::optional<int>>(std::optional<int>())};
  EXPECT_TRUE(result.has_value());
  EXPECT_EQ(result.value(), std::nullopt);
}

TEST(OutcomeOfVoid, TellsSuccessFromFailure) {
  const outcome<void> good{verdict::returned, used, nullptr, "f() returned"};
  EXPECT_TRUE(static_cast<bool>(good));
  EXPECT_NO_THROW(good.value());
  EXPECT_NO_THROW(*good);
  EXPECT_TRUE(good != pynisher::EMPTY);
  EXPECT_EQ(good.usage(), used);

  const outcome<void> bad{verdict::exited, used, std::make_exception_ptr(pynisher::ExitException("f() exited", 3)),
                          "f() exited"};
  EXPECT_FALSE(bad.has_value());
  EXPECT_TRUE(bad == pynisher::EMPTY);
  EXPECT_THROW(bad.value(), pynisher::ExitException);
  EXPECT_THROW(*bad, pynisher::ExitException);
  EXPECT_EQ(bad.verdict(), verdict::exited);
  EXPECT_EQ(bad.explain(), "f() exited");
}

TEST(Verdict, HasItsEnumeratorsNameAsText) {
  const std::pair<verdict, const char*> names[] = {{verdict::returned, "returned"},
                                                   {verdict::raised, "raised"},
                                                   {verdict::wall_timeout, "wall_timeout"},
                                                   {verdict::cpu_timeout, "cpu_timeout"},
                                                   {verdict::memory_limit, "memory_limit"},
                                                   {verdict::signalled, "signalled"},
                                                   {verdict::exited, "exited"},
                                                   {verdict::cancelled, "cancelled"},
                                                   {verdict::start_failed, "start_failed"},
                                                   {verdict::protocol_error, "protocol_error"}};
  for (const auto& [v, name] : names) EXPECT_STREQ(to_string(v), name);
}

}  // namespace
