#pragma once

// The memory that a call's two processes share: a header of counters and notes, and a ring for the reply.
//
// The child writes all of it, so the parent believes none of it: counters are checked against the ring's size, the
// commit record is copied once and judged, and notes only refine what the kernel says.
//
//   child:  fills windows of the ring, publishes `written`, waits for room where there is none, commits
//   parent: takes what is published, publishes `consumed`, judges the commit record when the child has ended

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include <pynisher/detail/execute.hpp>
#include <pynisher/detail/wire/archive.hpp>

namespace pynisher::detail {

enum class reply_kind : std::uint32_t {
  none,
  value,           ///< the packed result
  exception,       ///< a packed exception
  out_of_memory,   ///< std::bad_alloc; nothing packed, there may be no memory to pack with
  unsendable,      ///< the result could not be packed; the reason as text
};

struct reply_region {
  static constexpr std::size_t size = std::size_t{1} << 20;
  static constexpr std::size_t header_size = 512;
  static constexpr std::size_t ring_size = size - header_size;
  /// Published and rung for in pieces of this size, so that both sides work at the same time.
  static constexpr std::size_t window_size = std::size_t{128} << 10;
  /// A child of the forkserver that has taken no more than this for its arguments does not wait to be measured again.
  static constexpr std::uint64_t taken_without_asking = std::uint64_t{256} << 10;

  // The reply.
  std::atomic<std::uint64_t> written;
  std::atomic<std::uint64_t> consumed;
  std::atomic<std::uint32_t> room_bell;       ///< changes when there is room again
  std::atomic<std::uint32_t> child_waits;     ///< for the room bell
  std::atomic<std::uint32_t> parent_waits;    ///< for the doorbell; otherwise it looks by itself
  std::atomic<std::uint32_t> committed;
  std::atomic<std::uint32_t> kind;
  std::atomic<std::uint64_t> begin;  ///< the reply's first byte; earlier ones belong to an attempt given up
  std::atomic<std::uint64_t> end;
  std::atomic<std::uint32_t> packs_value;  ///< 1: what comes first is a value, as far as the child knows
  std::atomic<std::uint64_t> value_ends;   ///< where it was given up, plus one: what comes then is why; 0: it was not

  std::atomic<std::uint32_t> go;  ///< rises: once the parent has the child's descriptor, once it has measured it anew
  std::atomic<std::uint32_t> ready;  ///< 1: a child that was started afresh has its order; 2: and asks to be measured anew
  std::atomic<std::uint64_t> order_size;  ///< bytes of the order, in the ring or in a file of its own
  std::atomic<std::int64_t> started;      ///< the clock when the child was started
  std::atomic<std::uint64_t> held;  ///< bytes of private memory that the child began with; before `go`

  /// A number that nobody could guess, the parent's, from before `go` until the function begins: the child's set-up ends
  /// by taking it away, and never has it elsewhere. While it is there, what the child says is the library's own word.
  std::atomic<std::uint64_t> not_begun;

  // The way to the exchange, for a child that wants it.
  std::atomic<std::uint32_t> exchange_wanted;   ///< 1: it does, and the doorbell has been rung
  std::atomic<std::uint32_t> exchange_told;     ///< 1: here it is; 2: there is none
  std::atomic<std::uint32_t> exchange_used;     ///< 1: something there may depend on the child's end
  std::atomic<std::uint64_t> exchange_place[5];
  std::atomic<std::uint32_t> deposited;         ///< with the reply: something that is no bytes

  // Notes.
  std::atomic<std::uint32_t> failed_stage;   ///< a `start_stage`, when set-up failed
  std::atomic<std::int32_t> failed_errno;
  std::atomic<std::uint32_t> crash_signal;
  std::atomic<std::uint32_t> crash_flags;
  std::atomic<std::uint64_t> crash_address;
  std::atomic<std::uint32_t> exit_noted;
  std::atomic<std::int32_t> exit_code;
  std::atomic<std::uint32_t> orderly;        ///< what the child started is gone
  std::atomic<std::uint64_t> first_peak;  ///< peak resident bytes when the function began: the parent's

  // Usage as the child saw it last; used only where the kernel's own count was taken by somebody else.
  std::atomic<std::uint64_t> user_ns;
  std::atomic<std::uint64_t> system_ns;
  std::atomic<std::uint64_t> peak;
  std::atomic<std::uint64_t> page_faults;

  [[nodiscard]] std::byte* ring() { return reinterpret_cast<std::byte*>(this) + header_size; }
};
static_assert(sizeof(reply_region) <= reply_region::header_size);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

namespace crash_flag {
inline constexpr std::uint32_t stack_overflow = 1;
inline constexpr std::uint32_t allocation_refused = 2;
}  // namespace crash_flag

/// Where a child's set-up can fail.
enum class start_stage : std::uint32_t {
  none,
  reach_init,
  keep_region,
  die_with_parent,
  become_subreaper,
  mark,
  standard_input,
  output,
  name,
  handlers,
  drop_privilege,
  cpu_limit,
  wall_limit,
  memory_limit,
  process_bound,
  stay_with_server,
};
const char* to_string(start_stage stage);

/// By `errno`: `std::bad_alloc` where there is no memory, `StartException` where it is anything else.
[[noreturn]] void throw_refused(const char* stage);

/// In a child that was started afresh; null: it cannot be mapped.
reply_region* map_received_region(int file);

/// A file in memory, mapped: for as long as this.
class mapped_file {
 public:
  /// Throws `std::bad_alloc`.
  mapped_file(int file, std::size_t size);
  mapped_file(const mapped_file&) = delete;
  mapped_file& operator=(const mapped_file&) = delete;
  ~mapped_file();
  [[nodiscard]] std::byte* data() const;

 private:
  struct region;
  std::unique_ptr<region> region_;
};

/// The region's owner, in the parent. Zeroed memory at first. A region serves twice only where no other process can have
/// it: what might have survived of a call could forge the replies of another one.
class reply_region_owner {
 public:
  /// `sent`: for a child that does not inherit it, by a descriptor.
  explicit reply_region_owner(bool sent);
  ~reply_region_owner();
  reply_region_owner(const reply_region_owner&) = delete;
  reply_region_owner& operator=(const reply_region_owner&) = delete;
  [[nodiscard]] reply_region& get() const { return *region_; }
  /// Of the memory, where it is to be sent; else -1.
  [[nodiscard]] int descriptor() const;

  /// Makes the region of the next call, where this one's will not do for it, while there is nothing else to do.
  static void prepare_next(bool sent) noexcept;
  /// The child is gone, and nobody but this process can have the memory.
  void serves_again() noexcept { nobody_has_it_ = true; }

 private:
  struct mapping;
  struct between_calls;
  std::unique_ptr<mapping> mapping_;
  reply_region* region_;
  bool nobody_has_it_ = false;
};

/// The child's end.
class reply_writer final : public byte_sink {
 public:
  reply_writer(reply_region& region, int doorbell) : region_(region), doorbell_(doorbell) {}
  [[nodiscard]] window first();
  window next(std::byte* filled_to) override;
  /// Publishes the rest and says that bytes `begin` up to `archive`'s position are the reply.
  void commit(reply_kind kind, std::uint64_t begin, const output_archive& archive);
  void commit_without_bytes(reply_kind kind);
  /// What has been written up to `position` is no reply; something else follows.
  void give_up(std::uint64_t position) {
    if (region_.value_ends.load() == 0) region_.value_ends.store(position + 1);
  }

 private:
  [[nodiscard]] window window_at_end() const;
  void publish(const std::byte* filled_to);
  void ring_if_awaited();

  reply_region& region_;
  int doorbell_;
  std::byte* window_begin_ = nullptr;
  std::uint64_t published_ = 0;
};

/// The parent's end.
class reply_reader {
 public:
  reply_reader(reply_region& region, std::uint64_t largest) : region_(region), largest_(largest) {}

  enum class state : std::uint8_t { fine, lies, too_large };
  /// Takes what there is, and what comes meanwhile; afterwards the doorbell is rung for more. After anything but `fine` the reply is worth nothing. Throws `std::bad_alloc`.
  state take();
  [[nodiscard]] bool complete() const;

  // For who reads a value while it comes, instead of `take`. What has been read is not kept.

  /// Something has been published that is not taken.
  [[nodiscard]] bool has_some() const { return state_ == state::fine && region_.written.load() != taken_; }
  /// The same, or in a moment.
  [[nodiscard]] bool has_some_soon() const { return has_some() || more_comes_soon(); }
  /// Asks for the doorbell. False: there is something by now, or all.
  [[nodiscard]] bool will_be_rung();
  /// Takes what has been published.
  void take_at_once();
  [[nodiscard]] state how() const { return state_; }
  /// The same, but straight to `to`; nothing may be here. Returns how much.
  std::size_t take_to(std::byte* to, std::size_t size);
  /// Those that are here, of the value.
  [[nodiscard]] byte_source::window here() const;
  /// They have been read.
  void drop(std::size_t size) noexcept { bytes_.drop(size); }

  struct reply {
    reply_kind kind = reply_kind::none;
    bool well_formed = true;
    reply_bytes bytes;
  };
  /// What was committed; `none` without a commit. The child must have ended.
  reply finish();

 private:
  bool take_some();
  /// How much of what is published may be taken at once: in one piece, and no more than lets the child go on.
  std::size_t next_piece();
  void took(std::size_t piece);
  void tell_of_room();
  [[nodiscard]] bool more_comes_soon() const;

  reply_region& region_;
  std::uint64_t largest_;
  std::uint64_t taken_ = 0;
  state state_ = state::fine;
  reply_bytes bytes_;
};

/// What a commit record says, judged: empty where it makes no sense for `arrived` bytes. Pure.
struct commit_record {
  std::uint32_t kind;
  std::uint64_t begin;
  std::uint64_t end;
};
[[nodiscard]] bool makes_sense(const commit_record& record, std::uint64_t arrived);

}  // namespace pynisher::detail
