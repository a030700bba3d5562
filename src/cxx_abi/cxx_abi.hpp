#pragma once

// What C++ compilers keep behind the language and do not agree upon. Each file of this folder that is named after an
// ABI defines exactly these functions; CMake picks one: itanium.cpp for all compilers but Microsoft's and those that
// follow it.

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <typeinfo>
#include <vector>

namespace pynisher::detail::cxx_abi {

/// The dynamic type of what was thrown, and then its public bases, nearest first. Empty: it is not C++'s.
std::vector<const std::type_info*> types_of(const std::exception_ptr& thrown);

/// What `type_info::name()` says, or the name of a symbol, in the words of C++. What is no such name stays as it is.
std::string demangled(const char* name);

/// A pointer to a member function, taken apart.
struct member_function {
  std::optional<const void*> code;  ///< an address, which another process may have elsewhere; none: all is in `rest`
  std::array<std::int64_t, 2> rest{};
};
/// False: pointers of that size are not known.
bool take_apart(const void* pointer, std::size_t size, member_function& parts) noexcept;
bool put_together(const member_function& parts, void* pointer, std::size_t size) noexcept;

}  // namespace pynisher::detail::cxx_abi
