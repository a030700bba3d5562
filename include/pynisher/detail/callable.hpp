#pragma once

// What can be said of a callable: its one signature, if it has one, and a text for a call of it.

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <typeinfo>

#include <pynisher/detail/call_name.hpp>
#include <pynisher/options.hpp>

namespace pynisher::detail {

/// Stands for the signature of a callable that has none or many.
struct generic_signature {};

template <class T>
struct member_call {
  using type = generic_signature;
};
#define PYNISHER_MEMBER_CALL_(...)                    \
  template <class R, class C, class... A>             \
  struct member_call<R (C::*)(A...) __VA_ARGS__> {    \
    using type = R(A...);                             \
  };                                                  \
  template <class R, class C, class... A>             \
  struct member_call<R (C::*)(A...) __VA_ARGS__ noexcept> { \
    using type = R(A...);                             \
  };
PYNISHER_MEMBER_CALL_()
PYNISHER_MEMBER_CALL_(const)
PYNISHER_MEMBER_CALL_(&)
PYNISHER_MEMBER_CALL_(const&)
PYNISHER_MEMBER_CALL_(&&)
PYNISHER_MEMBER_CALL_(const&&)
PYNISHER_MEMBER_CALL_(volatile)
PYNISHER_MEMBER_CALL_(const volatile)
#undef PYNISHER_MEMBER_CALL_

template <class F>
struct signature_of {
  using type = generic_signature;
};
template <class R, class... A>
struct signature_of<R (*)(A...)> {
  using type = R(A...);
};
template <class R, class... A>
struct signature_of<R (*)(A...) noexcept> {
  using type = R(A...);
};
template <class F>
  requires requires { &F::operator(); }
struct signature_of<F> : member_call<decltype(&F::operator())> {};

/// Function pointers, member pointers, `std::function` and its like: they may hold nothing.
template <class F>
concept may_be_empty = std::is_pointer_v<F> || std::is_member_pointer_v<F> ||
                       (std::is_class_v<F> && std::is_assignable_v<F&, std::nullptr_t> && requires(const F& fn) {
                         fn == nullptr;
                       });

/// `R(A...)` where `F` can be called in just one way, else `generic_signature`.
template <class F>
using signature_of_t = typename signature_of<F>::type;

/// The function's name as the linker knows it, or its address.
std::string function_name(const void* address);
std::string text_in_quotes(std::string_view text);

template <class T>
std::string argument_text(const T& value) {
  if constexpr (std::is_same_v<T, bool>) {
    return value ? "true" : "false";
  } else if constexpr (std::is_arithmetic_v<T>) {
    return std::to_string(value);
  } else if constexpr (std::is_convertible_v<const T&, std::string_view> && !std::is_pointer_v<T>) {
    return text_in_quotes(value);
  } else {
    return "<" + demangled_name(typeid(T)) + ">";
  }
}

template <class F, class Arguments>
call_name name_of_call(const F& fn, const Arguments& arguments) {
  call_name name;
  if constexpr (std::is_pointer_v<F> && std::is_function_v<std::remove_pointer_t<F>>) {
    name.function = reinterpret_cast<const void*>(fn);
  } else {
    name.type = &typeid(F);
  }
  std::string& text = name.arguments;
  std::apply(
      [&text](const auto&... argument) {
        [[maybe_unused]] const char* separator = "";
        ((text += separator, text += argument_text(argument), separator = ", "), ...);
      },
      arguments);
  return name;
}

}  // namespace pynisher::detail
