// Names in texts are those that the source writes.

#include <ios>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/detail/callable.hpp>

namespace shop {
template <class T>
struct box {};
namespace {
struct hidden {};
int open(std::vector<hidden>) { return 1; }
}  // namespace
}  // namespace shop

namespace {

using pynisher::detail::argument_text;
using pynisher::detail::demangled_name;
using pynisher::detail::name_of_call;

int nameless(int n) { return n; }

template <class T>
std::string name_of() {
  return demangled_name(typeid(T));
}

TEST(Names, OfTypesLeaveOutWhatNobodyWrites) {
  EXPECT_EQ(name_of<std::string>(), "std::string");
  EXPECT_EQ(name_of<std::vector<int>>(), "std::vector<int>");
  EXPECT_EQ((name_of<std::vector<std::vector<std::string>>>()), "std::vector<std::vector<std::string>>");
  EXPECT_EQ((name_of<std::map<int, std::vector<bool>>>()), "std::map<int, std::vector<bool>, std::less<int>>");
  EXPECT_EQ(name_of<shop::box<std::vector<int>>>(), "shop::box<std::vector<int>>");
  EXPECT_EQ(name_of<std::allocator<int>>(), "std::allocator<int>");
  EXPECT_EQ(name_of<std::ios_base::failure>(), "std::ios_base::failure");
  EXPECT_EQ(name_of<shop::hidden>(), "shop::hidden");
}

TEST(Names, OfFunctionsLeaveOutTheirParametersAndUnnamedNamespaces) {
  EXPECT_EQ(name_of_call(&nameless, std::tuple<>()).text(), "nameless()");
  EXPECT_EQ(name_of_call(&shop::open, std::tuple<>()).text(), "shop::open()");
}

TEST(Names, OfArgumentsAreThoseOfTheirTypes) {
  EXPECT_EQ(argument_text(std::vector<int>{1}), "<std::vector<int>>");
  EXPECT_EQ(argument_text(shop::hidden()), "<shop::hidden>");
}

TEST(Names, OfTextsStayOnOneLine) {
  EXPECT_EQ(argument_text(std::string("a\nb\t\"c\"")), R"("a\nb\t\"c\"")");
  EXPECT_EQ(argument_text(std::string(61, 'x')), '"' + std::string(60, 'x') + "...\" (61 bytes)");
}

}  // namespace
