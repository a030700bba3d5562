#include <pynisher/units.hpp>

#include <fmt/format.h>

#include <pynisher/format.hpp>

namespace pynisher {

namespace {

// fmt writes a long double by the shortest text that gives it back; a double's worth of digits is what was typed.
std::string with_unit(long double number, std::string_view unit) {
  const auto as_double = static_cast<double>(number);
  std::string text = static_cast<long double>(as_double) == number ? fmt::format("{}", as_double)
                                                                    : fmt::format("{}", number);
  if (text.ends_with(".0")) text.resize(text.size() - 2);
  if (!unit.empty()) text.append(" ").append(unit);
  return text;
}

struct scale {
  double unit;
  const char* name;
};

std::string in_largest_unit(double amount, std::initializer_list<scale> scales, const scale& smallest) {
  for (const auto& [unit, name] : scales) {
    if (amount >= unit) return fmt::format("{:.4g} {}", amount / unit, name);
  }
  return fmt::format("{:.4g} {}", amount / smallest.unit, smallest.name);
}

}  // namespace

std::string memory_size::written() const { return set_ ? with_unit(number_, unit_.view()) : "no limit"; }

std::string time_span::written() const { return set_ ? with_unit(number_, unit_.view()) : "no limit"; }

std::string to_string(memory_size size) {
  if (!size.has_value()) return "no limit";
  constexpr double k = 1024;
  return in_largest_unit(static_cast<double>(size.bytes()),
                         {{k * k * k * k, "TiB"}, {k * k * k, "GiB"}, {k * k, "MiB"}, {k, "KiB"}}, {1, "B"});
}

std::string to_string(std::chrono::nanoseconds time) {
  return in_largest_unit(static_cast<double>(time.count()),
                         {{7200e9, "h"}, {120e9, "min"}, {1e9, "s"}, {1e6, "ms"}, {1e3, "us"}}, {1, "ns"});
}

std::string to_string(time_span span) { return span.has_value() ? to_string(span.nanoseconds()) : "no limit"; }

std::string to_string(const usage& use) {
  return fmt::format("{} wall, {} CPU, {}", to_string(use.wall_time), to_string(use.cpu_time()),
                     to_string(memory_size(use.peak_memory)));
}

}  // namespace pynisher
