#include "wrapping.hpp"

#include <algorithm>
#include <string_view>

#include <fmt/format.h>

#include <pynisher/exceptions.hpp>

namespace pynisher::detail {

namespace {

/// "ml::fit<a::b>" is "fit<a::b>" without what it stands in.
std::string_view last_component(std::string_view name) {
  int depth = 0;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < name.size(); ++i) {
    if (name[i] == '<' || name[i] == '(') ++depth;
    if (name[i] == '>' || name[i] == ')') --depth;
    if (depth == 0 && name.substr(i, 2) == "::") begin = i + 2;
  }
  return name.substr(begin);
}

const char* limit_name(wrap_as target) {
  switch (target) {
    case wrap_as::memory:
      return "memory";
    case wrap_as::cpu_time:
      return "CPU time";
    case wrap_as::wall_time:
      return "wall time";
    case wrap_as::pynisher:
      break;
  }
  return "";
}

bool matches(const wrap_rule& rule, const received_exception& received) {
  if (rule.whole_name) return rule.type_name == received.info.type_name;
  if (!rule.by_code) return names_type(rule.type_name, received.info.type_name);
  return received.code && received.code == std::error_condition(rule.code.value(), rule.code.category());
}

}  // namespace

bool names_type(const std::string& rule, const std::string& type_name) {
  return rule == type_name || rule == last_component(type_name);
}

std::optional<wrapped_exception> apply_wrapping(const settings& limits, const received_exception& received,
                                                const std::string& call, const evidence& seen) {
  const error_wrapping& wrapping = limits.given().wrap_errors;
  const auto& rules = wrapping.rules();
  const auto rule = std::ranges::find_if(rules, [&](const wrap_rule& r) { return matches(r, received); });
  if (rule == rules.end() && !wrapping.wraps_all()) return std::nullopt;

  const wrap_as target = rule == rules.end() ? wrap_as::pynisher : rule->target;
  const std::string text = fmt::format("{} threw {}: {}, which counts as reaching the {} limit", call,
                                       received.info.type_name, received.info.message, limit_name(target));
  const usage& used = seen.usage;
  switch (target) {
    case wrap_as::memory:
      return wrapped_exception{verdict::memory_limit,
                               std::make_exception_ptr(MemoryLimitException(
                                   text, limits.given().memory, used.peak_memory, call, used))};
    case wrap_as::cpu_time:
      return wrapped_exception{verdict::cpu_timeout,
                               std::make_exception_ptr(CpuTimeoutException(
                                   text, limits.given().cpu_time.nanoseconds(), used.cpu_time(), call, used))};
    case wrap_as::wall_time:
      return wrapped_exception{verdict::wall_timeout,
                               std::make_exception_ptr(WallTimeoutException(
                                   text, limits.given().wall_time.nanoseconds(), used.wall_time, call, used))};
    case wrap_as::pynisher:
      break;
  }
  return wrapped_exception{verdict::raised, std::make_exception_ptr(WrappedException(received.info))};
}

}  // namespace pynisher::detail
