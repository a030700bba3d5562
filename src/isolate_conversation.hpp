#pragma once

// One request to an isolate, and what comes of it.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <stop_token>

#include <pynisher/usage.hpp>

#include "isolate_core.hpp"
#include "platform/contract.hpp"
#include "settings.hpp"

namespace pynisher::detail {

/// One request: what is waited for while its bytes go and its answer's come.
class conversation {
 public:
  conversation(int socket, const platform::doorbell& ended, std::int64_t pid, const settings* limits);
  conversation(const conversation&) = delete;
  conversation& operator=(const conversation&) = delete;

  using state = isolate_core::reply::state;

  state send(std::span<const std::byte> bytes);
  state receive(void* to, std::size_t size);
  [[nodiscard]] pynisher::usage usage() const;
  [[nodiscard]] std::chrono::nanoseconds cpu_used() const;

 private:
  struct ring {
    platform::doorbell* bell;
    void operator()() const noexcept { platform::doorbell::raise(bell->descriptor()); }
  };
  static constexpr std::chrono::nanoseconds least_interval = std::chrono::microseconds(500);

  state wait(short events);

  const int socket_;
  const platform::doorbell& ended_;
  const pid_t pid_;
  const settings* const limits_;
  const platform::clock::time_point begun_ = platform::clock::now();
  std::optional<platform::clock::time_point> deadline_, next_look_;
  std::chrono::nanoseconds used_before_{0};
  bool has_ended_ = false;
  std::optional<platform::doorbell> stop_bell_;
  std::optional<std::stop_callback<ring>> on_stop_;
};

}  // namespace pynisher::detail
