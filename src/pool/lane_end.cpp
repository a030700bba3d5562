#include "lane_end.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include <pynisher/exceptions.hpp>

#include "../call_order.hpp"
#include "descriptors.hpp"

namespace pynisher::detail {

namespace {

/// Larger messages come as files: the ring is for what is in and out in a moment.
constexpr std::uint64_t most_in_ring = lane::tasks_size / 4;
constexpr std::uint64_t publish_after = lane::results_size / 8;

std::size_t round_up(std::size_t size) { return static_cast<std::size_t>(lane::padded(size)); }

/// Where in `packed` the first item stands that has not ended.
std::size_t begin_of_rest(const batch& what) {
  std::size_t at = 0;
  for (std::uint32_t i = 0; i < what.ended; ++i) {
    lane_item item;
    std::memcpy(&item, what.packed.data() + at, sizeof item);
    at += sizeof item + round_up(static_cast<std::size_t>(item.size));
  }
  return at;
}

}  // namespace

lane_end::lane_end() : memory_(std::make_shared<lane_memory>()), lane_(memory_->get()) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    throw StartException("make a socket", {errno, std::system_category()});
  }
  socket_ = platform::call_fd(ends[0]);
  workers_socket_ = platform::call_fd(ends[1]);
  if (!results_bell_ || !urgent_bell_) throw StartException("make a doorbell", {EMFILE, std::system_category()});
  const int descriptors[descriptors_of_lane] = {memory_->descriptor(), results_bell_.descriptor(),
                                                urgent_bell_.descriptor()};
  if (!send_descriptors(socket_.get(), descriptors)) {
    throw StartException("send descriptors to a worker", {errno, std::system_category()});
  }
}

// --- tasks ----------------------------------------------------------------------------------------------------

std::optional<std::uint64_t> lane_end::find_room(std::uint64_t size) const {
  const place* first = nullptr;
  const place* last = nullptr;
  for (const place& one : sent_) {
    if (one.begin == one.end) continue;
    if (first == nullptr) first = &one;
    last = &one;
  }
  if (first == nullptr) return 0;
  if (last->end > first->begin) {
    if (lane::tasks_size - last->end >= size) return last->end;
    if (first->begin >= size) return 0;
    return std::nullopt;
  }
  return first->begin - last->end >= size ? std::optional(last->end) : std::nullopt;
}

std::uint32_t lane_end::number_of(const task_entry& entry, std::vector<std::byte>& introduction) {
  const auto known = std::find(entries_.begin(), entries_.end(), &entry);
  if (known == entries_.end()) {
    introduction = pack_bytes([&entry](output_archive& out) {
      write_constant(out, &entry);
      out(entry.type);
    });
    entries_.push_back(&entry);
    return static_cast<std::uint32_t>(entries_.size() - 1);
  }
  return static_cast<std::uint32_t>(known - entries_.begin());
}

void lane_end::push(batch& what) {
  const std::size_t begin = begin_of_rest(what);
  const std::byte* const items = what.packed.data() + begin;
  const std::size_t size = what.packed.size() - begin;

  lane_slot& slot = lane_.slots[next_slot_ % lane::slots_count];
  std::vector<std::byte> introduction;
  slot.entry = number_of(*what.entry, introduction);
  slot.entry_size = static_cast<std::uint32_t>(introduction.size());
  slot.items = what.items - what.ended;
  slot.size = round_up(introduction.size()) + size;

  place at;
  at.introduces = !introduction.empty();
  const auto room = slot.size <= most_in_ring ? find_room(slot.size) : std::nullopt;
  if (room) {
    slot.offset = *room;
    at.begin = *room;
    at.end = *room + slot.size;
    std::byte* to = lane_.task_bytes() + *room;
    if (!introduction.empty()) std::memcpy(to, introduction.data(), introduction.size());
    if (size > 0) std::memcpy(to + round_up(introduction.size()), items, size);
  } else if (write_file(at, introduction, items, size)) {
    slot.offset = lane_slot::in_file;
    slot.serial = at.in.serial;
  } else {
    if (at.introduces) entries_.pop_back();
    at.introduces = false;
    slot.offset = lane_slot::nowhere;
  }
  sent_.push_back(std::move(at));
  ++next_slot_;
  slot.state.store(lane_slot::sent);
  lane_.tasks.fetch_add(1);
  if (lane_.waits_for_tasks.load() != 0) platform::wake_waiters(lane_.tasks);
}

bool lane_end::write_file(place& at, const std::vector<std::byte>& introduction, const std::byte* items,
                          std::size_t size) {
  sent_file to;
  if (spare_files_.empty()) {
    to.file = platform::make_memory_file(0);
  } else {
    to = std::move(spare_files_.back());
    spare_files_.pop_back();
  }
  std::vector<std::byte> head = introduction;
  head.resize(round_up(introduction.size()));
  if (!to.file || !platform::write_file(to.file.get(), head.data(), head.size()) ||
      !platform::write_file(to.file.get(), items, size)) {
    keep_for_the_next(std::move(to));
    return false;
  }
  if (to.serial == 0) {
    const int descriptors[] = {to.file.get()};
    if (!send_descriptors(socket_.get(), descriptors, ++file_serial_)) return false;
    to.serial = file_serial_;
  }
  at.in = std::move(to);
  return true;
}

/// What lies in the conversation stays there until the worker comes to something behind it: it must not get ever more.
void lane_end::keep_for_the_next(sent_file&& unused) {
  if (unused.serial == 0) return;
  if (::ftruncate(unused.file.get(), 0) == 0 && ::lseek(unused.file.get(), 0, SEEK_SET) == 0) {
    spare_files_.push_back(std::move(unused));
  }
}

bool lane_end::take_back() {
  lane_slot& slot = lane_.slots[(next_slot_ - 1) % lane::slots_count];
  std::uint32_t expected = lane_slot::sent;
  if (!slot.state.compare_exchange_strong(expected, lane_slot::empty)) return false;
  --next_slot_;
  // Nothing that the worker still has is of this kind.
  if (sent_.back().introduces) entries_.pop_back();
  keep_for_the_next(std::move(sent_.back().in));
  sent_.pop_back();
  return true;
}

void lane_end::first_is_over() { sent_.pop_front(); }

bool lane_end::has_begun() const {
  if (sent_.empty()) return false;
  return lane_.slots[(next_slot_ - sent_.size()) % lane::slots_count].state.load() != lane_slot::sent;
}

std::size_t lane_end::begun() const {
  std::size_t count = 0;
  const auto has_begun = [this](std::uint64_t slot) {
    return lane_.slots[slot % lane::slots_count].state.load() != lane_slot::sent;
  };
  while (count < sent_.size() && has_begun(next_slot_ - sent_.size() + count)) ++count;
  return count;
}

void lane_end::go_on() {
  lane_.halted.store(0);
  platform::wake_waiters(lane_.halted);
}

void lane_end::wake_worker() {
  lane_.tasks.fetch_add(1);
  platform::wake_waiters(lane_.tasks);
}

void lane_end::close() {
  lane_.closed.store(1);
  wake_worker();
}

// --- results --------------------------------------------------------------------------------------------------

void lane_end::publish_taken() {
  if (published_ == taken_) return;
  published_ = taken_;
  lane_.taken.store(taken_);
  if (lane_.waits_for_room.load() != 0) {
    lane_.room.fetch_add(1);
    platform::wake_waiters(lane_.room);
  }
}

lane_end::frame lane_end::next(reply_bytes* to) {
  frame found;
  while (found.state == frame::state_kind::none) {
    const std::uint64_t written = lane_.written.load();
    const std::uint64_t taken = taken_.load(std::memory_order_relaxed);
    if (written == taken) break;
    const std::uint64_t there = written - taken;
    const std::uint64_t at = taken % lane::results_size;
    const std::uint64_t to_end = lane::results_size - at;
    lane_frame_header header;
    if (there > lane::results_size || there < sizeof header || written % lane::unit != 0) {
      found.state = frame::state_kind::lies;
      break;
    }
    std::memcpy(&header, lane_.result_bytes() + at, sizeof header);
    const std::uint64_t whole = sizeof header + lane::padded(header.size);
    if (whole > std::min(there, to_end)) {
      found.state = frame::state_kind::lies;
      break;
    }
    found = take_frame(header, whole, to);
    taken_.store(taken + whole, std::memory_order_relaxed);
    if (taken + whole - published_ >= publish_after) publish_taken();
  }
  if (found.state != frame::state_kind::came) publish_taken();
  return found;
}

lane_end::frame lane_end::take_frame(const lane_frame_header& header, std::uint64_t whole, reply_bytes* to) {
  frame found;
  const std::uint64_t at = taken_ % lane::results_size;
  const auto kind = static_cast<lane_frame>(header.kind & ~(lane_frame_measured | lane_frame_attached));
  const bool has_attached = (header.kind & lane_frame_attached) != 0;
  found.measured = (header.kind & lane_frame_measured) != 0;
  if (kind == lane_frame::skip) {
    if (whole != lane::results_size - at) found.state = frame::state_kind::lies;
    return found;
  }
  if (to == nullptr || kind < lane_frame::ready || kind > lane_frame::forget) {
    found.state = frame::state_kind::lies;
    return found;
  }
  if (!in_pieces_) {
    // Where the receiver finds what must be aligned.
    const std::size_t padding = round_up(to->arrived()) - to->arrived();
    to->grow(padding);
    body_begin_ = to->arrived();
  }
  if (header.size > platform::physical_memory() / 2 -
                        std::min(to->arrived(), static_cast<std::size_t>(platform::physical_memory() / 2))) {
    found.state = frame::state_kind::too_large;
    return found;
  }
  if (header.size > 0) std::memcpy(to->grow(header.size), lane_.result_bytes() + at + sizeof header, header.size);
  if (kind == lane_frame::piece) {
    in_pieces_ = true;
    return found;
  }
  in_pieces_ = false;
  if (kind == lane_frame::forget) return found;  // what has come stays where it is, and is no part of anything

  found.kind = kind;
  found.wall_ns = header.wall_ns;
  found.begin = body_begin_;
  found.size = to->arrived() - body_begin_;
  found.state = frame::state_kind::came;
  const auto take_from_the_end = [&](void* what, std::size_t size) {
    if (found.size < size) {
      found.state = frame::state_kind::lies;
      return;
    }
    found.size -= size;
    to->select(0, to->arrived());
    std::memcpy(what, to->data() + found.begin + found.size, size);
  };
  if (found.measured) take_from_the_end(&found.usage, sizeof found.usage);
  if (has_attached) take_from_the_end(&found.attached.emplace(), sizeof *found.attached);
  if (has_attached && kind != lane_frame::value) found.state = frame::state_kind::lies;
  return found;
}

}  // namespace pynisher::detail
