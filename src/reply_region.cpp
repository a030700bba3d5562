#include "reply_region.hpp"

#include <algorithm>
#include <cstring>

#include "platform/contract.hpp"

namespace pynisher::detail {

namespace {

/// A reply of this size is worth waking the parent for while the child is still ending.
constexpr std::uint64_t worth_ringing = std::uint64_t{64} << 10;

}  // namespace

const char* to_string(start_stage stage) {
  switch (stage) {
    case start_stage::none:
      return "start";
    case start_stage::reach_init:
      return "reach pynisher::init in the program that was started again";
    case start_stage::keep_region:
      return "keep the call's memory from what the call starts";
    case start_stage::die_with_parent:
      return "tie the child's life to its parent's";
    case start_stage::become_subreaper:
      return "become the reaper of what the call starts";
    case start_stage::mark:
      return "mark the call's processes";
    case start_stage::standard_input:
      return "give the child an empty standard input";
    case start_stage::output:
      return "give the child its output";
    case start_stage::name:
      return "name the child";
    case start_stage::handlers:
      return "watch for crashes";
    case start_stage::drop_privilege:
      return "give up the right to raise limits";
    case start_stage::cpu_limit:
      return "set the CPU limit";
    case start_stage::wall_limit:
      return "set the wall time limit";
    case start_stage::memory_limit:
      return "set the memory limit";
    case start_stage::process_bound:
      return "limit the number of processes";
    case start_stage::stay_with_server:
      return "keep the forkserver, which has died";
  }
  return "unknown stage";
}

// --- child ------------------------------------------------------------------------------------------------

[[gnu::hot]] byte_sink::window reply_writer::window_at_end() const {
  const std::uint64_t consumed = region_.consumed.load();
  const std::uint64_t free = reply_region::ring_size - (published_ - consumed);
  const std::uint64_t at = published_ % reply_region::ring_size;
  const std::uint64_t length =
      std::min({free, reply_region::ring_size - at, std::uint64_t{reply_region::window_size}});
  return {region_.ring() + at, region_.ring() + at + length};
}

[[gnu::hot]] byte_sink::window reply_writer::first() {
  const window fresh = window_at_end();
  window_begin_ = fresh.begin;
  return fresh;
}

[[gnu::hot]] void reply_writer::publish(const std::byte* filled_to) {
  published_ += static_cast<std::uint64_t>(filled_to - window_begin_);
  window_begin_ += filled_to - window_begin_;
  region_.written.store(published_);
}

void reply_writer::ring_if_awaited() {
  if (region_.parent_waits.exchange(0) != 1) return;
  // Without it the parent would not come for the rest.
  if (!platform::doorbell::is_one(doorbell_) || !platform::doorbell::raise(doorbell_)) {
    throw wire_error("the function has closed the descriptor that large results need");
  }
}

byte_sink::window reply_writer::next(std::byte* filled_to) {
  publish(filled_to);
  ring_if_awaited();
  for (;;) {
    const std::uint32_t seen = region_.room_bell.load();
    window fresh = window_at_end();
    if (fresh.begin == fresh.end) {
      region_.child_waits.store(1);
      fresh = window_at_end();
      if (fresh.begin == fresh.end) platform::wait_for_change(region_.room_bell, seen);
      region_.child_waits.store(0);
      fresh = window_at_end();
    }
    if (fresh.begin != fresh.end) {
      window_begin_ = fresh.begin;
      return fresh;
    }
  }
}

[[gnu::hot]] void reply_writer::commit(reply_kind kind, std::uint64_t begin, const output_archive& archive) {
  publish(archive.filled_to());
  region_.kind.store(static_cast<std::uint32_t>(kind), std::memory_order_relaxed);
  region_.begin.store(begin, std::memory_order_relaxed);
  region_.end.store(archive.position(), std::memory_order_relaxed);
  region_.committed.store(1);
  if (archive.position() >= worth_ringing) ring_if_awaited();
}

void reply_writer::commit_without_bytes(reply_kind kind) {
  region_.kind.store(static_cast<std::uint32_t>(kind), std::memory_order_relaxed);
  region_.begin.store(published_, std::memory_order_relaxed);
  region_.end.store(published_, std::memory_order_relaxed);
  region_.committed.store(1, std::memory_order_release);
}

// --- parent -----------------------------------------------------------------------------------------------

std::size_t reply_reader::next_piece() {
  const std::uint64_t written = region_.written.load();
  if (written == taken_) return 0;
  if (written < taken_ || written - taken_ > reply_region::ring_size) {
    state_ = state::lies;
    return 0;
  }
  if (written > largest_) {
    state_ = state::too_large;
    return 0;
  }
  // A window at a time, so that the child has room again while this copies.
  const std::uint64_t at = taken_ % reply_region::ring_size;
  return static_cast<std::size_t>(
      std::min({written - taken_, reply_region::ring_size - at, std::uint64_t{reply_region::window_size}}));
}

void reply_reader::took(std::size_t piece) {
  taken_ += piece;
  region_.consumed.store(taken_);
  region_.room_bell.fetch_add(1);
  // A child that waits has filled the ring. It goes on when half of that is taken, and not for every piece: being woken
  // takes longer than filling one.
  if (region_.written.load() - taken_ <= reply_region::ring_size / 2) tell_of_room();
}

void reply_reader::tell_of_room() {
  if (region_.child_waits.load() == 1) platform::wake_waiters(region_.room_bell);
}

bool reply_reader::take_some() {
  const std::size_t piece = next_piece();
  if (piece == 0) return false;
  std::memcpy(bytes_.grow(piece), region_.ring() + taken_ % reply_region::ring_size, piece);
  took(piece);
  return true;
}

/// In the middle of a large reply, a moment of looking is cheaper than going to sleep and being woken.
bool reply_reader::more_comes_soon() const {
  if (taken_ < reply_region::window_size || complete()) return false;
  const auto until = platform::clock::now() + std::chrono::microseconds(50);
  while (platform::clock::now() < until) {
    if (region_.written.load() != taken_ || complete()) return region_.written.load() != taken_;
  }
  return false;
}

reply_reader::state reply_reader::take() {
  // Not for longer than this, whatever the child does: whoever called has deadlines to look at. What is left then is
  // rung for by the next window, or found at the child's end.
  const auto until = platform::clock::now() + std::chrono::milliseconds(1);
  while (state_ == state::fine) {
    if (platform::clock::now() < until && (take_some() || more_comes_soon())) continue;
    // Asked for the bell, and looked once more: either there is something now, or the bell will ring.
    region_.parent_waits.store(1);
    if (platform::clock::now() >= until) {
      // Once more with the bell asked for: a child that waits for room gets some, goes on, and rings.
      take_some();
      tell_of_room();
      break;
    }
    if (state_ != state::fine || region_.written.load() == taken_) break;
  }
  return state_;
}

void reply_reader::take_at_once() {
  while (take_some()) {
  }
}

std::size_t reply_reader::take_to(std::byte* to, std::size_t size) {
  const std::uint64_t piece = next_piece();
  // Read after what was published, which was after the child has given the value up: what comes then is none of it.
  const std::uint64_t ends = region_.value_ends.load();
  const std::uint64_t of_value = ends == 0 ? piece : std::min(piece, std::max(ends - 1, taken_) - taken_);
  const auto some = static_cast<std::size_t>(std::min<std::uint64_t>(of_value, size));
  if (some == 0) return 0;
  std::memcpy(to, region_.ring() + taken_ % reply_region::ring_size, some);
  bytes_.skip(some);
  took(some);
  return some;
}

byte_source::window reply_reader::here() const {
  const std::uint64_t ends = region_.value_ends.load();
  const std::uint64_t gone = taken_ - bytes_.size_here();
  const std::uint64_t of_value = ends == 0 ? bytes_.size_here() : std::max(ends - 1, gone) - gone;
  return {bytes_.here(), static_cast<std::size_t>(std::min<std::uint64_t>(of_value, bytes_.size_here()))};
}

bool reply_reader::will_be_rung() {
  region_.parent_waits.store(1);
  return state_ == state::fine && !has_some() && !complete();
}

bool reply_reader::complete() const { return region_.committed.load(std::memory_order_acquire) == 1; }

reply_reader::reply reply_reader::finish() {
  reply result;
  if (region_.committed.load(std::memory_order_acquire) == 0) return result;
  while (state_ == state::fine && take_some()) {
  }
  const commit_record record{region_.kind.load(std::memory_order_relaxed),
                             region_.begin.load(std::memory_order_relaxed),
                             region_.end.load(std::memory_order_relaxed)};
  if (state_ != state::fine || !makes_sense(record, taken_)) {
    result.well_formed = false;
    return result;
  }
  result.kind = static_cast<reply_kind>(record.kind);
  result.bytes = std::move(bytes_);
  result.bytes.select(static_cast<std::size_t>(record.begin), static_cast<std::size_t>(record.end));
  // Only a value is read before it is known to be one.
  if (result.bytes.is_gone() && result.kind != reply_kind::value) {
    result.kind = reply_kind::none;
    result.well_formed = false;
  }
  return result;
}

bool makes_sense(const commit_record& record, std::uint64_t arrived) {
  const bool known = record.kind > static_cast<std::uint32_t>(reply_kind::none) &&
                     record.kind <= static_cast<std::uint32_t>(reply_kind::unsendable);
  return known && record.begin <= record.end && record.end == arrived;
}

}  // namespace pynisher::detail
