#pragma once

// What a `throw` of Microsoft's C++ ABI leaves for whoever looks for a handler: the types by which it can be caught,
// the class itself first, then its public bases, each followed by its own. In programs of 64 bits all places are told
// from the beginning of the image; in those of 32 bits from zero.

#include <cstdint>
#include <cstring>
#include <typeinfo>
#include <vector>

namespace pynisher::detail::cxx_abi {

struct throw_info {
  std::uint32_t attributes;
  std::uint32_t destructor;
  std::uint32_t compatibility;
  std::uint32_t catchable_types;  ///< the place of a count, and of as many places of `catchable_type`
  static constexpr std::uint32_t is_const = 1;
};

struct catchable_type {
  std::uint32_t properties;
  std::uint32_t type_info;
  std::int32_t displacement[3];
  std::uint32_t size;
  std::uint32_t copy_function;
};

struct catchable_types {
  std::vector<const std::type_info*> types;
  bool points_to_const = false;  ///< of a pointer
};

template <class T>
T read_at(std::uintptr_t address) {
  T value;
  std::memcpy(&value, reinterpret_cast<const void*>(address), sizeof value);
  return value;
}

inline catchable_types catchable_types_in(const void* thrown, std::uintptr_t image) {
  const auto info = read_at<throw_info>(reinterpret_cast<std::uintptr_t>(thrown));
  catchable_types found;
  found.points_to_const = (info.attributes & throw_info::is_const) != 0;
  if (info.catchable_types == 0) return found;
  std::uintptr_t entry = image + info.catchable_types;
  // A class hierarchy this wide is not one that anybody wrote.
  constexpr std::uint32_t most = 1000;
  const auto count = read_at<std::uint32_t>(entry);
  for (std::uint32_t i = 0; i < count && i < most; ++i) {
    entry += sizeof(std::uint32_t);
    const auto type = read_at<catchable_type>(image + read_at<std::uint32_t>(entry));
    found.types.push_back(reinterpret_cast<const std::type_info*>(image + type.type_info));
  }
  return found;
}

}  // namespace pynisher::detail::cxx_abi
