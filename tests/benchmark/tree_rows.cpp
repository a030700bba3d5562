// Ending what a call has started: descendants that each left the tree by a double fork and a session of their own.

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <sched.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <pynisher/pynisher.hpp>

#include "floors.hpp"
#include "row.hpp"
#include "shared_board.hpp"

namespace pynisher_benchmark {

namespace {

constexpr std::size_t most_descendants = 1000;

struct board {
  std::atomic<int> there{0};
  std::array<std::atomic<pid_t>, most_descendants> pids{};
  steady::time_point end_begins;
};

enum class ending { returned, killed, wall_limit };

[[noreturn]] void live_on(board& told, int number) {
  told.pids[static_cast<std::size_t>(number)].store(getpid());
  told.there.fetch_add(1);
  for (;;) pause();
}

void plant_descendant(board& told, int number) {
  const pid_t pid = fork();
  if (pid == 0) {
    setsid();
    if (fork() == 0) live_on(told, number);
    _exit(0);
  }
  waitpid(pid, nullptr, 0);
}

/// In the child.
void plant_tree(board& told, int count, ending how) {
  for (int i = 0; i < count; ++i) plant_descendant(told, i);
  while (told.there.load() < count) sched_yield();
  told.end_begins = steady::now();
  if (how == ending::killed) raise(SIGKILL);
  if (how == ending::wall_limit) {
    for (;;) pause();
  }
}

/// Dead ones that init has not reaped yet are gone as far as anybody can do anything about it.
bool lives(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string number, name;
  char state = 'X';
  return file >> number >> name >> state && state != 'Z' && state != 'X';
}

void expect_no_survivors(const board& told, int count) {
  for (int i = 0; i < count; ++i) {
    expect(!lives(told.pids[static_cast<std::size_t>(i)].load()), "a descendant survived its call");
  }
}

pynisher::verdict expected(ending how) {
  switch (how) {
    case ending::returned:
      return pynisher::verdict::returned;
    case ending::killed:
      return pynisher::verdict::signalled;
    case ending::wall_limit:
      return pynisher::verdict::wall_timeout;
  }
  return pynisher::verdict::start_failed;
}

/// Seconds from the function's end, or the limit, until the call has come back; empty: not all were planted in time.
std::optional<double> end_tree(int count, ending how, std::chrono::milliseconds limit) {
  const shared_board<board> told;
  pynisher::options limits{.warnings = false};
  if (how == ending::wall_limit) limits.wall_time = limit;
  const auto limited = pynisher::limit([&] { plant_tree(*told.operator->(), count, how); }, limits);
  const auto begin = steady::now();
  const auto result = limited.try_call();
  const auto end = steady::now();
  expect_no_survivors(*told.operator->(), told->there.load());
  expect(result.verdict() == expected(how), "the call ended in another way");
  if (told->there.load() < count) return std::nullopt;
  const auto from = how == ending::wall_limit ? begin + limit : told->end_begins;
  return std::chrono::duration<double>(end - from).count();
}

double end_tree_after_planting(int count, ending how) {
  for (auto limit = std::chrono::milliseconds(100 + 2 * count); limit < std::chrono::minutes(1); limit *= 2) {
    if (const auto taken = end_tree(count, how, limit)) return *taken;
  }
  throw std::runtime_error("the descendants could not be planted in time");
}

row tree_row(int count, std::string name, std::string what, ending how) {
  const std::string number = std::to_string(count);
  return {.name = "tree/" + number + "_" + std::move(name),
          .what = number + " descendants ended, 0 survivors: " + std::move(what),
          .stretch = 1.2,
          .rounds = count > 100 ? 5 : 50,
          .measure = [=](benchmark::State& state) {
            return interleaved(
                state, [=] { return bare_killpg(count); }, [=] { return end_tree_after_planting(count, how); });
          }};
}

}  // namespace

std::vector<row> tree_rows() {
  std::vector<row> rows;
  for (const int count : {10, 1000}) {
    rows.push_back(tree_row(count, "returned", "it returned", ending::returned));
    rows.push_back(tree_row(count, "killed", "it was killed", ending::killed));
    rows.push_back(tree_row(count, "wall_limit", "wall limit", ending::wall_limit));
  }
  return rows;
}

}  // namespace pynisher_benchmark
