// What the caller of a limited call should know before it begins.

#include <atomic>
#include <optional>
#include <string>

#include <fmt/format.h>

#include <pynisher/format.hpp>
#include <pynisher/supports.hpp>

#include "platform/contract.hpp"
#include "settings.hpp"
#include "supervised_call.hpp"
#include "warn.hpp"

namespace pynisher::detail {

constinit std::atomic<int> own_threads{0};

namespace {

void warn_of_threads(const settings& limits) {
  static std::atomic<bool> warned{false};
  if (limits.method() != start_method::fork) return;
  if (!limits.given().warnings || warned.load(std::memory_order_relaxed)) return;
  if (platform::threads() <= 1 + own_threads.load() || warned.exchange(true)) return;
  warn("this program has more than one thread, and a fork copies only the one that calls: a lock that another "
       "thread holds at that moment stays locked in the child for ever. Call before starting threads, keep to "
       "functions that share no locks with them, or use context = spawn or forkserver where supports() lists them.");
}

void warn_of_tight_limit(const settings& limits) {
  if (!limits.given().warnings || !limits.memory()) return;
  if (limits.given().measure != memory_measure::address_space) return;
  const std::uint64_t mapped = platform::mapped().address_space;
  if (*limits.memory() > mapped) return;
  warn(fmt::format("the memory limit of {} ({} bytes) is not above the {} ({} bytes) of address space that the "
                   "process has mapped already; it is set all the same.",
                   to_string(memory_size(*limits.memory())), *limits.memory(), to_string(memory_size(mapped)), mapped));
}

void warn_of_soft_limit(const settings& limits) {
  static std::atomic<bool> warned{false};
  if (!limits.given().warnings || !limits.memory() || warned.load(std::memory_order_relaxed)) return;
  const char* const caveat = platform::memory_limit_caveat();
  if (caveat == nullptr || warned.exchange(true)) return;
  warn(caveat);
}

void warn_of_soft_process_bound(const settings& limits) {
  static std::atomic<bool> warned{false};
  if (!limits.given().warnings || limits.given().processes == 0 || warned.load(std::memory_order_relaxed)) return;
  const char* const caveat = platform::process_bound_caveat();
  if (caveat == nullptr || warned.exchange(true)) return;
  warn(caveat);
}

void warn_of_loose_tree(const settings& limits) {
  static std::atomic<bool> warned{false};
  if (!limits.given().warnings || !limits.given().terminate_child_processes || warned.load(std::memory_order_relaxed)) return;
  const std::string reason = why_not(feature::kill_tree);
  if (reason.empty() || warned.exchange(true)) return;
  warn(fmt::format("{}. What a call has started is found and ended as far as this system tells; what leaves its tree may "
                   "outlive it.",
                   reason));
}

}  // namespace

void warn_before(const settings& limits) {
  warn_of_threads(limits);
  warn_of_tight_limit(limits);
  warn_of_soft_limit(limits);
  warn_of_soft_process_bound(limits);
  warn_of_loose_tree(limits);
}

}  // namespace pynisher::detail
