#include "exception_registry.hpp"

#include <cstddef>
#include <cstring>
#include <deque>

namespace pynisher::detail {

namespace {

std::atomic<exception_codec*> first_codec{nullptr};

/// Made while nothing is being handled: inside of a handler there is no other way to an empty one.
const std::nested_exception nothing_nested;

bool same_type(const std::type_info& a, const char* mangled) { return std::strcmp(a.name(), mangled) == 0; }

const exception_codec* find_codec(const char* mangled) noexcept {
  for (const auto* codec = first_codec.load(std::memory_order_acquire); codec != nullptr; codec = codec->next) {
    if (same_type(*codec->type, mangled)) return codec;
  }
  return nullptr;
}

}  // namespace

void add_exception_codec(exception_codec& codec) noexcept {
  if (find_codec(codec.type->name()) != nullptr) return;
  codec.next = first_codec.load(std::memory_order_relaxed);
  while (!first_codec.compare_exchange_weak(codec.next, &codec, std::memory_order_release)) {
  }
}

std::nested_exception nesting(const std::exception_ptr& cause) {
  if (!cause) return nothing_nested;
  try {
    std::rethrow_exception(cause);
  } catch (...) {
    return {};
  }
}

const exception_codec* codec_named(const std::string& mangled) {
  add_standard_codecs();
  return find_codec(mangled.c_str());
}

namespace {

// How the C++ ABI (Itanium's, which all but Microsoft's compilers follow) lays out what is behind a class's `type_info`.
// libstdc++ declares it, libc++ does not.

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

}  // namespace

std::vector<const std::type_info*> public_bases(const std::type_info& type) {
  std::vector<const std::type_info*> bases;
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
  return bases;
}

std::vector<const exception_codec*> codecs_nearest_first(const std::type_info& type) {
  add_standard_codecs();
  std::vector<const exception_codec*> found;
  std::deque<const std::type_info*> ahead{&type};
  // A class hierarchy this wide is not one that anybody wrote.
  for (int steps = 0; !ahead.empty() && steps < 1000; ++steps) {
    const std::type_info& here = *ahead.front();
    ahead.pop_front();
    if (const auto* codec = find_codec(here.name())) found.push_back(codec);
    for (const auto* base : public_bases(here)) ahead.push_back(base);
  }
  return found;
}

}  // namespace pynisher::detail
