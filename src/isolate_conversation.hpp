#pragma once

// One request to an isolate, and what comes of it.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <stop_token>

#include <pynisher/detail/in_flight.hpp>
#include <pynisher/usage.hpp>

#include "isolate_core.hpp"
#include "platform/contract.hpp"
#include "settings.hpp"

namespace pynisher::detail {

/// What is waited for while a request's bytes go and its answer's come: the other side, its process's end, the limits
/// of this call, and a cancellation.
class conversation {
 public:
  conversation(int socket, const platform::doorbell& ended, call_in_flight& process, const settings* limits);
  conversation(const conversation&) = delete;
  conversation& operator=(const conversation&) = delete;

  using state = isolate_core::reply::state;

  state send(std::span<const std::byte> bytes, std::span<const int> descriptors);
  state receive(void* to, std::size_t size);
  /// Whether a limit has been reached.
  state look();
  /// Of this call: wall time, and CPU time where it is limited; of the process: its peak.
  [[nodiscard]] pynisher::usage usage() const;

 private:
  struct ring {
    platform::doorbell* bell;
    void operator()() const noexcept { platform::doorbell::raise(bell->descriptor()); }
  };
  static constexpr std::chrono::nanoseconds least_interval = std::chrono::microseconds(500);

  state wait(short events, std::optional<platform::clock::time_point> until = std::nullopt);
  state hung_up();
  [[nodiscard]] std::chrono::nanoseconds cpu_time() const;

  const int socket_;
  const platform::doorbell& ended_;
  call_in_flight& process_;
  const settings* const limits_;
  const platform::clock::time_point begun_ = platform::clock::now();
  std::optional<platform::clock::time_point> deadline_, next_look_;
  std::chrono::nanoseconds used_before_{0};
  bool has_ended_ = false;
  std::optional<platform::doorbell> stop_bell_;
  std::optional<std::stop_callback<ring>> on_stop_;
};

}  // namespace pynisher::detail
