#pragma once

// The language of the inputs to reply_target.cpp.

#include <cstdint>

namespace fuzz {

enum class act : std::uint8_t {
  set_written,
  write_bytes,  ///< value: how many; they follow
  skip_bytes,
  set_consumed,
  set_waits,
  set_kind,
  set_begin,
  set_end,
  commit,
  parent_takes,
};
inline constexpr unsigned act_count = 10;

}  // namespace fuzz
