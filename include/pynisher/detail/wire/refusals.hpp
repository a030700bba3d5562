#pragma once

// What is refused by the compiler wherever it stands in a value, with a text that says what to do.

#include <concepts>
#include <memory>
#include <type_traits>

namespace pynisher {

/// Set it to true for a `std::shared_ptr<T>` or a pointer to a polymorphic class whose bytes you are ready to
/// take from a child that may have been taken over: ids in them can be made to alias, and a class can be
/// named that you did not expect.
///
///     template <> inline constexpr bool pynisher::trust_pointer<std::shared_ptr<node>> = true;
template <class Pointer>
inline constexpr bool trust_pointer = false;

namespace detail {

/// Pointers whose bytes choose what they point at, or of what class it is.
template <class T>
inline constexpr bool needs_trust = false;
template <class T>
inline constexpr bool needs_trust<std::shared_ptr<T>> = true;
template <class T>
inline constexpr bool needs_trust<std::weak_ptr<T>> = true;
template <class T, class D>
inline constexpr bool needs_trust<std::unique_ptr<T, D>> = std::is_polymorphic_v<T>;

template <class T>
constexpr void refuse_untrusted_pointer() {
  static_assert(!needs_trust<T> || trust_pointer<T>,
                "pynisher: a shared_ptr, a weak_ptr or a unique_ptr to a polymorphic class does not cross between "
                "processes: its bytes say what it points at. Hold a value or a plain unique_ptr, or specialise "
                "pynisher::trust_pointer for it.");
}

template <class T>
constexpr void refuse_unmakeable_element() {
  static_assert(std::default_initializable<T>,
                "pynisher: what is held by a container that crosses between processes needs a default constructor: "
                "it is made first and then read.");
}

}  // namespace detail

}  // namespace pynisher
