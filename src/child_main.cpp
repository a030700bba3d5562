// The child from its limits on: the function, its reply, and the ways in which it may leave instead.

#include "child_main.hpp"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>

#include <fmt/format.h>

#include "exception_frame.hpp"
#include "exception_registry.hpp"
#include "mail_packing.hpp"
#include "platform/contract.hpp"
#include "platform/forced_unwind.hpp"
#include "platform/forked_page.hpp"

namespace pynisher::detail {

namespace {

/// Given back before an exception is packed, for the case that it says that there is no memory.
constexpr std::size_t emergency_size = std::size_t{64} << 10;
std::atomic<void*> emergency_memory{nullptr};

constexpr platform::call_of_child& call = platform::on_forked_page.call;

/// The function may fork; what it forks inherits our handlers, but is not the child.
bool is_the_child() { return platform::process_number() == call.pid; }

/// One thread replies. Whoever comes second waits for the first to end the process.
void claim_reply() {
  pid_t nobody = 0;
  const pid_t self = platform::thread_number();
  if (!call.replying_thread.compare_exchange_strong(nobody, self) && nobody != self) platform::wait_for_the_end();
}

[[noreturn]] void end_and_leave(int code) {
  platform::end_tree_in_child();
  platform::leave(code);
}

/// Where the reply begins that is to be packed: not the value, if one had been begun.
std::uint64_t begin_anew() {
  const std::uint64_t begin = call.archive->position();
  call.writer->give_up(begin);
  return begin;
}

void commit_text(reply_kind kind, const char* text) {
  const std::uint64_t begin = begin_anew();
  call.archive->restart_depth();
  (*call.archive)(std::string(text));
  call.writer->commit(kind, begin, *call.archive);
}

void commit_exception(const std::exception_ptr& thrown) {
  const std::uint64_t begin = begin_anew();
  call.archive->restart_depth();
  write_exception(*call.archive, thrown);
  call.writer->commit(reply_kind::exception, begin, *call.archive);
}

/// The exception's own code runs here, and there may be no memory left: each failure has something simpler behind it.
void send_exception(const std::exception_ptr& thrown) {
  std::free(emergency_memory.exchange(nullptr));
  try {
    std::rethrow_exception(thrown);
  } catch (const wire_error& e) {
    return commit_text(reply_kind::unsendable, e.what());
  } catch (const cereal::Exception& e) {
    return commit_text(reply_kind::unsendable, e.what());
  } catch (...) {
  }
  try {
    commit_exception(thrown);
  } catch (const std::bad_alloc&) {
    call.writer->commit_without_bytes(reply_kind::out_of_memory);
  } catch (const std::exception& e) {
    commit_text(reply_kind::unsendable, fmt::format("its exception could not be packed: {}", e.what()).c_str());
  } catch (...) {
    commit_text(reply_kind::unsendable, "its exception could not be packed");
  }
}

[[noreturn]] void reply_with_exception(const std::exception_ptr& thrown) {
  if (!is_the_child()) platform::leave(1);
  claim_reply();
  flush_output();
  platform::note_usage(*call.region);
  send_exception(thrown);
  end_and_leave(1);
}

/// `exit` would run the handlers and destructors that the parent has registered.
void on_exit_called(int code) {
  if (!is_the_child()) return;
  flush_output();
  platform::note_usage(*call.region);
  call.region->exit_code.store(code);
  call.region->exit_noted.store(1);
  end_and_leave(code);
}

/// `quick_exit` flushes nothing.
void on_quick_exit_called(int code) {
  if (!is_the_child()) return;
  platform::note_usage(*call.region);
  call.region->exit_code.store(code);
  call.region->exit_noted.store(1);
  end_and_leave(code);
}

/// An exception that leaves a `noexcept` function or a thread.
[[noreturn]] void on_terminate() {
  if (is_the_child()) {
    if (const std::exception_ptr thrown = std::current_exception()) reply_with_exception(thrown);
  }
  std::set_terminate(call.terminate_before);
  call.terminate_before();
  std::abort();
}

}  // namespace

[[gnu::hot]] void flush_output() {
  platform::flush_iostreams();
  platform::flush_all_stdio();
}

bool is_within_call() noexcept { return call.pid != 0; }

reply_region* own_region(int& doorbell) noexcept {
  doorbell = call.doorbell;
  return is_the_child() ? call.region : nullptr;
}

int own_conversation() noexcept { return is_the_child() ? call.conversation : -1; }

void forget_reply() noexcept { call.replying_thread.store(0); }

void prepare_for_children() {
  add_standard_codecs();
  if (emergency_memory.load(std::memory_order_relaxed) == nullptr) {
    void* fresh = std::malloc(emergency_size);
    void* nothing = nullptr;
    if (!emergency_memory.compare_exchange_strong(nothing, fresh)) std::free(fresh);
  }
}

[[gnu::hot]] void begin_reply() {
  if (!is_the_child()) platform::leave(0);
  claim_reply();
  call.region->packs_value.store(1, std::memory_order_relaxed);
  begin_packing_reply();
}

namespace {

/// In the child, since the program's other threads would meet it: a handler of theirs that calls the one before it
/// would be called by ours in turn, without end.
void catch_terminate() noexcept {
  const std::terminate_handler before = std::set_terminate(on_terminate);
  // A call within a call, or a copy of a child, finds our own, and has inherited what was there before that.
  if (before != on_terminate) call.terminate_before = before;
}

}  // namespace

void prepare_to_run() noexcept {
  call.is_prepared = true;
  catch_terminate();
  platform::catch_exits(on_exit_called, on_quick_exit_called);
}

bool prepare_next_child() noexcept {
  return platform::catch_exits_of_next_child(on_exit_called, on_quick_exit_called);
}

[[gnu::hot]] void run_in_child(child_task& task, reply_tools& reply, const platform::child_plan& plan) noexcept {
  call.pid = platform::process_number();
  call.region = plan.region;
  call.writer = &reply.writer;
  call.archive = &reply.archive;
  call.replying_thread.store(0);
  call.conversation = plan.conversation;
  call.doorbell = plan.doorbell;
  if (plan.is_prepared) {
    catch_terminate();
  } else if (!call.is_prepared) {
    prepare_to_run();
  }
  ++call.generation;
  // What the function starts is no such child.
  call.is_prepared = false;

  try {
    task.run(reply.archive);
    finish_packing_reply();
    flush_output();
    platform::note_usage(*call.region);
    reply.writer.commit(reply_kind::value, 0, reply.archive);
  } catch (platform::forced_unwind&) {
    // pthread_exit in the only thread that the caller knows of.
    flush_output();
    end_and_leave(0);
  } catch (...) {
    reply_with_exception(std::current_exception());
  }
  end_and_leave(0);
}

}  // namespace pynisher::detail
