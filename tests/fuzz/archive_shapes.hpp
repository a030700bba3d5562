#pragma once

// The types that the archive is fuzzed with. An input's first byte picks one of them.

#include <array>
#include <bitset>
#include <chrono>
#include <complex>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <forward_list>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stack>
#include <string>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <valarray>
#include <variant>
#include <vector>

#include <pynisher/detail/wire/types.hpp>

namespace fuzz {

enum class colour : std::uint8_t { red, green, blue };
enum class on_off : bool { off, on };

struct nothing {
  template <class Archive>
  void serialize(Archive&) {}
};

struct record {
  bool yes = false;
  colour paint{};
  on_off state{};
  std::string name;
  std::vector<double> values;
  bool flags[3] = {};
  std::optional<std::filesystem::path> path;
  std::chrono::nanoseconds time{};
  template <class Archive>
  void serialize(Archive& ar) {
    ar(yes, paint, state, name, values, flags, path, time);
  }
};

struct chain {
  int value = 0;
  std::unique_ptr<chain> next;
  template <class Archive>
  void serialize(Archive& ar) {
    ar(value, next);
  }
};

struct tree {
  std::variant<std::monostate, bool, std::int64_t, std::string, std::vector<tree>, std::map<std::string, tree>> value;
  template <class Archive>
  void serialize(Archive& ar) {
    ar(value);
  }
};

using shapes =
    std::tuple<std::string, std::vector<int>, std::vector<std::string>, std::vector<std::vector<double>>, record,
               std::vector<record>, chain, tree, std::map<std::string, record>, std::unordered_map<int, std::string>,
               std::multimap<int, std::string>, std::set<std::pair<int, std::string>>, std::unordered_set<std::string>,
               std::deque<std::string>, std::list<std::vector<int>>, std::forward_list<int>,
               std::array<std::optional<int>, 3>, std::tuple<int, bool, std::string, on_off>,
               std::variant<int, std::string, record>, std::valarray<double>, std::valarray<bool>, std::bitset<70>,
               std::complex<float>, std::wstring, std::u16string, std::stack<int>, std::vector<nothing>,
               std::vector<std::unique_ptr<std::string>>, std::vector<std::byte>, std::optional<std::optional<bool>>>;

inline constexpr std::size_t shape_count = std::tuple_size_v<shapes>;

/// Calls `use.operator()<T>()` for the shape of that number.
template <std::size_t I = 0, class Use>
void with_shape(std::size_t number, const Use& use) {
  if constexpr (I < shape_count) {
    if (number % shape_count == I) {
      use.template operator()<std::tuple_element_t<I, shapes>>();
    } else {
      with_shape<I + 1>(number, use);
    }
  }
}

}  // namespace fuzz
