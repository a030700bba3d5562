#pragma once

// The program's side of one isolate: its process, whose turn it is, where its output goes, and its end.
//
// An isolate is a limited call that does not end: its process is started, watched and ended as that of any other call
// in flight, and the function that it calls answers requests on a socket until it is told to stop.

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include <pynisher/detail/in_flight.hpp>
#include <pynisher/isolate.hpp>

#include "isolate_frames.hpp"
#include "isolate_output.hpp"
#include "platform/contract.hpp"
#include "settings.hpp"

namespace pynisher::detail {

class waiting_copy;

/// For what an isolate does at once, unless it does not mean to: it is ended when it has not answered for a minute.
std::shared_ptr<const settings> patience();

class isolate_core {
 public:
  isolate_core(std::int64_t id, isolate_options wanted);
  /// A copy of `original`, whose turn the caller has, out of a process that the original has made for it.
  isolate_core(std::int64_t id, const isolate_core& original, waiting_copy& process);
  isolate_core(const isolate_core&) = delete;
  isolate_core& operator=(const isolate_core&) = delete;

  [[nodiscard]] std::int64_t id() const { return id_; }
  [[nodiscard]] const std::string& name() const { return options_.name; }
  [[nodiscard]] pid_t owner() const { return owner_; }
  [[nodiscard]] const settings& limits() const { return *limits_; }
  /// "isolate 3 (worker)".
  [[nodiscard]] std::string text() const;
  [[nodiscard]] std::shared_ptr<call_in_flight> process() {
    const std::lock_guard lock(mutex_);
    return process_;
  }
  /// A call that was accepted counts, though it may not have begun.
  [[nodiscard]] bool is_running() {
    const std::lock_guard lock(mutex_);
    return busy_ || !queue_.empty();
  }
  [[nodiscard]] bool is_alive() {
    const std::lock_guard lock(mutex_);
    return !closed_ && !process_->wait(platform::clock::time_point::min());
  }
  /// Rises with each process.
  [[nodiscard]] int generation() const { return generation_.load(); }

  /// The right to ask something: one at a time has it, in the order in which they came.
  class turn {
   public:
    /// Throws `IsolateError` where another has it and turns are not waited for.
    explicit turn(std::shared_ptr<isolate_core> core);
    /// Waits for it. Throws `IsolateNotFoundError`, and `CancelledException` when `stop` is faster.
    const turn& await(const std::stop_token& stop = {});
    ~turn();
    turn(const turn&) = delete;
    turn& operator=(const turn&) = delete;

   private:
    std::shared_ptr<isolate_core> core_;
    std::list<const turn*>::iterator place_;
    bool has_it_ = false;
  };

  /// What became of a request.
  struct reply {
    enum class state : std::uint8_t {
      came,
      died,
      hung_up,  ///< it lives, but does not listen any more
      lies,
      too_large,
      wall_time,
      cpu_time,
      cancelled,
      not_begun,  ///< cancelled before anything was asked
    } how = state::died;
    frame_kind kind = frame_kind::value;
    reply_bytes bytes;
    bool has_attached = false;      ///< something that is no bytes
    std::shared_ptr<void> custody;  ///< of that
    pynisher::usage usage;
  };
  /// By whoever has the turn. Ends the process where a limit is reached, or where it lies.
  /// `measured`: has `usage`, whatever comes of it; else where no value comes. `descriptors` go along with the request.
  reply ask(std::span<const std::byte> request, const settings* limits, bool measured,
            std::span<const int> descriptors = {});

  /// What its process's end was; waits for it.
  raw_outcome end_of_process();
  [[nodiscard]] IsolateDiedError died();
  /// By whoever has the turn, when `ask` has ended the process: what for.
  void note_end(std::string why);
  [[nodiscard]] pynisher::usage usage();

  void close();
  void kill();
  /// Whatever state it is in; does not throw.
  void drop();
  /// By whoever has the turn.
  void restart();

  /// By whoever has the turn: from now on its output goes there. Throws `IsolateError`.
  void begin_capture(std::shared_ptr<output_capture> capture);
  /// Whoever has the turn, now or next, gives it back its own output.
  void end_capture(const std::shared_ptr<isolate_core>& self, const std::shared_ptr<output_capture>& capture) noexcept;

 private:
  friend class waiting_copy;
  struct running {
    platform::call_fd socket;
    std::shared_ptr<platform::doorbell> ended_bell;
    std::shared_ptr<call_in_flight> process;
  };

  void throw_if_closed() const;
  [[nodiscard]] running start_process(child_task& task, std::shared_ptr<const settings> limits, other_start* starter);
  void install(running started);
  void watch_end();
  void end_process();
  /// What it has written goes to whom it may concern, and nothing reads any more.
  void finish_output() noexcept;
  /// Waits. Empty: it is this isolate's process no longer.
  std::optional<raw_outcome> end_of(const std::shared_ptr<call_in_flight>& ended);
  reply ask_for_certain(std::span<const std::byte> request, const settings* limits, std::span<const int> descriptors,
                        bool measured = false);
  void give_back_output();

  const std::int64_t id_;
  const pid_t owner_ = platform::process_number();
  const isolate_options options_;
  const std::shared_ptr<const settings> limits_;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool busy_ = false;
  bool closed_ = false, killed_ = false;
  std::list<const turn*> queue_;
  std::optional<raw_outcome> end_;
  std::string ended_because_;  ///< where it was `ask` that has ended it
  std::shared_ptr<call_in_flight> process_;
  std::atomic<int> generation_{0};
  isolate_streams streams_;
  std::shared_ptr<output_capture> capture_;
  bool capture_is_over_ = false;                            ///< and its output is still to be given back
  std::vector<std::shared_ptr<output_capture>> lingering_;  ///< over, but somebody can still write to them
  // Of whoever has the turn.
  platform::call_fd socket_;
  std::shared_ptr<platform::doorbell> ended_bell_;  ///< rung when the process has ended
};

}  // namespace pynisher::detail
