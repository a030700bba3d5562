#include "wrapping.hpp"

#include <stdexcept>
#include <string>
#include <system_error>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/exceptions.hpp>

namespace ml {
struct not_fitted : std::runtime_error {
  using std::runtime_error::runtime_error;
};
template <class T>
struct failure {};
}  // namespace ml

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using namespace pynisher::detail;
using pynisher::verdict;
using pynisher::wrap;
using pynisher::wrap_as;
using testing::AllOf;
using testing::HasSubstr;

received_exception thrown(const std::string& type_name, std::error_code code = {}) {
  received_exception received;
  received.info = {type_name, "it broke", type_name + ": it broke [process 7]", {}, 7};
  received.code = code;
  received.error = std::make_exception_ptr(std::runtime_error("it broke"));
  return received;
}

evidence used() {
  evidence e;
  e.usage = {3s, 2s, 1s, 5 << 20, 7};
  return e;
}

std::optional<wrapped_exception> apply(pynisher::error_wrapping rules, const received_exception& what) {
  const auto checked = settings::judge({.cpu_time = 10s, .wall_time = 20s, .wrap_errors = std::move(rules)});
  return apply_wrapping(checked, what, "train(3)", used());
}

template <class E>
bool is(const std::optional<wrapped_exception>& wrapped) {
  if (!wrapped) return false;
  try {
    std::rethrow_exception(wrapped->error);
  } catch (const E& e) {
    return std::string(e.what()).find("it broke") != std::string::npos;
  } catch (...) {
    return false;
  }
}

TEST(NamesType, MeansTheWholeNameOrItsLastComponent) {
  EXPECT_TRUE(names_type("std::logic_error", "std::logic_error"));
  EXPECT_TRUE(names_type("logic_error", "std::logic_error"));
  EXPECT_TRUE(names_type("NotFitted", "NotFitted"));
  EXPECT_TRUE(names_type("NotFitted", "a::b::NotFitted"));
  EXPECT_FALSE(names_type("error", "std::logic_error"));
  EXPECT_FALSE(names_type("logic_error", "std::logic_error2"));
  EXPECT_FALSE(names_type("std::logic_error", "my::std::logic_error"));
  EXPECT_FALSE(names_type("other::NotFitted", "a::b::NotFitted"));
  EXPECT_FALSE(names_type("Notfitted", "a::NotFitted")) << "C++ names have case";
  EXPECT_FALSE(names_type("", "std::logic_error"));
}

TEST(NamesType, DoesNotTakeATemplatesArgumentForItsNamespace) {
  EXPECT_TRUE(names_type("ml::failure<std::string>", "ml::failure<std::string>"));
  EXPECT_TRUE(names_type("failure<a::b>", "ml::failure<a::b>"));
  EXPECT_FALSE(names_type("b>", "ml::failure<a::b>"));
}

TEST(NamesType, FindsTypesInUnnamedNamespacesTemplatesAndFunctions) {
  EXPECT_TRUE(names_type("Local", "(anonymous namespace)::Local"));
  EXPECT_TRUE(names_type("Local", "run(int)::Local"));
  EXPECT_TRUE(names_type("NotFitted", "ml::model<int>::NotFitted"));
  EXPECT_TRUE(names_type("NotFitted", "ml::model<std::vector<int> >::NotFitted"));
  EXPECT_TRUE(names_type("Local", "run(std::vector<int, std::allocator<int> >)::Local"));
}

TEST(Wrapping, IsOffByDefault) {
  EXPECT_FALSE(apply({}, thrown("std::logic_error")));
  EXPECT_FALSE(apply(false, thrown("std::logic_error")));
}

TEST(Wrapping, TrueWrapsEverything) {
  const auto wrapped = apply(true, thrown("a::TypeThatTheParentDoesNotKnow"));
  ASSERT_TRUE(wrapped);
  EXPECT_EQ(wrapped->verdict, verdict::raised);
  EXPECT_TRUE(is<pynisher::WrappedException>(wrapped));
  try {
    std::rethrow_exception(wrapped->error);
  } catch (const pynisher::WrappedException& e) {
    EXPECT_EQ(e.type_name(), "a::TypeThatTheParentDoesNotKnow");
    EXPECT_EQ(e.message(), "it broke");
    EXPECT_EQ(e.excinfo().pid, 7);
  }
}

TEST(Wrapping, AListWrapsOnlyThose) {
  const pynisher::error_wrapping rules{wrap<ml::not_fitted>(), wrap("ImportError")};
  EXPECT_TRUE(is<pynisher::WrappedException>(apply(rules, thrown("ml::not_fitted"))));
  EXPECT_TRUE(is<pynisher::WrappedException>(apply(rules, thrown("py::ImportError"))));
  EXPECT_FALSE(apply(rules, thrown("std::runtime_error"))) << "the base of a listed type";
  EXPECT_FALSE(apply(rules, thrown("ml::not_fitted_at_all")));
  EXPECT_FALSE(apply(rules, thrown("other::not_fitted"))) << "wrap<T>() means exactly T";
}

TEST(Wrapping, ATargetTurnsItIntoThatLimit) {
  const auto memory = apply({wrap("ImportError", wrap_as::memory)}, thrown("ImportError"));
  EXPECT_TRUE(is<pynisher::MemoryLimitException>(memory));
  EXPECT_EQ(memory->verdict, verdict::memory_limit);
  const auto cpu = apply({wrap("ImportError", wrap_as::cpu_time)}, thrown("ImportError"));
  EXPECT_TRUE(is<pynisher::CpuTimeoutException>(cpu));
  EXPECT_EQ(cpu->verdict, verdict::cpu_timeout);
  const auto wall = apply({wrap("ImportError", wrap_as::wall_time)}, thrown("ImportError"));
  EXPECT_TRUE(is<pynisher::WallTimeoutException>(wall));
  EXPECT_EQ(wall->verdict, verdict::wall_timeout);
  const auto itself = apply({wrap("ImportError", wrap_as::pynisher)}, thrown("ImportError"));
  EXPECT_TRUE(is<pynisher::WrappedException>(itself));
  EXPECT_EQ(itself->verdict, verdict::raised);
}

TEST(Wrapping, TheLimitExceptionsCarryTheNumbersOfTheCall) {
  const auto wrapped = apply({wrap("E", wrap_as::wall_time)}, thrown("E"));
  ASSERT_TRUE(wrapped);
  try {
    std::rethrow_exception(wrapped->error);
  } catch (const pynisher::WallTimeoutException& e) {
    EXPECT_EQ(e.limit(), 20s);
    EXPECT_EQ(e.measured(), 3s);
    EXPECT_EQ(e.call(), "train(3)");
    EXPECT_EQ(e.usage().peak_memory, 5u << 20);
    EXPECT_THAT(e.what(), AllOf(HasSubstr("train(3)"), HasSubstr("E: it broke")));
  }
}

TEST(Wrapping, WorksWithoutTheLimitThatItNames) {
  const auto wrapped = apply({wrap("E", wrap_as::memory)}, thrown("E"));
  ASSERT_TRUE(wrapped);
  try {
    std::rethrow_exception(wrapped->error);
  } catch (const pynisher::MemoryLimitException& e) {
    EXPECT_FALSE(e.limit().has_value());
  }
}

TEST(Wrapping, TheFirstRuleThatMatchesDecides) {
  const auto wrapped =
      apply({wrap("Other", wrap_as::wall_time), wrap("E", wrap_as::cpu_time), wrap("E", wrap_as::memory)}, thrown("E"));
  EXPECT_TRUE(is<pynisher::CpuTimeoutException>(wrapped));
}

TEST(Wrapping, ACodeMatchesByEquivalence) {
  // ENOENT: Windows has the same number for it, so that it means the same in both categories everywhere.
  const pynisher::error_wrapping rules{wrap(std::errc::no_such_file_or_directory, wrap_as::memory)};
  const auto system = thrown("std::system_error", {ENOENT, std::system_category()});
  const auto generic = thrown("std::filesystem::filesystem_error", {ENOENT, std::generic_category()});
  EXPECT_TRUE(is<pynisher::MemoryLimitException>(apply(rules, system)));
  EXPECT_TRUE(is<pynisher::MemoryLimitException>(apply(rules, generic)));
  EXPECT_FALSE(apply(rules, thrown("std::system_error", {EPERM, std::system_category()})));
  EXPECT_FALSE(apply(rules, thrown("std::logic_error"))) << "no code at all";
}

TEST(Wrapping, ACodeOfAnUnknownCategoryIsNotTakenForAnErrno) {
  const pynisher::error_wrapping rules{wrap(std::errc::not_enough_memory)};
  EXPECT_FALSE(apply(rules, thrown("std::system_error", {ENOMEM, category_named("some.library")})));
}

}  // namespace
