// Handles of isolates.

#include <pynisher/isolate.hpp>

#include <chrono>
#include <filesystem>
#include <map>
#include <mutex>
#include <new>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include <pynisher/format.hpp>

#include "exception_frame.hpp"
#include "fork_safe_mutex.hpp"
#include "isolate_calls.hpp"
#include "isolate_copy.hpp"
#include "isolate_core.hpp"
#include "isolate_registry.hpp"
#include "isolate_serving.hpp"
#include "source_library.hpp"

namespace pynisher {

namespace detail {

namespace {

isolate registered_handle(std::shared_ptr<isolate_core> core) {
  const std::int64_t id = core->id();
  auto lease = std::make_shared<isolate_lease>(std::move(core), true);
  const std::lock_guard lock(library_mutex);
  isolate_registry()[id] = {lease, nullptr};
  return isolate_lease::handle(std::move(lease));
}

/// Asks for what always has an answer. `limits`: null where the isolate's own code decides how long that takes.
template <class... Values>
void ask_for(const std::shared_ptr<isolate_core>& core, const std::shared_ptr<const settings>& limits,
             const std::vector<std::byte>& request, Values&... values) {
  isolate_core::turn turn(core);
  turn.await();
  const auto answered = core->ask(request, limits.get(), false);
  if (answered.how == isolate_core::reply::state::wall_time) core->note_end("it did not answer for a minute");
  if (answered.how != isolate_core::reply::state::came) throw core->died();
  input_archive in(answered.bytes.data(), answered.bytes.size());
  try {
    if (answered.kind == frame_kind::load_failed) {
      std::string why;
      in(why);
      throw LoadError(why);
    }
    if (answered.kind == frame_kind::unsendable) {
      std::string why;
      in(why);
      throw NotShareableError(fmt::format("{}: {}", core->text(), why));
    }
    if (answered.kind == frame_kind::out_of_memory) throw std::bad_alloc();
    if (answered.kind == frame_kind::exception) std::rethrow_exception(read_exception(in).error);
    if (answered.kind != frame_kind::value) throw wire_error("no value");
    (in(values), ...);
    in.expect_end();
  } catch (const wire_error& e) {
    throw SerializationException(fmt::format("{} has not answered as it should: {}", core->text(), e.what()));
  }
}

}  // namespace

}  // namespace detail

using detail::frame_kind;
using detail::make_frame;

isolate isolate::create(isolate_options wanted) {
  const std::int64_t id = detail::next_isolate_id();
  auto core = std::make_shared<detail::isolate_core>(id, std::move(wanted));
  return detail::registered_handle(std::move(core));
}

std::vector<isolate> isolate::list_all() {
  std::vector<std::shared_ptr<detail::isolate_lease>> leases;
  {
    const std::lock_guard lock(detail::library_mutex);
    for (const auto& [id, known] : detail::isolate_registry()) {
      auto lease = known.lease.lock();
      if (!lease && known.detached) lease = std::make_shared<detail::isolate_lease>(known.detached, false);
      if (lease && lease->core->owner() == platform::process_number()) leases.push_back(std::move(lease));
    }
  }
  std::vector<isolate> all{current()};
  for (auto& lease : leases) {
    if (lease->core->is_alive()) all.push_back(isolate(std::move(lease)));
  }
  return all;
}

isolate isolate::current() { return isolate(std::make_shared<detail::isolate_lease>(nullptr, false)); }

isolate isolate::main() {
  if (detail::here().id != 0) throw IsolateError("main(): this is an isolate, and the program that has made it is another process");
  return current();
}

std::int64_t isolate::id() const { return lease_->core ? lease_->core->id() : detail::here().id; }

std::string isolate::name() const {
  if (lease_->core) return lease_->core->name();
  return detail::here().id == 0 ? "main" : detail::here().name;
}

std::int64_t isolate::pid() const {
  return lease_->core ? lease_->core->process()->pid() : static_cast<std::int64_t>(platform::process_number());
}

bool isolate::is_running() const { return lease_->core ? lease_->core->is_running() : true; }
bool isolate::is_alive() const { return lease_->core ? lease_->core->is_alive() : true; }

void isolate::close() {
  const auto core = detail::core_of(*lease_, "close");
  core->close();
  detail::unregister_isolate(core->id());
}

void isolate::kill() {
  const auto core = detail::core_of(*lease_, "kill");
  core->kill();
  detail::unregister_isolate(core->id());
}

void isolate::detach() {
  const auto core = detail::core_of(*lease_, "detach");
  if (!lease_->owns.exchange(false)) return;
  const std::lock_guard lock(detail::library_mutex);
  // Nothing is kept of one that is dead already.
  if (core->is_alive()) detail::isolate_registry()[core->id()].detached = core;
}

bool isolate::wait_until(std::chrono::steady_clock::time_point until) const {
  return detail::core_of(*lease_, "wait_for")->process()->wait(until);
}

usage isolate::usage() const {
  if (lease_->core) return detail::core_of(*lease_, "usage")->usage();
  pynisher::usage used;
  used.user_time = platform::cpu_time_of(platform::process_number()).value_or(std::chrono::nanoseconds(0));
  used.peak_memory = platform::peak_of(platform::process_number());
  return used;
}

void isolate::reset() {
  const auto core = detail::core_of(*lease_, "reset");
  detail::isolate_core::turn turn(core);
  turn.await();
  core->restart();
  if (lease_->owns.load()) return;
  // Kept to the end of its new process.
  const std::lock_guard lock(detail::library_mutex);
  if (core->is_alive()) detail::isolate_registry()[core->id()] = {lease_, core};
}

isolate isolate::clone() const {
  const auto core = detail::core_of(*lease_, "clone");
  detail::isolate_core::turn turn(core);
  turn.await();
  detail::waiting_copy process(*core);
  auto copy = std::make_shared<detail::isolate_core>(detail::next_isolate_id(), *core, process);
  return detail::registered_handle(std::move(copy));
}

int isolate::exec(const std::string& library, const std::string& symbol) {
  int result = 0;
  detail::ask_for(detail::core_of(*lease_, "exec"), nullptr, make_frame(frame_kind::load, library, symbol), result);
  return result;
}

int isolate::exec_source(const std::string& text, const std::vector<std::string>& flags) {
  static_cast<void>(detail::core_of(*lease_, "exec_source"));
  for (bool again = false;; again = true) {
    const std::filesystem::path library = detail::library_of_source(text, flags);
    try {
      return exec(library.string());
    } catch (const LoadError&) {
      // Another program has trimmed the cache at this very moment.
      std::error_code ignored;
      if (again || std::filesystem::exists(library, ignored)) throw;
    }
  }
}

void isolate::set_all(std::initializer_list<binding> bindings) {
  std::vector<std::pair<std::string, detail::named_value>> values;
  for (const binding& one : bindings) values.emplace_back(one.name_, one.value_);
  set_packed(std::move(values));
}

void isolate::set_packed(std::vector<std::pair<std::string, detail::named_value>> values) {
  for (const auto& value : values) {
    if (value.first.empty()) throw std::invalid_argument("isolate: a name cannot be empty");
  }
  if (!lease_->core) {
    std::map<std::string, detail::named_value> fresh;
    for (auto& [name, value] : values) fresh.insert_or_assign(name, std::move(value));
    const std::lock_guard lock(detail::library_mutex);
    fresh.merge(detail::here().names);
    detail::here().names.swap(fresh);
    return;
  }
  detail::frame_sink sink;
  detail::output_archive out(sink, sink.first());
  out(static_cast<std::uint32_t>(values.size()));
  for (const auto& [name, value] : values) out(name, value);
  detail::ask_for(detail::core_of(*lease_, "set"), detail::patience(), sink.take(frame_kind::set, out));
}

std::optional<detail::named_value> isolate::get_packed(const std::string& name) const {
  if (!lease_->core) {
    const std::lock_guard lock(detail::library_mutex);
    const auto& names = detail::here().names;
    const auto found = names.find(name);
    return found == names.end() ? std::nullopt : std::optional(found->second);
  }
  std::optional<detail::named_value> found;
  detail::ask_for(detail::core_of(*lease_, "get"), detail::patience(), make_frame(frame_kind::get, name), found);
  return found;
}

void isolate::check_type(const std::string& name, const detail::named_value& found, const std::string& wanted) {
  if (found.type == wanted) return;
  throw NotShareableError(fmt::format("\"{}\" is kept as {}, not as {}", name, found.type, wanted));
}

std::vector<std::string> isolate::names() const {
  std::vector<std::string> all;
  if (lease_->core) {
    detail::ask_for(detail::core_of(*lease_, "names"), detail::patience(), make_frame(frame_kind::names), all);
  } else {
    const std::lock_guard lock(detail::library_mutex);
    for (const auto& entry : detail::here().names) all.push_back(entry.first);
  }
  return all;
}

bool isolate::erase(const std::string& name) {
  if (!lease_->core) return detail::erase_name(name);
  bool erased = false;
  detail::ask_for(detail::core_of(*lease_, "erase"), detail::patience(), make_frame(frame_kind::erase, name), erased);
  return erased;
}

void isolate::reset_main() {
  if (lease_->core) {
    detail::ask_for(detail::core_of(*lease_, "reset_main"), detail::patience(), make_frame(frame_kind::reset_names));
  } else {
    detail::erase_names();
  }
}

detail::raw_outcome isolate::run(const options& limits, const detail::child_task& task, bool measured) {
  const auto core = detail::core_of(*lease_, "call");
  const auto checked = detail::limits_of_call(limits);
  const auto request = detail::call_frame(task);
  detail::isolate_core::turn turn(core);
  try {
    turn.await(limits.stop);
  } catch (const CancelledException& e) {
    return detail::cancelled_before(e);
  }
  return detail::outcome_of(*core, core->ask(request.frame, checked.get(), measured), checked.get(), task.name());
}

std::unique_ptr<detail::call_in_flight> isolate::begin(const options& limits, const detail::child_task& task) {
  return detail::start_isolate_call(detail::core_of(*lease_, "start"), limits, detail::call_frame(task), task.name());
}

}  // namespace pynisher
