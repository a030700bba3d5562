// The mixin rule: every type of the library's own is caught as what it is, as PynisherException, and, without
// ambiguity, by `catch (const std::exception&)`.

#include <pynisher/exceptions.hpp>

#include <csignal>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <type_traits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
namespace p = pynisher;

const p::usage used{3ms, 2ms, 1ms, 4096, 7};
const p::exception_info info{"my::Error", "it broke", "my::Error: it broke [process 7]", {"std::exception: why"}, 7};

/// What is thrown as `Thrown` must be caught as `Caught`, with its text whole.
template <class Caught, class Thrown>
bool caught_as(const Thrown& thrown) {
  try {
    throw thrown;
  } catch (const Caught& e) {
    return std::string(e.what()) == thrown.what();
  } catch (...) {
    return false;
  }
}

template <class... Caught, class Thrown>
void expect_caught_as(const Thrown& thrown) {
  EXPECT_TRUE((caught_as<std::exception>(thrown))) << "std::exception is ambiguous or its what() differs";
  EXPECT_TRUE((caught_as<Thrown>(thrown)));
  const bool all[] = {caught_as<Caught>(thrown)...};
  for (std::size_t i = 0; i < sizeof...(Caught); ++i) EXPECT_TRUE(all[i]) << "base number " << i;
  static_assert(std::is_nothrow_destructible_v<Thrown> && std::is_copy_constructible_v<Thrown>);
}

TEST(MixinRule, HoldsForEveryExceptionOfTheLibrary) {
  expect_caught_as<p::PynisherException, std::runtime_error>(p::TimeoutException("t", 1s, 2s));
  expect_caught_as<p::PynisherException, p::TimeoutException, std::runtime_error>(p::CpuTimeoutException("t", 1s, 2s));
  expect_caught_as<p::PynisherException, p::TimeoutException, std::runtime_error>(p::WallTimeoutException("t", 1s, 2s));
  expect_caught_as<p::PynisherException, std::bad_alloc>(p::MemoryLimitException("t", 1_MiB, 2_MiB));
  expect_caught_as<p::PynisherException, std::runtime_error>(p::WrappedException(info));
  expect_caught_as<p::PynisherException, std::runtime_error>(p::ChildDiedException("t"));
  expect_caught_as<p::PynisherException, p::ChildDiedException, std::runtime_error>(p::SignalException("t", SIGSEGV));
  expect_caught_as<p::PynisherException, p::ChildDiedException, std::runtime_error>(p::ExitException("t", 3));
  expect_caught_as<p::PynisherException, std::runtime_error>(p::CancelledException("t"));
  expect_caught_as<p::PynisherException, std::runtime_error>(p::KeyboardInterrupt("t"));
  expect_caught_as<p::PynisherException, std::system_error, std::runtime_error>(
      p::StartException("fork", std::make_error_code(std::errc::resource_unavailable_try_again)));
  expect_caught_as<p::PynisherException, std::runtime_error>(p::SerializationException("t"));
  expect_caught_as<p::PynisherException, std::runtime_error>(p::UnsupportedException("t"));
  expect_caught_as<p::ExecutionFailed>(p::UnknownException(info));
}

TEST(MixinRule, TheMixinsAreNoStandardExceptionsThemselves) {
  static_assert(!std::is_base_of_v<std::exception, p::PynisherException>);
  static_assert(!std::is_base_of_v<std::exception, p::ExecutionFailed>);
  static_assert(std::is_polymorphic_v<p::PynisherException> && std::is_polymorphic_v<p::ExecutionFailed>);
  static_assert(std::has_virtual_destructor_v<p::PynisherException> &&
                std::has_virtual_destructor_v<p::ExecutionFailed>);
}

TEST(MixinRule, UnrelatedTypesDoNotCatchEachOther) {
  EXPECT_FALSE((caught_as<p::TimeoutException>(p::MemoryLimitException("t", 1_MiB, 2_MiB))));
  EXPECT_FALSE((caught_as<p::WallTimeoutException>(p::CpuTimeoutException("t", 1s, 2s))));
  EXPECT_FALSE((caught_as<std::bad_alloc>(p::SignalException("t", SIGKILL))));
  EXPECT_FALSE((caught_as<p::PynisherException>(p::UnknownException(info))))
      << "the function's own, not a broken limit";
  EXPECT_FALSE((caught_as<p::ExecutionFailed>(p::SignalException("t", SIGKILL))));
}

TEST(TimeoutExceptions, KnowLimitMeasureCallAndUsage) {
  const p::WallTimeoutException e("too slow", 1s, 1001ms, "train(3)", used);
  EXPECT_STREQ(e.what(), "too slow");
  EXPECT_EQ(e.limit(), 1s);
  EXPECT_EQ(e.measured(), 1001ms);
  EXPECT_EQ(e.call(), "train(3)");
  EXPECT_EQ(e.usage(), used);
}

TEST(MemoryLimitException, KnowsLimitMeasureCallAndUsage) {
  const p::MemoryLimitException e("too big", 1_MiB, 900_KiB, "train(3)", used);
  EXPECT_STREQ(e.what(), "too big");
  EXPECT_EQ(e.limit(), 1_MiB);
  EXPECT_EQ(e.measured(), 900_KiB);
  EXPECT_EQ(e.call(), "train(3)");
  EXPECT_EQ(e.usage(), used);
}

TEST(DeathExceptions, KnowTheNumber) {
  const p::SignalException by_signal("died", SIGFPE, "f()", used);
  EXPECT_EQ(by_signal.signal(), SIGFPE);
  EXPECT_EQ(by_signal.call(), "f()");
  EXPECT_EQ(by_signal.usage(), used);
  const p::ExitException by_exit("left", 0, "f()", used);
  EXPECT_EQ(by_exit.exit_code(), 0);
  EXPECT_EQ(by_exit.usage(), used);
}

TEST(StartException, KnowsItsStageAndErrorNumber) {
  const p::StartException e("set the memory limit", std::error_code(EPERM, std::system_category()));
  EXPECT_EQ(e.stage(), "set the memory limit");
  EXPECT_EQ(e.code().value(), EPERM);
  EXPECT_EQ(e.code(), std::errc::operation_not_permitted);
  EXPECT_THAT(e.what(), testing::HasSubstr("set the memory limit"));
}

TEST(WrappedException, KeepsTheOriginalsNameAndText) {
  const p::WrappedException e(info);
  EXPECT_EQ(e.type_name(), "my::Error");
  EXPECT_EQ(e.message(), "it broke");
  EXPECT_EQ(e.excinfo().pid, 7);
  EXPECT_THAT(e.what(), testing::AllOf(testing::HasSubstr("my::Error"), testing::HasSubstr("it broke")));
}

TEST(UnknownException, SaysWhatWasThrown) {
  const p::UnknownException e(info);
  EXPECT_EQ(e.excinfo().type_name, "my::Error");
  EXPECT_EQ(e.excinfo().chain, info.chain);
  EXPECT_THAT(e.what(), testing::HasSubstr("my::Error: it broke"));
}

TEST(Exceptions, AreValues) {
  std::string text;
  {
    const p::MemoryLimitException original("the text", 1_MiB, 2_MiB, "f()", used);
    const p::MemoryLimitException copy = original;
    text = copy.what();
    p::MemoryLimitException other("x", 1_B, 1_B);
    other = copy;
    EXPECT_STREQ(other.what(), "the text");
    EXPECT_EQ(other.call(), "f()");
  }
  EXPECT_EQ(text, "the text");
}

}  // namespace
