#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace pynisher::detail {

/// How far something has come.
struct progress_facts {
  std::string label;
  std::uint64_t done = 0;
  std::optional<std::uint64_t> total;
  std::uint64_t failed = 0;
  std::chrono::nanoseconds elapsed{};
  bool finished = false;
};

/// One line of fewer than `columns` columns, without an end of line.
std::string progress_line(const progress_facts& facts, unsigned columns, bool colours);

/// "0:07", "1:02:03"; days are hours.
std::string clock_text(std::chrono::nanoseconds time);
/// "123/s", "4.5/s", "1.2k/s"; slower than one a second: "8.1 s each".
std::string rate_text(std::uint64_t done, std::chrono::nanoseconds elapsed);
/// What a terminal shows in at most `columns` columns: nothing that moves its cursor, and only whole characters.
std::string shown_text(std::string_view text, unsigned columns);

}  // namespace pynisher::detail
