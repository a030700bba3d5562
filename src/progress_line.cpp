#include "progress_line.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include <fmt/format.h>

namespace pynisher::detail {

namespace {

constexpr unsigned widest_bar = 40;
constexpr unsigned narrowest_bar = 8;

/// Bytes of the UTF-8 character at the beginning of `text`; 0: there is none.
std::size_t character_size(std::string_view text) {
  const auto byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  std::size_t size = 0;
  if (byte(0) < 0x80) {
    size = 1;
  } else if (byte(0) >= 0xc2 && byte(0) < 0xe0) {
    size = 2;
  } else if (byte(0) >= 0xe0 && byte(0) < 0xf0) {
    size = 3;
  } else if (byte(0) >= 0xf0 && byte(0) < 0xf5) {
    size = 4;
  }
  if (size > text.size()) return 0;
  for (std::size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  // U+0080 to U+009F are control characters as well.
  return size == 2 && byte(0) == 0xc2 && byte(1) < 0xa0 ? 0 : size;
}

/// Columns that are enough for a character: which ones are wide is not known here.
constexpr unsigned columns_of(std::size_t character_size) { return character_size > 1 ? 2 : 1; }

unsigned columns_of(std::string_view text) {
  unsigned columns = 0;
  while (!text.empty()) {
    const std::size_t size = std::max(std::size_t{1}, character_size(text));
    columns += columns_of(size);
    text.remove_prefix(size);
  }
  return columns;
}

std::string bar_text(double share, unsigned width) {
  const auto inner = width - 2;
  const auto filled = std::min(inner, static_cast<unsigned>(share * inner));
  std::string bar(filled, '#');
  if (filled < inner) bar += '>';
  bar.resize(inner, ' ');
  return '[' + bar + ']';
}

double seconds(std::chrono::nanoseconds time) { return std::chrono::duration<double>(time).count(); }

/// What stands right of the bar, without the failed ones.
std::string numbers_text(const progress_facts& facts) {
  std::string text = facts.total ? fmt::format("{}/{}", facts.done, *facts.total) : fmt::format("{}", facts.done);
  if (facts.done > 0) text += ", " + rate_text(facts.done, facts.elapsed);
  const bool is_complete = facts.total && facts.done >= *facts.total;
  if (facts.finished || is_complete) {
    text += ", in " + clock_text(facts.elapsed);
  } else if (facts.total && facts.done > 0) {
    const double left =
        seconds(facts.elapsed) / static_cast<double>(facts.done) * static_cast<double>(*facts.total - facts.done);
    // A hundred years are as good as any number above.
    const double most = 100.0 * 365 * 24 * 3600;
    text += fmt::format(", {} left", clock_text(std::chrono::seconds(std::llround(std::ceil(std::min(left, most))))));
  } else {
    text += ", " + clock_text(facts.elapsed);
  }
  return text;
}

}  // namespace

std::string clock_text(std::chrono::nanoseconds time) {
  const auto whole = std::max<std::int64_t>(0, std::chrono::floor<std::chrono::seconds>(time).count());
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string rate_text(std::uint64_t done, std::chrono::nanoseconds elapsed) {
  // Below a microsecond nothing has been measured.
  const double rate = static_cast<double>(done) / std::max(seconds(elapsed), 1e-6);
  if (rate >= 999.5e6) return fmt::format("{:.3g}G/s", rate / 1e9);
  if (rate >= 999.5e3) return fmt::format("{:.3g}M/s", rate / 1e6);
  if (rate >= 999.5) return fmt::format("{:.3g}k/s", rate / 1e3);
  if (rate >= 1) return fmt::format("{:.3g}/s", rate);
  if (rate <= 0) return "0/s";
  return fmt::format("{:.3g} s each", 1 / rate);
}

std::string shown_text(std::string_view text, unsigned columns) {
  std::string shown;
  while (!text.empty()) {
    const std::size_t size = character_size(text);
    const std::size_t taken = std::max(std::size_t{1}, size);
    if (columns_of(taken) > columns) break;
    columns -= columns_of(taken);
    const bool harmless = size > 1 || (size == 1 && text[0] >= ' ' && text[0] != '\x7f');
    if (harmless) {
      shown += text.substr(0, taken);
    } else {
      shown += '?';
    }
    text.remove_prefix(taken);
  }
  return shown;
}

std::string progress_line(const progress_facts& facts, unsigned columns, bool colours) {
  // The last column stays free: some terminals begin a new line after it.
  const unsigned room = columns - std::min(columns, 1u);
  const std::string numbers = numbers_text(facts);
  const std::string failed = facts.failed > 0 ? fmt::format("{} failed", facts.failed) : std::string();
  std::string share;
  double part = 0;
  if (facts.total) {
    part = *facts.total == 0 ? 1 : std::min(1.0, static_cast<double>(facts.done) / static_cast<double>(*facts.total));
    share = fmt::format("{:3}%", static_cast<int>(part * 100));
  }

  // What must be there, then the label, then as much of a bar as there is room for.
  std::string right = numbers;
  if (!failed.empty()) right += ", " + failed;
  const auto fixed = static_cast<unsigned>(right.size() + (share.empty() ? 0 : share.size() + 1));
  if (fixed > room) return shown_text(right, room);
  std::string line;
  unsigned left = room - fixed;
  if (left > 1) line = shown_text(facts.label, left - 1);
  if (!line.empty()) {
    left -= columns_of(line) + 1;
    line += ' ';
  }
  if (!share.empty()) line += share + ' ';
  if (!share.empty() && left > narrowest_bar) line += bar_text(part, std::min(left - 1, widest_bar)) + ' ';
  line += numbers;
  if (!failed.empty()) line += fmt::format(", {}{}{}", colours ? "\x1b[31m" : "", failed, colours ? "\x1b[0m" : "");
  return line;
}

}  // namespace pynisher::detail
