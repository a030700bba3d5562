// Where there are no pools: none can be opened, and so nothing of what one could do is ever reached.

#include <pynisher/detail/pool/core.hpp>
#include <pynisher/detail/pool/executor_core.hpp>
#include <pynisher/detail/pool/map.hpp>
#include <pynisher/exceptions.hpp>

namespace pynisher::detail {

namespace {

[[noreturn]] void refuse() {
  throw UnsupportedException(
      "pool: this system's part of the library has no worker pools and executors yet; limit() and start() it has");
}

}  // namespace

std::shared_ptr<pool_core> pool_core::open(pool_plan /*plan*/, std::unique_ptr<worker_factory> /*factory*/) { refuse(); }
std::shared_ptr<executor_core> executor_core::open(pool_options /*wanted*/) { refuse(); }
std::unique_ptr<map_run> map_run::begin(std::shared_ptr<pool_core> /*pool*/, order /*wanted*/,
                                        std::optional<std::uint64_t> /*inputs*/) {
  refuse();
}
void let_go(std::shared_ptr<executor_core> /*core*/) noexcept {}
void refuse_task(const char* /*why*/) { refuse(); }
void begin_task_reply() { refuse(); }

}  // namespace pynisher::detail
