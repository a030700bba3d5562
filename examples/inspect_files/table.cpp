#include "table.hpp"

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <vector>

#include <fmt/format.h>

namespace inspector {

namespace {

constexpr std::size_t file_width = 27;
constexpr std::size_t sentence_width = 48;
constexpr std::size_t sentence_lines = 4;
constexpr std::string_view cut = "...";

/// File names and parsers' messages quote what strangers wrote.
std::string harmless(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  std::ranges::replace_if(text, [](unsigned char c) { return c < ' ' || c >= 0x7f; }, '?');
  return text;
}

/// ".../adduser/changelog.gz": whole names where they fit.
std::string shortened_path(const std::string& path, std::size_t width) {
  if (path.size() <= width) return path;
  const std::size_t earliest = path.size() - (width - cut.size());
  const std::size_t slash = path.find('/', earliest);
  return std::string(cut) + path.substr(slash == std::string::npos ? earliest : slash);
}

std::vector<std::string> wrapped(std::string_view text, std::size_t width, std::size_t most) {
  std::vector<std::string> lines;
  while (text.size() > width && lines.size() + 1 < most) {
    std::size_t end = text.rfind(' ', width);
    const bool is_one_long_word = end == std::string_view::npos || end == 0;
    if (is_one_long_word) end = width;
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(is_one_long_word ? end : end + 1);
  }
  lines.emplace_back(text);
  if (text.size() > width) lines.back() = std::string(text.substr(0, width - cut.size())) + std::string(cut);
  return lines;
}

}  // namespace

void print_row(const table_row& row) {
  const std::string file = shortened_path(harmless(row.file), file_width);
  const auto lines = wrapped(harmless(row.sentence), sentence_width, sentence_lines);
  fmt::print("{:<{}}  {:<12}  {:>7}  {:>7}  {:>9}  {}\n", file, file_width, row.verdict, row.wall_time, row.cpu_time,
             row.peak_memory, lines.front());
  const std::size_t indent = file_width + 2 + 12 + 2 + 7 + 2 + 7 + 2 + 9 + 2;
  for (std::size_t i = 1; i < lines.size(); ++i) fmt::print("{:{}}{}\n", "", indent, lines[i]);
}

void print_heading() { print_row({"FILE", "VERDICT", "WALL", "CPU", "PEAK", "WHAT WAS FOUND, OR WHAT HAPPENED"}); }

}  // namespace inspector
