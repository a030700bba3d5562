// What of Microsoft's C++ ABI can be read anywhere: its words for types, and what its throws leave.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cxx_abi/microsoft_names.hpp"
#include "cxx_abi/microsoft_throw_info.hpp"

namespace {

using pynisher::detail::cxx_abi::catchable_type;
using pynisher::detail::cxx_abi::catchable_types_in;
using pynisher::detail::cxx_abi::in_words_of_others;
using pynisher::detail::cxx_abi::throw_info;

TEST(MicrosoftNames, HaveNoKindsInFrontOfThem) {
  EXPECT_EQ(in_words_of_others("class std::runtime_error"), "std::runtime_error");
  EXPECT_EQ(in_words_of_others("struct shop::box<enum shop::size,union shop::either>"),
            "shop::box<shop::size, shop::either>");
}

TEST(MicrosoftNames, KeepWordsThatOnlyEndLikeAKind) {
  EXPECT_EQ(in_words_of_others("class my_class"), "my_class");
  EXPECT_EQ(in_words_of_others("struct first_class <int>"), "first_class <int>");
  EXPECT_EQ(in_words_of_others("class klass::subclass *"), "klass::subclass*");
}

TEST(MicrosoftNames, LeaveOutWhatNobodyWrites) {
  EXPECT_EQ(in_words_of_others("struct `anonymous namespace'::hidden"), "hidden");
  EXPECT_EQ(in_words_of_others("struct shop::`anonymous-namespace'::hidden"), "shop::hidden");
  EXPECT_EQ(in_words_of_others("char const * __ptr64"), "char const*");
  EXPECT_EQ(in_words_of_others("int (__cdecl*)(int,struct a & __ptr64)"), "int (*)(int, a&)");
}

TEST(MicrosoftNames, OfNumbersAreThoseOfTheLanguage) {
  EXPECT_EQ(in_words_of_others("unsigned __int64"), "unsigned long long");
  EXPECT_EQ(in_words_of_others("struct my__int64"), "my__int64");
}

TEST(MicrosoftNames, OfTemplatesHaveSpacesBehindCommasOnly) {
  EXPECT_EQ(in_words_of_others("class std::map<int,class std::vector<bool,class std::allocator<bool> >,struct "
                               "std::less<int> >"),
            "std::map<int, std::vector<bool, std::allocator<bool> >, std::less<int> >");
  EXPECT_EQ(in_words_of_others(""), "");
  EXPECT_EQ(in_words_of_others("int"), "int");
}

/// The image of a program, as far as one throw goes.
class image {
 public:
  /// Its place, told from the beginning.
  template <class T>
  std::uint32_t add(const T& what) {
    const std::size_t at = bytes_.size();
    bytes_.resize(at + sizeof what);
    std::memcpy(bytes_.data() + at, &what, sizeof what);
    return static_cast<std::uint32_t>(at);
  }
  [[nodiscard]] std::uintptr_t begin() const { return reinterpret_cast<std::uintptr_t>(bytes_.data()); }
  [[nodiscard]] const void* at(std::uint32_t place) const { return bytes_.data() + place; }

 private:
  std::vector<std::byte> bytes_ = std::vector<std::byte>(16);  // nothing is at its beginning
};

struct thrown {
  image program;
  std::vector<std::uint32_t> types;
  std::uint32_t info = 0;

  thrown(std::uint32_t attributes, std::uint32_t how_many) {
    std::vector<std::uint32_t> entries;
    for (std::uint32_t i = 0; i < how_many; ++i) {
      types.push_back(program.add(std::uint64_t{i}));
      entries.push_back(program.add(catchable_type{
          .properties = 0, .type_info = types.back(), .displacement = {0, -1, 0}, .size = 24, .copy_function = 0}));
    }
    const std::uint32_t list = program.add(how_many);
    for (const std::uint32_t entry : entries) program.add(entry);
    info =
        program.add(throw_info{.attributes = attributes, .destructor = 0, .compatibility = 0, .catchable_types = list});
  }
};

TEST(MicrosoftThrowInfo, ListsTheTypesInItsOwnOrder) {
  const thrown one(0, 3);
  const auto found = catchable_types_in(one.program.at(one.info), one.program.begin());
  ASSERT_EQ(found.types.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(static_cast<const void*>(found.types[i]), one.program.at(one.types[i])) << i;
  }
  EXPECT_FALSE(found.points_to_const);
}

TEST(MicrosoftThrowInfo, SaysWhetherAPointerIsToConst) {
  const thrown one(throw_info::is_const, 1);
  EXPECT_TRUE(catchable_types_in(one.program.at(one.info), one.program.begin()).points_to_const);
}

TEST(MicrosoftThrowInfo, WithoutTypesHasNone) {
  const thrown one(0, 0);
  EXPECT_TRUE(catchable_types_in(one.program.at(one.info), one.program.begin()).types.empty());
  image other;
  const std::uint32_t info = other.add(throw_info{});
  EXPECT_TRUE(catchable_types_in(other.at(info), other.begin()).types.empty());
}

TEST(MicrosoftThrowInfo, IsNotBelievedToHaveTypesWithoutEnd) {
  const thrown one(0, 2000);
  EXPECT_EQ(catchable_types_in(one.program.at(one.info), one.program.begin()).types.size(), 1000U);
}

}  // namespace
