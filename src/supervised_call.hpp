#pragma once

// One call seen from the parent: start, look whenever something may have happened, finish. Whoever has one decides how to
// wait: the caller's own thread for a plain call, the thread for all calls in flight for a started one.

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>

#include <pynisher/detail/execute.hpp>
#include <pynisher/detail/in_flight.hpp>

#include "platform/contract.hpp"
#include "mail_packing.hpp"
#include "platform/posix/interrupts.hpp"
#include "program_start.hpp"
#include "reply_region.hpp"
#include "settings.hpp"
#include "verdict.hpp"

namespace pynisher::detail {

/// All that is known of a call that is over; judged by `conclude`, on any thread.
struct call_record {
  struct failure {
    const char* stage = nullptr;  ///< null: it did start
    int error = 0;
  };
  failure failed;
  std::string unsendable;  ///< why the call could not be sent; empty: it could
  bool cancelled_before = false;
  evidence seen;
  reply_bytes bytes;
  std::shared_ptr<void> custody;
};

/// `explained`: also where it returned.
raw_outcome conclude(const settings& limits, call_record record, const call_name& name, bool explained = true);

/// True once the function has begun, or may have: what the child says from then on is the function's word. It cannot
/// make it false again.
bool has_begun(const platform::child_plan& plan) noexcept;
/// Threads of the library's in this process. What they do with locks is known: no reason for a warning.
extern std::atomic<int> own_threads;
/// What the caller should know of these limits, once per program or call.
void warn_before(const settings& limits);

/// How a child comes to be that no start method makes: a copy of an isolate.
class other_start {
 public:
  virtual ~other_start() = default;
  /// Whose marks are to be above the child's, which has inherited one; 0: it has none.
  [[nodiscard]] virtual std::uint64_t mark_above() const = 0;
  /// Gives a child that waits already its call.
  virtual program_started start(std::span<const int> descriptors, const child_extras& extras) = 0;
};

/// A call's mark for as long as the call.
class held_mark {
 public:
  explicit held_mark(bool wanted) : mark_(wanted ? platform::new_mark() : platform::call_mark{}) {}
  explicit held_mark(std::uint64_t above) : mark_(above != 0 ? platform::new_mark_below(above) : platform::call_mark{}) {}
  held_mark(const held_mark&) = delete;
  held_mark& operator=(const held_mark&) = delete;
  ~held_mark() { platform::release_mark(mark_); }
  [[nodiscard]] const platform::call_mark& get() const { return mark_; }

 private:
  platform::call_mark mark_;
};

/// Ends the child on every way out. For one thread, but for `cancel`.
class supervised_call {
 public:
  /// `limits` must outlive this, and so must `inner_bell`: rung for this process's own affairs, cancellation and SIGINT.
  /// Without one the call has its own, by which `wait` is woken.
  explicit supervised_call(const settings& limits, const platform::doorbell* inner_bell = nullptr,
                           const other_start* starter = nullptr);
  supervised_call(const supervised_call&) = delete;
  supervised_call& operator=(const supervised_call&) = delete;
  ~supervised_call();

  /// `mask`: the signals that the child has blocked; null: those of this thread. False: nothing runs, `finish` says why.
  bool start(child_task& task, const platform::signal_mask* mask, const child_extras& extras = {});
  /// Lets the function begin, once everything is there that watches the child. False: it does not, `finish` says why.
  bool begin();
  /// Instead of `begin`: the child is ended.
  void cannot_begin(const char* stage, int error);
  [[nodiscard]] std::int64_t pid() const { return child_.pid(); }

  [[nodiscard]] platform::child_process::woken_by wait() const { return child_.wait(bell_, inner_bell_, next_look()); }
  /// For those who wait for many: what `wait` would wait for.
  [[nodiscard]] const platform::child_process& child() const { return child_; }
  [[nodiscard]] const platform::doorbell& bell() const { return bell_; }
  [[nodiscard]] std::optional<platform::clock::time_point> next_look() const;

  /// To be called whenever woken. True: it has ended, or is to be ended; call `finish`.
  bool look(platform::child_process::woken_by woken);
  /// A large one, of which the first part has come.
  [[nodiscard]] bool value_arrives() const;
  /// Hands it over as it comes, and waits meanwhile. As `look`.
  bool hand_over(value_receiver& receiver);
  /// Of the child, which is not reaped yet; empty: it has ended.
  [[nodiscard]] std::optional<usage> usage_so_far() const;
  /// Thread-safe.
  void cancel() noexcept;
  /// Ends what still runs. Comes back when nothing of it is left.
  call_record finish();

 private:
  class arriving_bytes;
  struct asks_to_cancel {
    supervised_call* call;
    void operator()() const noexcept { call->cancel(); }
  };

  /// False: `failed_` says why.
  bool make_bounds();
  [[nodiscard]] std::uint64_t tree_limit() const;
  bool start_copy(child_task& task, const platform::signal_mask* mask);
  bool start_afresh(child_task& task, const platform::signal_mask* mask, const child_extras& extras);
  /// The child runs, or could not be started.
  bool took(platform::fork_result started, const char* stage);
  bool over(ended_for cause);
  bool cpu_used_up(platform::clock::time_point now);
  bool memory_used_up(platform::clock::time_point now);
  /// Of the call and all that it has started.
  bool tree_used_up(platform::clock::time_point now);
  [[nodiscard]] std::uint64_t taken_without_asking() const;
  /// False: as `cannot_begin`.
  bool let_go_on();
  void note_peak(platform::clock::time_point now);
  bool heard_of_interrupt();
  platform::exit_status end();

  const settings& limits_;
  const pid_t owner_ = platform::process_number();
  reply_region_owner region_;
  platform::doorbell bell_;
  std::optional<platform::doorbell> own_inner_bell_;
  const platform::doorbell* inner_bell_;  ///< the child does not keep it
  platform::interruptible_call interrupts_;
  std::atomic<bool> cancelled_{false};
  std::stop_callback<asks_to_cancel> on_stop_;
  held_mark mark_;
  std::optional<platform::memory_bound> memory_bound_;
  std::optional<platform::process_bound> process_bound_;
  platform::child_plan plan_;
  platform::child_process child_;
  reply_reader reader_;
  evidence seen_;
  call_record::failure failed_;
  std::string unsendable_;
  std::shared_ptr<deposited> arguments_;  ///< what belongs to them and is no bytes; given back when the call is over
  bool running_ = false;
  bool hands_over_ = false;  ///< what comes is taken by who reads it
  bool has_let_go_ = false;
  bool measured_again_ = false;
  std::uint64_t inherited_peak_ = 0;  ///< of a child that is the program started again
  std::uint64_t peak_seen_ = 0;
  std::chrono::nanoseconds peak_interval_ = std::chrono::milliseconds(4);
  std::optional<platform::clock::time_point> deadline_, cpu_look_, memory_look_, peak_look_, process_look_;
};

}  // namespace pynisher::detail
