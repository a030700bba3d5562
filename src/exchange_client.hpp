#pragma once

// The exchange as seen from a child: connections to the program, each for one question at a time, and one for all that
// is not waited for, with a thread that listens to it.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "exchange_frames.hpp"
#include "mail_link.hpp"
#include "platform/contract.hpp"

namespace pynisher::detail {

class exchange_client {
 public:
  exchange_client(const exchange_place& place, const greeting& hello);
  exchange_client(const exchange_client&) = delete;
  exchange_client& operator=(const exchange_client&) = delete;

  answer ask(request what, mail_deadline until);
  void tell(request what) noexcept;
  std::shared_ptr<mail_operation> begin(request what, std::function<void(answer)> done);
  /// No question may be under way.
  void hang_up() noexcept;
  [[nodiscard]] pid_t owner() const { return owner_; }

 private:
  struct connection {
    /// Counted in `of` for as long as it is there.
    explicit connection(std::atomic<std::size_t>& of) : counted_in(of) { counted_in.fetch_add(1); }
    connection(const connection&) = delete;
    connection& operator=(const connection&) = delete;
    ~connection() { counted_in.fetch_sub(1); }

    std::atomic<std::size_t>& counted_in;
    platform::call_fd socket;
    std::uint64_t inode = 0;
    std::uint32_t last_operation = 0;
    incoming_frames incoming;
    bool is_used = false;

    /// The number has not become another file's.
    [[nodiscard]] bool is_whole() const;
    bool send(const request& what, std::uint32_t& operation);
  };
  /// What is not waited for, on one connection. All but `on->incoming`, which is the listening thread's, is under
  /// `begun_mutex_`, and nobody waits for anything while he has that: the thread would not hear what it is waited for.
  struct begun {
    std::unique_ptr<connection> on;
    std::deque<outgoing_frame> outgoing;  ///< what has not gone at once is for the listening thread to send
    platform::doorbell more;              ///< tells it so
    std::unordered_map<std::uint32_t, std::function<void(answer)>> operations;

    begun() = default;
    begun(const begun&) = delete;
    begun& operator=(const begun&) = delete;
    ~begun();
    [[nodiscard]] bool is_whole() const;
    std::uint32_t send(const request& what);
    void flush();
  };
  class operation;

  std::unique_ptr<connection> connect();
  std::unique_ptr<connection> take();
  void give_back(std::unique_ptr<connection> used);
  static void discard(std::unique_ptr<connection> stale) noexcept;
  static answer await(connection& from, std::uint32_t number, mail_deadline until);
  static bool await_news(begun& on, std::mutex& mutex);
  std::shared_ptr<begun> begin_to_listen();
  void listen(const std::shared_ptr<begun>& on);
  void take_answers(begun& from);
  void give_up(const std::shared_ptr<begun>& lost);

  const pid_t owner_;
  const exchange_place place_;
  const greeting hello_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<connection>> idle_;

  std::atomic<std::size_t> connections_{0};

  std::mutex begun_mutex_;
  std::shared_ptr<begun> begun_;
};

}  // namespace pynisher::detail
