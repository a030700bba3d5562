#include <pynisher/detail/pool/executor_core.hpp>

#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>

#include <fmt/format.h>

#include <pynisher/exceptions.hpp>
#include <pynisher/pool_errors.hpp>

#include "../platform/contract.hpp"
#include "../settings.hpp"
#include "machine.hpp"

namespace pynisher::detail {

namespace {

using clock = std::chrono::steady_clock;

// --- the workers' side
// ------------------------------------------------------------------------------------------------

/// Workers of an executor have no object.
class nothing_to_make final : public worker_factory {
 public:
  void make(unsigned /*number*/, const std::function<void(void*)>& serve) override { serve(nullptr); }
  [[nodiscard]] call_name name() const override { return {}; }
  [[nodiscard]] const call_entry* entry() const override;
  void pack_for(unsigned /*number*/, output_archive& /*out*/) const override {}

  static std::unique_ptr<child_task> unpack(input_archive& /*in*/) { return std::make_unique<nothing_to_make>(); }
};
constexpr call_entry nothing_entry{call_entry::own_stamp, type_hash<nothing_to_make>(), &nothing_to_make::unpack};
const call_entry* nothing_to_make::entry() const { return &nothing_entry; }

/// Tasks of threads, by number: what goes through the core is bytes, and a thread that it has given up on may come
/// late.
class local_tasks {
 public:
  std::uint64_t add(std::shared_ptr<local_task> task) {
    const std::lock_guard lock(mutex_);
    tasks_.emplace(++last_, std::move(task));
    return last_;
  }
  std::shared_ptr<local_task> find(std::uint64_t number) {
    const std::lock_guard lock(mutex_);
    const auto found = tasks_.find(number);
    return found == tasks_.end() ? nullptr : found->second;
  }
  void forget(std::uint64_t number) {
    std::shared_ptr<local_task> last;  // whatever its arguments do when they go, they do it without the lock
    const std::lock_guard lock(mutex_);
    const auto found = tasks_.find(number);
    if (found == tasks_.end()) return;
    last = std::move(found->second);
    tasks_.erase(found);
  }
  static local_tasks& all() {
    static auto* const tasks = new local_tasks;
    return *tasks;
  }

 private:
  std::mutex mutex_;
  std::map<std::uint64_t, std::shared_ptr<local_task>> tasks_;
  std::uint64_t last_ = 0;
};

void run_local_task(void* /*no object*/, input_archive& in, output_archive& /*reply*/) {
  std::uint64_t number = 0;
  in(number);
  const auto task = local_tasks::all().find(number);
  if (!task) return;
  try {
    task->run();
  } catch (...) {
    task->thrown = std::current_exception();
    throw;
  }
}
constexpr task_entry local_entry{task_entry::own_stamp, type_hash<local_task>(), &run_local_task};

// --- the program's side
// -----------------------------------------------------------------------------------------------

/// What the tasks that are not over yet hold on to: counts, and what happens after the last one.
struct ledger {
  explicit ledger(std::function<void(const pool_progress&)> report) : progress(std::move(report)) {}

  const std::function<void(const pool_progress&)> progress;
  const clock::time_point begun = clock::now();
  const std::shared_ptr<task_runner> runner = std::make_shared<task_runner>();
  std::mutex mutex;
  std::weak_ptr<pool_core> pool;
  std::uint64_t pending = 0, done = 0, failed = 0;
  bool closes_when_idle = false;

  void begin() {
    const std::lock_guard lock(mutex);
    ++pending;
  }
  void never_began() {
    const std::lock_guard lock(mutex);
    --pending;
  }
  void end(bool well) {
    std::shared_ptr<pool_core> closing;
    pool_progress now;
    {
      const std::lock_guard lock(mutex);
      --pending;
      ++done;
      if (!well) ++failed;
      now = {done, std::nullopt, failed, clock::now() - begun};
      if (pending == 0 && closes_when_idle) closing = pool.lock();
    }
    // The core's own thread must be held up by neither.
    if (progress) runner->post([report = progress, now] { report(now); });
    if (closing) runner->post([pool = std::move(closing)] { pool->close(); });
  }
};

/// Nested, and in words.
std::exception_ptr broken_by(const std::exception_ptr& cause) {
  try {
    std::rethrow_exception(cause);
  } catch (...) {
    try {
      std::throw_with_nested(
          BrokenPoolError(fmt::format("the pool has no workers: its initializer failed: {}", text_of(cause)), cause));
    } catch (...) {
      return std::current_exception();
    }
  }
}

raw_outcome failed_to_start(std::exception_ptr error) {
  raw_outcome outcome;
  outcome.verdict = verdict::start_failed;
  outcome.explanation = text_of(error);
  outcome.error = std::move(error);
  return outcome;
}

/// The failure is the initializer's, and no worker's that could not be started at all.
bool is_of_initializer(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const ExecutionFailed&) {
    return true;
  } catch (const StartException&) {
    return false;
  } catch (const UnsupportedException&) {
    return false;
  } catch (...) {
    return true;
  }
}

/// What is a map's of `worker_pool`, and would do nothing here.
void refuse_without_effect(const pool_options& given) {
  if (given.passing != passing::single) {
    throw std::invalid_argument("passing: an executor's map calls the function with each item; unpack it there");
  }
  if (given.on_error != on_error::deferred) {
    throw std::invalid_argument(
        "on_error: a task's exception is in its future, and an executor's map throws it where its item is read");
  }
}

bool wraps(const options& given) { return given.wrap_errors.wraps_all() || !given.wrap_errors.rules().empty(); }

class executor final : public executor_core {
 public:
  explicit executor(pool_options wanted) : ledger_(std::make_shared<ledger>(std::exchange(wanted.progress, nullptr))) {
    const bool has_initializer = wanted.initializer.task() != nullptr;
    pool_plan plan = plan_pool(std::move(wanted), nullptr);
    refuse_without_effect(plan.given);
    plan_ = plan;
    if (ledger_->progress) ledger_->runner->start();
    try {
      pool_ = pool_core::open(std::move(plan), std::make_unique<nothing_to_make>());
      ledger_->pool = pool_;
    } catch (const std::bad_alloc&) {
      throw;
    } catch (...) {
      if (!has_initializer || !is_of_initializer(std::current_exception())) throw;
      broken_ = broken_by(std::current_exception());
    }
  }

  [[nodiscard]] bool has_threads() const override { return plan_.given.backend == backend::threads; }
  [[nodiscard]] bool is_own_thread() const override { return pool_ && pool_->is_own_thread(); }
  [[nodiscard]] std::size_t window() const override { return plan_.window; }
  [[nodiscard]] const std::shared_ptr<task_runner>& runner() const override { return ledger_->runner; }
  [[nodiscard]] pid_t owner() const { return owner_; }

  void submit(const std::shared_ptr<task_core>& task, const options& limits, const task_entry& entry, call_name name,
              const std::function<void(output_archive&)>& pack) override {
    refuse_after_shutdown();
    task->is_called(name);
    packed_task packed{&entry, {}, nullptr, std::move(name), limits_of(limits)};
    try {
      packed.attached = pack_attached(plan_.given.retries > 0, [&] { packed.packed = pack_bytes(pack); });
    } catch (const std::bad_alloc&) {
      throw;
    } catch (...) {
      const SerializationException error(
          fmt::format("{} could not be sent: {}", packed.name.text(), text_of(std::current_exception())));
      raw_outcome outcome = failed_to_start(std::make_exception_ptr(error));
      outcome.verdict = verdict::protocol_error;
      task->complete(std::move(outcome));
      return;
    }
    pass_on(task, std::move(packed), limits.stop, [](raw_outcome&) {});
  }

  void submit_here(const std::shared_ptr<task_core>& task, const options& limits, call_name name,
                   std::shared_ptr<local_task> call) override {
    refuse_after_shutdown();
    task->is_called(name);
    auto checked = limits_of(limits);
    call->may_run_again = plan_.given.retries > 0;
    const std::uint64_t number = local_tasks::all().add(call);
    packed_task packed{&local_entry, {}, nullptr, std::move(name), std::move(checked)};
    try {
      packed.packed = pack_bytes([number](output_archive& out) { out(number); });
      pass_on(task, std::move(packed), limits.stop,
              [number, call = std::move(call), keeps = !wraps(plan_.given.limits)](raw_outcome& outcome) {
                local_tasks::all().forget(number);
                if (!outcome.error || !call->thrown || !keeps) return;
                const pynisher::usage used = outcome.usage;
                outcome = raised_here(call->thrown);
                outcome.usage = used;
              });
    } catch (...) {
      local_tasks::all().forget(number);
      throw;
    }
  }

  void shutdown(bool wait, bool cancel_pending) override {
    refuse_copies(owner_);
    const bool waits = wait && !is_own_thread();
    // Before anything has happened: it may throw.
    if (!waits) ledger_->runner->start();
    shut_ = true;
    if (!pool_) return ledger_->runner->finish();
    if (cancel_pending) pool_->cancel_queued();
    if (waits) {
      pool_->wait_until_idle(std::nullopt);
      pool_->close();
      ledger_->runner->finish();
      return;
    }
    bool is_idle = false;
    {
      const std::lock_guard lock(ledger_->mutex);
      ledger_->closes_when_idle = true;
      is_idle = ledger_->pending == 0;
    }
    if (is_idle) ledger_->runner->post([pool = pool_] { pool->close(); });
  }

  void end_workers(bool kill) override {
    shut_ = true;
    if (pool_) pool_->end_workers(kill);
  }
  std::vector<std::int64_t> pids() override { return pool_ ? pool_->pids() : std::vector<std::int64_t>(); }

 private:
  void refuse_after_shutdown() const {
    refuse_copies(owner_);
    if (shut_) throw BrokenPoolError("the pool was shut down: it takes no more tasks");
  }

  /// A task's own limits; what they do not say is as the pool's do. Null: all is.
  [[nodiscard]] std::shared_ptr<const settings> limits_of(const options& given) const {
    if (given.memory.has_value() || given.processes != 0 || !given.name.empty() ||
        given.context != start_method::automatic || given.measure != memory_measure::growth ||
        !given.terminate_child_processes || !given.forceful_keyboard_interrupt || wraps(given)) {
      throw std::invalid_argument(
          "one task has wall_time, cpu_time and stop of its own; all else is its worker's, from the pool's options");
    }
    if (!given.wall_time.has_value() && !given.cpu_time.has_value()) return nullptr;
    if (has_threads()) throw UnsupportedException("a pool of threads cannot limit a task: use backend = processes");
    const options& pools = plan_.given.limits;
    options limits;
    limits.wall_time = given.wall_time.has_value() ? given.wall_time : pools.wall_time;
    limits.cpu_time = given.cpu_time.has_value() ? given.cpu_time : pools.cpu_time;
    limits.wrap_errors = pools.wrap_errors;
    limits.warnings = pools.warnings && given.warnings;
    return validate(std::move(limits));
  }

  template <class Release>
  void pass_on(const std::shared_ptr<task_core>& task, packed_task packed, const std::stop_token& stop,
               Release release) {
    raw_outcome unused;
    if (!pool_) {
      release(unused);
      task->complete(failed_to_start(broken_));
      return;
    }
    if (stop.stop_requested()) {
      release(unused);
      task->cancel(false);
      return;
    }
    ledger_->begin();
    std::uint64_t ticket = 0;
    try {
      ticket = pool_->submit(std::move(packed), [task, release, book = ledger_](raw_outcome outcome, unsigned) {
        release(outcome);
        const bool well = !outcome.error;
        task->complete(std::move(outcome));
        book->end(well);
      });
    } catch (const BrokenPoolError&) {
      ledger_->never_began();
      release(unused);
      task->complete(failed_to_start(std::current_exception()));
      return;
    } catch (...) {
      ledger_->never_began();
      throw;
    }
    // From here on it is counted by its end.
    task->is_task_of(pool_, ticket, stop);
  }

  const pid_t owner_ = platform::process_number();
  pool_plan plan_;
  std::exception_ptr broken_;
  std::shared_ptr<ledger> ledger_;
  std::atomic<bool> shut_{false};
  std::shared_ptr<pool_core> pool_;
};

}  // namespace

std::shared_ptr<executor_core> executor_core::open(pool_options wanted) {
  return std::make_shared<executor>(std::move(wanted));
}

void let_go(std::shared_ptr<executor_core> core) noexcept {
  if (!core) return;
  if (static_cast<const executor&>(*core).owner() != platform::process_number()) {
    static_cast<void>(new std::shared_ptr<executor_core>(std::move(core)));
    return;
  }
  if (!core->is_own_thread()) return core->shutdown(true, false);
  // A task has held the last handle, and its own end would wait for itself.
  try {
    run_apart([core = std::move(core)] { core->shutdown(true, false); });
  } catch (const std::system_error&) {
    // Out of threads: it stays.
  }
}

void refuse_task(const char* why) { throw std::invalid_argument(why); }

}  // namespace pynisher::detail
