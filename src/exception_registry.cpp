#include "exception_registry.hpp"

#include <cxxabi.h>

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

std::vector<const std::type_info*> public_bases(const std::type_info& type) {
  std::vector<const std::type_info*> bases;
  if (const auto* single = dynamic_cast<const abi::__si_class_type_info*>(&type)) {
    bases.push_back(single->__base_type);
  } else if (const auto* many = dynamic_cast<const abi::__vmi_class_type_info*>(&type)) {
    for (unsigned i = 0; i < many->__base_count; ++i) {
      const auto& base = many->__base_info[i];
      if ((base.__offset_flags & abi::__base_class_type_info::__public_mask) != 0) bases.push_back(base.__base_type);
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
