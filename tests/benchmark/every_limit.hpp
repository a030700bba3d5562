#pragma once

#include <chrono>
#include <cstdint>

#include <pynisher/options.hpp>
#include <pynisher/supports.hpp>

namespace pynisher_benchmark {

/// Wall, CPU and memory limits that no measured call reaches; without memory where it cannot be limited.
inline pynisher::options every_limit() {
  pynisher::options limits{
      .cpu_time = std::chrono::seconds(30), .wall_time = std::chrono::minutes(1), .warnings = false};
  if (pynisher::supports(pynisher::feature::memory)) limits.memory = std::uint64_t{500} << 20;
  return limits;
}

}  // namespace pynisher_benchmark
