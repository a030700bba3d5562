// Every type that crosses arrives as it was sent.

#include <array>
#include <atomic>
#include <bitset>
#include <chrono>
#include <complex>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <forward_list>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <random>
#include <set>
#include <stack>
#include <string>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <valarray>
#include <variant>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/archive_bytes.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::detail::can_cross;
using pynisher::detail::wire_error;
using pynisher::testing::bytes;
using pynisher::testing::packed;
using pynisher::testing::packed_in_windows_of;
using pynisher::testing::unpacked;

enum class colour : std::uint8_t { red, green, blue };
enum plain { first, second };
enum class on_off : bool { off, on };

struct point {
  int x = 0;
  double y = 0;
  friend bool operator==(const point&, const point&) = default;
  template <class Archive>
  void serialize(Archive& ar) {
    ar(x, y);
  }
};

struct nothing {
  friend bool operator==(const nothing&, const nothing&) = default;
  template <class Archive>
  void serialize(Archive&) {}
};

struct node {
  int value = 0;
  std::unique_ptr<node> next;
  template <class Archive>
  void serialize(Archive& ar) {
    ar(value, next);
  }
};

struct record {
  std::string name;
  std::vector<point> points;
  std::map<std::string, std::vector<std::optional<double>>> table;
  bool flags[3] = {};
  double grid[2][2] = {};
  friend bool operator==(const record& a, const record& b) {
    return a.name == b.name && a.points == b.points && a.table == b.table && std::ranges::equal(a.flags, b.flags) &&
           std::ranges::equal(std::span(&a.grid[0][0], 4), std::span(&b.grid[0][0], 4));
  }
  template <class Archive>
  void serialize(Archive& ar) {
    ar(name, points, table, flags, grid);
  }
};

/// Whole, cut by tiny windows, and at every offset in the sender's stream.
template <class T>
void expect_same_at_every_offset(const T& value) {
  const bytes whole = packed(value);
  // No EXPECT_EQ: gtest cannot print all of these types.
  EXPECT_TRUE(unpacked<T>(whole) == value);
  for (const std::size_t window : {1u, 7u, 64u}) {
    EXPECT_TRUE(unpacked<T>(packed_in_windows_of(window, value)) == value) << "windows of " << window;
  }
  for (std::uint64_t before = 1; before <= 17; ++before) {
    const bytes stream = packed(std::string(before, 'x'), value);
    const std::size_t start = sizeof(std::uint64_t) + before;
    EXPECT_TRUE((unpacked<T>(std::span(stream).subspan(start), start)) == value) << "from byte " << start;
  }
}

template <class T>
void expect_round_trip(const T& value) {
  EXPECT_TRUE(can_cross<T>) << typeid(T).name();
  if constexpr (can_cross<T>) expect_same_at_every_offset(value);
}

template <class... T>
void expect_round_trips(const T&... values) {
  (expect_round_trip(values), ...);
}

TEST(Archive, KeepsNumbers) {
  expect_round_trips(true, false, 'a', std::int8_t{-7}, std::uint8_t{250}, short{-300}, -70'000, 4'000'000'000u,
                     std::numeric_limits<long long>::min(), std::numeric_limits<std::uint64_t>::max(), 1.5f, -0.1,
                     std::numeric_limits<long double>::min(), std::numeric_limits<double>::infinity(), std::numeric_limits<double>::denorm_min(),
                     wchar_t{0x20AC}, char8_t{'x'}, char32_t{0x1F600});
  EXPECT_TRUE(std::isnan(unpacked<double>(packed(std::numeric_limits<double>::quiet_NaN()))));
  EXPECT_TRUE(std::signbit(unpacked<double>(packed(-0.0))));
}

TEST(Archive, KeepsEnums) { expect_round_trips(colour::blue, second, on_off::on, std::byte{0xab}); }

TEST(Archive, KeepsStrings) {
  expect_round_trips(std::string(), std::string("spam"), std::string("a\0b", 3), std::string(100'000, 'x'),
                     std::wstring(L"wide"), std::u8string(u8"Grüße"), std::u16string(u"sixteen"),
                     std::u32string(U"thirty-two"));
}

TEST(Archive, KeepsSequences) {
  expect_round_trips(std::vector<int>{}, std::vector<int>{1, 2, 3}, std::vector<double>(1000, 0.5),
                     std::vector<char>(63, 'c'), std::vector<char>(64, 'c'), std::vector<char>(65, 'c'),
                     std::vector<long double>{1, 2, 3, 4, 5}, std::vector<std::string>{"a", "", "ccc"},
                     std::vector<std::vector<int>>{{}, {1}, {1, 2}}, std::vector<point>{{1, 2}, {3, 4}},
                     std::deque<int>{1, 2}, std::deque<std::string>{"a"}, std::list<int>{3, 2, 1},
                     std::list<std::string>{"x", "y"}, std::forward_list<int>{1, 2}, std::array<int, 3>{1, 2, 3},
                     std::array<std::string, 2>{"a", "b"}, std::vector<colour>{colour::green},
                     std::vector<std::byte>{std::byte{1}, std::byte{255}});
}

template <class T>
[[noreturn]] void leave_after_a_round_trip() {
  (void)unpacked<T>(packed(T{}));
  std::_Exit(0);
}

// An empty array has no data to point at, and yet a size of one byte.
TEST(Archive, KeepsArraysOfNoElements) {
  EXPECT_EXIT((leave_after_a_round_trip<std::array<int, 0>>()), testing::ExitedWithCode(0), "");
  EXPECT_EXIT((leave_after_a_round_trip<std::array<std::string, 0>>()), testing::ExitedWithCode(0), "");
}

TEST(Archive, KeepsBoolsWhereverTheyArePacked) {
  std::vector<bool> many;
  for (int i = 0; i < 100; ++i) many.push_back(i % 3 == 0);
  expect_round_trips(many, std::vector<bool>{}, std::array<bool, 4>{true, false, false, true},
                     std::vector<std::array<bool, 2>>{{true, false}, {false, true}}, std::optional<bool>(true),
                     std::pair(true, false), std::vector<std::vector<bool>>{{true}, {}, {false, true}},
                     std::bitset<5>("10110"), std::bitset<130>(77), std::deque<bool>{true, false});
}

TEST(Archive, KeepsAssociations) {
  expect_round_trips(std::map<std::string, int>{{"a", 1}, {"b", 2}}, std::multimap<int, int>{{1, 2}, {2, 3}},
                     std::unordered_map<int, std::string>{{1, "x"}, {2, "y"}}, std::set<int>{3, 1, 2},
                     std::multiset<int>{1, 1, 2}, std::unordered_set<std::string>{"a", "b"},
                     std::unordered_multimap<int, int>{{1, 1}, {1, 2}}, std::unordered_multiset<int>{4, 4},
                     std::map<std::pair<int, int>, std::vector<std::set<std::string>>>{{{1, 2}, {{"a"}, {}}}});
}

struct by_x {
  bool operator()(const point& a, const point& b) const { return a.x < b.x; }
};

TEST(Archive, KeepsTheOrderOfEqualKeys) {
  expect_round_trips(std::multimap<int, std::string>{{1, "a"}, {1, "b"}, {1, "c"}, {2, "d"}},
                     std::multiset<point, by_x>{{1, 3.0}, {1, 1.0}, {1, 2.0}, {2, 0.0}});
  const std::unordered_multimap<int, int> hashed{{1, 3}, {1, 1}, {1, 2}};
  const auto arrived = unpacked<std::unordered_multimap<int, int>>(packed(hashed));
  EXPECT_TRUE(std::ranges::equal(arrived, hashed));
}

TEST(Archive, KeepsSumsAndProducts) {
  using either = std::variant<std::monostate, int, std::string, std::vector<point>>;
  expect_round_trips(std::pair(1, std::string("x")), std::tuple(1, 2.5, std::string("y"), colour::red), std::tuple<>(),
                     std::optional<int>(), std::optional<int>(7), std::optional<std::string>("z"),
                     std::optional<std::optional<int>>(std::optional<int>()), either(), either(7), either("text"),
                     either(std::vector<point>{{1, 2}}), std::complex<double>(1, -1));
}

TEST(Archive, KeepsTimes) {
  expect_round_trips(5s, -3ms, 1.5h, std::chrono::nanoseconds::max(), std::chrono::days(3),
                     std::chrono::system_clock::time_point(77us), std::chrono::steady_clock::time_point(5s));
}

TEST(Archive, KeepsPaths) {
  expect_round_trips(std::filesystem::path(), std::filesystem::path("/a/b c.txt"), std::filesystem::path("re/lative"),
                     std::filesystem::path(std::string("\xff\xfe not UTF-8")),
                     std::vector<std::filesystem::path>{"a", "b"}, std::map<std::filesystem::path, int>{{"x", 1}});
}

TEST(Archive, KeepsUserTypes) {
  record r;
  r.name = "r";
  r.points = {{1, 0.5}, {2, 0.25}};
  r.table = {{"row", {1.0, std::nullopt, 3.0}}, {"empty", {}}};
  r.flags[1] = true;
  r.grid[1][0] = 2.5;
  expect_round_trips(point{3, 4}, r, std::vector<record>(3, r), std::optional<record>(r));
}

TEST(Archive, KeepsEmptyStructsAndTheirNumber) {
  expect_round_trips(nothing{}, std::vector<nothing>(5), std::vector<nothing>(60'000), std::array<nothing, 3>{},
                     std::tuple(nothing{}, 7, nothing{}), std::list<nothing>(3), std::monostate{});
  EXPECT_EQ(packed(nothing{}).size(), 0u);
}

TEST(Archive, KeepsMoveOnlyValues) {
  EXPECT_EQ(*unpacked<std::unique_ptr<int>>(packed(std::make_unique<int>(7))), 7);
  EXPECT_EQ(unpacked<std::unique_ptr<int>>(packed(std::unique_ptr<int>())), nullptr);
  std::vector<std::unique_ptr<std::string>> texts;
  texts.push_back(std::make_unique<std::string>("a"));
  texts.push_back(nullptr);
  const auto arrived = unpacked<std::vector<std::unique_ptr<std::string>>>(packed(texts));
  ASSERT_EQ(arrived.size(), 2u);
  EXPECT_EQ(*arrived[0], "a");
  EXPECT_EQ(arrived[1], nullptr);

  node chain{1, std::make_unique<node>(node{2, std::make_unique<node>(node{3, nullptr})})};
  const node copy = unpacked<node>(packed(chain));
  EXPECT_EQ(copy.next->next->value, 3);
  EXPECT_EQ(copy.next->next->next, nullptr);

  std::map<int, std::unique_ptr<int>> by_number;
  by_number.emplace(1, std::make_unique<int>(10));
  EXPECT_EQ(*(unpacked<std::map<int, std::unique_ptr<int>>>(packed(by_number)).at(1)), 10);
}

TEST(Archive, KeepsAdaptorsAndValarrays) {
  std::queue<int> queue;
  queue.push(1);
  queue.push(2);
  std::stack<std::string> stack;
  stack.push("a");
  std::priority_queue<int> heap;
  heap.push(3);
  heap.push(9);
  expect_round_trips(queue, stack);
  EXPECT_EQ(unpacked<std::priority_queue<int>>(packed(heap)).top(), 9);
  const std::valarray<double> values{1, 2, 3};
  EXPECT_TRUE(std::ranges::equal(unpacked<std::valarray<double>>(packed(values)), values));
  EXPECT_EQ(unpacked<std::valarray<double>>(packed(std::valarray<double>())).size(), 0u);
  const std::valarray<std::string> texts{"a", "bb"};
  EXPECT_TRUE(std::ranges::equal(unpacked<std::valarray<std::string>>(packed(texts)), texts));
  const std::valarray<bool> flags{true, false};
  EXPECT_TRUE(std::ranges::equal(unpacked<std::valarray<bool>>(packed(flags)), flags));
  std::atomic<int> counter{7};
  std::atomic<int> arrived{0};
  const auto bytes_of_counter = packed(counter);
  pynisher::detail::input_archive ar(bytes_of_counter.data(), bytes_of_counter.size());
  ar(arrived);
  EXPECT_EQ(arrived.load(), 7);
}

// A receiver of numbers may read them where they lie, if they lie as the type wants it.
TEST(Archive, AlignsLongVectorsOfNumbersInTheSendersStream) {
  for (std::size_t before = 0; before < 20; ++before) {
    const std::vector<double> values(8, 1.5);  // 64 bytes: from here on aligned
    const auto stream = packed(std::string(before, 'x'), values);
    EXPECT_EQ((stream.size() - values.size() * sizeof(double)) % 16, 0u) << before;
  }
}

TEST(Archive, ReadsVectorsThatDoNotLieAsTheTypeWantsIt) {
  const std::vector<double> values{1, 2, 3, 4, 5, 6, 7, 8, 9};
  const auto stream = packed(values);
  std::vector<std::byte> moved(stream.size() + 1);
  std::ranges::copy(stream, moved.begin() + 1);
  std::vector<double> arrived;
  pynisher::detail::input_archive ar(moved.data() + 1, stream.size());
  ar(arrived);
  EXPECT_EQ(arrived, values);
}

TEST(Archive, ReadsIntoAValueThatHoldsSomethingAlready) {
  const auto stream = packed(std::vector<std::string>{"new"}, std::map<int, int>{{1, 1}}, std::string("s"));
  std::vector<std::string> texts{"old", "older"};
  std::map<int, int> numbers{{9, 9}};
  std::string text = "longer than what comes";
  pynisher::detail::input_archive ar(stream.data(), stream.size());
  ar(texts, numbers, text);
  EXPECT_EQ(texts, std::vector<std::string>{"new"});
  EXPECT_EQ(numbers, (std::map<int, int>{{1, 1}}));
  EXPECT_EQ(text, "s");
}

TEST(Archive, RefusesToSendWhatTheReceiverWouldNotRead) {
  node head;
  node* last = &head;
  for (int i = 0; i < 2000; ++i) {
    last->next = std::make_unique<node>();
    last = last->next.get();
  }
  EXPECT_THROW((void)packed(head), wire_error);
}

struct trusted {
  int value = 0;
  template <class Archive>
  void serialize(Archive& ar) {
    ar(value);
  }
};

}  // namespace

template <>
inline constexpr bool pynisher::trust_pointer<std::shared_ptr<trusted>> = true;

namespace {

struct sharing {
  std::shared_ptr<trusted> one, other;
  template <class Archive>
  void serialize(Archive& ar) {
    ar(one, other);
  }
};

TEST(Archive, KeepsWhatIsSharedWhereThatIsTrusted) {
  const auto shared = std::make_shared<trusted>(trusted{7});
  const auto arrived = unpacked<sharing>(packed(sharing{shared, shared}));
  EXPECT_EQ(arrived.one->value, 7);
  EXPECT_EQ(arrived.one, arrived.other);
  static_assert(can_cross<std::shared_ptr<trusted>> && can_cross<std::vector<std::shared_ptr<trusted>>>);
}

/// Nested values of random shape: a sum over all combinations would not be written down by hand.
struct tree {
  std::variant<std::monostate, bool, std::int64_t, std::string, std::vector<tree>, std::map<std::string, tree>> value;
  friend bool operator==(const tree&, const tree&) = default;
  template <class Archive>
  void serialize(Archive& ar) {
    ar(value);
  }
};

tree random_tree(std::mt19937& random, int depth) {
  switch (random() % (depth > 0 ? 6 : 4)) {
    case 0:
      return {std::monostate()};
    case 1:
      return {random() % 2 == 0};
    case 2:
      return {static_cast<std::int64_t>(random())};
    case 3:
      return {std::string(random() % 100, 'x')};
    case 4: {
      std::vector<tree> children;
      for (std::size_t n = random() % 4; n > 0; --n) children.push_back(random_tree(random, depth - 1));
      return {std::move(children)};
    }
    default: {
      std::map<std::string, tree> children;
      for (std::size_t n = random() % 4; n > 0; --n) {
        children.emplace(std::to_string(random() % 10), random_tree(random, depth - 1));
      }
      return {std::move(children)};
    }
  }
}

TEST(Archive, KeepsNestedValuesOfAnyShape) {
  std::mt19937 random(20260101);
  std::size_t sent = 0;
  for (int i = 0; i < 1000; ++i) {
    const tree value = random_tree(random, 6);
    const auto stream = packed(value);
    sent += stream.size();
    ASSERT_EQ(unpacked<tree>(stream), value) << "number " << i;
  }
  EXPECT_GT(sent, 20'000u) << "the shapes were too small to show anything";
}

// --- what cannot cross ------------------------------------------------------------------------------------

struct polymorphic {
  virtual ~polymorphic() = default;
  template <class Archive>
  void serialize(Archive&) {}
};
struct opaque {
  int hidden = 0;
};

TEST(CanCross, IsFalseForWhatPointsElsewhere) {
  static_assert(!can_cross<int*>);
  static_assert(!can_cross<const char*>);
  static_assert(!can_cross<void (*)()>);
  static_assert(!can_cross<int opaque::*>);
  static_assert(!can_cross<std::nullptr_t>);
  static_assert(!can_cross<std::string_view>);
  static_assert(!can_cross<std::shared_ptr<int>>);
  static_assert(!can_cross<std::weak_ptr<int>>);
  static_assert(!can_cross<std::unique_ptr<polymorphic>>);
  static_assert(!can_cross<std::unique_ptr<int, void (*)(int*)>>);
  static_assert(!can_cross<opaque>);
}

TEST(CanCross, LooksIntoContainers) {
  static_assert(!can_cross<std::vector<int*>>);
  static_assert(!can_cross<std::optional<std::string_view>>);
  static_assert(!can_cross<std::pair<int, opaque>>);
  static_assert(!can_cross<std::tuple<int, std::shared_ptr<int>>>);
  static_assert(!can_cross<std::variant<int, opaque>>);
  static_assert(!can_cross<std::array<opaque, 2>>);
  static_assert(!can_cross<std::map<int, std::shared_ptr<int>>>);
  static_assert(!can_cross<std::map<std::shared_ptr<int>, int>>);
  static_assert(!can_cross<std::unordered_map<std::string, opaque>>);
  static_assert(!can_cross<std::set<std::shared_ptr<int>>>);
  static_assert(!can_cross<std::deque<std::list<std::unique_ptr<polymorphic>>>>);
  static_assert(!can_cross<std::unique_ptr<std::shared_ptr<int>>>);
}

// A pointer that may alias does not become harmless by standing in a queue.
TEST(CanCross, LooksIntoAdaptorsToo) {
  EXPECT_FALSE(can_cross<std::queue<std::shared_ptr<int>>>);
  EXPECT_FALSE(can_cross<std::stack<std::shared_ptr<int>>>);
  EXPECT_FALSE(can_cross<std::priority_queue<std::shared_ptr<int>>>);
  EXPECT_FALSE(can_cross<std::valarray<std::shared_ptr<int>>>);
}

}  // namespace
