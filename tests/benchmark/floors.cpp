#include "floors.hpp"

#include <csignal>
#include <cstdlib>

#include <sys/wait.h>
#include <unistd.h>

#include "row.hpp"
#include "samples.hpp"

namespace pynisher_benchmark {

std::uint64_t bare_fork_call() {
  int ends[2];
  expect(pipe(ends) == 0, "pipe");
  const pid_t pid = fork();
  expect(pid >= 0, "fork");
  if (pid == 0) {
    const std::uint64_t answer = 42;
    const bool written = write(ends[1], &answer, sizeof answer) == sizeof answer;
    _exit(written ? 0 : 1);
  }
  std::uint64_t answer = 0;
  const bool got = read(ends[0], &answer, sizeof answer) == sizeof answer;
  waitpid(pid, nullptr, 0);
  close(ends[0]);
  close(ends[1]);
  expect(got && answer == 42, "the bare child gave a wrong answer");
  return answer;
}

namespace {

/// In a process of its own, whose children are only the group.
double kill_own_group(int count) {
  pid_t group = 0;
  for (int i = 0; i < count; ++i) {
    const pid_t pid = fork();
    if (pid == 0) {
      for (;;) pause();
    }
    if (pid < 0) return -1;
    if (i == 0) group = pid;
    setpgid(pid, group);
  }
  const auto begin = steady::now();
  killpg(group, SIGKILL);
  while (waitpid(-1, nullptr, 0) > 0) {
  }
  return seconds_since(begin);
}

}  // namespace

double bare_killpg(int count) {
  int ends[2];
  expect(pipe(ends) == 0, "pipe");
  const pid_t pid = fork();
  expect(pid >= 0, "fork");
  if (pid == 0) {
    const double taken = kill_own_group(count);
    const bool written = write(ends[1], &taken, sizeof taken) == sizeof taken;
    _exit(written ? 0 : 1);
  }
  double taken = -1;
  const bool got = read(ends[0], &taken, sizeof taken) == sizeof taken;
  waitpid(pid, nullptr, 0);
  close(ends[0]);
  close(ends[1]);
  expect(got && taken >= 0, "the group could not be made");
  return taken;
}

}  // namespace pynisher_benchmark
