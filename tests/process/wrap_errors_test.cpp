// wrap_errors: which exceptions of the function arrive as something else.

#include <chrono>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/functions.hpp"
#include "support/outcomes.hpp"
#include "support/suites.hpp"

namespace tests {

struct not_fitted_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct worse_than_not_fitted : not_fitted_error {
  using not_fitted_error::not_fitted_error;
};

}  // namespace tests

PYNISHER_EXCEPTION(tests::not_fitted_error);

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::limit;
using pynisher::verdict;
using pynisher::wrap;
using pynisher::wrap_as;
using pynisher::WrappedException;
using support::EndedAs;
using support::FailedWith;
using support::RaisedAs;
using ::testing::HasSubstr;

void throw_not_fitted() { throw tests::not_fitted_error("call fit first"); }
void throw_worse() { throw tests::worse_than_not_fitted("much worse"); }
void throw_no_memory_code() { throw std::system_error(std::make_error_code(std::errc::not_enough_memory), "gpu"); }
void throw_raw_int() { throw 3; }

class WrapErrors : public support::per_start_method {
 protected:
  static auto call(void (*fn)(), pynisher::error_wrapping wrapping) {
    return limit(fn, with({.wall_time = 60s, .wrap_errors = std::move(wrapping)})).try_call();
  }
  static auto arrives_wrapped_as(const std::string& type, const std::string& message) {
    return FailedWith<WrappedException>([=](const WrappedException& e) {
      EXPECT_EQ(e.type_name(), type);
      EXPECT_EQ(e.message(), message);
      EXPECT_THAT(e.what(), HasSubstr(type));
      EXPECT_THAT(e.what(), HasSubstr(message));
      EXPECT_NE(e.excinfo().pid, 0);
    });
  }
};
FOR_EACH_START_METHOD(WrapErrors);

TEST_P(WrapErrors, FalseWrapsNothing) {
  EXPECT_THAT(call(throw_not_fitted, false), RaisedAs<tests::not_fitted_error>("call fit first"));
}

TEST_P(WrapErrors, TrueWrapsEveryException) {
  EXPECT_THAT(call(throw_not_fitted, true), arrives_wrapped_as("tests::not_fitted_error", "call fit first"));
  EXPECT_THAT(call(throw_worse, true), arrives_wrapped_as("tests::worse_than_not_fitted", "much worse"));
  EXPECT_THAT(call(throw_raw_int, true), arrives_wrapped_as("int", "3"));
}

TEST_P(WrapErrors, AWrappedExceptionIsThisLibrarysAndARuntimeError) {
  const auto wrapped = limit(throw_not_fitted, with({.wrap_errors = true}));
  EXPECT_THROW(wrapped(), pynisher::PynisherException);
  EXPECT_THROW(wrapped(), std::runtime_error);
}

TEST_P(WrapErrors, TrueWrapsNoLimitThatWasHit) {
  EXPECT_THAT(limit(support::sleep_forever, with({.wall_time = 40ms, .wrap_errors = true})).try_call(),
              FailedWith<pynisher::WallTimeoutException>());
  EXPECT_THAT(limit(support::spin_forever, with({.cpu_time = 40ms, .wrap_errors = true})).try_call(),
              FailedWith<pynisher::CpuTimeoutException>());
}

TEST_P(WrapErrors, TrueWrapsNoMemoryLimitThatWasHit) {
  SKIP_UNLESS_SUPPORTED("memory");
  EXPECT_THAT(limit(support::touch_memory_forever, with({.memory = 30_MiB, .wrap_errors = true})).try_call(),
              FailedWith<pynisher::MemoryLimitException>());
}

TEST_P(WrapErrors, TrueWrapsNoDeath) {
  EXPECT_THAT(limit(support::end_by_a_signal, with({.wrap_errors = true})).try_call(),
              FailedWith<pynisher::SignalException>());
}

struct twin : std::runtime_error {
  using std::runtime_error::runtime_error;
};
namespace other {
struct twin : std::runtime_error {
  using std::runtime_error::runtime_error;
};
}  // namespace other

TEST_P(WrapErrors, ATypeIsNotItsNamesakeElsewhere) {
  const auto namesake = limit([] { throw other::twin("other"); }, with({.wrap_errors = {wrap<twin>()}})).try_call();
  EXPECT_THAT(namesake.explain(), HasSubstr("other::twin"));
  EXPECT_THROW(static_cast<void>(namesake.value()), pynisher::ExecutionFailed);
  const auto itself = limit([] { throw twin("own"); }, with({.wrap_errors = {wrap<twin>()}})).try_call();
  EXPECT_THAT(itself, FailedWith<WrappedException>());
}

TEST_P(WrapErrors, AListWrapsOnlyThoseByType) {
  EXPECT_THAT(call(throw_not_fitted, {wrap<tests::not_fitted_error>()}),
              arrives_wrapped_as("tests::not_fitted_error", "call fit first"));
  EXPECT_THAT(call(throw_not_fitted, {wrap<std::logic_error>()}), RaisedAs<tests::not_fitted_error>());
}

TEST_P(WrapErrors, AListWrapsOnlyThoseByName) {
  EXPECT_THAT(call(throw_not_fitted, {wrap("not_fitted_error")}),
              arrives_wrapped_as("tests::not_fitted_error", "call fit first"));
  EXPECT_THAT(call(throw_not_fitted, {wrap("tests::not_fitted_error")}),
              arrives_wrapped_as("tests::not_fitted_error", "call fit first"));
  EXPECT_THAT(call(throw_not_fitted, {wrap("fitted_error")}), RaisedAs<tests::not_fitted_error>());
  EXPECT_THAT(call(throw_not_fitted, {wrap("other::not_fitted_error")}), RaisedAs<tests::not_fitted_error>());
}

TEST_P(WrapErrors, TheTypeIsMatchedExactlyAndItsBasesAreNot) {
  EXPECT_THAT(call(throw_worse, {wrap<tests::not_fitted_error>()}), EndedAs(verdict::raised));
  EXPECT_THROW(call(throw_worse, {wrap<tests::not_fitted_error>()}).value(), tests::not_fitted_error);
  EXPECT_THAT(call(throw_worse, {wrap<tests::not_fitted_error>()}), ::testing::Not(FailedWith<WrappedException>()));
  EXPECT_THROW(call(throw_not_fitted, {wrap<std::runtime_error>()}).value(), tests::not_fitted_error);
}

TEST_P(WrapErrors, NamesThatThisProgramHasNeverHeardOfAreHarmless) {
  EXPECT_THAT(call(throw_not_fitted, {wrap("NoSuchErrorAnywhere"), wrap("sklearn::NotFittedError")}),
              RaisedAs<tests::not_fitted_error>());
}

TEST_P(WrapErrors, WorksWithTypesThatOnlyTheChildKnows) {
  const auto ended = limit(
                         [] {
                           struct only_here {};
                           throw only_here();
                         },
                         with({.wrap_errors = {wrap("only_here")}}))
                         .try_call();
  EXPECT_THAT(ended,
              FailedWith<WrappedException>([](const auto& e) { EXPECT_THAT(e.type_name(), HasSubstr("only_here")); }));
}

TEST_P(WrapErrors, ATargetMakesItALimit) {
  const auto as_memory = call(throw_not_fitted, {wrap<tests::not_fitted_error>(wrap_as::memory)});
  EXPECT_THAT(as_memory, EndedAs(verdict::memory_limit));
  EXPECT_THAT(as_memory, FailedWith<pynisher::MemoryLimitException>(
                             [](const auto& e) { EXPECT_THAT(e.what(), HasSubstr("call fit first")); }));
  EXPECT_THAT(call(throw_not_fitted, {wrap("not_fitted_error", wrap_as::cpu_time)}), EndedAs(verdict::cpu_timeout));
  EXPECT_THAT(call(throw_not_fitted, {wrap("not_fitted_error", wrap_as::cpu_time)}),
              FailedWith<pynisher::CpuTimeoutException>());
  EXPECT_THAT(call(throw_not_fitted, {wrap("not_fitted_error", wrap_as::wall_time)}),
              FailedWith<pynisher::WallTimeoutException>());
  EXPECT_THAT(call(throw_not_fitted, {wrap("not_fitted_error", wrap_as::pynisher)}), FailedWith<WrappedException>());
}

TEST_P(WrapErrors, ACodeIsMatchedWhateverTheTypeThatCarriesIt) {
  EXPECT_THAT(call(throw_no_memory_code, {wrap(std::errc::not_enough_memory, wrap_as::memory)}),
              FailedWith<pynisher::MemoryLimitException>());
  EXPECT_THAT(call(throw_no_memory_code, {wrap(std::errc::io_error, wrap_as::memory)}), RaisedAs<std::system_error>());
  EXPECT_THAT(call(throw_not_fitted, {wrap(std::errc::not_enough_memory, wrap_as::memory)}),
              RaisedAs<tests::not_fitted_error>());
}

TEST_P(WrapErrors, TheFirstRuleThatMatchesDecides) {
  EXPECT_THAT(call(throw_not_fitted, {wrap("something_else", wrap_as::memory), wrap("not_fitted_error"),
                                      wrap<tests::not_fitted_error>(wrap_as::wall_time)}),
              FailedWith<WrappedException>());
}

TEST_P(WrapErrors, ValuesAreNotConcerned) {
  EXPECT_EQ(limit([] { return 5; }, with({.wrap_errors = true}))(), 5);
}

}  // namespace
