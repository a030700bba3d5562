#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <mutex>
#include <optional>
#include <string>

#include <pynisher/progress_bar.hpp>

#include "platform/contract.hpp"

namespace pynisher::detail {

/// A bar on a terminal, or nothing where there is none. Counting takes no lock; one thread draws at a time, and nobody
/// waits for it.
class progress_display {
 public:
  using now_function = platform::clock::time_point (*)();

  explicit progress_display(const progress_options& wanted, now_function now = &platform::clock::now);
  progress_display(const progress_display&) = delete;
  progress_display& operator=(const progress_display&) = delete;

  void add(std::uint64_t done, std::uint64_t failed);
  void set(std::uint64_t done, std::optional<std::uint64_t> total, std::uint64_t failed);
  /// Draws once more, and ends the line; later ones do nothing.
  void finish() noexcept;

 private:
  static constexpr std::uint64_t unknown = std::numeric_limits<std::uint64_t>::max();

  void draw_if_due();
  /// The time stands still once all is done, however long it takes until the bar goes.
  void note_completion();
  void draw(bool last);

  const std::string label_;
  const int descriptor_;
  const std::chrono::nanoseconds interval_;
  const now_function now_;
  const pid_t owner_;
  const bool colours_;
  const platform::clock::time_point begun_;
  std::atomic<std::uint64_t> done_{0}, failed_{0}, total_;
  std::atomic<platform::clock::rep> next_draw_;
  std::atomic<platform::clock::rep> completed_{0};  ///< when; 0: there is more to be done
  std::atomic<bool> silent_;
  std::mutex drawing_;
};

}  // namespace pynisher::detail
