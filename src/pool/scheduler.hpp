#pragma once

// Who runs what: the pure part of a pool. It is told what happened and says what is to be done; it knows no process, no
// clock and no lock, so that its tests are random histories.
//
//   backlog: jobs that no worker has, first come first served
//   lane:    jobs that a worker has been given; it works on the first, and the last can be taken back until it begins
//
// A job is one message to a worker: one item, or several that are run one after the other. Its items end in their
// order.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

namespace pynisher::detail {

/// What the scheduler knows of a message. Owned by whoever has submitted it, until it is over or given up.
struct job {
  std::uint64_t owner = 0;  ///< the map, or the executor, that it is of
  std::uint32_t items = 1;
  std::uint32_t ended = 0;     ///< items of it that have ended; the next one is being worked on, or will be
  std::uint32_t failures = 0;  ///< how often that next one has been tried in vain
  bool cancelled = false;      ///< what still comes of it interests nobody; it is not run again
};

/// What is done for the scheduler. Called from within its own functions, and must not call back into it.
class pool_hands {
 public:
  virtual void start(unsigned worker) = 0;
  virtual void send(unsigned worker, job& what) = 0;
  /// Takes the job that was sent last out of the lane. False: it has begun.
  virtual bool take_back(unsigned worker, job& what) = 0;
  /// Lets an idle worker end in order; `ended` follows.
  virtual void retire(unsigned worker) = 0;
  /// It will not run (any further): it was cancelled, or the pool is broken.
  virtual void give_up(job& what) = 0;

 protected:
  ~pool_hands() = default;
};

class pool_scheduler {
 public:
  struct rules {
    unsigned workers = 1;
    unsigned depth = 2;  ///< jobs that a worker has at once, at most
    unsigned retries = 0;
    std::size_t tasks_per_worker = 0;  ///< 0: any number
    bool replace = true;               ///< dead workers
    unsigned start_attempts = 3;       ///< in a row, for one worker
  };

  pool_scheduler(const rules& by, pool_hands& hands);

  // --- what happened ----------------------------------------------------------------------------------------------

  /// Has all workers started.
  void open();
  void submit(job& what) {
    add(what);
    go_on();
  }
  /// The same in two steps. `add` throws before anything has happened, `std::bad_alloc`; not once the pool is stopped.
  void add(job& what);
  void go_on();
  /// One that is to be run again: before all others.
  void submit_again(job& what);
  void ready(unsigned worker);
  /// The worker has had its first job for longer than it takes to begin: it may be stopped. Whoever is idle gets the
  /// job, and the worker no further one that somebody else has room for, until it is `awake`. False: nobody is idle.
  bool stuck(unsigned worker);
  /// It was only slow.
  void awake(unsigned worker);
  /// The worker could not be made. False: the pool is broken now.
  bool start_failed(unsigned worker);
  /// Somebody else has ended it before it was made, which says nothing of the next one.
  void start_again(unsigned worker);
  /// The first item of the worker's first job has ended. True: the job is over.
  bool item_ended(unsigned worker);
  /// The worker is gone.
  struct death {
    job* charged = nullptr;  ///< the job whose next item has cost the worker; null: none
    bool again = false;      ///< that item is run again; else it has ended
    bool over = false;       ///< that was the job's last item
  };
  /// `begun`: it was working on its first job. The rest of what it had is run by others. `wanted`: its end is no
  /// accident, and breaks no pool.
  death ended(unsigned worker, bool begun, bool wanted = false);
  /// The worker, which is about to be gone, has come to the end of its first job's next item or beyond, and what came
  /// of that will never be known.
  death lost(unsigned worker);
  /// Those that are not begun are given up; those that are, are marked.
  void cancel(std::uint64_t owner);
  void cancel(job& what);
  /// Nothing is started or sent any more. What has not begun is given up.
  void stop();

  // --- what is -----------------------------------------------------------------------------------------------------

  /// May `failures` of one item be followed by another try?
  [[nodiscard]] bool tries_again(std::uint32_t failures) const { return failures < rules_.retries && !stopped_; }
  [[nodiscard]] bool is_stopped() const { return stopped_; }
  [[nodiscard]] const std::deque<job*>& lane(unsigned worker) const { return workers_[worker].lane; }
  [[nodiscard]] bool is_ready(unsigned worker) const { return workers_[worker].now == state::ready; }
  [[nodiscard]] bool is_stuck(unsigned worker) const { return workers_[worker].stuck; }
  [[nodiscard]] std::size_t backlog() const { return backlog_.size(); }
  [[nodiscard]] bool is_idle() const;

 private:
  enum class state : std::uint8_t { none, starting, ready, retiring };
  struct station {
    state now = state::none;
    std::deque<job*> lane;
    std::size_t given = 0;       ///< items since it was started
    unsigned failed_starts = 0;  ///< in a row
    unsigned vain_deaths = 0;    ///< in a row, with jobs that it had not begun
    bool stuck = false;
    bool holds_on =
        false;  ///< its last job could not be taken back; not to be asked again before something has changed
  };

  [[nodiscard]] death charge(job& first, bool may_be_tried_again) const;
  bool send_next();
  bool move_work();
  bool retire_worn_out();
  [[nodiscard]] bool is_worn_out(const station& w, std::size_t items) const;
  void put_back(job& what);
  [[nodiscard]] bool somebody_is_idle(std::size_t for_items) const;
  bool take_back_last(unsigned from);
  void cancel_in_lane(unsigned in);

  const rules rules_;
  pool_hands& hands_;
  std::vector<station> workers_;
  std::deque<job*> backlog_;
  bool stopped_ = false;
};

}  // namespace pynisher::detail
