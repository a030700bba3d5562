#pragma once

// The program's side of a forkserver whose children are its own: it is asked over a conversation for each child, and
// answers when it is (forkserver_relaying.cpp).

#include <sys/types.h>

#include <memory>
#include <optional>
#include <utility>

#include "platform/contract.hpp"

namespace pynisher::detail {

/// A server, which is this process's child: killed and reaped with the last of those who speak to it. A copy that the
/// program has made of itself has no hold on it. Thread-safe.
class server_process {
 public:
  server_process(pid_t pid, platform::call_fd end) : pid_(pid), end_(std::move(end)) {}
  server_process(const server_process&) = delete;
  server_process& operator=(const server_process&) = delete;
  ~server_process();

  [[nodiscard]] pid_t pid() const { return pid_; }
  /// Readable at its end; also then there is somebody to reap.
  [[nodiscard]] int end() const { return end_.get(); }
  [[nodiscard]] bool has_died() const noexcept;
  [[nodiscard]] bool is_stopped() const noexcept { return platform::is_stopped(pid_); }
  void let_go_on() const noexcept;

 private:
  std::int64_t owner_ = platform::process_identity();
  pid_t pid_;
  platform::call_fd end_;
};

/// A child of such a server's, as the program speaks of it with the server. Where this goes without the child's end,
/// the server ends it. For one thread, but for `send`.
class served_child final : public platform::distant_parent {
 public:
  served_child(platform::call_fd conversation, std::shared_ptr<server_process> server)
      : conversation_(std::move(conversation)), server_(std::move(server)) {}
  served_child(const served_child&) = delete;
  served_child& operator=(const served_child&) = delete;
  ~served_child() override;

  /// Before it gets its call. False with errno set: the server is gone.
  bool give(bool whole_tree, const platform::call_mark& mark) noexcept;
  bool send(int signal) noexcept override;
  std::optional<platform::exit_status> end(bool orderly) noexcept override;

 private:
  [[nodiscard]] bool await_answer() const noexcept;

  std::int64_t owner_ = platform::process_identity();
  bool has_asked_ = false;  ///< for the end
  platform::call_fd conversation_;
  std::shared_ptr<server_process> server_;
};

}  // namespace pynisher::detail
