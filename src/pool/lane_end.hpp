#pragma once

// The program's end of a lane. Not thread-safe, but for `memory`; it believes nothing that the worker has written.

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <pynisher/detail/execute.hpp>

#include "../exchange.hpp"
#include "../platform/contract.hpp"
#include "batch.hpp"
#include "lane.hpp"

namespace pynisher::detail {

class lane_end {
 public:
  /// Throws `std::bad_alloc` and `StartException`.
  lane_end();

  // --- to be handed to the worker
  [[nodiscard]] const std::shared_ptr<lane_memory>& memory() const { return memory_; }
  [[nodiscard]] const platform::doorbell& results_bell() const { return results_bell_; }
  [[nodiscard]] const platform::doorbell& urgent_bell() const { return urgent_bell_; }
  /// The worker's end of the conversation; closed by `started`.
  [[nodiscard]] int workers_socket() const { return workers_socket_.get(); }
  void started() { workers_socket_ = platform::call_fd(); }

  // --- tasks
  /// Sends what of it has not ended; wakes the worker. Where the system is out of something, the worker refuses the
  /// items.
  void push(batch& what);
  /// Takes the last one back. False: it has begun.
  bool take_back();
  /// What was sent first is over.
  void first_is_over();
  /// The worker has begun with what was sent first.
  [[nodiscard]] bool has_begun() const;
  /// How many of those that are not over it has begun with, as it says.
  [[nodiscard]] std::size_t begun() const;
  /// As the worker has it: on the monotonic clock, and the CPU time that it had used then.
  [[nodiscard]] std::int64_t item_began() const { return lane_.item_began.load(); }
  [[nodiscard]] std::int64_t item_cpu() const { return lane_.item_cpu.load(); }
  /// The worker begins with nothing more than what has come by now says, until `go_on`.
  void halt() { lane_.halted.store(1); }
  void go_on();
  /// A worker that waits for tasks looks once more, and says when in `item_began`.
  void wake_worker();
  /// The worker ends once it has nothing left.
  void close();

  // --- results
  struct frame {
    enum class state_kind : std::uint8_t { none, came, lies, too_large } state = state_kind::none;
    lane_frame kind = lane_frame::value;
    std::size_t begin = 0, size = 0;  ///< of the body, in the bytes that it was added to
    std::int64_t wall_ns = 0;
    bool measured = false;
    lane_usage usage{};
    std::optional<deposit_key> attached;
  };
  /// The next end of an item, whose body is at the end of `to` then; null: no item is being waited for, so that
  /// whatever comes is a lie. Pieces of what is coming are taken as well. Throws `std::bad_alloc`.
  frame next(reply_bytes* to);
  /// How the worker is to let the program know of results: `lane::nobody`, `asleep`, `awake`.
  void set_watcher(std::uint32_t now) { lane_.watcher.store(now); }
  /// Pieces of a body have come, and its end has not.
  [[nodiscard]] bool is_in_pieces() const { return in_pieces_; }
  /// There is something, or a lie.
  [[nodiscard]] bool has_news() const { return lane_.written.load() != taken_.load(std::memory_order_relaxed); }

 private:
  /// In which a large message is sent.
  struct sent_file {
    platform::call_fd file;
    std::uint64_t serial = 0;  ///< 0: it has not been sent yet
  };
  /// A message's place in the ring of tasks, or in a file.
  struct place {
    std::uint64_t begin = 0, end = 0;
    bool introduces = false;  ///< its kind of task to the worker
    sent_file in;
  };
  [[nodiscard]] std::optional<std::uint64_t> find_room(std::uint64_t size) const;
  bool write_file(place& at, const std::vector<std::byte>& introduction, const std::byte* items, std::size_t size);
  void keep_for_the_next(sent_file&& unused);
  std::uint32_t number_of(const task_entry& entry, std::vector<std::byte>& introduction);
  void publish_taken();
  frame take_frame(const lane_frame_header& header, std::uint64_t whole, reply_bytes* to);

  std::shared_ptr<lane_memory> memory_;
  lane& lane_;
  platform::doorbell results_bell_, urgent_bell_;
  platform::call_fd socket_, workers_socket_;

  std::deque<place> sent_;
  std::uint64_t next_slot_ = 0;
  std::uint64_t file_serial_ = 0;
  /// Of messages that were taken back: they lie in the worker's conversation behind those that are in use. The one that
  /// was sent first is the last here, and the next to be used.
  std::vector<sent_file> spare_files_;
  std::vector<const task_entry*> entries_;

  std::atomic<std::uint64_t> taken_{0};  ///< written under its owner's lock; `has_news` is asked without
  std::uint64_t published_ = 0;
  bool in_pieces_ = false;
  std::size_t body_begin_ = 0;
};

}  // namespace pynisher::detail
