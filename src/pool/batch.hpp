#pragma once

// A message on its way: what the scheduler knows of it, its packed items, and what has come of those that have ended.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include <pynisher/detail/pool/map.hpp>

#include "../mail_packing.hpp"
#include "../platform/contract.hpp"
#include "lane.hpp"
#include "scheduler.hpp"

namespace pynisher::detail {

/// An item that has ended, with what came of it still packed.
struct finished_item {
  std::uint64_t index = 0;  ///< in the map's input
  unsigned worker = pool_core::no_worker;
  lane_frame kind = lane_frame::value;  ///< how it has ended, where it has ended by itself
  std::size_t begin = 0, size = 0;      ///< of what came, in the bytes that it is handed over with
  pynisher::usage usage;
  std::shared_ptr<raw_outcome> outcome;  ///< where it has not: its worker has died, or it never ran
  std::shared_ptr<deposited> attached;   ///< what the value holds that is no bytes; goes under no lock
};

/// Belongs to the core from `submit` until it is over.
struct batch final : job {
  const task_entry* entry = nullptr;
  std::shared_ptr<const settings> limits;  ///< of each item: wall and CPU time; null: none
  call_name name;
  std::uint64_t first = 0;        ///< the first item's place in the map's input
  std::vector<std::byte> packed;  ///< `lane_item`s with their bytes
  std::vector<attached_to_item> attached;
  platform::clock::time_point sent;

  // What has come and was not handed over yet.
  std::vector<finished_item> finished;
  reply_bytes replies;

  // Of an executor's task.
  std::uint64_t ticket = 0;
  pool_core::done_handler done;
};

}  // namespace pynisher::detail
