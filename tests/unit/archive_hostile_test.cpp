// Bytes from a child that lies: refused, without a crash, and before memory is asked for that the bytes do not back.

#include <chrono>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <deque>
#include <filesystem>
#include <forward_list>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <valarray>
#include <variant>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/archive_bytes.hpp"
#include "unit/counting_new.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::detail::wire_error;
using pynisher::testing::allocation_meter;
using pynisher::testing::bytes;
using pynisher::testing::packed;
using pynisher::testing::unpacked;
using testing::HasSubstr;

struct point {
  int x = 0;
  std::string name;
  template <class Archive>
  void serialize(Archive& ar) {
    ar(x, name);
  }
};
struct nothing {
  template <class Archive>
  void serialize(Archive&) {}
};
struct wide {
  std::array<double, 128> values{};
  template <class Archive>
  void serialize(Archive& ar) {
    ar(values);
  }
};
struct node {
  std::unique_ptr<node> next;
  template <class Archive>
  void serialize(Archive& ar) {
    ar(next);
  }
};
struct tree {
  std::vector<tree> children;
  template <class Archive>
  void serialize(Archive& ar) {
    ar(children);
  }
};

/// Why the bytes were refused; empty: they were not.
template <class T>
std::string refusal(std::span<const std::byte> from) {
  try {
    (void)unpacked<T>(from);
    return {};
  } catch (const std::exception& e) {
    return *e.what() != '\0' ? e.what() : "refused without a word";
  }
}

bytes count_of(std::uint64_t count, std::size_t bytes_behind = 0) {
  bytes stream = packed(count);
  stream.resize(stream.size() + bytes_behind);
  return stream;
}

// --- counts -----------------------------------------------------------------------------------------------

constexpr std::uint64_t hostile_counts[] = {65'536 + 64,
                                            1u << 20,
                                            std::uint64_t{1} << 31,
                                            std::uint64_t{1} << 32,
                                            std::uint64_t{1} << 60,
                                            (std::uint64_t{1} << 61) + 1,
                                            std::uint64_t{1} << 63,
                                            std::numeric_limits<std::uint64_t>::max() - 7,
                                            std::numeric_limits<std::uint64_t>::max()};

template <class T>
class HostileCount : public testing::Test {};
using counted_types =
    testing::Types<std::string, std::wstring, std::vector<char>, std::vector<int>, std::vector<double>,
                   std::vector<std::string>, std::vector<std::vector<int>>, std::vector<wide>, std::deque<int>,
                   std::list<int>, std::forward_list<int>, std::valarray<double>, std::set<int>, std::map<int, int>,
                   std::unordered_map<int, std::string>, std::unordered_set<std::string>, std::filesystem::path,
                   std::multimap<std::string, int>, std::valarray<std::string>, std::unordered_multiset<int>>;
TYPED_TEST_SUITE(HostileCount, counted_types);

TYPED_TEST(HostileCount, IsRefusedWithoutAskingForTheMemory) {
  for (const auto count : hostile_counts) {
    const bytes stream = count_of(count, 32);
    const allocation_meter meter;
    EXPECT_NE(refusal<TypeParam>(stream), "") << count;
    EXPECT_LT(meter.asked_for(), std::size_t{4} << 20) << "for a count of " << count;
  }
}

// The count is not above the bytes left, and yet the elements are far larger than the bytes behind them.
TYPED_TEST(HostileCount, DoesNotTurnFewBytesIntoMuchMemory) {
  constexpr std::size_t behind = 1 << 20;
  bytes stream = count_of(behind + 8, behind);
  // What follows reads as counts and lengths that are no longer there.
  std::fill(stream.begin() + 8, stream.end(), std::byte{0xff});
  const allocation_meter meter;
  (void)refusal<TypeParam>(stream);
  EXPECT_LT(meter.asked_for(), 16 * behind);
}

template <class T>
class HostileCountOfWideElements : public testing::Test {};
using containers_of_wide =
    testing::Types<std::vector<wide>, std::deque<wide>, std::list<wide>, std::forward_list<wide>, std::map<int, wide>,
                   std::vector<std::deque<wide>>, std::optional<std::list<wide>>, std::valarray<wide>,
                   std::unordered_map<int, wide>, std::vector<std::array<int, 1024>>,
                   std::vector<std::array<std::string, 128>>, std::vector<std::array<std::array<int, 32>, 32>>>;
TYPED_TEST_SUITE(HostileCountOfWideElements, containers_of_wide);

// Each of the 65536 elements is 1 KiB: 64 MiB for 64 KiB of bytes, were they made before they are read.
TYPED_TEST(HostileCountOfWideElements, DoesNotTurnFewBytesIntoMuchMemory) {
  constexpr std::size_t behind = 1 << 16;
  bytes stream = count_of(behind - 8, behind);
  for (std::size_t i = 8; i + 8 <= stream.size(); i += 8) {
    const std::uint64_t count = behind / 2;
    std::memcpy(stream.data() + i, &count, sizeof count);
  }
  if constexpr (requires { typename TypeParam::value_type::value_type; }) stream[0] = std::byte{1};
  const allocation_meter meter;
  EXPECT_NE(refusal<TypeParam>(stream), "");
  EXPECT_LT(meter.asked_for(), std::size_t{16} << 20);
}

TEST(HostileCounts, ElementsWithoutBytesAreCountedToo) {
  EXPECT_EQ(unpacked<std::vector<nothing>>(count_of(60'000)).size(), 60'000u);
  EXPECT_NE(refusal<std::vector<nothing>>(count_of(1'000'000'000)), "");
  // The allowance is one for all of the value, not one for each of its containers.
  bytes stream = count_of(1000);
  for (int i = 0; i < 1000; ++i) {
    const bytes inner = count_of(60'000);
    stream.insert(stream.end(), inner.begin(), inner.end());
  }
  EXPECT_NE((refusal<std::vector<std::vector<nothing>>>(stream)), "");
}

// --- every byte -------------------------------------------------------------------------------------------

struct everything {
  bool yes = true;
  int number = 7;
  std::string text = "text";
  std::vector<int> few = {1, 2, 3};
  std::vector<double> many = std::vector<double>(20, 0.5);
  std::vector<std::string> texts = {"a", "", "ccc"};
  std::map<std::string, std::vector<point>> table = {{"k", {{1, "p"}, {2, "q"}}}};
  std::optional<std::string> perhaps = "there";
  std::variant<int, std::string, std::deque<bool>> either = "second";
  std::array<bool, 3> flags = {true, false, true};
  std::unique_ptr<point> pointer = std::make_unique<point>(point{3, "r"});
  std::chrono::seconds time = 5s;
  std::filesystem::path path = "/a/b";
  std::set<int> set = {1, 2, 3};
  std::list<std::string> list = {"l"};
  std::unordered_map<int, int> hashed = {{1, 2}};
  template <class Archive>
  void serialize(Archive& ar) {
    ar(yes, number, text, few, many, texts, table, perhaps, either, flags, pointer, time, path, set, list, hashed);
  }
};

TEST(EveryByte, MissingOneIsNoticed) {
  const bytes whole = packed(everything{});
  ASSERT_GT(whole.size(), 300u);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    EXPECT_NE(refusal<everything>(std::span(whole).first(size)), "") << "cut to " << size;
  }
}

TEST(EveryByte, OneTooManyIsNoticed) {
  bytes longer = packed(everything{});
  longer.push_back(std::byte{0});
  EXPECT_THAT(refusal<everything>(longer), HasSubstr("left over"));
}

TEST(EveryByte, MayHaveAnyValueWithoutHarm) {
  const bytes whole = packed(everything{});
  std::size_t refused = 0;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    for (const unsigned value : {0x00u, 0x01u, 0x7fu, 0x80u, 0xfeu, 0xffu}) {
      bytes changed = whole;
      changed[i] = static_cast<std::byte>(value);
      const allocation_meter meter;
      refused += refusal<everything>(changed).empty() ? 0 : 1;
      ASSERT_LT(meter.asked_for(), std::size_t{8} << 20) << "byte " << i << " set to " << value;
    }
  }
  EXPECT_GT(refused, 100u) << "the changes did not reach anything that matters";
}

// --- single rules -----------------------------------------------------------------------------------------

TEST(Bools, AreZeroOrOne) {
  for (unsigned value = 0; value < 256; ++value) {
    const bytes one{static_cast<std::byte>(value)};
    if (value < 2) {
      EXPECT_EQ(unpacked<bool>(one), value == 1);
    } else {
      EXPECT_THAT(refusal<bool>(one), HasSubstr("bool")) << value;
    }
  }
}

TEST(Bools, AreZeroOrOneInsideOfEverythingThatHoldsThem) {
  const bytes two{std::byte{2}, std::byte{2}};
  EXPECT_THAT((refusal<std::array<bool, 2>>(two)), HasSubstr("bool"));
  EXPECT_THAT((refusal<std::pair<bool, bool>>(two)), HasSubstr("bool"));
  EXPECT_THAT((refusal<std::optional<char>>(two)), HasSubstr("bool"));
  struct flags {
    bool value[2] = {};
    void serialize(pynisher::detail::input_archive& ar) { ar(value); }
    void serialize(pynisher::detail::output_archive& ar) { ar(value); }
  };
  EXPECT_THAT(refusal<flags>(two), HasSubstr("bool"));
  bytes counted = count_of(2);
  counted.insert(counted.end(), two.begin(), two.end());
  EXPECT_THAT(refusal<std::deque<bool>>(counted), HasSubstr("bool"));
  EXPECT_THAT(refusal<std::valarray<bool>>(counted), HasSubstr("bool"));
  if constexpr (pynisher::detail::can_cross<std::vector<bool>>) {
    EXPECT_THAT(refusal<std::vector<bool>>(counted), HasSubstr("bool"));
  }
  enum class on_off : bool { off, on };
  EXPECT_THAT(refusal<on_off>(bytes{std::byte{2}}), HasSubstr("bool"));
}

TEST(Variants, RefuseAnIndexThatTheyDoNotHave) {
  for (const std::int32_t index : {3, 4, 1000, -1, std::numeric_limits<std::int32_t>::min()}) {
    bytes stream = packed(index);
    stream.resize(stream.size() + 64);
    EXPECT_NE((refusal<std::variant<int, std::string, double>>(stream)), "") << index;
  }
}

TEST(Numbers, OfAnyBitsAreNumbers) {
  const bytes ones(sizeof(double), std::byte{0xff});
  EXPECT_NO_THROW((void)unpacked<double>(ones));
  EXPECT_EQ(unpacked<std::uint64_t>(ones), std::numeric_limits<std::uint64_t>::max());
}

TEST(Depth, IsCountedWhileReading) {
  // `unique_ptr` there, a thousand times over: the parent recurses once per level.
  for (const std::size_t depth : {1'000u, 100'000u, 2'000'000u}) {
    const bytes stream(depth, std::byte{1});
    EXPECT_THAT(refusal<node>(stream), HasSubstr("deep")) << depth;
  }
  bytes nested;
  for (int i = 0; i < 5'000; ++i) {
    const bytes one = count_of(1);
    nested.insert(nested.end(), one.begin(), one.end());
  }
  EXPECT_THAT(refusal<tree>(nested), HasSubstr("deep"));
}

TEST(Depth, IsEnoughForValuesThatPeopleHave) {
  tree deep;
  tree* last = &deep;
  for (int i = 0; i < 200; ++i) last = &last->children.emplace_back();
  const auto stream = packed(deep);
  EXPECT_EQ(refusal<tree>(stream), "");
}

TEST(Truncation, SaysHowManyBytesWereWanted) {
  EXPECT_THAT(refusal<std::uint64_t>(bytes(3)), testing::AllOf(HasSubstr("8"), HasSubstr("3")));
}

TEST(HostileBytes, ThrowNothingButExceptions) {
  // Deterministic noise through every shape; a sanitizer sees what an expectation cannot.
  std::uint64_t state = 88172645463325252u;
  const auto next = [&] { return state ^= state << 13, state ^= state >> 7, state ^= state << 17; };
  for (int i = 0; i < 3000; ++i) {
    bytes noise(next() % 200);
    for (auto& byte : noise) byte = static_cast<std::byte>(next() % 3 == 0 ? next() : next() % 4);
    const allocation_meter meter;
    (void)refusal<everything>(noise);
    (void)refusal<std::vector<std::string>>(noise);
    (void)refusal<std::map<std::string, std::vector<point>>>(noise);
    (void)refusal<std::list<std::deque<int>>>(noise);
    ASSERT_LT(meter.largest(), std::size_t{8} << 20);
  }
}

}  // namespace
