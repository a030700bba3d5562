#pragma once

// A pool at work: the scheduler's decisions carried out, under one mutex.
//
// Two kinds of threads work on it. A consumer, which waits for results of its map, takes what all workers have sent and
// sends them more: one of them at a time is the watcher, the others sleep until it has something for them. The service
// thread, one for each pool, starts workers, buries them, looks at deadlines, and calls back for executors. Nothing of
// the application's runs under the mutex, and nothing waits under it but for memory.

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include <pynisher/detail/pool/core.hpp>

#include "../verdict.hpp"
#include "batch.hpp"
#include "lane_end.hpp"
#include "life.hpp"
#include "scheduler.hpp"
#include "task_clock.hpp"

namespace pynisher::detail {

/// Items of one message that have ended, on their way to whoever wants them.
struct delivery {
  std::vector<finished_item> items;
  reply_bytes bytes;
};

/// A map, seen from the machine. Everything under the machine's mutex.
struct map_sink {
  std::vector<delivery> arrived;
  std::size_t on_their_way = 0;  ///< items
  bool is_dropped = false;       ///< what still comes is only counted
  bool sleeps = false;
  std::condition_variable wake;
};

[[nodiscard]] std::string text_of(const std::exception_ptr& error);
/// A forked copy of the program has neither a pool's workers nor its thread, and its mutex may be locked there for ever.
/// `owner`: the process that has made the pool. Throws `BrokenPoolError`.
void refuse_copies(pid_t owner);

class pool_machine final : public pool_core, private pool_hands {
 public:
  using clock = platform::clock;

  pool_machine(pool_plan plan, std::shared_ptr<worker_factory> factory);
  pool_machine(const pool_machine&) = delete;
  pool_machine& operator=(const pool_machine&) = delete;
  ~pool_machine() override;

  /// Starts all workers and waits for them.
  void open();
  [[nodiscard]] pid_t owner() const { return owner_; }
  /// For the last handle. Where that goes on a thread of the machine's own, the rest is done apart.
  void let_go();

  // --- pool_core
  [[nodiscard]] const pool_plan& plan() const override { return plan_; }
  [[nodiscard]] bool is_own_thread() const override;
  ticket submit(packed_task task, done_handler done) override;
  task_state state_of(ticket which) override;
  bool cancel(ticket which, bool kill) override;
  bool wait_until_idle(std::optional<clock::time_point> until) override;
  void cancel_queued() override;
  void end_workers(bool kill) override;
  void close() override;
  std::exception_ptr broken() override;
  std::vector<std::int64_t> pids() override;

  // --- for maps: by their consumer's thread (watch.cpp)
  std::uint64_t attach(map_sink& sink);
  /// Nothing of the map runs or comes any more.
  void detach(std::uint64_t owner, map_sink& sink);
  void submit(std::unique_ptr<batch> what);
  /// What has come. `wait`: until there is something, or nothing is on its way.
  std::vector<delivery> collect(map_sink& sink, bool wait);
  /// Drops what of the map has not begun; what comes of the rest is only counted.
  void drop_waiting(std::uint64_t owner);

  /// What came of an item that has not returned a value. Runs the application's code; without the mutex.
  raw_outcome outcome_of(const finished_item& item, const reply_bytes& bytes, const call_name& name) const;

 private:
  struct slot {
    std::shared_ptr<lane_end> lane;
    std::unique_ptr<worker_life> life;
    bool start_wanted = false;
    unsigned vain_starts = 0;  ///< that others have ended, in a row; the next one comes at `start_after`
    bool made = false;         ///< the worker's object
    bool retiring = false;
    ended_for killed_for = ended_for::nothing;
    std::uint64_t killed_at = 0;             ///< `items` then: the next item is the one that it was killed for
    reply_bytes words;                       ///< what it has said before it was made
    std::optional<lane_end::frame> refusal;  ///< in those words
    std::uint64_t items = 0;                 ///< that have ended in this slot
    const job* waits_with = nullptr;         ///< what it had not begun with when somebody looked, with `waits_at` items
    std::uint64_t waits_at = 0;
    std::int64_t stuck_at = 0;  ///< its `item_began` when it was found to be stuck
    task_clock clock{1};
    clock::time_point started, first_since, start_after;
    std::optional<clock::time_point> next_look;
  };
  using lock = std::unique_lock<std::mutex>;

  // --- pool_hands
  void start(unsigned worker) override;
  void send(unsigned worker, job& what) override;
  bool take_back(unsigned worker, job& what) override;
  void retire(unsigned worker) override;
  void give_up(job& what) override;

  // --- results (machine.cpp)
  void take_results(unsigned worker);
  void take_all_results();
  void first_words(unsigned worker, const lane_end::frame& said);
  void item_ended(unsigned worker, batch& of, const lane_end::frame& how);
  [[nodiscard]] pynisher::usage usage_of(const slot& at, const lane_end::frame& how) const;
  void hand_over(batch& of);
  void deliver(std::uint64_t owner, delivery&& what);
  /// So many items of a map that nobody wants any more need not be delivered. False: they are wanted.
  bool only_count(std::uint64_t owner, std::size_t items);
  void take_results_of_the_dropped();
  /// Before it goes: what it holds must not go under the mutex.
  void let_fall(batch& over);
  void adopt(finished_item& item, const batch& of, const deposit_key& key);
  void run_apart_from_the_mutex(std::function<void()> errand);
  void finish_single(batch& of, finished_item&& item, reply_bytes&& bytes);
  void wake(map_sink& sink);
  void hand_on_the_watch(const map_sink& by);
  void first_has_changed(unsigned worker);
  void watch(lock& held, map_sink& sink, std::optional<clock::time_point> until);
  /// The item that `of` is at, as a message of its own.
  static std::unique_ptr<batch> alone(const batch& of);

  // --- the service thread (service.cpp)
  void serve();
  void look_at_time(unsigned worker, clock::time_point now);
  [[nodiscard]] task_clock::limits limits_of(const batch& of) const;
  void look_by(clock::time_point when);
  /// Is a worker stopped, or starved, with something that another one could do?
  void look_for_stuck_ones(clock::time_point now);
  void look_whether_it_begins();
  [[nodiscard]] bool all_gone() const;

  // --- workers' lives (workers.cpp)
  void start_worker(unsigned worker, lock& held);
  void worker_not_made(unsigned worker, const std::exception_ptr& why);
  bool start_after_a_while(unsigned worker);
  void kill(unsigned worker, ended_for cause);
  bool kill_for_its_item(unsigned worker, ended_for cause);
  void bury(unsigned worker, lock& held);
  void bury_unmade(unsigned worker, raw_outcome end, lock& held);
  void forget_worker(unsigned worker);
  /// What a worker was at when it ended, while its message is still in the lane.
  struct last_item {
    std::uint64_t owner = 0, index = 0;
    call_name name;
    std::shared_ptr<const settings> limits;
  };
  last_item last_item_of(unsigned worker);
  void charge(unsigned worker, const last_item& with, const pool_scheduler::death& how, raw_outcome end);
  [[nodiscard]] std::string text_of_broken() const;
  [[nodiscard]] call_name name_of_first(unsigned worker) const;
  [[nodiscard]] raw_outcome outcome_of_killed(const slot& of, const last_item& item) const;

  static batch& as_batch(job& what) { return static_cast<batch&>(what); }
  static const batch& as_batch(const job& what) { return static_cast<const batch&>(what); }

  const pool_plan plan_;
  const std::shared_ptr<worker_factory> factory_;
  const pid_t owner_ = platform::process_number();
  const unsigned processors_ = platform::processors();

  sigset_t mask_{};  ///< of the thread that has opened the pool

  std::mutex mutex_;
  std::condition_variable changed_;  ///< a worker is made or gone, a single task has ended
  pool_scheduler scheduler_;
  std::vector<slot> slots_;
  std::exception_ptr broken_;
  bool opening_ = true;
  bool closing_ = false;
  std::exception_ptr not_opened_;

  std::map<std::uint64_t, map_sink*> sinks_;
  std::uint64_t last_owner_ = 0;
  std::unordered_map<ticket, batch*> singles_;
  ticket last_ticket_ = 0;
  struct finished_single {
    done_handler done;
    finished_item item;
    reply_bytes bytes;
    call_name name;
  };
  std::vector<finished_single> finished_singles_;
  std::size_t singles_called_back_ = 0;  ///< being called back at the moment
  /// For the service thread, in their order: what asks the exchange, or may do so as it goes.
  std::vector<std::function<void()>> errands_;
  bool is_on_errands_ = false;

  // Whoever waits for results.
  map_sink* watcher_ = nullptr;
  bool service_watches_ = false;  ///< for good, once a single task was submitted
  platform::bell_set results_bells_;

  platform::bell_set service_bells_;
  std::optional<clock::time_point> service_sleeps_until_;
  std::optional<clock::time_point> begin_look_;  ///< when to look whether all that was sent has begun
  const std::shared_ptr<platform::doorbell> deaths_ = std::make_shared<platform::doorbell>();
  bool end_service_ = false;
  bool delete_by_service_ = false;
  std::thread service_;
};

}  // namespace pynisher::detail
