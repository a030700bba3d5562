// Microsoft's C++ ABI: that of MSVC and of clang-cl. Compiled by clang's front end so far, and never run.

#include <windows.h>

#include <algorithm>
#include <cstring>

#include "cxx_abi.hpp"
#include "microsoft_names.hpp"
#include "microsoft_throw_info.hpp"

namespace pynisher::detail::cxx_abi {

// --- what is thrown -----------------------------------------------------------------------------------------

namespace {

/// Of an exception, as the system tells a filter of it.
struct raised {
  const void* throw_info = nullptr;  ///< null: it is not C++'s
  std::uintptr_t image = 0;
};

/// Looks and lets it pass. Nothing may be thrown here.
int note(const EXCEPTION_POINTERS* of, raised* what) noexcept {
  constexpr DWORD from_cxx = 0xE06D7363;
  constexpr bool has_image = sizeof(void*) == 8;
  const EXCEPTION_RECORD& record = *of->ExceptionRecord;
  if (record.ExceptionCode == from_cxx && record.NumberParameters >= (has_image ? 4 : 3)) {
    what->throw_info = reinterpret_cast<const void*>(record.ExceptionInformation[2]);
    what->image = has_image ? record.ExceptionInformation[3] : 0;
  }
  return EXCEPTION_CONTINUE_SEARCH;
}

[[noreturn]] void rethrow(const std::exception_ptr& thrown) { std::rethrow_exception(thrown); }

/// No object that has a destructor may be in a function with a filter.
void rethrow_before(raised* what, const std::exception_ptr& thrown) {
  __try {
    rethrow(thrown);
  } __except (note(GetExceptionInformation(), what)) {
  }
}

}  // namespace

std::vector<const std::type_info*> types_of(const std::exception_ptr& thrown) {
  raised what;
  try {
    rethrow_before(&what, thrown);
  } catch (...) {
  }
  if (what.throw_info == nullptr) return {};
  catchable_types found = catchable_types_in(what.throw_info, what.image);
  std::vector<const std::type_info*>& types = found.types;
  // What a pointer points to is const by a flag, and not by its type.
  if (!types.empty() && found.points_to_const && *types.front() == typeid(char*)) types.front() = &typeid(const char*);
  // A base's own bases come before the next base, and this one is the base of nearly all.
  std::stable_partition(types.begin(), types.end(),
                        [](const std::type_info* type) { return *type != typeid(std::exception); });
  return std::move(types);
}

// --- names --------------------------------------------------------------------------------------------------

std::string demangled(const char* name) { return in_words_of_others(name == nullptr ? "" : name); }

// --- pointers to member functions -----------------------------------------------------------------------------

// The address of a function, which for a virtual one is a piece of code that looks into the table; and then as many
// numbers as the class's kind of inheritance asks for.

bool take_apart(const void* pointer, std::size_t size, member_function& parts) noexcept {
  const void* code = nullptr;
  parts = {};
  if (size < sizeof code || size - sizeof code > sizeof parts.rest) return false;
  std::memcpy(&code, pointer, sizeof code);
  std::memcpy(parts.rest.data(), static_cast<const std::byte*>(pointer) + sizeof code, size - sizeof code);
  parts.code = code;
  return true;
}

bool put_together(const member_function& parts, void* pointer, std::size_t size) noexcept {
  const void* const code = parts.code.value_or(nullptr);
  if (code == nullptr || size < sizeof code || size - sizeof code > sizeof parts.rest) return false;
  std::memcpy(pointer, &code, sizeof code);
  std::memcpy(static_cast<std::byte*>(pointer) + sizeof code, parts.rest.data(), size - sizeof code);
  return true;
}

}  // namespace pynisher::detail::cxx_abi
