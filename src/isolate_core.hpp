#pragma once

// The program's side of one isolate: its process, whose turn it is, and its end.
//
// An isolate is a limited call that does not end: its process is started, watched and ended as that of any other call
// in flight, and the function that it calls answers requests on a socket until it is told to stop.

#include <sys/types.h>

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include <pynisher/detail/in_flight.hpp>
#include <pynisher/isolate.hpp>

#include "isolate_frames.hpp"
#include "platform/contract.hpp"
#include "settings.hpp"

namespace pynisher::detail {

class isolate_core {
 public:
  isolate_core(std::int64_t id, isolate_options wanted);
  isolate_core(const isolate_core&) = delete;
  isolate_core& operator=(const isolate_core&) = delete;

  [[nodiscard]] std::int64_t id() const { return id_; }
  [[nodiscard]] const std::string& name() const { return options_.name; }
  [[nodiscard]] pid_t owner() const { return owner_; }
  [[nodiscard]] bool is_queued() const { return options_.queued; }
  [[nodiscard]] const settings& limits() const { return *limits_; }
  /// "isolate 3 (worker)".
  [[nodiscard]] std::string text() const;
  [[nodiscard]] std::shared_ptr<call_in_flight> process() {
    const std::lock_guard lock(mutex_);
    return process_;
  }
  [[nodiscard]] bool is_running() {
    const std::lock_guard lock(mutex_);
    return busy_;
  }
  [[nodiscard]] bool is_alive() {
    const std::lock_guard lock(mutex_);
    return !closed_ && !process_->wait(platform::clock::time_point::min());
  }

  /// The right to ask something: one at a time has it.
  class turn {
   public:
    explicit turn(std::shared_ptr<isolate_core> core);
    ~turn();
    turn(const turn&) = delete;
    turn& operator=(const turn&) = delete;

   private:
    std::shared_ptr<isolate_core> core_;
  };

  /// What became of a request.
  struct reply {
    enum class state : std::uint8_t { came, died, lies, wall_time, cpu_time, cancelled } how = state::died;
    frame_kind kind = frame_kind::value;
    reply_bytes bytes;
    pynisher::usage usage;
  };
  /// By whoever has the turn. Ends the process where a limit is reached, or where it lies.
  reply ask(std::span<const std::byte> request, const settings* limits);

  /// What its process's end was; waits for it.
  raw_outcome end_of_process();
  [[nodiscard]] IsolateDiedError died();

  void close();
  void kill();
  /// Whatever state it is in; does not throw.
  void drop();
  void end_process();
  void restart();

 private:
  void throw_if_closed() const;
  void start_process();

  const std::int64_t id_;
  const pid_t owner_ = platform::process_number();
  const isolate_options options_;
  const std::shared_ptr<const settings> limits_;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool busy_ = false;
  bool closed_ = false;
  std::optional<raw_outcome> end_;
  std::shared_ptr<call_in_flight> process_;
  // Of whoever has the turn.
  platform::call_fd socket_;
  std::shared_ptr<platform::doorbell> ended_bell_;  ///< rung when the process has ended
};

}  // namespace pynisher::detail
