#pragma once

// A thread that reads what isolates write, so that they never wait for a reader, and gives it to sinks.

#include <sys/types.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <pynisher/output.hpp>

#include "platform/contract.hpp"

namespace pynisher::detail {

/// What becomes of one stream. Called by the reader's thread alone, but for what a sink offers itself.
class output_sink {
 public:
  virtual ~output_sink() = default;
  virtual void take(std::string_view bytes) noexcept = 0;
  /// Nothing more comes.
  virtual void end() noexcept {}
};

/// Lines to a callback.
class line_sink final : public output_sink {
 public:
  explicit line_sink(output::line_callback callback) : callback_(std::move(callback)) {}
  void take(std::string_view bytes) noexcept override;
  void end() noexcept override;

 private:
  void hand_over() noexcept;
  void complain(const char* what) noexcept;

  output::line_callback callback_;
  std::string line_;
  bool has_complained_ = false;
};

/// All of it, up to a bound.
class capture_sink final : public output_sink {
 public:
  explicit capture_sink(std::uint64_t most) : most_(most) {}
  void take(std::string_view bytes) noexcept override;
  /// Throws `std::length_error` where there was more than the bound, `std::bad_alloc` where there was no memory for it.
  [[nodiscard]] std::string text() const;
  void clear();
  /// Keeps nothing from now on.
  void discard();

 private:
  const std::uint64_t most_;
  mutable std::mutex mutex_;
  std::string text_;
  bool is_too_much_ = false;
  bool has_no_memory_ = false;
  bool discards_ = false;
};

class output_reader {
 public:
  struct source {
    platform::call_fd pipe;  ///< the end to read from
    std::shared_ptr<output_sink> sink;
  };
  /// Throws `StartException` and `std::bad_alloc`.
  explicit output_reader(std::vector<source> sources);
  output_reader(const output_reader&) = delete;
  output_reader& operator=(const output_reader&) = delete;
  /// Gives the sinks what there is, and ends.
  ~output_reader();

  /// Comes back when what is in the pipes now has gone to the sinks. At once on the reader's own thread.
  void sync();
  /// Nobody can write any more, and everything was read.
  [[nodiscard]] bool is_at_end();

 private:
  struct state;
  const pid_t owner_ = platform::process_number();
  std::shared_ptr<state> state_;
  std::thread thread_;
};

/// Both ends of a pipe. Throws `StartException`.
struct output_pipe {
  platform::call_fd read, write;
  output_pipe();
};

}  // namespace pynisher::detail
