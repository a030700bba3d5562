#pragma once

// What the handles of one end of a channel, or of a queue, share in one process.

#include <atomic>
#include <cstdint>
#include <mutex>

#include <pynisher/detail/mail.hpp>

#include "exchange.hpp"
#include "mail_link.hpp"

namespace pynisher::detail {

void drop_holds(std::int64_t channel, end_kind kind, std::int64_t count) noexcept;

struct end_state {
  end_state(std::int64_t channel, end_kind which, std::int64_t holds);
  end_state(const end_state&) = delete;
  end_state& operator=(const end_state&) = delete;
  /// This process has it no more.
  ~end_state();
  /// Before each use. A forked copy of the process has not got what the original holds, but is associated by use.
  void use();
  int watched();

  const std::int64_t id;
  const end_kind kind;

 private:
  std::atomic<pid_t> owner_;
  std::atomic<std::int64_t> holds_;
  std::mutex mutex_;
  channel_watch watch_;
};

}  // namespace pynisher::detail
