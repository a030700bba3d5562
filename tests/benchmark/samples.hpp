#pragma once

// Measured values of one thing, and what is said of them.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <utility>
#include <vector>

namespace pynisher_benchmark {

using steady = std::chrono::steady_clock;

inline double seconds_since(steady::time_point begin) {
  return std::chrono::duration<double>(steady::now() - begin).count();
}

/// Seconds that `work` takes.
template <class Work>
double timed(Work&& work) {
  const auto begin = steady::now();
  std::forward<Work>(work)();
  return seconds_since(begin);
}

class samples {
 public:
  void add(double value) { values_.push_back(value); }
  [[nodiscard]] bool empty() const { return values_.empty(); }
  [[nodiscard]] double min() const { return *std::min_element(values_.begin(), values_.end()); }
  [[nodiscard]] double median() const { return quantile(0.5); }
  /// The value that a share of `q` of all values does not exceed. There must be values.
  [[nodiscard]] double quantile(double q) const {
    auto sorted = values_;
    std::sort(sorted.begin(), sorted.end());
    return sorted[static_cast<std::size_t>(q * static_cast<double>(sorted.size() - 1) + 0.5)];
  }
  [[nodiscard]] const std::vector<double>& values() const { return values_; }

 private:
  std::vector<double> values_;
};

}  // namespace pynisher_benchmark
