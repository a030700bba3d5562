// Options of a pool, judged.

#include <algorithm>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>

#include <pynisher/detail/pool/core.hpp>
#include <pynisher/detail/travel.hpp>
#include <pynisher/exceptions.hpp>

#include "../mail_packing.hpp"
#include "../platform/contract.hpp"
#include "../settings.hpp"

namespace pynisher::detail {

namespace {

using namespace std::chrono_literals;

constexpr std::size_t most_workers = 4096;
constexpr std::size_t most_in_chunk = std::size_t{1} << 20;

void refuse_limits_of_threads(const options& limits, start_method context) {
  const auto refuse = [](const char* option) {
    throw UnsupportedException(fmt::format("{}: threads cannot be limited; with backend::processes it is", option));
  };
  if (limits.memory.has_value()) refuse("limits.memory");
  if (limits.cpu_time.has_value()) refuse("limits.cpu_time");
  if (limits.wall_time.has_value()) refuse("limits.wall_time");
  if (limits.processes != 0) refuse("limits.processes");
  if (limits.stop.stop_possible()) refuse("limits.stop");
  if (context != start_method::automatic) {
    throw std::invalid_argument("context: threads are not started by a start method; it is for backend::processes");
  }
}

template <class Enum>
void refuse_unknown(const char* option, Enum value, Enum last) {
  if (value < Enum{} || value > last) {
    throw std::invalid_argument(fmt::format("{}: no such value (given: {})", option, static_cast<unsigned>(value)));
  }
}

}  // namespace

std::size_t worker_count(const pool_options& given) {
  return given.workers != 0 ? given.workers : platform::processors();
}

pool_plan plan_pool(pool_options given, const char* why_it_stays) {
  pool_plan plan;
  refuse_unknown("backend", given.backend, backend::threads);
  refuse_unknown("passing", given.passing, passing::named);
  refuse_unknown("on_error", given.on_error, on_error::collect);
  refuse_unknown("on_death", given.on_death, on_death::break_pool);
  const std::size_t workers = worker_count(given);
  if (workers > most_workers) {
    throw std::invalid_argument(fmt::format("workers: at most {} (given: {})", most_workers, workers));
  }
  if (given.chunk == 0 || given.chunk > most_in_chunk) {
    throw std::invalid_argument(fmt::format("chunk: from 1 to {} items (given: {})", most_in_chunk, given.chunk));
  }
  options worker_limits = given.limits;
  if (given.context != start_method::automatic) worker_limits.context = given.context;
  worker_limits.wall_time = {};
  worker_limits.cpu_time = {};
  options task_limits = given.limits;
  task_limits.memory = {};
  task_limits.stop = {};
  task_limits.context = start_method::automatic;
  // Judged as a whole, so that a text names what is wrong with it as `limit` does.
  static_cast<void>(validate(given.limits));
  if (given.backend == backend::threads) {
    refuse_limits_of_threads(given.limits, given.context);
    worker_limits = {};
  }
  plan.worker_limits = validate(worker_limits);
  plan.task_limits = validate(task_limits);
  if (given.backend == backend::processes) {
    refuse_if_it_stays(*plan.worker_limits, why_it_stays);
    refuse_if_it_stays(*plan.worker_limits, given.initializer.why_it_stays());
  }
  options join;
  join.wall_time = given.join_timeout;
  try {
    plan.join_timeout = validate(join)->wall_time().value_or(5s);
  } catch (const std::invalid_argument& e) {
    std::string text = e.what();
    if (text.starts_with("wall_time")) text.replace(0, 9, "join_timeout");
    throw std::invalid_argument(text);
  }

  plan.workers = static_cast<unsigned>(workers);
  plan.window = given.window != 0 ? given.window : 2 * workers * given.chunk;
  plan.chunk = std::min(given.chunk, plan.window);
  if (given.tasks_per_worker != 0) plan.chunk = std::min(plan.chunk, given.tasks_per_worker);
  plan.given = std::move(given);
  return plan;
}

std::vector<std::byte> pack_bytes(const std::function<void(output_archive&)>& write) {
  struct growing final : byte_sink {
    std::vector<std::byte> bytes = std::vector<std::byte>(256);
    window next(std::byte* filled_to) override {
      const auto filled = static_cast<std::size_t>(filled_to - bytes.data());
      bytes.resize(2 * bytes.size());
      return {bytes.data() + filled, bytes.data() + bytes.size()};
    }
  } sink;
  output_archive out(sink, {sink.bytes.data(), sink.bytes.data() + sink.bytes.size()});
  write(out);
  sink.bytes.resize(static_cast<std::size_t>(out.position()));
  return std::move(sink.bytes);
}

std::shared_ptr<void> pack_attached(bool again, void (*write)(void*), void* with) {
  packing_scope packing(again ? deposit_mode::kept : deposit_mode::argument);
  write(with);
  return packing.finish();
}

}  // namespace pynisher::detail
