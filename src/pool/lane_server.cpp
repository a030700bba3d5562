#include "lane_server.hpp"

#include <cxxabi.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstring>
#include <new>

#include <fmt/format.h>

#include "../call_order.hpp"
#include "../child_main.hpp"
#include "../exception_frame.hpp"
#include "../mail_packing.hpp"
#include "descriptors.hpp"

namespace pynisher::detail {

namespace {

using namespace std::chrono_literals;

/// Frames of less are not begun at the ring's end.
constexpr std::uint64_t least_window = 512;
/// Published and rung for in pieces of this size, so that both sides work at the same time.
constexpr std::uint64_t most_window = std::uint64_t{128} << 10;
/// What lies closer together than this is not worth a look at the kernel's counters.
constexpr auto look_interval = 50us;

}  // namespace

// --- frames ---------------------------------------------------------------------------------------------------

void lane_writer::ring_bell(int bell) {
  if (platform::doorbell::is_one(bell) && platform::doorbell::raise(bell)) return;
  // Nobody would ever come for its results.
  throw wire_error("the worker's function has closed the descriptor by which the worker says that it is done");
}

void lane_writer::ring() {
  std::uint32_t expected = lane::asleep;
  if (lane_.watcher.load() == lane::asleep && lane_.watcher.compare_exchange_strong(expected, lane::awake)) {
    ring_bell(results_bell_);
  }
}

void lane_writer::wait_for_room(std::uint64_t wanted) {
  for (;;) {
    const std::uint32_t seen = lane_.room.load();
    const auto free = [this] { return lane::results_size - (written_ - lane_.taken.load()); };
    if (free() >= wanted) return;
    lane_.waits_for_room.store(1);
    if (free() < wanted) {
      if (lane_.watcher.load() == lane::nobody) ring_urgently();
      ring();
      if (free() < wanted) platform::wait_for_change(lane_.room, seen);
    }
    lane_.waits_for_room.store(0);
  }
}

byte_sink::window lane_writer::begin() {
  std::uint64_t to_end = lane::results_size - written_ % lane::results_size;
  if (to_end < least_window) {
    wait_for_room(to_end);
    const lane_frame_header header{static_cast<std::uint32_t>(lane_frame::skip),
                                   static_cast<std::uint32_t>(to_end - sizeof header), 0};
    std::memcpy(at_end(), &header, sizeof header);
    written_ += to_end;
    lane_.written.store(written_);
    to_end = lane::results_size;
  }
  wait_for_room(least_window);
  const std::uint64_t free = lane::results_size - (written_ - lane_.taken.load());
  const std::uint64_t length = std::min({free, to_end, most_window});
  return {at_end() + sizeof(lane_frame_header), at_end() + length};
}

void lane_writer::finish(std::uint32_t kind, const std::byte* filled_to, std::int64_t wall_ns) {
  const auto body = static_cast<std::uint64_t>(filled_to - at_end()) - sizeof(lane_frame_header);
  const lane_frame_header header{kind, static_cast<std::uint32_t>(body), wall_ns};
  std::memcpy(at_end(), &header, sizeof header);
  written_ += sizeof header + lane::padded(body);
  in_pieces_ = kind == static_cast<std::uint32_t>(lane_frame::piece);
  lane_.written.store(written_);
}

byte_sink::window lane_writer::next(std::byte* filled_to) {
  finish(lane_frame::piece, filled_to);
  ring();
  return begin();
}

void lane_writer::whole(lane_frame kind, const void* body, std::size_t size) {
  const window at = begin();
  size = std::min(size, static_cast<std::size_t>(at.end - at.begin));
  if (size > 0) std::memcpy(at.begin, body, size);
  finish(kind, at.begin + size);
}

void lane_writer::forget() {
  if (in_pieces_) whole(lane_frame::forget, nullptr, 0);
}

void begin_task_reply() { begin_packing_reply(); }

// --- the worker -------------------------------------------------------------------------------------------------

lane_server::lane_server(lane& with, std::span<const platform::call_fd> bells, int conversation, bool in_process)
    : lane_(with), writer_(with, bells[0].get(), bells[1].get()), conversation_(conversation), in_process_(in_process) {
  peak_at_first_ = usage_now().peak;
}

void lane_server::live(const std::function<void(const std::function<void(void*)>&)>& make) {
  bool made = false;
  try {
    make([&](void* worker) {
      made = true;
      writer_.whole(lane_frame::ready, nullptr, 0);
      writer_.ring_urgently();
      serve(worker);
    });
  } catch (abi::__forced_unwind&) {
    throw;
  } catch (...) {
    if (made) throw;
    if (in_process_) flush_output();
    send_exception(std::current_exception(), nullptr);
    writer_.ring_urgently();
  }
}

void lane_server::serve(void* worker) {
  while (lane_slot* slot = next_message()) {
    run_message(worker, *slot);
  }
}

lane_slot* lane_server::next_message() {
  lane_slot& slot = lane_.slots[begun_ % lane::slots_count];
  for (;;) {
    const std::uint32_t seen = lane_.tasks.load();
    const auto now = clock::now();
    // Before the message is begun: who looks then must find something that is not older than the message.
    lane_.item_began.store(now.time_since_epoch().count());
    std::uint32_t expected = lane_slot::sent;
    if (slot.state.compare_exchange_strong(expected, lane_slot::begun)) {
      ++begun_;
      begin_item(now);
      return &slot;
    }
    if (lane_.closed.load() != 0) return nullptr;
    lane_.waits_for_tasks.store(1);
    if (slot.state.load() != lane_slot::sent && lane_.closed.load() == 0) platform::wait_for_change(lane_.tasks, seen);
    lane_.waits_for_tasks.store(0);
  }
}

void lane_server::run_message(void* worker, lane_slot& slot) {
  if (slot.offset == lane_slot::nowhere) return run_items(worker, slot, nullptr);
  if (slot.offset != lane_slot::in_file) return run_items(worker, slot, lane_.task_bytes() + slot.offset);
  platform::call_fd file[1];
  const bool came = receive_descriptors(conversation_, file, slot.serial);
  const received_file memory(file[0].get(), static_cast<std::size_t>(slot.size));
  run_items(worker, slot, came ? memory.data() : nullptr);
}

void lane_server::run_items(void* worker, lane_slot& slot, const std::byte* bytes) {
  const std::uint32_t items = slot.items;
  std::string why = "there was no memory for what was sent";
  const task_entry* entry = nullptr;
  if (bytes != nullptr) {
    entry = entry_of(slot.entry, input_archive(bytes, slot.entry_size), why);
    bytes += lane::padded(slot.entry_size);
  }
  for (std::uint32_t i = 0; i < items; ++i) {
    // The program is about to end this worker for the item before, or to find that it need not.
    while (lane_.halted.load() != 0) platform::wait_for_change(lane_.halted, 1);
    lane_slot* const last = i + 1 == items ? &slot : nullptr;
    if (entry == nullptr) {
      send_exception(std::make_exception_ptr(wire_error(why)), last);
      continue;
    }
    lane_item item;
    std::memcpy(&item, bytes, sizeof item);
    bytes += sizeof item;
    run_item(worker, *entry, input_archive(bytes, static_cast<std::size_t>(item.size)), last);
    bytes += lane::padded(item.size);
  }
}

void lane_server::run_item(void* worker, const task_entry& entry, input_archive in, lane_slot* last) {
  try {
    output_archive out(writer_, writer_.begin());
    entry.run(worker, in, out);
    send_value(out, last);
  } catch (abi::__forced_unwind&) {
    throw;
  } catch (...) {
    drop_packed_reply();
    send_exception(std::current_exception(), last);
  }
}

void lane_server::send_value(output_archive& out, lane_slot* last) {
  // A thread is no party of its own, whose deposits could be told from the program's.
  const auto attached = finish_packing_result(in_process_ ? deposit_mode::result : deposit_mode::argument);
  if (!attached) return end_item(lane_frame::value, out, last);
  deposited until_sent(*attached);
  end_item(lane_frame::value, out, last, &*attached);
  until_sent.leave();
}

void lane_server::begin_item(clock::time_point now) {
  item_began_ = now;
  if (now - looked_ >= look_interval) {
    seen_ = usage_now();
    looked_ = now;
    lane_.item_cpu.store(seen_.user_ns + seen_.system_ns);
  }
}

void lane_server::end_item(lane_frame kind, output_archive& out, lane_slot* last, const deposit_key* attached) {
  // What it has printed is there when its result is.
  if (last != nullptr && in_process_) flush_output();
  const auto now = clock::now();
  auto kind_sent = static_cast<std::uint32_t>(kind);
  if (attached != nullptr) {
    out.write(attached, sizeof *attached);
    kind_sent |= lane_frame_attached;
  }
  if (now - looked_ >= look_interval) {
    const lane_usage all = usage_now();
    const lane_usage cost{all.user_ns - seen_.user_ns, all.system_ns - seen_.system_ns,
                          all.peak - std::min(all.peak, peak_at_first_), all.page_faults - seen_.page_faults};
    out.write(&cost, sizeof cost);
    kind_sent |= lane_frame_measured;
    seen_ = all;
    looked_ = now;
    lane_.item_cpu.store(all.user_ns + all.system_ns);
  }
  const auto took = now - item_began_;
  item_began_ = now;
  if (last != nullptr) {
    last->state.store(lane_slot::empty);
  } else {
    lane_.item_began.store(now.time_since_epoch().count());
  }
  writer_.finish(kind_sent, out.filled_to(), took.count());
  // Each time: whoever sleeps may have to hear of this item before the next one can come to its end.
  writer_.ring();
}

void lane_server::send_exception(const std::exception_ptr& thrown, lane_slot* last) {
  const auto send = [&](lane_frame kind, const auto& write) {
    writer_.forget();
    output_archive out(writer_, writer_.begin());
    write(out);
    end_item(kind, out, last);
  };
  const auto send_text = [&](std::string text) {
    send(lane_frame::unsendable, [&text](output_archive& out) { out(text); });
  };
  try {
    std::rethrow_exception(thrown);
  } catch (const wire_error& e) {
    return send_text(e.what());
  } catch (const cereal::Exception& e) {
    return send_text(e.what());
  } catch (...) {
  }
  try {
    send(lane_frame::exception, [&thrown](output_archive& out) { write_exception(out, thrown); });
  } catch (const std::bad_alloc&) {
    send(lane_frame::out_of_memory, [](output_archive&) {});
  } catch (const std::exception& e) {
    send_text(fmt::format("its exception could not be packed: {}", e.what()));
  } catch (...) {
    send_text("its exception could not be packed");
  }
}

const task_entry* lane_server::entry_of(std::uint32_t number, input_archive introduction, std::string& why_not) {
  if (introduction.left() > 0) {
    entries_.push_back(nullptr);
    try {
      std::uint64_t type = 0;
      const auto* entry = static_cast<const task_entry*>(read_constant(introduction, sizeof(task_entry)));
      introduction(type);
      if (reinterpret_cast<std::uintptr_t>(entry) % alignof(task_entry) != 0 || entry->stamp != task_entry::own_stamp ||
          entry->type != type) {
        throw wire_error("the task cannot be found in the worker: its types are others there");
      }
      entries_.back() = entry;
    } catch (const wire_error& e) {
      why_not = e.what();
    }
  }
  if (number < entries_.size() && entries_[number] != nullptr) return entries_[number];
  if (introduction.left() == 0) why_not = "the task could not be found in the worker";
  return nullptr;
}

lane_usage lane_server::usage_now() const {
  rusage used{};
  ::getrusage(in_process_ ? RUSAGE_SELF : RUSAGE_THREAD, &used);
  const auto nanoseconds = [](const timeval& time) {
    return static_cast<std::int64_t>(time.tv_sec) * 1'000'000'000 + static_cast<std::int64_t>(time.tv_usec) * 1000;
  };
  // A thread's peak is its process's.
  const std::uint64_t peak = in_process_ ? static_cast<std::uint64_t>(used.ru_maxrss) * 1024 : 0;
  return {nanoseconds(used.ru_utime), nanoseconds(used.ru_stime), peak,
          static_cast<std::uint64_t>(used.ru_minflt + used.ru_majflt)};
}

}  // namespace pynisher::detail
