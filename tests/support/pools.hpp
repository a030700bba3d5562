#pragma once

// One suite over all that a worker can live in: a process of each start method, or a thread.
//
//     class Pools : public support::per_kind_of_worker {};
//     FOR_EACH_KIND_OF_WORKER(Pools);
//     TEST_P(Pools, Square) { auto pool = pynisher::make_pool(with({.workers = 2}), square); ... }

#include <sys/types.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <pynisher/pool_options.hpp>

#include "support/processes.hpp"
#include "support/suites.hpp"

namespace support {

struct kind_of_worker {
  pynisher::backend backend = pynisher::backend::processes;
  pynisher::start_method context = pynisher::start_method::automatic;
};

inline std::string name_of(const kind_of_worker& kind) {
  return kind.backend == pynisher::backend::threads ? "threads" : method_name(kind.context);
}

inline std::vector<kind_of_worker> processes() {
  std::vector<kind_of_worker> all;
  for (const pynisher::start_method method : pynisher::start_methods())
    all.push_back({pynisher::backend::processes, method});
  return all;
}
inline std::vector<kind_of_worker> kinds_of_workers() {
  std::vector<kind_of_worker> all = processes();
  all.push_back({pynisher::backend::threads, pynisher::start_method::automatic});
  return all;
}

/// Who has called, where the callers may be threads of this process: nobody is killed when it goes.
class call_log {
 public:
  call_log() = default;
  call_log(const call_log&) = delete;
  call_log& operator=(const call_log&) = delete;
  ~call_log() { file_.clear(); }
  [[nodiscard]] const std::string& path() const { return file_.path(); }
  [[nodiscard]] std::vector<pid_t> pids() const { return file_.pids(); }
  /// Processes other than this one that are alive.
  [[nodiscard]] std::vector<pid_t> survivors() const {
    auto pids = file_.survivors();
    std::erase(pids, ::getpid());
    return pids;
  }

 private:
  process_log file_;
};

class per_kind_of_worker : public ::testing::TestWithParam<kind_of_worker> {
 protected:
  /// `wanted`, with the workers that are being tested. No warnings.
  [[nodiscard]] static pynisher::pool_options with(pynisher::pool_options wanted) {
    wanted.backend = GetParam().backend;
    wanted.context = GetParam().context;
    wanted.limits.warnings = false;
    return wanted;
  }
  [[nodiscard]] static bool in_threads() { return GetParam().backend == pynisher::backend::threads; }
};

}  // namespace support

#define FOR_EACH_KIND_OF_WORKER(Suite)                                                    \
  INSTANTIATE_TEST_SUITE_P(In, Suite, ::testing::ValuesIn(::support::kinds_of_workers()), \
                           [](const auto& kind) { return ::support::name_of(kind.param); })
/// For what only processes can do.
#define FOR_EACH_KIND_OF_PROCESS(Suite)                                            \
  INSTANTIATE_TEST_SUITE_P(In, Suite, ::testing::ValuesIn(::support::processes()), \
                           [](const auto& kind) { return ::support::name_of(kind.param); })
