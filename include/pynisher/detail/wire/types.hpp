#pragma once

// Which types can cross between processes, and how those that cereal does not know are written.

#include <array>
#include <chrono>
#include <deque>
#include <filesystem>
#include <forward_list>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <stack>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <type_traits>
#include <utility>
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

/// Set it to true for a `std::shared_ptr<T>` or a pointer to a polymorphic class whose bytes you are ready to
/// take from a child that may have been taken over: ids in them can be made to alias, and a class can be
/// named that you did not expect.
///
///     template <> inline constexpr bool pynisher::trust_pointer<std::shared_ptr<node>> = true;
template <class Pointer>
inline constexpr bool trust_pointer = false;

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
struct crossing<std::optional<T>> : std::bool_constant<can_cross<T>> {};
template <class... T>
struct crossing<std::tuple<T...>> : std::bool_constant<(can_cross<T> && ...)> {};
template <class... T>
struct crossing<std::variant<T...>> : std::bool_constant<(can_cross<T> && ...)> {};
template <class A, class B>
struct crossing<std::pair<A, B>> : std::bool_constant<can_cross<A> && can_cross<B>> {};

template <class T, class D>
struct crossing<std::unique_ptr<T, D>>
    : std::bool_constant<(!std::is_polymorphic_v<T> || trust_pointer<std::unique_ptr<T, D>>) && can_cross<T> &&
                         std::is_same_v<D, std::default_delete<T>>> {};
template <class T>
struct crossing<std::shared_ptr<T>>
    : std::bool_constant<trust_pointer<std::shared_ptr<T>> && can_cross<T>> {};
template <class T>
struct crossing<std::weak_ptr<T>> : std::bool_constant<trust_pointer<std::weak_ptr<T>> && can_cross<T>> {};

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

// Read here for the same reason as vectors: cereal makes all elements that are claimed before it reads the first.
template <class Sequence>
void load_one_by_one(input_archive& ar, Sequence& values) {
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
  const std::size_t count = ar.read_count();
  values.clear();
  auto last = values.before_begin();
  for (std::size_t i = 0; i < count; ++i) {
    last = values.emplace_after(last);
    ar(*last);
  }
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
