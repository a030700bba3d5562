#pragma once

// The worker's end of a lane: takes messages, runs what they hold, sends what comes of it.

#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <pynisher/detail/pool/core.hpp>

#include "../exchange.hpp"
#include "../platform/contract.hpp"
#include "lane.hpp"

namespace pynisher::detail {

/// Writes frames into the ring of results.
class lane_writer final : public byte_sink {
 public:
  /// The bells are the program's.
  lane_writer(lane& with, int results_bell, int urgent_bell)
      : lane_(with), results_bell_(results_bell), urgent_bell_(urgent_bell) {}

  /// Begins a frame; one that was not finished is as if it had never been, but for pieces of it that have gone.
  [[nodiscard]] window begin();
  /// A piece of the frame's body goes, as its window is full.
  window next(std::byte* filled_to) override;
  /// Ends the frame, and publishes it.
  void finish(std::uint32_t kind, const std::byte* filled_to, std::int64_t wall_ns = 0);
  void finish(lane_frame kind, const std::byte* filled_to) { finish(static_cast<std::uint32_t>(kind), filled_to); }
  /// A frame with a small body.
  void whole(lane_frame kind, const void* body, std::size_t size);
  /// Whatever has gone in pieces is worth nothing.
  void forget();
  /// Wakes whoever sleeps until there are results.
  void ring();
  /// Wakes the thread that looks after the pool.
  void ring_urgently() { ring_bell(urgent_bell_); }

 private:
  void wait_for_room(std::uint64_t wanted);
  [[nodiscard]] std::byte* at_end() { return lane_.result_bytes() + written_ % lane::results_size; }
  static void ring_bell(int bell);

  lane& lane_;
  const int results_bell_, urgent_bell_;
  std::uint64_t written_ = 0;
  bool in_pieces_ = false;
};

class lane_server {
 public:
  /// `bells`: of results, and the urgent one. `conversation`: where large tasks come from. `in_process`: of its own,
  /// whose output is written out after each message.
  lane_server(lane& with, std::span<const platform::call_fd> bells, int conversation, bool in_process);

  /// The whole life of a worker: `make` calls back with its object, for which tasks are run until the lane is closed.
  void live(const std::function<void(const std::function<void(void*)>&)>& make);

 private:
  using clock = platform::clock;

  void serve(void* worker);
  /// Null: the lane is closed.
  lane_slot* next_message();
  void run_message(void* worker, lane_slot& slot);
  void run_items(void* worker, lane_slot& slot, const std::byte* bytes);
  /// `last`: of its message, whose slot is free then.
  void run_item(void* worker, const task_entry& entry, input_archive in, lane_slot* last);
  void send_exception(const std::exception_ptr& thrown, lane_slot* last);
  /// Null: it is not to be found in this process.
  const task_entry* entry_of(std::uint32_t number, input_archive introduction, std::string& why_not);
  void begin_item(clock::time_point now);
  /// The item's result is in `out`, and goes.
  void end_item(lane_frame kind, output_archive& out, lane_slot* last, const deposit_key* attached = nullptr);
  void send_value(output_archive& out, lane_slot* last);
  [[nodiscard]] lane_usage usage_now() const;

  lane& lane_;
  lane_writer writer_;
  const int conversation_;
  const bool in_process_;
  std::uint64_t begun_ = 0;  ///< messages
  std::vector<const task_entry*> entries_;
  clock::time_point item_began_;
  clock::time_point looked_;  ///< when `seen_` was true
  lane_usage seen_{};
  std::uint64_t peak_at_first_ = 0;
};

}  // namespace pynisher::detail
