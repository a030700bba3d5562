// A call that is given up, and what it has left behind.

#include <stop_token>
#include <string>
#include <thread>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/helper_process.hpp"
#include "support/scenarios.hpp"
#include "support/suites.hpp"

namespace {

using pynisher::limit;
using pynisher::verdict;

class CancellingATree : public support::per_start_method {
 protected:
  void SetUp() override { SKIP_UNLESS_SUPPORTED("cancel"); }
};
FOR_EACH_START_METHOD(CancellingATree);

TEST_P(CancellingATree, AStopThatIsRequestedMeanwhileEndsTheCallAndItsTree) {
  const support::process_log log;
  const auto options = unlimited();
  // In a process of its own, since the thread that requests would be the test program's for good.
  const auto said = support::run_in_helper([&] {
    std::stop_source source;
    pynisher::options wanted = options;
    wanted.stop = source.get_token();
    std::jthread other([&] {
      support::await_logged(log.path(), 1);
      source.request_stop();
    });
    const auto ended = limit(support::double_fork_and_sleep, wanted).try_call(log.path());
    HELPER_CHECK(ended.verdict() == verdict::cancelled);
    HELPER_CHECK(log.survivors().empty());
    HELPER_CHECK(!log.pids().empty());
    try {
      ended.value();
    } catch (const pynisher::CancelledException&) {
      return 0;
    }
    return 1;
  });
  EXPECT_EQ(said.code, 0) << said;
}

}  // namespace
