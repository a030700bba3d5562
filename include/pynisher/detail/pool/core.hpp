#pragma once

// The core of all pools, without the types of workers and tasks: packed tasks in, packed results out.
//
//   front:  packs tasks, has them run by a `pool_core`, unpacks what came of them
//   core:   decides who runs what (src/pool/scheduler), talks to the workers, ends and replaces them
//   worker: constructs its object, unpacks tasks, calls, packs results (src/pool/lane_server)
//
// A worker is a process (or a thread) that shares one piece of memory with the program, its lane: tasks go through it
// one way, results the other, without a system call as long as both sides have something to do.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include <pynisher/detail/execute.hpp>
#include <pynisher/detail/wire/archive.hpp>
#include <pynisher/pool_options.hpp>

namespace pynisher::detail {

/// One kind of task, as a constant in the program's data: a worker finds it again by its place there.
struct task_entry {
  static constexpr std::uint64_t own_stamp = 0x6b73'6174'6c6f'6f70;

  std::uint64_t stamp;
  std::uint64_t type;  ///< a hash of the task's types
  /// In the worker: unpacks one task from `in` (all of it), runs it on the worker's object, packs the result. Not
  /// `begin_reply`: that is for calls that have a process to themselves.
  void (*run)(void* worker, input_archive& in, output_archive& reply);
};

/// In the worker, in `run`: the function has returned, and what is packed from here on is its result.
void begin_task_reply();

/// Makes the workers' objects. Lives in the program for as long as the pool, so that workers can be made again.
class worker_factory : public child_task {
 public:
  /// In worker `number`: makes the object, calls `serve` with it, and lets it go. Called several times at once, each
  /// in a thread of its own, where workers are threads.
  virtual void make(unsigned number, const std::function<void(void*)>& serve) = 0;
  /// What it says of itself: the worker's type, without arguments.
  [[nodiscard]] call_name name() const override = 0;
  /// The process that is started afresh unpacks one of these and calls `make`. It gets its own arguments, and those of
  /// no other worker: ends of channels that it does not have are nobody's.
  virtual void pack_for(unsigned number, output_archive& out) const = 0;
  void pack(output_archive& out) const final { pack_for(0, out); }
  /// For a worker that is forked: those of its arguments that may hold ends.
  virtual void pack_ends_for(unsigned /*number*/, output_archive& /*out*/) const {}
  void run(output_archive& /*reply*/) final {}
};
/// What unpacks the factory in a process that is started afresh; null where it cannot be sent.
using factory_entry = call_entry;

/// A task on its way. `packed`: what `entry->run` will unpack.
struct packed_task {
  const task_entry* entry = nullptr;
  std::vector<std::byte> packed;
  std::shared_ptr<void> attached;          ///< what it holds that is no bytes; see `pack_attached`
  call_name name;                          ///< for messages
  std::shared_ptr<const settings> limits;  ///< its own `wall_time` and `cpu_time`; null: those of the pool's options
};
/// Runs `write` with an archive; gives its bytes. Throws what `write` throws.
std::vector<std::byte> pack_bytes(const std::function<void(output_archive&)>& write);

/// Calls `write`, which may pack ends of channels, queues, buffers and descriptors. They wait where the worker fetches
/// them; what it has not fetched is given back when what this returns goes (null: there is nothing of the kind), which
/// must be under no lock. `again`: they may be fetched by more than one worker, one after the other.
std::shared_ptr<void> pack_attached(bool again, void (*write)(void*), void* with);
template <class Write>
std::shared_ptr<void> pack_attached(bool again, Write write) {
  return pack_attached(
      again, [](void* with) { (*static_cast<Write*>(with))(); }, &write);
}

/// Options of a pool that have been found good; `plan_pool` makes them.
struct pool_plan {
  pool_options given;
  unsigned workers = 1;
  std::size_t chunk = 1;
  std::size_t window = 1;
  std::shared_ptr<const settings> worker_limits;  ///< each worker's
  std::shared_ptr<const settings> task_limits;    ///< each task's
  std::chrono::nanoseconds join_timeout{0};
};
/// How many workers these options mean.
std::size_t worker_count(const pool_options& given);
/// Throws `std::invalid_argument` and `UnsupportedException`, naming the option. `why_it_stays`: the reason why the
/// worker cannot be sent to a process that is started afresh; null: it can.
pool_plan plan_pool(pool_options given, const char* why_it_stays);

/// Thread-safe. All of it is the program's that made it: in a forked copy of the program all of it but `plan` throws
/// `BrokenPoolError`, and takes no lock.
class pool_core {
 public:
  /// Starts the workers and waits until all are ready. A worker's exception, or death, while it is made is thrown;
  /// no process is left then.
  static std::shared_ptr<pool_core> open(pool_plan plan, std::unique_ptr<worker_factory> factory);
  virtual ~pool_core() = default;
  [[nodiscard]] virtual const pool_plan& plan() const = 0;
  /// This thread is a worker of it, or the one by which it works itself: what it waits for would wait for this thread.
  [[nodiscard]] virtual bool is_own_thread() const = 0;

  // --- one task at a time: for executors -------------------------------------------------------------------------

  using ticket = std::uint64_t;
  /// How the task ended, and in which worker (`no_worker`: in none). On a thread of the library's that holds no lock
  /// and must not be held up; may call this core, but not `close`. Called exactly once for each task, by `close` for
  /// those that are left.
  using done_handler = std::function<void(raw_outcome outcome, unsigned worker)>;
  static constexpr unsigned no_worker = ~0u;
  /// Throws `BrokenPoolError` once the pool is broken or closed.
  virtual ticket submit(packed_task task, done_handler done) = 0;

  enum class task_state : std::uint8_t { queued, running, over };
  [[nodiscard]] virtual task_state state_of(ticket which) = 0;
  /// True: it will not run, or is made to stop; its handler gets `verdict::cancelled`. A task that runs is ended only
  /// where `kill` is set and its worker is a process, which is replaced.
  virtual bool cancel(ticket which, bool kill) = 0;

  /// Waits until nothing is queued or running any more, or until then. False: there is still something.
  virtual bool wait_until_idle(std::optional<std::chrono::steady_clock::time_point> until) = 0;
  /// Cancels all that does not run yet.
  virtual void cancel_queued() = 0;
  /// Ends the workers at once, with what they run: by SIGTERM and, where that is ignored for a second, SIGKILL; or by
  /// SIGKILL right away. The pool is over then, as after `close`.
  virtual void end_workers(bool kill) = 0;
  /// Nothing new is taken; what runs has the join timeout to end. Comes back when no worker is left (threads that do
  /// not end in time are left alone), or at once where it is called by one of the pool's own threads. May be called
  /// again.
  virtual void close() = 0;

  /// Why the pool is broken; null: it is not.
  [[nodiscard]] virtual std::exception_ptr broken() = 0;
  /// Process numbers of the workers, -1 where there is none at the moment.
  [[nodiscard]] virtual std::vector<std::int64_t> pids() = 0;
};

}  // namespace pynisher::detail
