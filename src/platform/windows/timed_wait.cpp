#include "timed_wait.hpp"

#include <mmsystem.h>

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace pynisher::platform {

fine_ticks::fine_ticks(bool wanted) noexcept : asked_for_(wanted && ::timeBeginPeriod(1) == TIMERR_NOERROR) {}

fine_ticks::~fine_ticks() {
  if (asked_for_) ::timeEndPeriod(1);
}

DWORD timed_wait::milliseconds_until(std::optional<clock::time_point> until) noexcept {
  if (!until) return INFINITE;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(*until - clock::now()).count();
  return static_cast<DWORD>(std::clamp<std::int64_t>(left, 0, 1'000'000'000));
}

}  // namespace pynisher::platform
