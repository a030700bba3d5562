// An exception that crosses arrives as itself, with all that it holds, and knows where it came from.

#include "exception_frame.hpp"

#include <unistd.h>

#include <any>
#include <csignal>
#include <exception>
#include <filesystem>
#include <functional>
#include <future>
#include <ios>
#include <memory>
#include <new>
#include <optional>
#include <regex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <typeinfo>
#include <variant>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/exception_registry.hpp>
#include <pynisher/exceptions.hpp>
#include <pynisher/options.hpp>

#include "unit/exception_bytes.hpp"

namespace shop {

struct not_fitted : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct parse_error : std::runtime_error {
  int line = 0;
  std::vector<std::string> hints;
  explicit parse_error(const std::string& text, int at = 0) : runtime_error(text), line(at) {}
  template <class Archive>
  void serialize(Archive& ar) {
    ar(line, hints);
  }
};
struct only_fields : std::exception {
  double value = 0;
  [[nodiscard]] const char* what() const noexcept override { return "only fields"; }
  template <class Archive>
  void serialize(Archive& ar) {
    ar(value);
  }
};
struct no_standard_exception {
  int code = 0;
  template <class Archive>
  void serialize(Archive& ar) {
    ar(code);
  }
};
struct tag {};
struct last final : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct with_cause_of_its_own : std::runtime_error, std::nested_exception {
  explicit with_cause_of_its_own(const std::string& text) : std::runtime_error(text) {}
};
struct prefixed : std::runtime_error {
  explicit prefixed(const std::string& text) : std::runtime_error("prefix: " + text) {}
};

struct stranger : not_fitted {
  using not_fitted::not_fitted;
};
struct stranger_to_all {
  int code = 0;
};
struct lonely : std::exception {
  [[nodiscard]] const char* what() const noexcept override { return "lonely words"; }
};
struct twice_std : std::runtime_error, std::domain_error {
  twice_std() : std::runtime_error("run time"), std::domain_error("domain") {}
};
struct hidden : private std::runtime_error {
  hidden() : std::runtime_error("hidden") {}
};
struct left : virtual std::exception {};
struct right : virtual std::exception {};
struct diamond : left, right {
  [[nodiscard]] const char* what() const noexcept override { return "diamond"; }
};
struct failing_codec : std::runtime_error {
  using std::runtime_error::runtime_error;
  template <class Archive>
  void serialize(Archive&) {
    if constexpr (Archive::is_loading::value) throw std::logic_error("cannot be rebuilt");
  }
};
template <class T>
struct parametrised : std::logic_error {
  using std::logic_error::logic_error;
};

}  // namespace shop

PYNISHER_EXCEPTION(shop::not_fitted);
PYNISHER_EXCEPTION(shop::parse_error);
PYNISHER_EXCEPTION(shop::only_fields);
PYNISHER_EXCEPTION(shop::no_standard_exception);
PYNISHER_EXCEPTION(shop::tag);
PYNISHER_EXCEPTION(shop::last);
PYNISHER_EXCEPTION(shop::with_cause_of_its_own);
PYNISHER_EXCEPTION(shop::prefixed);
PYNISHER_EXCEPTION(shop::failing_codec);
PYNISHER_EXCEPTION(shop::parametrised<std::pair<int, int>>);

namespace {

namespace p = pynisher;
using namespace std::chrono_literals;
using namespace pynisher::literals;
using p::detail::received_exception;
using p::detail::wire_error;
using p::testing::packed_exception;
using p::testing::sent;
using p::testing::thrown;
using p::testing::thrown_by;
using testing::ElementsAre;
using testing::HasSubstr;

template <class Exception>
bool is_type_of_arrived(const std::type_info& type) {
  // Of a type without virtual functions only the static type can be seen.
  if constexpr (!std::is_polymorphic_v<Exception> || std::is_final_v<Exception> ||
                std::is_base_of_v<p::ExecutionFailed, Exception>) {
    return type == typeid(Exception);
  } else {
    return type == typeid(p::detail::arrived<Exception>) || type == typeid(p::detail::arrived_nested<Exception>);
  }
}

/// Catches it as exactly this type, or as what the library made of this type, and shows it to `look`.
template <class Exception, class Look>
void expect_arrives(const received_exception& arrived, const Look& look) {
  try {
    std::rethrow_exception(arrived.error);
  } catch (const Exception& e) {
    EXPECT_TRUE(is_type_of_arrived<Exception>(typeid(e))) << p::detail::demangled_name(typeid(e));
    look(e);
  } catch (...) {
    ADD_FAILURE() << p::detail::demangled_name(typeid(Exception)) << " arrived as something else";
  }
}

/// It also arrives as `ExecutionFailed`, with everything that is known of it.
void expect_execution_failed(const received_exception& arrived, const std::string& type_name,
                             const std::string& message) {
  try {
    std::rethrow_exception(arrived.error);
  } catch (const p::ExecutionFailed& e) {
    EXPECT_EQ(e.excinfo().type_name, type_name);
    EXPECT_EQ(e.excinfo().message, message);
    EXPECT_EQ(e.excinfo().pid, ::getpid());
    EXPECT_THAT(e.excinfo().formatted, testing::AllOf(HasSubstr(type_name), HasSubstr(message.substr(0, 100))));
  } catch (...) {
    ADD_FAILURE() << type_name << " is no ExecutionFailed";
  }
}

template <class Exception>
void expect_text_survives(const Exception& original, const std::string& type_name) {
  SCOPED_TRACE(type_name);
  const auto arrived = sent(thrown(original));
  expect_arrives<Exception>(arrived, [&](const Exception& e) { EXPECT_STREQ(e.what(), original.what()); });
  expect_execution_failed(arrived, type_name, original.what());
  try {
    std::rethrow_exception(arrived.error);
  } catch (const std::exception& e) {
    EXPECT_STREQ(e.what(), original.what());
  } catch (...) {
    ADD_FAILURE() << "it is not caught by std::exception";
  }
}

TEST(StandardExceptions, ArriveAsThemselvesWithTheirText) {
  expect_text_survives(std::exception(), "std::exception");
  expect_text_survives(std::bad_exception(), "std::bad_exception");
  expect_text_survives(std::bad_alloc(), "std::bad_alloc");
  expect_text_survives(std::bad_array_new_length(), "std::bad_array_new_length");
  expect_text_survives(std::bad_cast(), "std::bad_cast");
  expect_text_survives(std::bad_typeid(), "std::bad_typeid");
  expect_text_survives(std::bad_function_call(), "std::bad_function_call");
  expect_text_survives(std::bad_weak_ptr(), "std::bad_weak_ptr");
  expect_text_survives(std::bad_optional_access(), "std::bad_optional_access");
  expect_text_survives(std::bad_variant_access(), "std::bad_variant_access");
  expect_text_survives(std::bad_any_cast(), "std::bad_any_cast");
  expect_text_survives(std::logic_error("why"), "std::logic_error");
  expect_text_survives(std::invalid_argument("why"), "std::invalid_argument");
  expect_text_survives(std::domain_error("why"), "std::domain_error");
  expect_text_survives(std::length_error("why"), "std::length_error");
  expect_text_survives(std::out_of_range(""), "std::out_of_range");
  expect_text_survives(std::runtime_error(std::string(100'000, 'x')), "std::runtime_error");
  expect_text_survives(std::range_error("why"), "std::range_error");
  expect_text_survives(std::overflow_error("why"), "std::overflow_error");
  expect_text_survives(std::underflow_error("why"), "std::underflow_error");
}

TEST(StandardExceptions, KeepTheirCodes) {
  const std::system_error original(EPERM, std::system_category(), "opening");
  const auto arrived = sent(thrown(original));
  expect_arrives<std::system_error>(arrived, [&](const std::system_error& e) {
    EXPECT_EQ(e.code(), original.code());
    EXPECT_EQ(&e.code().category(), &std::system_category());
    EXPECT_EQ(e.code(), std::errc::operation_not_permitted);
    EXPECT_STREQ(e.what(), original.what()) << "the code's text must not be there twice";
  });
  EXPECT_EQ(arrived.code, original.code());
  expect_arrives<std::ios_base::failure>(sent(thrown(std::ios_base::failure("bad stream"))), [](const auto& e) {
    EXPECT_EQ(e.code(), std::io_errc::stream);
    EXPECT_STREQ(e.what(), std::ios_base::failure("bad stream").what());
  });
  expect_arrives<std::future_error>(sent(thrown(std::future_error(std::future_errc::broken_promise))),
                                    [](const auto& e) { EXPECT_EQ(e.code(), std::future_errc::broken_promise); });
  expect_arrives<std::regex_error>(sent(thrown(std::regex_error(std::regex_constants::error_stack))),
                                   [](const auto& e) { EXPECT_EQ(e.code(), std::regex_constants::error_stack); });
}

TEST(StandardExceptions, KeepTheirPaths) {
  namespace fs = std::filesystem;
  const fs::filesystem_error original("rename", "/from here", fs::path("\xff to"),
                                      std::make_error_code(std::errc::no_such_file_or_directory));
  const auto arrived = sent(thrown(original));
  expect_arrives<fs::filesystem_error>(arrived, [&](const fs::filesystem_error& e) {
    EXPECT_EQ(e.path1(), original.path1());
    EXPECT_EQ(e.path2(), original.path2());
    EXPECT_EQ(e.code(), original.code());
    EXPECT_STREQ(e.what(), original.what());
  });
}

class shop_category final : public std::error_category {
 public:
  [[nodiscard]] const char* name() const noexcept override { return "shop"; }
  [[nodiscard]] std::string message(int) const override { return "sold out"; }
};

TEST(StandardExceptions, KeepNumberAndNameOfACodeWhoseCategoryIsNotKnown) {
  static const shop_category category;
  const auto arrived = sent(thrown(std::system_error(std::error_code(7, category), "buying")));
  expect_arrives<std::system_error>(arrived, [](const std::system_error& e) {
    EXPECT_EQ(e.code().value(), 7);
    EXPECT_STREQ(e.code().category().name(), "shop");
    EXPECT_STREQ(e.what(), "buying: sold out");
  });
  const auto again = sent(thrown(std::system_error(std::error_code(7, category), "buying")));
  EXPECT_EQ(arrived.code, again.code) << "the same code twice compares equal";
}

template <class T>
void expect_value_survives(const T& value) {
  try {
    std::rethrow_exception(sent(thrown(value)).error);
  } catch (const T& arrived) {
    EXPECT_EQ(arrived, value);
  } catch (...) {
    ADD_FAILURE() << p::detail::demangled_name(typeid(T)) << " arrived as something else";
  }
}

TEST(RawValues, ArriveAsThemselves) {
  expect_value_survives(42);
  expect_value_survives(-1L);
  expect_value_survives(7u);
  expect_value_survives(std::uint64_t{1} << 63);
  expect_value_survives(2.5);
  expect_value_survives('c');
  expect_value_survives(true);
  expect_value_survives(std::string("plain text"));
  expect_value_survives(std::make_error_code(std::errc::io_error));
}

template <class T>
std::string message_of(T value) {
  return p::testing::sent(std::make_exception_ptr(value)).info.message;
}

TEST(RawValues, HaveAText) {
  EXPECT_EQ(message_of('c'), "'c'");
  EXPECT_EQ(message_of('\0'), "character 0");
  EXPECT_EQ(message_of(true), "true");
  EXPECT_EQ(message_of(2.5f), "2.5");
  EXPECT_EQ(message_of(2.5L), "2.5");
  EXPECT_EQ(message_of(short{-3}), "-3");
  EXPECT_EQ(message_of(static_cast<unsigned short>(3)), "3");
  EXPECT_EQ(message_of(static_cast<signed char>(-4)), "-4");
  EXPECT_EQ(message_of(static_cast<unsigned char>(4)), "4");
}

TEST(RawValues, ATextThrownAsPointerOutlivesEverybody) {
  const char* arrived = nullptr;
  try {
    std::rethrow_exception(sent(thrown(static_cast<const char*>("plain text"))).error);
  } catch (const char* text) {
    arrived = text;
  }
  EXPECT_STREQ(arrived, "plain text");
  EXPECT_EQ(sent(thrown(42)).info.message, "42");
  EXPECT_EQ(sent(thrown(std::string("s"))).info.message, "s");
  const char* null = nullptr;
  EXPECT_NO_THROW((void)sent(thrown(null)));
}

// --- the library's own, as a call within a call throws them -------------------------------------------------

const p::usage used{3ms, 2ms, 1ms, 4096, 7};

template <class Exception, class Look>
void expect_own_survives(const Exception& original, const Look& look) {
  const auto arrived = sent(thrown(original));
  expect_arrives<Exception>(arrived, [&](const Exception& e) {
    EXPECT_STREQ(e.what(), original.what());
    look(e);
  });
  try {
    std::rethrow_exception(arrived.error);
  } catch (const p::PynisherException& e) {
    EXPECT_STREQ(e.what(), original.what());
  } catch (...) {
    ADD_FAILURE() << "it is no PynisherException any more";
  }
}

TEST(OwnExceptions, KeepTheirNumbers) {
  const auto timeout = [](const auto& e) {
    EXPECT_EQ(e.limit(), 1s);
    EXPECT_EQ(e.measured(), 2s);
    EXPECT_EQ(e.call(), "f(1)");
    EXPECT_EQ(e.usage(), used);
  };
  expect_own_survives(p::TimeoutException("t", 1s, 2s, "f(1)", used), timeout);
  expect_own_survives(p::CpuTimeoutException("t", 1s, 2s, "f(1)", used), timeout);
  expect_own_survives(p::WallTimeoutException("t", 1s, 2s, "f(1)", used), timeout);
  expect_own_survives(p::MemoryLimitException("m", 1_MiB, 2_MiB, "f(1)", used), [](const auto& e) {
    EXPECT_EQ(e.limit(), 1_MiB);
    EXPECT_EQ(e.measured(), 2_MiB);
    EXPECT_EQ(e.usage(), used);
  });
  expect_own_survives(p::ChildDiedException("d", "f(1)", used), [](const auto& e) { EXPECT_EQ(e.usage(), used); });
  expect_own_survives(p::SignalException("d", SIGSEGV, "f(1)", used, 0xC0000005), [](const auto& e) {
    EXPECT_EQ(e.signal(), SIGSEGV);
    EXPECT_EQ(e.system_code(), 0xC0000005u);
    EXPECT_EQ(e.call(), "f(1)");
  });
  expect_own_survives(p::ExitException("d", 3, "f(1)", used), [](const auto& e) { EXPECT_EQ(e.exit_code(), 3); });
  const auto nothing = [](const auto&) {};
  expect_own_survives(p::CancelledException("c"), nothing);
  expect_own_survives(p::KeyboardInterrupt("k"), nothing);
  expect_own_survives(p::SerializationException("s"), nothing);
  expect_own_survives(p::UnsupportedException("u"), nothing);
  expect_own_survives(p::StartException("fork", {EAGAIN, std::system_category()}), [](const auto& e) {
    EXPECT_EQ(e.stage(), "fork");
    EXPECT_EQ(e.code(), std::errc::resource_unavailable_try_again);
  });
  expect_own_survives(p::WrappedException({"a::B", "text", "a::B: text", {"cause"}, 7}), [](const auto& e) {
    EXPECT_EQ(e.type_name(), "a::B");
    EXPECT_EQ(e.message(), "text");
    EXPECT_THAT(e.excinfo().chain, ElementsAre("cause"));
    EXPECT_EQ(e.excinfo().pid, 7);
  });
}

TEST(OwnExceptions, AMemoryLimitOfAnInnerCallIsNoRefusalOfTheOuterOne) {
  EXPECT_TRUE(sent(thrown(std::bad_alloc())).allocation_failed);
  EXPECT_FALSE(sent(thrown(p::MemoryLimitException("m", 1_MiB, 2_MiB))).allocation_failed);
  EXPECT_FALSE(sent(thrown(std::bad_array_new_length())).allocation_failed) << "a nonsensical size, not a full memory";
  EXPECT_FALSE(sent(thrown(std::runtime_error("x"))).allocation_failed);
}

// --- the user's ---------------------------------------------------------------------------------------------

TEST(RegisteredExceptions, ArriveFromTheirText) {
  expect_text_survives(shop::not_fitted("no fit"), "shop::not_fitted");
  expect_text_survives(shop::prefixed("text"), "shop::prefixed");
  expect_text_survives(shop::parametrised<std::pair<int, int>>("p"), "shop::parametrised<std::pair<int, int>>");
}

TEST(RegisteredExceptions, ArriveWithTheirFields) {
  shop::parse_error original("unexpected", 17);
  original.hints = {"a", "b"};
  expect_arrives<shop::parse_error>(sent(thrown(original)), [](const shop::parse_error& e) {
    EXPECT_STREQ(e.what(), "unexpected");
    EXPECT_EQ(e.line, 17);
    EXPECT_THAT(e.hints, ElementsAre("a", "b"));
  });
  shop::only_fields fields;
  fields.value = 2.5;
  expect_arrives<shop::only_fields>(sent(thrown(fields)), [](const auto& e) { EXPECT_EQ(e.value, 2.5); });
}

TEST(RegisteredExceptions, NeedNotDeriveFromStdException) {
  const auto arrived = sent(thrown(shop::no_standard_exception{7}));
  expect_arrives<shop::no_standard_exception>(arrived, [](const auto& e) { EXPECT_EQ(e.code, 7); });
  expect_execution_failed(arrived, "shop::no_standard_exception", arrived.info.message);
  expect_arrives<shop::tag>(sent(thrown(shop::tag())), [](const auto&) {});
}

TEST(RegisteredExceptions, MayBeFinal) {
  expect_arrives<shop::last>(sent(thrown(shop::last("done"))), [](const auto& e) { EXPECT_STREQ(e.what(), "done"); });
}

/// For what stays for the life of the process: registrations, kept names and texts. In a process of its own.
[[noreturn]] void leave_after(void (*checks)()) {
  checks();
  std::_Exit(testing::Test::HasFailure() ? 1 : 0);
}

void register_again() {
  struct local : std::runtime_error {
    using std::runtime_error::runtime_error;
  };
  expect_arrives<std::runtime_error>(sent(thrown(local("x"))), [](const auto&) {});
  p::register_exception<local>();
  p::register_exception<local>();
  expect_arrives<local>(sent(thrown(local("x"))), [](const auto& e) { EXPECT_STREQ(e.what(), "x"); });
}

TEST(RegisteredExceptions, MayBeRegisteredAgainAndAtRunTime) {
  EXPECT_EXIT(leave_after(register_again), testing::ExitedWithCode(0), "");
}

TEST(UnregisteredExceptions, ArriveAsTheirNearestRegisteredBaseWithTheirOwnName) {
  const auto arrived = sent(thrown(shop::stranger("who")));
  expect_arrives<shop::not_fitted>(arrived, [](const auto& e) { EXPECT_STREQ(e.what(), "who"); });
  expect_execution_failed(arrived, "shop::stranger", "who");
  const auto lonely = sent(thrown(shop::lonely()));
  expect_arrives<std::exception>(lonely, [](const auto& e) { EXPECT_STREQ(e.what(), "lonely words"); });
  expect_execution_failed(lonely, "shop::lonely", "lonely words");
}

TEST(UnregisteredExceptions, WithoutABaseArriveAsUnknownException) {
  const auto arrived = sent(thrown(shop::stranger_to_all{7}));
  expect_arrives<p::UnknownException>(arrived, [](const p::UnknownException& e) {
    EXPECT_EQ(e.excinfo().type_name, "shop::stranger_to_all");
    EXPECT_THAT(e.what(), HasSubstr("shop::stranger_to_all"));
  });
  try {
    std::rethrow_exception(arrived.error);
  } catch (const std::exception&) {
  }
}

TEST(UnregisteredExceptions, DoNotArriveAsABaseThatCouldNotHaveCaughtThem) {
  expect_arrives<p::UnknownException>(sent(thrown(shop::hidden())), [](const auto&) {});
}

TEST(UnregisteredExceptions, MayHaveSeveralBases) {
  const auto arrived = sent(thrown(shop::diamond()));
  expect_arrives<std::exception>(arrived, [](const auto& e) { EXPECT_STREQ(e.what(), "diamond"); });
  // std::exception is twice a base here: it does not catch this one, but each of its two direct bases does.
  const auto twice = sent(thrown(shop::twice_std()));
  try {
    std::rethrow_exception(twice.error);
  } catch (const std::runtime_error& e) {
    EXPECT_STREQ(e.what(), "run time");
  } catch (const std::domain_error& e) {
    EXPECT_STREQ(e.what(), "domain");
  }
  EXPECT_EQ(twice.info.type_name, "shop::twice_std");
}

TEST(UnregisteredExceptions, OfSeveralBasesKeepWhatEachOfThemSays) {
  struct no_memory : std::runtime_error, std::bad_alloc {
    no_memory() : std::runtime_error("no memory") {}
  };
  const auto refused = sent(thrown(no_memory()));
  EXPECT_TRUE(refused.allocation_failed);
  EXPECT_EQ(refused.info.message, "no memory");
  struct with_code : std::system_error, std::logic_error {
    with_code() : std::system_error(ENOSPC, std::generic_category()), std::logic_error("no room") {}
  };
  EXPECT_EQ(sent(thrown(with_code())).code, std::errc::no_space_on_device);
}

// --- causes -------------------------------------------------------------------------------------------------

std::exception_ptr chain_of(int length) {
  return thrown_by([&] {
    if (length == 0) throw std::out_of_range("the root");
    try {
      std::rethrow_exception(chain_of(length - 1));
    } catch (...) {
      std::throw_with_nested(std::runtime_error("level " + std::to_string(length)));
    }
  });
}

std::vector<std::string> causes_of(const std::exception_ptr& error) {
  std::vector<std::string> texts;
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    texts.emplace_back(e.what());
    if (const auto* nested = dynamic_cast<const std::nested_exception*>(&e); nested && nested->nested_ptr()) {
      for (auto& text : causes_of(nested->nested_ptr())) texts.push_back(std::move(text));
    }
  }
  return texts;
}

TEST(NestedExceptions, ArriveAsAChain) {
  const auto arrived = sent(chain_of(3));
  EXPECT_THAT(causes_of(arrived.error), ElementsAre("level 3", "level 2", "level 1", "the root"));
  EXPECT_EQ(arrived.info.type_name, "std::runtime_error") << "not the library's own nesting class";
  EXPECT_THAT(arrived.info.chain,
              ElementsAre("std::runtime_error: level 2", "std::runtime_error: level 1", "std::out_of_range: the root"));
  EXPECT_THAT(arrived.info.formatted, HasSubstr("the root"));
}

TEST(NestedExceptions, KeepTheCausesTypes) {
  const auto original = thrown_by([] {
    try {
      throw shop::parse_error("unexpected", 17);
    } catch (...) {
      std::throw_with_nested(shop::not_fitted("no fit"));
    }
  });
  expect_arrives<shop::not_fitted>(sent(original), [](const auto& e) {
    try {
      std::rethrow_if_nested(e);
      ADD_FAILURE() << "the cause is lost";
    } catch (const shop::parse_error& cause) {
      EXPECT_EQ(cause.line, 17);
    }
  });
}

TEST(NestedExceptions, MayBeOfTypesThatNestByThemselves) {
  const auto original = thrown_by([] {
    try {
      throw std::out_of_range("the root");
    } catch (...) {
      throw shop::with_cause_of_its_own("top");
    }
  });
  const auto arrived = sent(original);
  EXPECT_THAT(arrived.info.chain, ElementsAre("std::out_of_range: the root"));
  EXPECT_THAT(causes_of(arrived.error), ElementsAre("top", "the root"));
}

TEST(NestedExceptions, AnEmptyNestIsNoCause) {
  const auto arrived = sent(thrown(shop::with_cause_of_its_own("top")));
  EXPECT_THAT(causes_of(arrived.error), ElementsAre("top"));
  EXPECT_TRUE(arrived.info.chain.empty());
}

// A handler of the receiver's has an exception of its own, which is nobody's cause.
TEST(NestedExceptions, DoNotTakeTheReceiversExceptionForTheirCause) {
  const auto bytes = packed_exception(thrown(shop::with_cause_of_its_own("top")));
  try {
    throw std::logic_error("the receiver's");
  } catch (...) {
    EXPECT_THAT(causes_of(p::testing::received(bytes).error), ElementsAre("top"));
  }
}

TEST(NestedExceptions, AreCutWhereAChainHasNoEnd) {
  const auto arrived = sent(chain_of(200));
  EXPECT_GE(arrived.info.chain.size(), 10u);
  EXPECT_LT(arrived.info.chain.size(), 200u);
  EXPECT_EQ(causes_of(arrived.error).front(), "level 200");
}

TEST(NestedExceptions, MayHaveACauseThatNobodyKnows) {
  const auto original = thrown_by([] {
    try {
      throw shop::stranger_to_all{7};
    } catch (...) {
      std::throw_with_nested(std::runtime_error("top"));
    }
  });
  const auto arrived = sent(original);
  EXPECT_EQ(causes_of(arrived.error).front(), "top");
  EXPECT_THAT(arrived.info.chain, ElementsAre(HasSubstr("shop::stranger_to_all")));
}

// A call within a call: what arrived in the middle goes on outwards.
TEST(ForwardedExceptions, KeepNameTextAndCausesOverTwoHops) {
  const auto once = sent(thrown(shop::stranger("who")));
  const auto twice = sent(once.error);
  expect_arrives<shop::not_fitted>(twice, [](const auto& e) { EXPECT_STREQ(e.what(), "who"); });
  EXPECT_EQ(twice.info.type_name, "shop::stranger");
  const auto chain = sent(sent(chain_of(2)).error);
  EXPECT_THAT(causes_of(chain.error), ElementsAre("level 2", "level 1", "the root"));
  const auto unknown = sent(sent(thrown(shop::stranger_to_all{})).error);
  EXPECT_EQ(unknown.info.type_name, "shop::stranger_to_all");
  expect_arrives<p::UnknownException>(unknown, [](const auto&) {});
}

// --- bytes that are no exception ------------------------------------------------------------------------------

/// An exception, or a `wire_error`: nothing else may come of bytes.
bool is_refused(std::span<const std::byte> from) {
  try {
    const auto arrived = p::testing::received(from);
    EXPECT_NE(arrived.error, nullptr);
    return false;
  } catch (const wire_error&) {
    return true;
  }
}

TEST(HostileExceptions, CutAnywhereAreRefused) {
  for (const auto& original :
       {chain_of(2), thrown(shop::parse_error("unexpected", 17)), thrown(42),
        thrown(std::filesystem::filesystem_error("m", "/a", "/b", {ENOENT, std::system_category()}))}) {
    const auto whole = packed_exception(original);
    EXPECT_FALSE(is_refused(whole));
    for (std::size_t size = 0; size < whole.size(); ++size) {
      EXPECT_TRUE(is_refused(std::span(whole).first(size))) << "cut to " << size;
    }
    auto longer = whole;
    longer.push_back(std::byte{0});
    EXPECT_TRUE(is_refused(longer));
  }
}

TEST(HostileExceptions, OfAnyBytesDoNoHarm) {
  std::size_t refused = 0;
  for (const auto& original : {chain_of(2), thrown(shop::parse_error("unexpected", 17)),
                               thrown(p::SignalException("d", SIGSEGV, "f(1)", used)),
                               thrown(std::regex_error(std::regex_constants::error_stack)),
                               thrown(std::future_error(std::future_errc::broken_promise)),
                               thrown(std::system_error(1, std::system_category(), "x"))}) {
    const auto whole = packed_exception(original);
    for (std::size_t i = 0; i < whole.size(); ++i) {
      for (const unsigned value : {0x00u, 0x01u, 0x7fu, 0x80u, 0xffu}) {
        auto changed = whole;
        changed[i] = static_cast<std::byte>(value);
        refused += is_refused(changed) ? 1 : 0;
      }
    }
  }
  EXPECT_GT(refused, 100u);
}

TEST(HostileExceptions, ThatCannotBeRebuiltAreRefusedAndNotThrownThrough) {
  EXPECT_TRUE(is_refused(packed_exception(thrown(shop::failing_codec("x")))));
}

TEST(HostileExceptions, ARegexErrorHasOneOfTheStandardsCodes) {
  const auto whole = packed_exception(thrown(std::regex_error(std::regex_constants::error_stack)));
  const std::size_t code = whole.size() - 2;  // then that it has no cause
  ASSERT_EQ(whole[code], std::byte{12});
  for (unsigned value = 0; value < 256; ++value) {
    auto changed = whole;
    changed[code] = static_cast<std::byte>(value);
    EXPECT_EQ(is_refused(changed), value >= 13) << value;
  }
}

// The names of categories and the texts thrown as pointers are kept for good: a child must not fill the parent.
void fill_categories() {
  for (int i = 0; i < 3000; ++i) (void)p::detail::category_named("category " + std::to_string(i));
  EXPECT_EQ(&p::detail::category_named("one more than are kept"), &std::generic_category());
  EXPECT_EQ(&p::detail::category_named(std::string(100'000, 'x')), &std::generic_category());
  EXPECT_EQ(&p::detail::category_named("system"), &std::system_category());
}

void fill_texts() {
  const std::string large(8 << 20, 'x');
  std::string last;
  for (int i = 0; i < 4; ++i) {
    const std::string text = large + std::to_string(i);
    try {
      std::rethrow_exception(sent(thrown(text.c_str())).error);
    } catch (const char* arrived) {
      last = arrived;
    }
  }
  EXPECT_LT(last.size(), 200u) << "the text is replaced by one that says so";
  EXPECT_THAT(last, HasSubstr("not kept"));
}

TEST(HostileExceptions, DoNotFillTheParent) {
  EXPECT_EXIT(leave_after(fill_categories), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(leave_after(fill_texts), testing::ExitedWithCode(0), "");
}

}  // namespace
