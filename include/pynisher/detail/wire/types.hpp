#pragma once

// Which types can cross between processes, and how those that cereal does not know are written.

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <deque>
#include <filesystem>
#include <forward_list>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <set>
#include <stack>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <valarray>
#include <variant>
#include <vector>

#include <cereal/types/array.hpp>
#include <cereal/types/atomic.hpp>
#include <cereal/types/bitset.hpp>
#include <cereal/types/chrono.hpp>
#include <cereal/types/complex.hpp>
#include <cereal/types/deque.hpp>
#include <cereal/types/forward_list.hpp>
#include <cereal/types/list.hpp>
#include <cereal/types/map.hpp>
#include <cereal/types/memory.hpp>
#include <cereal/types/optional.hpp>
#include <cereal/types/queue.hpp>
#include <cereal/types/set.hpp>
#include <cereal/types/stack.hpp>
#include <cereal/types/string.hpp>
#include <cereal/types/tuple.hpp>
#include <cereal/types/unordered_map.hpp>
#include <cereal/types/unordered_set.hpp>
#include <cereal/types/utility.hpp>
#include <cereal/types/valarray.hpp>
#include <cereal/types/variant.hpp>
#include <cereal/types/vector.hpp>

#include <pynisher/detail/wire/archive.hpp>

namespace pynisher {

namespace detail {

template <class T>
struct crossing;

/// True if a value of `T` can be sent and received. Looks into the standard's containers; a user's own type
/// is taken at its word when cereal finds its functions.
template <class T>
inline constexpr bool can_cross = crossing<std::remove_cv_t<T>>::value;

template <class T>
struct cereal_knows
    : std::bool_constant<cereal::traits::is_output_serializable<T, output_archive>::value &&
                         cereal::traits::is_input_serializable<T, input_archive>::value> {};

template <class T>
struct crossing
    : std::conditional_t<std::is_pointer_v<T> || std::is_reference_v<T> || std::is_void_v<T> ||
                             std::is_function_v<T> || std::is_null_pointer_v<T> || std::is_member_pointer_v<T>,
                         std::false_type, cereal_knows<T>> {};

template <>
struct crossing<std::filesystem::path> : std::true_type {};
template <>
struct crossing<std::byte> : std::true_type {};
template <>
struct crossing<std::monostate> : std::true_type {};
template <class Traits>
struct crossing<std::basic_string_view<char, Traits>> : std::false_type {};

template <class T, std::size_t N>
struct crossing<std::array<T, N>> : std::bool_constant<can_cross<T>> {};
template <class T>
struct crossing<std::valarray<T>> : std::bool_constant<can_cross<T>> {};
template <class T>
struct crossing<std::optional<T>> : std::bool_constant<can_cross<T>> {};
template <class... T>
struct crossing<std::tuple<T...>> : std::bool_constant<(can_cross<T> && ...)> {};
template <class... T>
struct crossing<std::variant<T...>> : std::bool_constant<(can_cross<T> && ...)> {};
template <class A, class B>
struct crossing<std::pair<A, B>> : std::bool_constant<can_cross<A> && can_cross<B>> {};

template <class Pointer>
inline constexpr bool is_allowed = !needs_trust<Pointer> || trust_pointer<Pointer>;

template <class T, class D>
struct crossing<std::unique_ptr<T, D>> : std::bool_constant<is_allowed<std::unique_ptr<T, D>> && can_cross<T> &&
                                                            std::is_same_v<D, std::default_delete<T>>> {};
template <class T>
struct crossing<std::shared_ptr<T>> : std::bool_constant<is_allowed<std::shared_ptr<T>> && can_cross<T>> {};
template <class T>
struct crossing<std::weak_ptr<T>> : std::bool_constant<is_allowed<std::weak_ptr<T>> && can_cross<T>> {};

template <class T, class C>
struct crossing<std::queue<T, C>> : std::bool_constant<can_cross<C>> {};
template <class T, class C>
struct crossing<std::stack<T, C>> : std::bool_constant<can_cross<C>> {};
template <class T, class C, class Compare>
struct crossing<std::priority_queue<T, C, Compare>> : std::bool_constant<can_cross<C>> {};

/// Containers with an allocator and what they hold: `vector<T, A>`, `set<T, C, A>`, `map<K, V, C, A>`, ...
template <class C>
concept container = requires {
  typename C::value_type;
  typename C::allocator_type;
};
template <container C>
  requires requires { typename C::mapped_type; }
struct crossing<C>
    : std::bool_constant<can_cross<typename C::key_type> && can_cross<typename C::mapped_type> &&
                         cereal_knows<C>::value> {};
template <container C>
  requires(!requires { typename C::mapped_type; })
struct crossing<C> : std::bool_constant<can_cross<typename C::value_type> && cereal_knows<C>::value> {};

// cereal takes an empty array's size, which is that of one byte, for the size of its elements.
template <class T>
void CEREAL_SAVE_FUNCTION_NAME(output_archive&, const std::array<T, 0>&) {}
template <class T>
void CEREAL_LOAD_FUNCTION_NAME(input_archive&, std::array<T, 0>&) {}

template <class T>
void CEREAL_LOAD_FUNCTION_NAME(input_archive& ar, std::optional<T>& value) {
  refuse_unmakeable_element<T>();
  value.reset();
  const bool is_empty = ar.read_bool();
  if (!is_empty) ar(value.emplace());
}

// Read here for the same reason as vectors: cereal makes all elements that are claimed before it reads the first.
template <class Sequence>
void load_one_by_one(input_archive& ar, Sequence& values) {
  refuse_unmakeable_element<typename Sequence::value_type>();
  const std::size_t count = ar.read_count();
  values.clear();
  for (std::size_t i = 0; i < count; ++i) {
    values.emplace_back();
    ar(values.back());
  }
}
template <class T, class A>
void CEREAL_LOAD_FUNCTION_NAME(input_archive& ar, std::list<T, A>& values) {
  load_one_by_one(ar, values);
}
template <class T, class A>
void CEREAL_LOAD_FUNCTION_NAME(input_archive& ar, std::deque<T, A>& values) {
  load_one_by_one(ar, values);
}

template <class T, class A>
void CEREAL_LOAD_FUNCTION_NAME(input_archive& ar, std::forward_list<T, A>& values) {
  refuse_unmakeable_element<T>();
  const std::size_t count = ar.read_count();
  values.clear();
  auto last = values.before_begin();
  for (std::size_t i = 0; i < count; ++i) {
    last = values.emplace_after(last);
    ar(*last);
  }
}

template <class T>
void CEREAL_SAVE_FUNCTION_NAME(output_archive& ar, const std::valarray<T>& values) {
  ar(cereal::make_size_tag(static_cast<cereal::size_type>(values.size())));
  if constexpr (plain_number<T>) {
    if (values.size() > 0) ar.write(&values[0], values.size() * sizeof(T));
  } else {
    for (std::size_t i = 0; i < values.size(); ++i) ar(values[i]);
  }
}
template <class T>
void CEREAL_LOAD_FUNCTION_NAME(input_archive& ar, std::valarray<T>& values) {
  if constexpr (plain_number<T>) {
    const std::size_t count = ar.read_count();
    if (count > ar.left() / sizeof(T)) throw_wire_error("a valarray claims more elements than there are bytes");
    values.resize(count);
    if (count > 0) ar.read(&values[0], count * sizeof(T));
  } else {
    // A valarray cannot grow as its elements arrive.
    std::deque<T> arrived;
    load_one_by_one(ar, arrived);
    values.resize(arrived.size());
    for (std::size_t i = 0; i < arrived.size(); ++i) values[i] = std::move(arrived[i]);
  }
}

// cereal puts each key in front of its equals, which turns their order round.
template <class Container>
void load_associations(input_archive& ar, Container& values) {
  using key_type = typename Container::key_type;
  constexpr bool is_map = requires { typename Container::mapped_type; };
  constexpr bool is_sorted = requires { typename Container::key_compare; };
  refuse_unmakeable_element<key_type>();
  std::size_t count = ar.read_count();
  values.clear();
  if constexpr (!is_sorted) values.reserve((std::min)(count, ar.left() / sizeof(void*) + 1));
  for (auto hint = values.end(); count > 0; --count) {
    key_type key{};
    if constexpr (is_map) {
      refuse_unmakeable_element<typename Container::mapped_type>();
      typename Container::mapped_type value{};
      ar(cereal::make_map_item(key, value));
      hint = values.emplace_hint(hint, std::move(key), std::move(value));
    } else {
      ar(key);
      hint = values.emplace_hint(hint, std::move(key));
    }
    if constexpr (is_sorted) hint = values.end();
  }
}
template <class K, class C, class A>
void CEREAL_LOAD_FUNCTION_NAME(input_archive& ar, std::set<K, C, A>& values) {
  load_associations(ar, values);
}
template <class K, class C, class A>
void CEREAL_LOAD_FUNCTION_NAME(input_archive& ar, std::multiset<K, C, A>& values) {
  load_associations(ar, values);
}
template <class K, class H, class E, class A>
void CEREAL_LOAD_FUNCTION_NAME(input_archive& ar, std::unordered_set<K, H, E, A>& values) {
  load_associations(ar, values);
}
template <class K, class H, class E, class A>
void CEREAL_LOAD_FUNCTION_NAME(input_archive& ar, std::unordered_multiset<K, H, E, A>& values) {
  load_associations(ar, values);
}
template <class K, class V, class C, class A>
void CEREAL_LOAD_FUNCTION_NAME(input_archive& ar, std::map<K, V, C, A>& values) {
  load_associations(ar, values);
}
template <class K, class V, class C, class A>
void CEREAL_LOAD_FUNCTION_NAME(input_archive& ar, std::multimap<K, V, C, A>& values) {
  load_associations(ar, values);
}
template <class K, class V, class H, class E, class A>
void CEREAL_LOAD_FUNCTION_NAME(input_archive& ar, std::unordered_map<K, V, H, E, A>& values) {
  load_associations(ar, values);
}
template <class K, class V, class H, class E, class A>
void CEREAL_LOAD_FUNCTION_NAME(input_archive& ar, std::unordered_multimap<K, V, H, E, A>& values) {
  load_associations(ar, values);
}

// std::filesystem::path: cereal has none.
inline void CEREAL_SAVE_FUNCTION_NAME(output_archive& ar, const std::filesystem::path& path) {
  ar(path.native());
}
inline void CEREAL_LOAD_FUNCTION_NAME(input_archive& ar, std::filesystem::path& path) {
  std::filesystem::path::string_type text;
  ar(text);
  path = std::move(text);
}

}  // namespace detail

}  // namespace pynisher
