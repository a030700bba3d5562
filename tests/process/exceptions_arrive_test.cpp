// An exception of the function arrives as what it was.

#include <any>
#include <cerrno>
#include <exception>
#include <filesystem>
#include <functional>
#include <future>
#include <new>
#include <optional>
#include <regex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <typeinfo>
#include <utility>
#include <variant>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/outcomes.hpp"
#include "support/suites.hpp"
#include "support/system.hpp"

namespace tests {

struct not_fitted : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct parse_error : std::runtime_error {
  int line = 0;
  std::string file;
  explicit parse_error(const std::string& text, int at = 0, std::string in = {})
      : std::runtime_error(text), line(at), file(std::move(in)) {}
  template <class Archive>
  void serialize(Archive& ar) {
    ar(line, file);
  }
};

struct unregistered : std::out_of_range {
  using std::out_of_range::out_of_range;
};

struct derived_from_registered : parse_error {
  using parse_error::parse_error;
};

/// Of no known base at all.
struct stranger {
  int number;
};

struct says_nothing : std::exception {
  [[nodiscard]] const char* what() const noexcept override { return "nothing in particular"; }
};

}  // namespace tests

PYNISHER_EXCEPTION(tests::not_fitted);
PYNISHER_EXCEPTION(tests::parse_error);

namespace {

using pynisher::ExecutionFailed;
using pynisher::limit;
using pynisher::UnknownException;
using pynisher::verdict;
using support::EndedAs;
using support::RaisedAs;
using support::thrown_by;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class Exceptions : public support::per_start_method {};
FOR_EACH_START_METHOD(Exceptions);

template <class E>
void throw_with_text() {
  throw E("the text");
}
template <class E>
void throw_plain() {
  throw E();
}

TEST_P(Exceptions, OfTheStandardWithATextKeepTypeAndText) {
#define KEEPS_TYPE_AND_TEXT(E) EXPECT_THAT(limit(throw_with_text<E>, unlimited()).try_call(), RaisedAs<E>("the text"))
  KEEPS_TYPE_AND_TEXT(std::logic_error);
  KEEPS_TYPE_AND_TEXT(std::invalid_argument);
  KEEPS_TYPE_AND_TEXT(std::domain_error);
  KEEPS_TYPE_AND_TEXT(std::length_error);
  KEEPS_TYPE_AND_TEXT(std::out_of_range);
  KEEPS_TYPE_AND_TEXT(std::runtime_error);
  KEEPS_TYPE_AND_TEXT(std::range_error);
  KEEPS_TYPE_AND_TEXT(std::overflow_error);
  KEEPS_TYPE_AND_TEXT(std::underflow_error);
#undef KEEPS_TYPE_AND_TEXT
}

TEST_P(Exceptions, OfTheStandardWithoutATextKeepTypeAndTheirOwnText) {
#define KEEPS_TYPE(E) EXPECT_THAT(limit(throw_plain<E>, unlimited()).try_call(), RaisedAs<E>(E().what()))
  KEEPS_TYPE(std::exception);
  KEEPS_TYPE(std::bad_alloc);
  KEEPS_TYPE(std::bad_array_new_length);
  KEEPS_TYPE(std::bad_exception);
  KEEPS_TYPE(std::bad_cast);
  KEEPS_TYPE(std::bad_typeid);
  KEEPS_TYPE(std::bad_function_call);
  KEEPS_TYPE(std::bad_optional_access);
  KEEPS_TYPE(std::bad_variant_access);
  KEEPS_TYPE(std::bad_any_cast);
  KEEPS_TYPE(std::bad_weak_ptr);
#undef KEEPS_TYPE
}

TEST_P(Exceptions, ThrownByTheLibraryItselfArriveToo) {
  EXPECT_THAT(limit([] { return std::string("short").at(99); }, unlimited()).try_call(), RaisedAs<std::out_of_range>());
  EXPECT_THAT(limit([] { return std::stoi("no number"); }, unlimited()).try_call(), RaisedAs<std::invalid_argument>());
  EXPECT_THAT(limit([] { return std::optional<int>().value(); }, unlimited()).try_call(),
              RaisedAs<std::bad_optional_access>());
}

TEST_P(Exceptions, SystemErrorsKeepCodeCategoryAndText) {
  const auto call = limit([] { throw std::system_error(ENOSPC, std::system_category(), "writing"); }, unlimited());
  EXPECT_THAT(call.try_call(), RaisedAs<std::system_error>([](const auto& e) {
                EXPECT_EQ(e.code(), std::error_code(ENOSPC, std::system_category()));
                // Where the system's numbers are errno's.
                const bool is_known = std::error_code(ENOSPC, std::system_category()) == std::errc::no_space_on_device;
                EXPECT_EQ(e.code() == std::errc::no_space_on_device, is_known);
                EXPECT_STREQ(e.what(), std::system_error(ENOSPC, std::system_category(), "writing").what());
              }));
  const auto generic =
      limit([] { throw std::system_error(std::make_error_code(std::errc::timed_out), "asking"); }, unlimited());
  EXPECT_THAT(generic.try_call(), RaisedAs<std::system_error>([](const auto& e) {
                EXPECT_EQ(e.code().category(), std::generic_category());
                EXPECT_EQ(e.code(), std::errc::timed_out);
              }));
}

TEST_P(Exceptions, FilesystemErrorsKeepCodeAndBothPaths) {
  EXPECT_THAT(limit([] { return std::filesystem::file_size("/no/such/file"); }, unlimited()).try_call(),
              RaisedAs<std::filesystem::filesystem_error>([](const auto& e) {
                EXPECT_EQ(e.code(), std::errc::no_such_file_or_directory);
                EXPECT_EQ(e.path1(), "/no/such/file");
                EXPECT_EQ(e.path2(), "");
              }));
  EXPECT_THAT(limit([] { std::filesystem::rename("/no/such/a", "/no/such/b"); }, unlimited()).try_call(),
              RaisedAs<std::filesystem::filesystem_error>([](const auto& e) {
                EXPECT_EQ(e.path1(), "/no/such/a");
                EXPECT_EQ(e.path2(), "/no/such/b");
              }));
}

TEST_P(Exceptions, RegexFutureAndStreamErrorsKeepTheirCodes) {
  EXPECT_THAT(limit([] { std::regex("("); }, unlimited()).try_call(), RaisedAs<std::regex_error>([](const auto& e) {
                EXPECT_EQ(e.code(), std::regex_constants::error_paren);
              }));
  EXPECT_THAT(limit([] { throw std::future_error(std::future_errc::no_state); }, unlimited()).try_call(),
              RaisedAs<std::future_error>([](const auto& e) { EXPECT_EQ(e.code(), std::future_errc::no_state); }));
  EXPECT_THAT(limit([] { throw std::ios_base::failure("stream"); }, unlimited()).try_call(),
              RaisedAs<std::ios_base::failure>(
                  [](const auto& e) { EXPECT_EQ(e.code(), std::make_error_code(std::io_errc::stream)); }));
}

// Some libraries have codes of their own. They arrive as they are, or as the base, but never as another code.
TEST_P(Exceptions, RegexErrorsOfOtherCodesArriveUnderNoOtherCode) {
  const auto conflict = [] { std::regex("a", std::regex::basic | std::regex::extended); };
  const auto arrived = limit(conflict, unlimited());
  try {
    conflict();
  } catch (const std::regex_error& here) {
    try {
      arrived();
      ADD_FAILURE();
    } catch (const std::regex_error& e) {
      EXPECT_EQ(e.code(), here.code());
    } catch (const std::runtime_error& e) {
      EXPECT_STREQ(e.what(), here.what());
      EXPECT_EQ(dynamic_cast<const ExecutionFailed&>(e).excinfo().type_name, "std::regex_error");
    }
  }
}

TEST_P(Exceptions, ValuesThrownRawArriveRaw) {
  EXPECT_THROW(limit([] { throw 17; }, unlimited())(), int);
  try {
    limit([] { throw 17; }, unlimited())();
  } catch (int number) {
    EXPECT_EQ(number, 17);
  }
  try {
    limit([] { throw std::string("a string"); }, unlimited())();
    ADD_FAILURE();
  } catch (const std::string& text) {
    EXPECT_EQ(text, "a string");
  }
  try {
    limit([] { throw "a literal"; }, unlimited())();
    ADD_FAILURE();
  } catch (const char* text) {
    EXPECT_STREQ(text, "a literal");
  }
}

// --- the user's own
// ----------------------------------------------------------------------------------------------------

TEST_P(Exceptions, RegisteredTypesArriveAsThemselves) {
  EXPECT_THAT(limit([] { throw tests::not_fitted("call fit first"); }, unlimited()).try_call(),
              RaisedAs<tests::not_fitted>("call fit first"));
}

TEST_P(Exceptions, RegisteredTypesKeepTheirFields) {
  EXPECT_THAT(limit([] { throw tests::parse_error("unexpected }", 42, "a.json"); }, unlimited()).try_call(),
              RaisedAs<tests::parse_error>("unexpected }", [](const auto& e) {
                EXPECT_EQ(e.line, 42);
                EXPECT_EQ(e.file, "a.json");
              }));
}

TEST_P(Exceptions, UnregisteredTypesArriveAsTheirNearestRegisteredBaseUnderTheirOwnName) {
  const auto call = limit([] { throw tests::unregistered("far out"); }, unlimited());
  try {
    call();
    ADD_FAILURE();
  } catch (const std::out_of_range& e) {
    EXPECT_STREQ(e.what(), "far out");
    const auto* failed = dynamic_cast<const ExecutionFailed*>(&e);
    ASSERT_NE(failed, nullptr);
    EXPECT_EQ(failed->excinfo().type_name, "tests::unregistered");
  }
  try {
    limit([] { throw tests::derived_from_registered("inner", 7); }, unlimited())();
    ADD_FAILURE();
  } catch (const tests::parse_error& e) {
    EXPECT_EQ(e.line, 7);
    EXPECT_EQ(dynamic_cast<const ExecutionFailed&>(e).excinfo().type_name, "tests::derived_from_registered");
  }
}

TEST_P(Exceptions, AnUnregisteredChildOfStdExceptionKeepsItsText) {
  try {
    limit([] { throw tests::says_nothing(); }, unlimited())();
    ADD_FAILURE();
  } catch (const std::exception& e) {
    EXPECT_STREQ(e.what(), "nothing in particular");
    EXPECT_EQ(dynamic_cast<const ExecutionFailed&>(e).excinfo().type_name, "tests::says_nothing");
  }
}

TEST_P(Exceptions, AStrangerArrivesAsUnknown) {
  const auto call = limit([] { throw tests::stranger{5}; }, unlimited());
  EXPECT_THAT(call.try_call(), EndedAs(verdict::raised));
  try {
    call();
    ADD_FAILURE();
  } catch (const UnknownException& e) {
    EXPECT_EQ(e.excinfo().type_name, "tests::stranger");
    EXPECT_THAT(e.what(), HasSubstr("tests::stranger"));
  }
  EXPECT_THROW(call(), std::exception);
  EXPECT_THROW(call(), ExecutionFailed);
}

TEST_P(Exceptions, TypesOfOneFunctionAreRegisteredWhenTheProgramSaysSo) {
  ONLY_BY_FORK("a process that is started afresh does not get to where the program registers it");
  struct late : std::runtime_error {
    using std::runtime_error::runtime_error;
  };
  const auto call = limit([] { throw late("after main began"); }, unlimited());
  EXPECT_THROW(call(), std::runtime_error);
  pynisher::register_exception<late>();
  pynisher::register_exception<late>();
  EXPECT_THAT(call.try_call(), RaisedAs<late>("after main began"));
}

// --- excinfo
// -------------------------------------------------------------------------------------------------------------

TEST_P(Exceptions, ExcinfoNamesTypeMessageAndProcess) {
  const auto call = limit([] { throw std::invalid_argument("pid " + std::to_string(support::own_pid())); }, unlimited());
  try {
    call();
    ADD_FAILURE();
  } catch (const ExecutionFailed& e) {
    EXPECT_EQ(e.excinfo().type_name, "std::invalid_argument");
    EXPECT_THAT(e.excinfo().message, StartsWith("pid "));
    EXPECT_EQ("pid " + std::to_string(e.excinfo().pid), e.excinfo().message);
    EXPECT_NE(e.excinfo().pid, support::own_pid());
    EXPECT_THAT(e.excinfo().formatted, HasSubstr("std::invalid_argument"));
    EXPECT_THAT(e.excinfo().formatted, HasSubstr(e.excinfo().message));
    EXPECT_THAT(e.excinfo().formatted, HasSubstr(std::to_string(e.excinfo().pid)));
    EXPECT_THAT(e.excinfo().chain, ::testing::IsEmpty());
  }
}

void cause() { throw std::system_error(EIO, std::generic_category(), "reading the disk"); }
void middle() {
  try {
    cause();
  } catch (...) {
    std::throw_with_nested(tests::parse_error("parsing", 3, "in"));
  }
}
void outermost() {
  try {
    middle();
  } catch (...) {
    std::throw_with_nested(std::runtime_error("starting up"));
  }
}

TEST_P(Exceptions, NestedChainsArriveLinkByLink) {
  int links = 0;
  const auto error = thrown_by(limit(outermost, unlimited()));
  ASSERT_TRUE(error);
  try {
    std::rethrow_exception(error);
  } catch (const std::runtime_error& e) {
    ++links;
    EXPECT_STREQ(e.what(), "starting up");
    const auto& info = dynamic_cast<const ExecutionFailed&>(e).excinfo();
    EXPECT_EQ(info.type_name, "std::runtime_error");
    EXPECT_THAT(info.chain, ElementsAre(StartsWith("tests::parse_error: parsing"),
                                        StartsWith("std::system_error: reading the disk")));
    EXPECT_THAT(info.formatted, HasSubstr("parsing"));
    EXPECT_THAT(info.formatted, HasSubstr("reading the disk"));
    try {
      std::rethrow_if_nested(e);
    } catch (const tests::parse_error& inner) {
      ++links;
      EXPECT_EQ(inner.line, 3);
      try {
        std::rethrow_if_nested(inner);
      } catch (const std::system_error& innermost) {
        ++links;
        EXPECT_EQ(innermost.code(), std::errc::io_error);
      }
    }
  }
  EXPECT_EQ(links, 3);
}

TEST_P(Exceptions, AVeryLongTextArrivesWhole) {
  const auto call = limit([] { throw std::runtime_error(std::string(5'000'000, 'w')); }, unlimited());
  try {
    call();
    ADD_FAILURE();
  } catch (const std::runtime_error& e) {
    EXPECT_EQ(std::string(e.what()), std::string(5'000'000, 'w'));
  }
}

TEST_P(Exceptions, TheOutcomeHoldsWhatTheCallWouldHaveThrown) {
  const auto ended = limit([] { throw std::range_error("r"); }, unlimited()).try_call();
  EXPECT_THAT(ended, EndedAs(verdict::raised));
  ASSERT_TRUE(ended.error());
  EXPECT_THROW(std::rethrow_exception(ended.error()), std::range_error);
  EXPECT_THROW(ended.value(), std::range_error);
  EXPECT_THAT(ended.explain(), HasSubstr("std::range_error"));
}

}  // namespace
