#include "settings.hpp"

#include <memory>
#include <stdexcept>
#include <string>

#include <fmt/format.h>

#include <pynisher/detail/execute.hpp>
#include <pynisher/exceptions.hpp>
#include <pynisher/supports.hpp>

namespace pynisher::detail {

namespace {

template <class Quantity>
void refuse_faulty(const char* option, const Quantity& value, const char* units, const char* largest) {
  using enum quantity_fault;
  const auto refuse = [&](const std::string& why) {
    throw std::invalid_argument(fmt::format("{}: {} (given: {})", option, why, value.written()));
  };
  switch (value.fault()) {
    case none:
      return;
    case not_a_number:
      return refuse("a limit cannot be NaN");
    case not_positive:
      return refuse("a limit must be greater than zero");
    case unknown_unit:
      return refuse(fmt::format("unknown unit; known are {}", units));
    case too_large:
      return refuse(fmt::format("too large; at most {}", largest));
  }
}

/// Below it the limits are no longer exact.
void refuse_too_short(const char* option, const time_span& value) {
  if (!value.has_value() || value.nanoseconds() >= std::chrono::milliseconds(1)) return;
  throw std::invalid_argument(fmt::format("{}: too short; at least 1 ms (given: {})", option, value.written()));
}

void refuse_faulty(const wrap_rule& rule) {
  if (rule.by_code && !rule.code) throw std::invalid_argument("wrap_errors: a rule for the code 0, which is no error");
  if (!rule.by_code && rule.type_name.empty()) {
    throw std::invalid_argument("wrap_errors: a rule needs the name of a type (given: \"\")");
  }
  switch (rule.target) {
    case wrap_as::pynisher:
    case wrap_as::memory:
    case wrap_as::cpu_time:
    case wrap_as::wall_time:
      return;
  }
  throw std::invalid_argument(
      fmt::format("wrap_errors: nothing that an exception can be wrapped as (given: wrap_as {})", static_cast<int>(rule.target)));
}

void require(feature what, const char* option) {
  const std::string reason = why_not(what);
  if (reason.empty()) return;
  throw UnsupportedException(fmt::format("{}: {}", option, reason));
}

feature feature_of(memory_measure measure) {
  switch (measure) {
    case memory_measure::growth:
      return feature::memory_growth;
    case memory_measure::address_space:
      return feature::memory_address_space;
    case memory_measure::resident_tree:
      return feature::memory_tree;
  }
  throw std::invalid_argument("measure: no such way to measure memory");
}

start_method resolve(start_method wanted) {
  switch (wanted) {
    case start_method::automatic: {
      const auto methods = start_methods();
      // Then there is a reason, which is the same for all of them.
      if (methods.empty()) require(feature::spawn, "context");
      return methods.front();
    }
    case start_method::fork:
      require(feature::fork, "context");
      return wanted;
    case start_method::spawn:
      require(feature::spawn, "context");
      return wanted;
    case start_method::forkserver:
      require(feature::forkserver, "context");
      return wanted;
  }
  throw std::invalid_argument("context: no such start method");
}

}  // namespace

void refuse_faulty(const char* option, const memory_size& size) {
  refuse_faulty<memory_size>(option, size, "B, KB, MB, GB, TB, KiB, MiB, GiB, TiB", "8388607 TiB");
}

settings settings::judge(options wanted) {
  settings checked(std::move(wanted));
  const options& given = checked.given_;

  refuse_faulty("memory", given.memory);
  refuse_faulty("cpu_time", given.cpu_time, "ms, s, m, h, d", "292 years");
  refuse_faulty("wall_time", given.wall_time, "ms, s, m, h, d", "292 years");
  refuse_too_short("cpu_time", given.cpu_time);
  refuse_too_short("wall_time", given.wall_time);
  for (const wrap_rule& rule : given.wrap_errors.rules()) refuse_faulty(rule);
  if (given.name.find('\0') != std::string::npos) {
    throw std::invalid_argument(fmt::format("name: a process name cannot contain a zero byte (given: {} bytes)",
                                            given.name.size()));
  }
  const feature measured = feature_of(given.measure);
  if (given.memory.has_value() || given.measure != memory_measure::growth) require(measured, given.measure == memory_measure::growth ? "memory" : "measure");
  if (given.cpu_time.has_value()) require(feature::cpu_time, "cpu_time");
  if (given.wall_time.has_value()) require(feature::wall_time, "wall_time");
  if (given.processes != 0) require(feature::process_count, "processes");
  if (given.stop.stop_possible()) require(feature::cancel, "stop");
  checked.method_ = resolve(given.context);

  if (given.memory.has_value()) checked.memory_ = given.memory.bytes();
  if (given.cpu_time.has_value()) checked.cpu_time_ = given.cpu_time.nanoseconds();
  if (given.wall_time.has_value()) checked.wall_time_ = given.wall_time.nanoseconds();
  return checked;
}

std::shared_ptr<const settings> settings::of_a_copy() const {
  auto copy = std::make_shared<settings>(*this);
  copy->method_ = start_method::forkserver;
  return copy;
}

void settings::send(output_archive& out) const {
  const auto count = [](const auto& time) { return time ? time->count() : 0; };
  out(given_.name, given_.measure, given_.terminate_child_processes, memory_.value_or(0), count(cpu_time_),
      count(wall_time_), method_);
}

[[gnu::hot]] settings settings::received(input_archive& in) {
  settings sent{options()};
  std::uint64_t memory = 0;
  std::int64_t cpu_time = 0, wall_time = 0;
  in(sent.given_.name, sent.given_.measure, sent.given_.terminate_child_processes, memory, cpu_time, wall_time,
     sent.method_);
  // No limit is zero.
  if (memory != 0) sent.memory_ = memory;
  if (cpu_time != 0) sent.cpu_time_ = std::chrono::nanoseconds(cpu_time);
  if (wall_time != 0) sent.wall_time_ = std::chrono::nanoseconds(wall_time);
  return sent;
}

std::shared_ptr<const settings> validate(options wanted) {
  return std::make_shared<const settings>(settings::judge(std::move(wanted)));
}

const options& options_of(const settings& checked) noexcept { return checked.given(); }

}  // namespace pynisher::detail
