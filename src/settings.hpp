#pragma once

// Options that have been judged: nothing that makes no sense, and nothing that cannot be enforced here.

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include <pynisher/detail/wire/archive.hpp>
#include <pynisher/options.hpp>

#include "parent_death_watch.hpp"

namespace pynisher::detail {

class settings {
 public:
  [[nodiscard]] const options& given() const { return given_; }
  [[nodiscard]] std::optional<std::uint64_t> memory() const { return memory_; }
  [[nodiscard]] std::optional<std::chrono::nanoseconds> cpu_time() const { return cpu_time_; }
  [[nodiscard]] std::optional<std::chrono::nanoseconds> wall_time() const { return wall_time_; }
  [[nodiscard]] start_method method() const { return method_; }
  /// Kept for as long as there are calls to be made with these.
  [[nodiscard]] platform::parent_death_watch& death_watch() const { return death_watch_; }

  /// The only way to get one that was not judged already. Throws what `validate` documents.
  static settings judge(options wanted);
  /// For a copy of a process that has them, which is started otherwise.
  [[nodiscard]] std::shared_ptr<const settings> of_a_copy() const;
  /// To a child that is started afresh, and there: what a child needs to know of them.
  void send(output_archive& out) const;
  static settings received(input_archive& in);

 private:
  explicit settings(options wanted) : given_(std::move(wanted)) {}

  options given_;
  std::optional<std::uint64_t> memory_;
  std::optional<std::chrono::nanoseconds> cpu_time_;
  std::optional<std::chrono::nanoseconds> wall_time_;
  start_method method_ = start_method::automatic;
  mutable platform::parent_death_watch death_watch_;
};

/// Throws std::invalid_argument, which names the option, unless it is a size that can be a bound, or none.
void refuse_faulty(const char* option, const memory_size& size);

}  // namespace pynisher::detail
