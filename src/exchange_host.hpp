#pragma once

// The program's exchange: its own threads ask it directly, its children by sockets. Only the program's own process has
// one, so that no other ever holds a lock that somebody waits for.
//
// A thread serves the children once the first of them has asked for the way, until the program exits. While one of the
// program's own threads waits for an answer, that one serves them instead: what a child says finds its reader awake,
// and not first somebody who wakes it. All that is written to a child is written without waiting.

#include <sys/epoll.h>

#include <condition_variable>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "exchange.hpp"
#include "exchange_frames.hpp"
#include "mail_link.hpp"
#include "platform/contract.hpp"

namespace pynisher::detail {

/// A pair of sockets of which one is readable while a flag is raised. No holder of that one can make the other wait.
class flag_to_poll {
 public:
  /// Invalid (false): no descriptors left.
  flag_to_poll();
  [[nodiscard]] explicit operator bool() const { return static_cast<bool>(watched_); }
  [[nodiscard]] const std::shared_ptr<held_file>& watched() const { return watched_; }
  void set(bool raised);

 private:
  platform::call_fd own_;
  std::shared_ptr<held_file> watched_;
};

class exchange_host {
 public:
  /// Its channels are counted on from `last_channel`.
  explicit exchange_host(std::int64_t last_channel = -1);
  exchange_host(const exchange_host&) = delete;
  exchange_host& operator=(const exchange_host&) = delete;

  // --- by any thread of the program

  answer ask(request what, mail_deadline until);
  std::shared_ptr<mail_operation> begin(request what, std::function<void(answer)> done);
  /// Null: there is no such channel, or no descriptor left.
  std::shared_ptr<flag_to_poll> watch(std::int64_t channel);
  /// Where children find it; starts the thread. Empty: it could not be started.
  std::optional<exchange_place> place();
  /// What has no answer.
  void post(request what);
  /// A process has ended, as somebody says who has reaped it: what follows from that is done when this comes back.
  void look_at(std::int64_t pid);
  /// By a copy of the process that it was made in, which nobody else has: whatever a thread was about when it was made.
  [[nodiscard]] std::int64_t last_channel() const { return core_.last_channel(); }
  /// The thread ends, at the program's exit.
  void stop_serving();

 private:
  struct local_wait {
    std::condition_variable changed;
    std::optional<answer> came;
    bool is_at_poll = false;  ///< woken by `asker_bell_` then
  };
  struct local {
    local_wait* wait = nullptr;
    std::function<void(answer)> done;
  };
  class local_operation;
  class open_question;
  class while_an_asker_serves;
  struct connection {
    std::uint32_t serial = 0;
    platform::call_fd socket;
    party_id party = 0;  ///< 0: it has not said who it is
    std::int64_t pid = 0;
    std::uint32_t last_operation = 0;
    incoming_frames incoming;
    std::list<outgoing_frame> outgoing;
    std::uint32_t wants = 0;  ///< what it is watched for
    bool is_broken = false;
  };
  struct remote {
    std::int64_t pid = 0;
    std::uint64_t household = 0;
    bool is_head = false;
    platform::call_fd process;
    std::size_t connections = 0;
    std::map<std::int64_t, std::shared_ptr<flag_to_poll>> watches;
  };
  using calls = std::vector<std::pair<std::function<void(answer)>, answer>>;

  /// False: it has not come in time.
  bool await_answer(local_wait& wait, mail_deadline until, std::unique_lock<std::mutex>& lock);
  void serve_until_woken(local_wait& wait, mail_deadline until, std::unique_lock<std::mutex>& lock);
  void handle(operation_id operation, request&& what, calls& told);
  void dispatch(effects& out, calls& told);
  void deliver(answer&& made, effects& more, calls& told);
  void send(connection& to, outgoing_frame&& frame);
  void flush(connection& to);
  void watch_for(connection& of, std::uint32_t wanted);
  static void tell(calls& told);

  bool start_serving();
  void serve();
  /// For an asker.
  void wait_for_events(mail_deadline until) const;
  void take_what_is_ready(calls& told);
  void take_events(std::span<const epoll_event> events, calls& told);
  void accept_some();
  void read_from(connection& from, calls& told);
  void take_frames(connection& from, calls& told);
  bool take_frame(connection& from, incoming_frames::frame&& frame, calls& told);
  bool greet(connection& from, const greeting& hello, calls& told);
  void answer_watch(connection& from, operation_id operation, const request& what, calls& told);
  void add_watch(party_id who, std::int64_t channel, const std::shared_ptr<flag_to_poll>& flag);
  void hang_up(std::uint32_t serial, calls& told);
  void process_ended(party_id who, calls& told);
  void leave(party_id who, calls& told);
  void look_at(std::int64_t pid, calls& told);
  void drop_a_stranger(calls& told);
  void drop_broken(calls& told);

  std::mutex mutex_;
  exchange core_;
  party_id self_ = 0;
  operation_id next_ = 0;
  std::unordered_map<operation_id, local> local_;
  std::multimap<std::pair<std::int64_t, party_id>, std::weak_ptr<flag_to_poll>> watches_;

  std::optional<exchange_place> place_;
  std::thread thread_;
  bool stopping_ = false;
  bool an_asker_serves_ = false;
  std::condition_variable thread_serves_again_;
  std::optional<platform::doorbell> asker_bell_;
  bool hears_the_dead_ = false;
  platform::call_fd set_;
  platform::call_fd listener_;
  platform::call_fd spare_;  ///< given up for a moment when there are no others left
  std::optional<platform::doorbell> bell_;
  std::uint32_t last_serial_ = 0;
  std::map<std::uint32_t, connection> connections_;
  std::map<party_id, remote> remotes_;
  std::map<std::int64_t, party_id> party_of_pid_;
  std::size_t strangers_ = 0;
  std::vector<std::uint32_t> broken_;
};

}  // namespace pynisher::detail
