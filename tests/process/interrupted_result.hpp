#pragma once

// A large result, with something happening while it is packed.

#include <cstdint>
#include <vector>

#include "support/functions.hpp"

namespace support {

/// 300 MiB of numbers, with something happening when half of them have been packed.
template <void (*Happening)()>
struct interrupted_result {
  std::vector<std::uint64_t> half;

  template <class Archive>
  void save(Archive& ar) const {
    ar(half);
    Happening();
    ar(half);
  }
  template <class Archive>
  void load(Archive& ar) {
    ar(half);
    ar(half);
  }
};

template <void (*Happening)()>
interrupted_result<Happening> make_interrupted() {
  return {std::vector<std::uint64_t>(150 * MiB / sizeof(std::uint64_t), 1)};
}

}  // namespace support
