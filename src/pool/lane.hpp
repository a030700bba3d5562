#pragma once

// The memory that a worker shares with the program: its lane.
//
//   program: writes a message's bytes, then its slot's state, then rings `tasks`
//   worker:  takes the slots in turn, runs what they hold, writes frames into the ring of results, publishes `written`
//   program: takes what is published, publishes `taken`
//
// The program decides where messages stand, and knows by itself which items have ended: what the worker writes are
// frames, of which nothing is believed, and hints. Nobody holds a lock here that the other one waits for.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace pynisher::detail {

struct lane_slot {
  enum : std::uint32_t { empty, sent, begun };
  std::atomic<std::uint32_t> state;
  std::uint32_t items;
  std::uint32_t entry;       ///< which kind of task; one more than there were: it is introduced by this message
  std::uint32_t entry_size;  ///< bytes of its introduction, before the items
  std::uint64_t offset;      ///< of the message in the ring of tasks; `in_file`: it comes as a file of its own
  std::uint64_t size;
  std::uint64_t serial;  ///< by which that file is known
  static constexpr std::uint64_t in_file = ~std::uint64_t{0};
  static constexpr std::uint64_t nowhere = in_file - 1;  ///< it could not be sent; its items are refused
};

/// Before each item of a message, at a multiple of `lane::unit`.
struct lane_item {
  std::uint64_t size;
  std::uint64_t unused = 0;
};

enum class lane_frame : std::uint32_t {
  skip = 1,       ///< nothing from here to the ring's end
  ready,          ///< the worker is made
  piece,          ///< the beginning of a body of which more comes
  value,          ///< an item has ended: its packed result
  exception,      ///< an item, or the making of the worker, has ended: a packed exception
  unsendable,     ///< the same: its arguments made no sense there, or its result could not be packed; why
  out_of_memory,  ///< the same: `std::bad_alloc`, and no memory to say more
  forget,         ///< the pieces that have come are worth nothing
};
/// In a frame's kind: the last bytes of the body are a `lane_usage`, of the item that has ended.
inline constexpr std::uint32_t lane_frame_measured = 0x100;
/// The same, of a value's frame: before that stands a `deposit_key`, by which what the value holds that is no bytes
/// waits at the exchange.
inline constexpr std::uint32_t lane_frame_attached = 0x200;

/// Before each frame's body, at a multiple of `lane::unit`.
struct lane_frame_header {
  std::uint32_t kind;
  std::uint32_t size;
  std::int64_t wall_ns;  ///< how long the item took, as the worker has it
};

/// What an item has cost, and what was done since somebody looked last: nobody looks for less than 50 us.
struct lane_usage {
  std::int64_t user_ns, system_ns;
  std::uint64_t peak, page_faults;
};

struct lane {
  static constexpr std::size_t unit = 16;
  static constexpr std::size_t header_size = 8192;
  static constexpr std::size_t tasks_size = std::size_t{256} << 10;
  static constexpr std::size_t results_size = std::size_t{512} << 10;
  static constexpr std::size_t size = header_size + tasks_size + results_size;
  static constexpr std::uint32_t slots_count = 64;
  /// Most that a worker may have at once: the slots of messages that it has ended stay untouched for a while.
  static constexpr std::uint32_t most_in_flight = slots_count / 2;

  // The program's.
  alignas(64) std::atomic<std::uint32_t> tasks;  ///< changes when there is a message, or the lane is closed
  std::atomic<std::uint32_t> closed;             ///< 1: the worker ends once it has nothing
  enum : std::uint32_t { nobody, asleep, awake };
  std::atomic<std::uint32_t> watcher;  ///< is somebody waiting for results, and has to be woken?
  std::atomic<std::uint32_t> room;     ///< changes when there is room for results again
  /// 1: the worker begins with no further item. It looks after it has published what came of the item before: whoever
  /// sets this and then finds nothing new knows that the item that was being worked on is the last to have begun.
  std::atomic<std::uint32_t> halted;
  alignas(64) std::atomic<std::uint64_t> taken;
  // The worker's.
  alignas(64) std::atomic<std::uint64_t> written;
  std::atomic<std::uint32_t> waits_for_tasks;
  std::atomic<std::uint32_t> waits_for_room;
  std::atomic<std::int64_t> item_began;  ///< on the monotonic clock
  std::atomic<std::int64_t> item_cpu;    ///< CPU time that the worker had used then
  alignas(64) lane_slot slots[slots_count];

  [[nodiscard]] std::byte* task_bytes() { return reinterpret_cast<std::byte*>(this) + header_size; }
  [[nodiscard]] std::byte* result_bytes() { return task_bytes() + tasks_size; }
  [[nodiscard]] static constexpr std::uint64_t padded(std::uint64_t bytes) {
    return (bytes + unit - 1) & ~std::uint64_t{unit - 1};
  }
};
static_assert(sizeof(lane) <= lane::header_size);
static_assert(sizeof(lane_item) == lane::unit && sizeof(lane_frame_header) == lane::unit);

/// A lane's memory, in the program. Zeroed at first. None serves two workers: whatever of the first might have survived
/// could forge results of the second.
class lane_memory {
 public:
  /// Throws `std::bad_alloc`.
  lane_memory();
  lane_memory(const lane_memory&) = delete;
  lane_memory& operator=(const lane_memory&) = delete;
  ~lane_memory();
  [[nodiscard]] lane& get() const { return *lane_; }
  /// To be sent to the worker.
  [[nodiscard]] int descriptor() const;

 private:
  struct mapping;
  std::unique_ptr<mapping> mapping_;
  lane* lane_;
};

/// In a worker: maps what it was sent, for as long as the process; null: it cannot be mapped.
lane* map_received_lane(int file);
/// Bytes of a file that the program has sent. Empty (null): it cannot be mapped.
class received_file {
 public:
  received_file(int file, std::size_t size);
  received_file(const received_file&) = delete;
  received_file& operator=(const received_file&) = delete;
  ~received_file();
  [[nodiscard]] const std::byte* data() const;

 private:
  struct mapping;
  std::unique_ptr<mapping> mapping_;
};

}  // namespace pynisher::detail
