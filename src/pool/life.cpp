#include "life.hpp"

#include <pthread.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <thread>
#include <utility>

#include "../call_order.hpp"
#include "../child_main.hpp"
#include "../supervised_call.hpp"
#include "../without_signals.hpp"
#include "descriptors.hpp"
#include "lane_server.hpp"

namespace pynisher::detail {

namespace {

// --- in the worker ----------------------------------------------------------------------------------------------

void live(lane& with, std::span<platform::call_fd> bells, int conversation, bool in_process, worker_factory& factory,
          child_task* initializer, unsigned number) {
  lane_server server(with, bells, conversation, in_process);
  server.live([&](const std::function<void(void*)>& serve) {
    if (initializer != nullptr) {
      byte_sink::window nothing{nullptr, nullptr};
      struct none final : byte_sink {
        window next(std::byte* /*filled_to*/) override { throw wire_error("an initializer gives no result"); }
      } sink;
      output_archive out(sink, nothing);
      initializer->run(out);
    }
    factory.make(number, serve);
  });
}

/// The factory as it is sent to one worker.
class factory_for_one final : public child_task {
 public:
  factory_for_one(const worker_factory& all, unsigned number) : all_(all), number_(number) {}
  void run(output_archive& /*reply*/) override {}
  [[nodiscard]] call_name name() const override { return all_.name(); }
  [[nodiscard]] const call_entry* entry() const override { return all_.entry(); }
  void pack(output_archive& out) const override { all_.pack_for(number_, out); }

 private:
  const worker_factory& all_;
  const unsigned number_;
};

/// The call that a worker's process exists for.
class worker_task final : public child_task {
 public:
  explicit worker_task(worker_order what) : what_(std::move(what)) {}
  explicit worker_task(input_archive& in) {
    std::vector<std::byte> initializer, factory;
    in(what_.number, initializer, factory);
    in.read(&what_.mask, sizeof what_.mask);
    if (!initializer.empty()) {
      input_archive from(initializer.data(), initializer.size());
      initializer_ = read_call(from);
    }
    input_archive from(factory.data(), factory.size());
    std::shared_ptr<child_task> arrived = read_call(from);
    what_.factory = std::dynamic_pointer_cast<worker_factory>(arrived);
    if (!what_.factory) throw wire_error("what was sent makes no worker");
  }

  void run(output_archive& /*reply*/) override {
    // The thread that has started this one has all of them blocked.
    pthread_sigmask(SIG_SETMASK, &what_.mask, nullptr);
    std::array<platform::call_fd, descriptors_of_lane> received;
    if (!receive_descriptors(own_conversation(), received)) throw wire_error("the worker's lane has not come");
    lane* const with = map_received_lane(received[0].get());
    if (with == nullptr) throw std::bad_alloc();
    received[0] = platform::call_fd();
    child_task* const initializer = initializer_ ? initializer_.get() : what_.initializer.task().get();
    live(*with, std::span(received).subspan(1), own_conversation(), true, *what_.factory, initializer, what_.number);
    begin_reply();
  }
  [[nodiscard]] call_name name() const override { return what_.factory->name(); }
  [[nodiscard]] const call_entry* entry() const override;
  void pack(output_archive& out) const override {
    std::vector<std::byte> initializer;
    if (const auto& task = what_.initializer.task()) {
      initializer = pack_bytes([&](output_archive& to) { write_call(to, *task); });
    }
    const factory_for_one own(*what_.factory, what_.number);
    out(what_.number, initializer, pack_bytes([&](output_archive& to) { write_call(to, own); }));
    out.write(&what_.mask, sizeof what_.mask);
  }

  void pack_ends(output_archive& out) const override { what_.factory->pack_ends_for(what_.number, out); }

  static std::unique_ptr<child_task> unpack(input_archive& in) { return std::make_unique<worker_task>(in); }

 private:
  worker_order what_;
  std::unique_ptr<child_task> initializer_;
};

constexpr call_entry worker_entry{call_entry::own_stamp, type_hash<worker_task>(), &worker_task::unpack};
const call_entry* worker_task::entry() const { return what_.factory->entry() != nullptr ? &worker_entry : nullptr; }

thread_local const worker_factory* factory_here = nullptr;

// --- in the program ---------------------------------------------------------------------------------------------

class process_life final : public worker_life {
 public:
  process_life(const worker_order& what, lane_end& with, std::function<void()> tell)
      : ended_(std::make_shared<std::atomic<bool>>(false)) {
    worker_task task(what);
    call_ = start_in_flight(what.limits, task, {.conversation = with.workers_socket()});
    with.started();
    if (call_->pid() < 0) std::rethrow_exception(call_->conclude().error);
    call_->when_done([ended = ended_, tell = std::move(tell)] {
      ended->store(true);
      tell();
    });
  }
  [[nodiscard]] bool has_ended() const override { return ended_->load(); }
  void kill() override { call_->cancel(); }
  void send(int signal) override { call_->send(signal); }
  [[nodiscard]] std::int64_t pid() const override { return call_->pid(); }
  raw_outcome conclude(const call_name& at) override { return call_->conclude(&at); }

 private:
  std::shared_ptr<std::atomic<bool>> ended_;
  std::unique_ptr<call_in_flight> call_;
};

class thread_life final : public worker_life {
 public:
  thread_life(const worker_order& what, lane_end& with, std::function<void()> tell)
      : shared_(std::make_shared<shared>()) {
    shared_->memory = with.memory();
    shared_->order = what;
    shared_->tell = std::move(tell);
    // By its own copies, as a process would have them.
    if (!receive_descriptors(with.workers_socket(), shared_->descriptors)) throw std::bad_alloc();
    shared_->conversation = platform::call_fd(::dup(with.workers_socket()));
    with.started();
    {
      const without_signals blocked;
      thread_ = std::thread([on = shared_] { on->work(); });
    }
    own_threads.fetch_add(1);
  }
  thread_life(const thread_life&) = delete;
  thread_life& operator=(const thread_life&) = delete;
  ~thread_life() override {
    if (has_ended()) {
      thread_.join();
    } else {
      thread_.detach();
    }
    own_threads.fetch_sub(1);
  }
  [[nodiscard]] bool has_ended() const override { return shared_->ended.load(); }
  void kill() override {}
  void send(int /*signal*/) override {}
  [[nodiscard]] std::int64_t pid() const override { return -1; }
  raw_outcome conclude(const call_name& /*at*/) override {
    raw_outcome out;
    out.verdict = verdict::exited;
    out.explanation = "the worker's thread has ended by itself";
    out.error = std::make_exception_ptr(ChildDiedException(out.explanation));
    return out;
  }

 private:
  struct shared {
    std::shared_ptr<lane_memory> memory;
    worker_order order;
    std::function<void()> tell;
    std::array<platform::call_fd, descriptors_of_lane> descriptors;
    platform::call_fd conversation;
    std::atomic<bool> ended{false};

    void work() {
      struct at_end {
        shared* of;
        ~at_end() {
          of->ended.store(true);
          of->tell();
        }
      } const end{this};
      factory_here = order.factory.get();
      live(memory->get(), std::span(descriptors).subspan(1), conversation.get(), false, *order.factory,
           order.initializer.task().get(), order.number);
    }
  };
  std::shared_ptr<shared> shared_;
  std::thread thread_;
};

}  // namespace

const worker_factory* factory_of_this_thread() noexcept { return factory_here; }

void run_apart(std::function<void()> what) {
  const without_signals blocked;
  own_threads.fetch_add(1);
  try {
    std::thread([what = std::move(what)]() mutable {
      what();
      // What it holds may be the last of something.
      what = nullptr;
      own_threads.fetch_sub(1);
    }).detach();
  } catch (...) {
    own_threads.fetch_sub(1);
    throw;
  }
}

std::unique_ptr<worker_life> start_process(const worker_order& what, lane_end& with, std::function<void()> tell) {
  return std::make_unique<process_life>(what, with, std::move(tell));
}

std::unique_ptr<worker_life> start_thread(const worker_order& what, lane_end& with, std::function<void()> tell) {
  return std::make_unique<thread_life>(what, with, std::move(tell));
}

}  // namespace pynisher::detail
