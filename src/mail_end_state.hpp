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
  /// Throws `ChannelError` in one that has no way to the channel's exchange.
  void use() { static_cast<void>(here()); }
  /// In a forked copy: it has got a hold of its own.
  void take_over();
  /// -1: `why` says why there is none.
  int watched(answer& why);

  const std::int64_t id;
  const end_kind kind;

 private:
  /// What one process has of it. A copy of the process leaves that of the original alone, whatever state it is in.
  struct share {
    explicit share(std::int64_t count);
    const pid_t process;
    std::atomic<std::int64_t> holds;
    std::mutex mutex;
    channel_watch watch;
  };
  share& here();

  const exchange_name exchange_;
  std::atomic<share*> share_;
};

}  // namespace pynisher::detail
