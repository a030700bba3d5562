// The C++ ABI that began with Itanium's, and that all but Microsoft's compilers follow.

#include <cxxabi.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>

#include "cxx_abi.hpp"

namespace pynisher::detail::cxx_abi {

// --- what is thrown -----------------------------------------------------------------------------------------

namespace {

// What is behind a class's `type_info`: libstdc++ declares it, libc++ does not.

struct class_info {
  const void* table;
  const char* name;
};
struct class_with_one_base : class_info {
  const std::type_info* base;
};
struct base_info {
  const std::type_info* base;
  std::ptrdiff_t offset_flags;
  static constexpr std::ptrdiff_t is_public = 2;
};
struct class_with_bases : class_info {
  unsigned flags;
  unsigned count;
  base_info bases[1];
};
static_assert(sizeof(class_info) == sizeof(std::type_info));

bool same_type(const std::type_info& a, const char* mangled) { return std::strcmp(a.name(), mangled) == 0; }

void add_public_bases(const std::type_info& type, std::deque<const std::type_info*>& bases) {
  const std::type_info& kind = typeid(type);
  const void* const at = &type;
  if (same_type(kind, "N10__cxxabiv120__si_class_type_infoE")) {
    bases.push_back(static_cast<const class_with_one_base*>(at)->base);
  } else if (same_type(kind, "N10__cxxabiv121__vmi_class_type_infoE")) {
    const auto& info = *static_cast<const class_with_bases*>(at);
    for (unsigned i = 0; i < info.count; ++i) {
      const base_info& base = info.bases[i];
      if ((base.offset_flags & base_info::is_public) != 0) bases.push_back(base.base);
    }
  }
}

}  // namespace

std::vector<const std::type_info*> types_of(const std::exception_ptr& thrown) {
  const std::type_info* type = nullptr;
  try {
    std::rethrow_exception(thrown);
  } catch (...) {
    type = abi::__cxa_current_exception_type();
  }
  std::vector<const std::type_info*> types;
  if (type == nullptr) return types;
  std::deque<const std::type_info*> ahead{type};
  // A class hierarchy this wide is not one that anybody wrote.
  while (!ahead.empty() && types.size() < 1000) {
    types.push_back(ahead.front());
    ahead.pop_front();
    add_public_bases(*types.back(), ahead);
  }
  return types;
}

// --- names --------------------------------------------------------------------------------------------------

std::string demangled(const char* name) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> text(abi::__cxa_demangle(name, nullptr, nullptr, &status),
                                                         &std::free);
  return status == 0 ? text.get() : name;
}

// --- pointers to member functions -----------------------------------------------------------------------------

namespace {

/// A function's address, or a place in the table of virtual functions; and what is to be added to `this`.
struct layout {
  std::uintptr_t function;
  std::ptrdiff_t adjustment;

  [[nodiscard]] bool is_virtual() const {
#if defined(__arm__) || defined(__aarch64__)
    return (adjustment & 1) != 0;
#else
    return (function & 1) != 0;
#endif
  }
};

}  // namespace

bool take_apart(const void* pointer, std::size_t size, member_function& parts) noexcept {
  layout member{};
  if (size != sizeof member) return false;
  std::memcpy(&member, pointer, sizeof member);
  parts = {};
  if (member.is_virtual()) {
    parts.rest[0] = static_cast<std::int64_t>(member.function);
  } else {
    parts.code = reinterpret_cast<const void*>(member.function);
  }
  parts.rest[1] = static_cast<std::int64_t>(member.adjustment);
  return true;
}

bool put_together(const member_function& parts, void* pointer, std::size_t size) noexcept {
  layout member{};
  if (size != sizeof member) return false;
  member.function =
      parts.code ? reinterpret_cast<std::uintptr_t>(*parts.code) : static_cast<std::uintptr_t>(parts.rest[0]);
  member.adjustment = static_cast<std::ptrdiff_t>(parts.rest[1]);
  std::memcpy(pointer, &member, sizeof member);
  return true;
}

}  // namespace pynisher::detail::cxx_abi
