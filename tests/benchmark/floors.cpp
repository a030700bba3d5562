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

pipe_echo::pipe_echo() {
  int there[2], back[2];
  expect(pipe(there) == 0 && pipe(back) == 0, "pipe");
  pid_ = fork();
  expect(pid_ >= 0, "fork");
  if (pid_ == 0) {
    close(there[1]);
    close(back[0]);
    std::uint64_t value = 0;
    while (read(there[0], &value, sizeof value) == sizeof value && write(back[1], &value, sizeof value) == sizeof value) {
    }
    _exit(0);
  }
  close(there[0]);
  close(back[1]);
  to_ = there[1];
  from_ = back[0];
}

pipe_echo::~pipe_echo() {
  close(to_);
  close(from_);
  waitpid(pid_, nullptr, 0);
}

std::uint64_t pipe_echo::round_trip(std::uint64_t value) const {
  std::uint64_t answer = 0;
  expect(write(to_, &value, sizeof value) == sizeof value && read(from_, &answer, sizeof answer) == sizeof answer,
         "the echo has gone");
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
