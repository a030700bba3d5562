#pragma once

// The way to the exchange from wherever this is: the program itself, one of its children, or a child of those.
//
// A child asks for the way when it first needs it: it says so in the region that it shares with whoever supervises it,
// who writes it there. The address is a name and a secret, which nobody else is told.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <pynisher/detail/mail.hpp>

#include "exchange.hpp"
#include "platform/words.hpp"
#include "reply_region.hpp"

namespace pynisher::detail {

/// The isolate in which this process runs; 0, 0: the program.
struct household {
  std::uint64_t number = 0;
  std::int64_t isolate = 0;
  pid_t head = 0;  ///< the isolate's own process
};

// --- asking

/// Waits for the answer; at `until`, takes the question back, which is answered too. Throws `ChannelError` where there
/// is no way to the exchange.
answer ask_exchange(request what, mail_deadline until = std::nullopt);
/// Nothing comes back.
void tell_exchange(request what) noexcept;
/// `done` is called once, on a thread of the library's or at once.
std::shared_ptr<mail_operation> begin_at_exchange(request what, std::function<void(answer)> done);
/// Readable while the channel has something for a receiver; for as long as it is kept.
struct channel_watch {
  std::shared_ptr<void> keeper;
  int descriptor = -1;  ///< -1: `why` says why there is none
  answer why;           ///< not_found, too_much; empty: no descriptor is left
};
channel_watch watch_at_exchange(std::int64_t channel);
/// Which exchange the channels are in that this process makes. A copy of the program that the program does not know of
/// has one of its own.
using exchange_name = pid_t;
exchange_name own_exchange() noexcept;
/// Throws `ChannelError` in a copy of the program that has no way to its channels, unless they are its own.
void refuse_strange_exchange(exchange_name of);
/// What a process has as much of as one may: of an answer `too_much`.
std::string text_of_limit(const answer& refused);
/// Something that cannot be guessed.
deposit_key random_key();

// --- being told the way

/// In a child that was started afresh, before it has taken its arguments: what it shares with its supervisor.
void set_own_region(reply_region& region, int doorbell) noexcept;
/// In the child: its supervisor is to know that its reply has more than bytes.
void note_deposited_reply() noexcept;
/// In the child, before its set-up closes the descriptors of calls: those of this module go first.
void hang_up_at_exchange() noexcept;
/// In the supervisor, when the doorbell has rung: tells a child the way that has asked for it.
void show_the_way(reply_region& region);
/// In an isolate: it is one from now on.
void enter_household(std::int64_t isolate);
/// A child that has used the exchange has been reaped: what it had there is released when this comes back.
void note_process_ended(std::int64_t pid) noexcept;

}  // namespace pynisher::detail
