// Calls that were started and are not waited for yet: one thread starts and watches them all.
//
// It exists while there are handles, and forks for them, so that a child may die with the thread that made it
// (PR_SET_PDEATHSIG) while the threads of the program come and go.

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include <pynisher/detail/in_flight.hpp>

#include "fork_safe_mutex.hpp"
#include "forkserver.hpp"
#include "mail_packing.hpp"
#include "platform/contract.hpp"
#include "settings.hpp"
#include "supervised_call.hpp"
#include "without_signals.hpp"

namespace pynisher::detail {

namespace {

using platform::clock;

/// A task whose child has the ends among its arguments from the start.
class task_with_ends final : public child_task {
 public:
  task_with_ends(child_task& task, const ends_for_fork& ends) : task_(task), ends_(ends) {}
  void run(output_archive& reply) override {
    ends_.take_over();
    task_.run(reply);
  }
  [[nodiscard]] call_name name() const override { return task_.name(); }
  [[nodiscard]] const call_entry* entry() const override { return task_.entry(); }
  void pack(output_archive& out) const override { task_.pack(out); }

 private:
  child_task& task_;
  const ends_for_fork& ends_;
};

}  // namespace

/// Shared by the handle and the thread. `call` is the thread's, but for `cancel`, which asks under the mutex.
class flight {
 public:
  flight(std::shared_ptr<const settings> limits, const child_task& task, const platform::signal_mask& mask,
         const child_extras& extras)
      : limits_(std::move(limits)), name_(task.name()), mask_(mask), extras_(extras) {
    if (limits_->method() == start_method::fork) ends_.look_for(task);
  }

  // --- the thread's side

  /// True: it runs, and is to be watched.
  bool start(child_task& task, const platform::doorbell& bell) {
    bool runs = false;
    try {
      call_.emplace(*limits_, &bell, extras_.starter);
      task_with_ends with_ends(task, ends_);
      runs = call_->start(ends_ ? with_ends : task, &mask_, extras_);
    } catch (const std::bad_alloc&) {
      call_.reset();
    } catch (const StartException& e) {
      call_.reset();
      not_made_ = {"prepare the call's memory", e.code().value()};
    }
    ends_.has_started();
    const std::lock_guard lock(mutex_);
    pid_ = call_ ? call_->pid() : -1;
    started_ = true;
    changed_.notify_all();
    return runs;
  }
  supervised_call& call() { return *call_; }
  void complete() {
    call_record record;
    record.failed = not_made_;
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    if (call_) record = call_->finish();
    ends_.give_back();
    std::function<void()> tell;
    {
      const std::lock_guard lock(mutex_);
      call_.reset();
      record_ = std::move(record);
      done_ = true;
      tell = std::exchange(when_done_, nullptr);
      changed_.notify_all();
    }
    if (tell) tell();
  }

  // --- the handle's side

  void await_start() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return started_; });
  }
  bool wait(std::optional<clock::time_point> until) {
    std::unique_lock lock(mutex_);
    // Not for the library to convert to another clock, where the earliest time does not fit.
    if (until && *until <= clock::now()) return done_;
    const auto is_done = [this] { return done_; };
    if (until) return changed_.wait_until(lock, *until, is_done);
    changed_.wait(lock, is_done);
    return true;
  }
  void cancel() {
    const std::lock_guard lock(mutex_);
    if (call_) call_->cancel();
  }
  void send(int signal) {
    const std::lock_guard lock(mutex_);
    if (call_) call_->child().send(signal);
  }
  std::int64_t pid() {
    const std::lock_guard lock(mutex_);
    return pid_;
  }
  std::optional<usage> usage_so_far() {
    // The process is not reaped while this has the mutex.
    const std::lock_guard lock(mutex_);
    return call_ && started_ && !ending_ ? call_->usage_so_far() : std::nullopt;
  }
  void when_done(std::function<void()> tell) {
    {
      const std::lock_guard lock(mutex_);
      if (!done_) {
        when_done_ = std::move(tell);
        return;
      }
    }
    tell();
  }
  raw_outcome conclude(const call_name* as) {
    wait(std::nullopt);
    std::optional<call_record> record;
    {
      const std::lock_guard lock(mutex_);
      record.swap(record_);
    }
    if (!record) throw std::logic_error("pynisher: the result of this call has been taken already");
    return detail::conclude(*limits_, std::move(*record), as != nullptr ? *as : name_);
  }

 private:
  const std::shared_ptr<const settings> limits_;
  const call_name name_;
  const platform::signal_mask mask_;
  const child_extras extras_;  ///< until it has started
  ends_for_fork ends_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<supervised_call> call_;
  call_record::failure not_made_{"allocate memory", ENOMEM};  ///< where there is no `call_`
  std::optional<call_record> record_;
  std::function<void()> when_done_;
  std::int64_t pid_ = -1;
  bool started_ = false;
  bool ending_ = false;
  bool done_ = false;
};

/// What the thread works on.
class deck {
 public:
  void take_on(std::shared_ptr<flight> flight, child_task& task) {
    const std::lock_guard lock(mutex_);
    waiting_.push_back({std::move(flight), &task});
    wake();
  }
  void finish() {
    const std::lock_guard lock(mutex_);
    finishing_ = true;
    wake();
  }
  [[nodiscard]] bool can_wait() const { return static_cast<bool>(waiter_); }

  void run() {
    std::vector<platform::many_waiter::event> events;
    for (;;) {
      start_waiting();
      if (running_.empty() && is_finishing()) return;
      waiter_.wait(next_look(), events);
      for (const auto& event : events) {
        auto* flight = static_cast<detail::flight*>(event.whose);
        if (flight->call().look(event.woken)) complete(flight);
      }
      // Deadlines, cancellations and interrupts, for which there is one bell.
      for (std::size_t i = 0; i < running_.size();) {
        flight* flight = running_[i].get();
        if (flight->call().look(platform::child_process::woken_by::nothing)) {
          complete(flight);
        } else {
          ++i;
        }
      }
    }
  }

 private:
  struct order {
    std::shared_ptr<detail::flight> flight;
    child_task* task;
  };

  void wake() { platform::doorbell::raise(waiter_.bell().descriptor()); }
  bool is_finishing() {
    const std::lock_guard lock(mutex_);
    return finishing_ && waiting_.empty();
  }
  void start_waiting() {
    for (;;) {
      order next;
      {
        const std::lock_guard lock(mutex_);
        if (waiting_.empty()) return;
        next = std::move(waiting_.front());
        waiting_.pop_front();
      }
      const auto& flight = next.flight;
      if (!flight->start(*next.task, waiter_.bell())) {
        flight->complete();
      } else if (!waiter_.add(flight->call().child(), flight->call().bell(), flight.get())) {
        flight->call().cannot_begin("watch the child", errno);
        flight->complete();
      } else {
        running_.push_back(flight);
        if (!flight->call().begin()) complete(flight.get());
      }
    }
  }
  [[nodiscard]] std::optional<clock::time_point> next_look() const {
    std::optional<clock::time_point> next;
    for (const auto& flight : running_) {
      const auto at = flight->call().next_look();
      if (at && (!next || *at < *next)) next = at;
    }
    return next;
  }
  void complete(flight* which) {
    const auto at = std::find_if(running_.begin(), running_.end(), [which](const auto& f) { return f.get() == which; });
    const std::shared_ptr<flight> done = std::move(*at);
    *at = std::move(running_.back());
    running_.pop_back();
    waiter_.remove(done->call().child(), done->call().bell());
    done->complete();
  }

  std::mutex mutex_;
  std::deque<order> waiting_;
  bool finishing_ = false;
  platform::many_waiter waiter_;
  std::vector<std::shared_ptr<flight>> running_;  ///< the thread's alone
};

/// The thread, for as long as somebody has a handle.
class flight_thread {
 public:
  flight_thread() : owner_(platform::process_number()), deck_(std::make_shared<deck>()) {
    if (!deck_->can_wait()) throw StartException("make a descriptor to wait by", {errno, std::system_category()});
    // No signal of the application's is handled here.
    const without_signals blocked;
    try {
      thread_ = std::thread([deck = deck_] { deck->run(); });
    } catch (const std::system_error& e) {
      throw StartException("start the thread that watches calls", e.code());
    }
    own_threads.fetch_add(1);
  }
  flight_thread(const flight_thread&) = delete;
  flight_thread& operator=(const flight_thread&) = delete;
  ~flight_thread() {
    deck_->finish();
    if (std::this_thread::get_id() == thread_.get_id()) {
      thread_.detach();
    } else {
      thread_.join();
    }
    own_threads.fetch_sub(1);
  }
  [[nodiscard]] pid_t owner() const { return owner_; }
  void take_on(std::shared_ptr<flight> flight, child_task& task) { deck_->take_on(std::move(flight), task); }

  static std::shared_ptr<flight_thread> get() {
    const std::lock_guard lock(library_mutex);
    static auto* current = new std::weak_ptr<flight_thread>;
    auto thread = current->lock();
    if (thread && thread->owner_ != platform::process_number()) {
      // A forked copy of the program has no such thread, and must not touch what was its.
      static_cast<void>(new std::shared_ptr<flight_thread>(std::move(thread)));
      thread = nullptr;
      own_threads.store(0);
    }
    if (!thread) *current = thread = std::make_shared<flight_thread>();
    return thread;
  }

 private:
  pid_t owner_;
  std::shared_ptr<deck> deck_;
  std::thread thread_;
};

namespace {

/// The program's end of a flight.
class flight_handle final : public call_in_flight {
 public:
  flight_handle(std::shared_ptr<const settings> limits, child_task& task, const child_extras& extras) {
    warn_before(*limits);
    // By the thread that calls: preloaded functions may take their time, and the thread of all calls has none to lose.
    if (limits->method() == start_method::forkserver && extras.starter == nullptr) have_forkserver();
    const platform::signal_mask mask = platform::blocked_signals();
    parts_ = std::make_unique<parts>();
    parts_->thread = flight_thread::get();
    parts_->flight = std::make_shared<flight>(std::move(limits), task, mask, extras);
    parts_->thread->take_on(parts_->flight, task);
    parts_->flight->await_start();
  }
  flight_handle(const flight_handle&) = delete;
  flight_handle& operator=(const flight_handle&) = delete;
  ~flight_handle() override {
    if (parts_->thread->owner() != platform::process_number()) {
      // A forked copy of the program has neither the thread nor the call.
      static_cast<void>(parts_.release());
      return;
    }
    parts_->flight->cancel();
    parts_->flight->wait(std::nullopt);
  }

  bool wait(std::optional<clock::time_point> until) override { return parts_->flight->wait(until); }
  void cancel() override { parts_->flight->cancel(); }
  void send(int signal) override { parts_->flight->send(signal); }
  std::int64_t pid() override { return parts_->flight->pid(); }
  std::optional<usage> usage_so_far() override { return parts_->flight->usage_so_far(); }
  void when_done(std::function<void()> tell) override { parts_->flight->when_done(std::move(tell)); }
  raw_outcome conclude(const call_name* as) override {
    raw_outcome out = parts_->flight->conclude(as);
    platform::take_pending_default_action();
    return out;
  }

 private:
  struct parts {
    std::shared_ptr<flight_thread> thread;  // goes after the flight
    std::shared_ptr<detail::flight> flight;
  };
  std::unique_ptr<parts> parts_;
};

}  // namespace

std::unique_ptr<call_in_flight> start_in_flight(std::shared_ptr<const settings> limits, child_task& task,
                                                const child_extras& extras) {
  return std::make_unique<flight_handle>(std::move(limits), task, extras);
}

}  // namespace pynisher::detail
