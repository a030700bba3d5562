// Where there is no fork: a call by `spawn` beside a bare start of the same program, and how late and how dear the
// parent's own looks at a call are.
//   windows_benchmark [rounds]

#include <windows.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include <pynisher/pynisher.hpp>

namespace {

using clock = std::chrono::steady_clock;
using namespace std::chrono_literals;
using namespace pynisher::literals;

constexpr const char* bare_mark = "--end-at-once";

constexpr std::size_t piece = std::size_t{1} << 20;

int nothing() { return 7; }

int take_memory() {
  for (;;) {
    char* const taken = new (std::nothrow) char[piece];
    if (taken == nullptr) std::abort();
    std::memset(taken, 1, piece);
  }
}

int spin() {
  for (std::atomic<unsigned> rounds{0};;) rounds.fetch_add(1);
}

int sleep_a_second() {
  std::this_thread::sleep_for(1s);
  return 7;
}

/// The same image, with handles inherited, and nothing of the library's; waited for.
void start_bare() {
  char path[MAX_PATH * 4];
  ::GetModuleFileNameA(nullptr, path, sizeof path);
  std::string command = std::string("\"") + path + "\" " + bare_mark;
  STARTUPINFOA start{};
  start.cb = sizeof start;
  PROCESS_INFORMATION started{};
  if (::CreateProcessA(path, command.data(), nullptr, nullptr, TRUE, 0, nullptr, nullptr, &start, &started) == 0) {
    std::fprintf(stderr, "CreateProcess: error %lu\n", ::GetLastError());
    std::exit(1);
  }
  ::WaitForSingleObject(started.hProcess, INFINITE);
  ::CloseHandle(started.hThread);
  ::CloseHandle(started.hProcess);
}

pynisher::options by_spawn(pynisher::options limits) {
  limits.context = pynisher::start_method::spawn;
  limits.warnings = false;
  return limits;
}

/// Processor time that this process has used.
double own_milliseconds() {
  FILETIME ignored{}, kernel{}, user{};
  ::GetProcessTimes(::GetCurrentProcess(), &ignored, &ignored, &kernel, &user);
  const auto ticks = [](const FILETIME& time) {
    return (std::uint64_t{time.dwHighDateTime} << 32) | time.dwLowDateTime;
  };
  return static_cast<double>(ticks(kernel) + ticks(user)) / 1e4;
}

/// What is told of a call that can only end at its limit `Reached`.
template <class Reached, class Look>
double at_limit(int (*function)(), pynisher::options limits, const Look& look) {
  try {
    pynisher::limit(function, by_spawn(std::move(limits)))();
  } catch (const Reached& reached) {
    return look(reached);
  }
  std::abort();
}

template <class What>
double milliseconds(const What& what) {
  const auto begun = clock::now();
  what();
  return std::chrono::duration<double, std::milli>(clock::now() - begun).count();
}

double median(std::vector<double> of) {
  std::sort(of.begin(), of.end());
  return of[of.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  pynisher::init(argc, argv);
  if (argc > 1 && std::strcmp(argv[1], bare_mark) == 0) return 0;
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 101;
  const auto call = pynisher::limit(nothing, by_spawn({.memory = 1_GiB, .cpu_time = 60s, .wall_time = 60s}));
  std::vector<double> bare, limited;
  // In turn, so that whatever else the machine does meets both.
  for (int i = 0; i < rounds; ++i) {
    bare.push_back(milliseconds(start_bare));
    limited.push_back(milliseconds([&] {
      if (call() != 7) std::abort();
    }));
  }
  std::printf(
      "bare CreateProcess and wait %.2f ms, a call by spawn with three limits %.2f ms, ratio %.2f (medians of %d)\n",
      median(bare), median(limited), median(limited) / median(bare), rounds);

  const int ends = std::max(1, rounds / 10);
  std::vector<double> memory, cpu, wall, watching;
  for (int i = 0; i < ends; ++i) {
    memory.push_back(at_limit<pynisher::MemoryLimitException>(take_memory, {.memory = 64_MiB}, [](const auto& reached) {
      return (static_cast<double>(reached.measured().bytes()) - 64.0 * piece) / piece;
    }));
    cpu.push_back(at_limit<pynisher::CpuTimeoutException>(spin, {.cpu_time = 200ms}, [](const auto& reached) {
      return std::chrono::duration<double, std::milli>(reached.usage().cpu_time() - 200ms).count();
    }));
    wall.push_back(at_limit<pynisher::WallTimeoutException>(spin, {.wall_time = 200ms}, [](const auto& reached) {
      return std::chrono::duration<double, std::milli>(reached.usage().wall_time - 200ms).count();
    }));
    const auto watched =
        pynisher::limit(sleep_a_second, by_spawn({.memory = 64_MiB, .cpu_time = 60s, .wall_time = 60s}));
    const double before = own_milliseconds();
    if (watched() != 7) std::abort();
    watching.push_back(own_milliseconds() - before);
  }
  std::printf("beyond the limit: memory %.1f MiB, CPU time %.1f ms, wall time %.1f ms (medians of %d)\n",
              median(memory), median(cpu), median(wall), ends);
  std::printf("processor time of the parent for a call that sleeps for a second: %.1f ms (median of %d)\n",
              median(watching), ends);
}
