#include <pynisher/detail/pool/task_core.hpp>

#include <algorithm>
#include <csignal>
#include <set>
#include <stdexcept>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include <pynisher/detail/pool/core.hpp>
#include <pynisher/exceptions.hpp>
#include <pynisher/format.hpp>
#include <pynisher/pool_errors.hpp>

#include "../platform/contract.hpp"
#include "../supervised_call.hpp"
#include "../without_signals.hpp"

namespace pynisher::detail {

using clock = std::chrono::steady_clock;

// --- what follows on tasks ------------------------------------------------------------------------------------------

struct task_runner::shared {
  const pid_t owner = platform::process_number();
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> waiting;
  bool finished = false;
  std::thread thread;

  void run() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [this] { return finished || !waiting.empty(); });
      if (waiting.empty()) return;
      auto next = std::move(waiting.front());
      waiting.pop_front();
      lock.unlock();
      next();
      // What it holds may be the last of something, and must go before the lock is taken.
      next = nullptr;
      lock.lock();
    }
  }
};

task_runner::task_runner() : shared_(std::make_shared<shared>()) {}

task_runner::~task_runner() {
  if (shared_->owner != platform::process_number()) {
    // A forked copy of the program has no such thread.
    static_cast<void>(new std::shared_ptr<shared>(std::move(shared_)));
    return;
  }
  finish();
}

void task_runner::start_thread() {
  // No signal of the application's is handled there.
  const without_signals blocked;
  own_threads.fetch_add(1);
  try {
    shared_->thread = std::thread([on = shared_] {
      on->run();
      own_threads.fetch_sub(1);
    });
  } catch (...) {
    own_threads.fetch_sub(1);
    throw;
  }
}

void task_runner::start() {
  const std::lock_guard lock(shared_->mutex);
  if (!shared_->finished && !shared_->thread.joinable()) start_thread();
}

void task_runner::post(std::function<void()> what) {
  {
    const std::lock_guard lock(shared_->mutex);
    if (!shared_->finished && shared_->thread.joinable()) {
      shared_->waiting.push_back(std::move(what));
      shared_->changed.notify_one();
      return;
    }
  }
  what();
}

void task_runner::finish() {
  std::thread thread;
  {
    const std::lock_guard lock(shared_->mutex);
    const bool is_this_thread = shared_->thread.get_id() == std::this_thread::get_id();
    // It goes on until nothing waits any more.
    shared_->finished = true;
    shared_->changed.notify_one();
    if (is_this_thread) {
      shared_->thread.detach();
    } else {
      thread = std::move(shared_->thread);
    }
  }
  if (thread.joinable()) thread.join();
}

// --- those who wait
// ---------------------------------------------------------------------------------------------------

void task_waiter::arrive(std::size_t which) {
  const std::lock_guard lock(mutex_);
  arrived_.push_back(which);
  changed_.notify_one();
}

std::optional<std::size_t> task_waiter::next(std::optional<clock::time_point> until) {
  std::unique_lock lock(mutex_);
  const auto has_one = [this] { return !arrived_.empty(); };
  if (until) {
    if (!changed_.wait_until(lock, *until, has_one)) return std::nullopt;
  } else {
    changed_.wait(lock, has_one);
  }
  const std::size_t which = arrived_.front();
  arrived_.pop_front();
  return which;
}

std::vector<bool> wait_for_tasks(const std::vector<std::shared_ptr<task_core>>& tasks, bool first_completed,
                                 bool first_exception, std::optional<clock::time_point> until) {
  const auto waiter = std::make_shared<task_waiter>();
  for (std::size_t i = 0; i < tasks.size(); ++i) tasks[i]->add_waiter(waiter, i);
  for (std::size_t left = tasks.size(); left > 0; --left) {
    const auto which = waiter->next(until);
    if (!which || first_completed || (first_exception && tasks[*which]->has_failed())) break;
  }
  std::vector<bool> is_done;
  for (const auto& task : tasks) {
    task->remove_waiter(waiter);
    is_done.push_back(task->is_done());
  }
  return is_done;
}

task_arrivals::task_arrivals(std::vector<std::shared_ptr<task_core>> tasks,
                             std::optional<std::chrono::nanoseconds> time)
    : tasks_(std::move(tasks)), waiter_(std::make_shared<task_waiter>()), left_(0), time_(time), begun_(clock::now()) {
  std::set<const task_core*> seen;
  for (std::size_t i = 0; i < tasks_.size(); ++i) {
    if (!seen.insert(tasks_[i].get()).second) continue;
    tasks_[i]->add_waiter(waiter_, i);
    ++left_;
  }
}

task_arrivals::~task_arrivals() {
  for (const auto& task : tasks_) task->remove_waiter(waiter_);
}

std::optional<std::size_t> task_arrivals::next() {
  if (left_ == 0) return std::nullopt;
  std::optional<clock::time_point> until;
  if (time_) until = begun_ + std::chrono::ceil<clock::duration>(std::min(*time_, platform::longest_wait));
  const auto which = waiter_->next(until);
  if (!which) {
    throw TimeoutException(fmt::format("as_completed: {} of {} tasks are not done after {}", left_, tasks_.size(),
                                       pynisher::to_string(*time_)),
                           *time_, clock::now() - begun_);
  }
  --left_;
  return which;
}

// --- tasks
// ------------------------------------------------------------------------------------------------------------

raw_outcome returned_here() {
  raw_outcome outcome;
  outcome.verdict = verdict::returned;
  outcome.explanation = "returned";
  return outcome;
}

raw_outcome raised_here(std::exception_ptr error) {
  raw_outcome outcome;
  outcome.verdict = verdict::raised;
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    outcome.explanation = e.what();
  } catch (...) {
    outcome.explanation = "raised something that is no std::exception";
  }
  outcome.error = std::move(error);
  return outcome;
}

task_core::task_core(std::shared_ptr<task_runner> runner)
    : owner_(platform::process_number()), runner_(std::move(runner)) {}
task_core::~task_core() = default;

bool task_core::is_copy() const { return owner_ != platform::process_number(); }
void task_core::refuse_copies() const {
  if (is_copy()) throw BrokenPoolError("the task belongs to the process that submitted it, and this is a copy of that");
}

bool task_core::wait(std::optional<clock::time_point> until) {
  if (done_) return true;
  refuse_copies();
  std::unique_lock lock(mutex_);
  const auto done = [this] { return done_.load(); };
  if (until) return changed_.wait_until(lock, *until, done);
  changed_.wait(lock, done);
  return true;
}

bool task_core::is_done() { return done_; }
bool task_core::is_cancelled() { return done_ && outcome_.verdict == verdict::cancelled; }
bool task_core::has_failed() { return done_ && outcome_.error && outcome_.verdict != verdict::cancelled; }

bool task_core::is_running() {
  if (is_copy()) return false;
  std::shared_ptr<pool_core> pool;
  std::uint64_t ticket = 0;
  {
    const std::lock_guard lock(mutex_);
    if (done_ || runs_here_) return !done_;
    pool = pool_.lock();
    ticket = ticket_;
  }
  return pool && pool->state_of(ticket) == pool_core::task_state::running;
}

bool task_core::cancel(bool kill) {
  if (is_copy()) return is_cancelled();
  std::shared_ptr<pool_core> pool;
  std::uint64_t ticket = 0;
  {
    const std::lock_guard lock(mutex_);
    if (done_) return outcome_.verdict == verdict::cancelled;
    if (runs_here_) return false;
    pool = pool_.lock();
    ticket = ticket_;
  }
  if (pool && !pool->cancel(ticket, kill)) return false;
  raw_outcome outcome;
  outcome.verdict = verdict::cancelled;
  outcome.explanation = fmt::format("{} was cancelled", name_.text());
  outcome.error = std::make_exception_ptr(CancelledException(outcome.explanation));
  // The pool may have been faster, in saying so or, where there is none any more, in whatever it said.
  complete(std::move(outcome));
  return is_cancelled();
}

void task_core::when_done(std::function<void()> tell) {
  if (!done_) {
    refuse_copies();
    if (runner_) runner_->start();
    const std::lock_guard lock(mutex_);
    if (!done_) {
      followers_.push_back(std::move(tell));
      return;
    }
  }
  tell();
}

void task_core::add_waiter(std::shared_ptr<task_waiter> waiter, std::size_t as) {
  if (!done_) {
    refuse_copies();
    const std::lock_guard lock(mutex_);
    if (!done_) {
      waiters_.push_back({std::move(waiter), as});
      return;
    }
  }
  waiter->arrive(as);
}

void task_core::remove_waiter(const std::shared_ptr<task_waiter>& waiter) {
  if (is_copy()) return;
  const std::lock_guard lock(mutex_);
  std::erase_if(waiters_, [&waiter](const awaited& one) { return one.by == waiter; });
}

void task_core::rethrow_if_failed() const {
  if (outcome_.error) std::rethrow_exception(outcome_.error);
}

raw_outcome task_core::how_it_ended() const {
  raw_outcome copy;
  copy.verdict = outcome_.verdict;
  copy.usage = outcome_.usage;
  copy.error = outcome_.error;
  copy.explanation = outcome_.explanation;
  return copy;
}

void task_core::throw_undecodable(const char* why) const {
  raw_outcome undecodable = how_it_ended();
  mark_undecodable(undecodable, why);
  std::rethrow_exception(undecodable.error);
}

bool task_core::complete(raw_outcome outcome) {
  std::vector<std::function<void()>> followers;
  std::vector<awaited> waiters;
  std::unique_ptr<std::stop_callback<on_stop>> stop;
  {
    const std::lock_guard lock(mutex_);
    if (done_) return false;
    outcome_ = std::move(outcome);
    done_ = true;
    followers.swap(followers_);
    waiters.swap(waiters_);
    stop.swap(stop_);
    changed_.notify_all();
  }
  for (const auto& waiter : waiters) waiter.by->arrive(waiter.as);
  for (auto& follower : followers) {
    if (runner_) {
      runner_->post(std::move(follower));
    } else {
      follower();
    }
  }
  return true;
}

bool task_core::begin_here() {
  const std::lock_guard lock(mutex_);
  if (done_) return false;
  runs_here_ = true;
  return true;
}

void task_core::is_task_of(const std::shared_ptr<pool_core>& pool, std::uint64_t ticket, const std::stop_token& stop) {
  {
    const std::lock_guard lock(mutex_);
    pool_ = pool;
    ticket_ = ticket;
  }
  if (!stop.stop_possible()) return;
  // Not under the lock: it may call at once.
  auto callback = std::make_unique<std::stop_callback<on_stop>>(stop, on_stop{weak_from_this()});
  const std::lock_guard lock(mutex_);
  if (!done_) stop_.swap(callback);
}

void task_core::on_stop::operator()() const {
  // On its stack: this object may go while it is called.
  if (const auto alive = task.lock()) alive->cancel(true);
}

}  // namespace pynisher::detail
