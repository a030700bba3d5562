#include "exception_registry.hpp"

#include <cstring>

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

std::vector<const exception_codec*> codecs_nearest_first(const std::vector<const std::type_info*>& types) {
  add_standard_codecs();
  std::vector<const exception_codec*> found;
  for (const auto* type : types) {
    if (const auto* codec = find_codec(type->name())) found.push_back(codec);
  }
  return found;
}

}  // namespace pynisher::detail
