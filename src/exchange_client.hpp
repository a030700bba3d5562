#pragma once

// The exchange as seen from a child: connections to the program, each for one question at a time, and one for all that
// is not waited for, with a thread that listens to it.

#include <functional>
#include <memory>
#include <mutex>
#include <thread>
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
    platform::call_fd socket;
    std::uint64_t inode = 0;
    std::uint32_t last_operation = 0;
    incoming_frames incoming;
    bool is_used = false;

    /// The number has not become another file's.
    [[nodiscard]] bool is_whole() const;
    bool send(const request& what, std::uint32_t& operation);
  };
  class operation;

  std::unique_ptr<connection> connect();
  std::unique_ptr<connection> take();
  void give_back(std::unique_ptr<connection> used);
  static void discard(std::unique_ptr<connection> stale) noexcept;
  static answer await(connection& from, std::uint32_t number, mail_deadline until);
  void listen();

  const pid_t owner_;
  const exchange_place place_;
  const greeting hello_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<connection>> idle_;

  std::mutex begun_mutex_;  ///< for what follows
  std::unique_ptr<connection> begun_on_;
  std::unordered_map<std::uint32_t, std::function<void(answer)>> begun_;
};

}  // namespace pynisher::detail
