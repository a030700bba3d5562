// How deaths are reported: those that not every system has.

#include <signal.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "process/reported_deaths.hpp"
#include "support/scenarios.hpp"

namespace {

using pynisher::verdict;

void be_killed() { support::signal_self(SIGKILL); }
void be_killed_by_a_child() {
  if (::fork() == 0) {
    ::kill(::getppid(), SIGKILL);
    std::_Exit(0);
  }
  support::sleep_forever();
}
void be_terminated() { support::signal_self(SIGTERM); }
void quick_exit_0() { std::quick_exit(0); }
void quick_exit_4() { std::quick_exit(4); }

const support::death deaths[] = {
    {"BusError", support::read_past_end_of_file, verdict::signalled, SIGBUS, true},
    {"SigkillByItself", be_killed, verdict::signalled, SIGKILL},
    {"SigkillByAnother", be_killed_by_a_child, verdict::signalled, SIGKILL},
    {"Sigterm", be_terminated, verdict::signalled, SIGTERM},
    {"QuickExit0", quick_exit_0, verdict::exited, 0},
    {"QuickExit4", quick_exit_4, verdict::exited, 4},
};

class DeathsOnLinux : public support::reported_deaths {};
FOR_EACH_START_METHOD_AND_DEATH(DeathsOnLinux, deaths);

TEST_P(DeathsOnLinux, AreReportedForWhatTheyAreWithoutLimits) { expect_reported_without_limits(); }
TEST_P(DeathsOnLinux, AreReportedForWhatTheyAreUnderEveryLimit) { expect_reported_under_every_limit(); }

}  // namespace
