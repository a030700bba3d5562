// Where there is no fork: a call by `spawn` beside a bare start of the same program.
//   bare_starts [rounds]

#include <windows.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <pynisher/pynisher.hpp>

namespace {

using clock = std::chrono::steady_clock;
using namespace std::chrono_literals;
using namespace pynisher::literals;

constexpr const char* bare_mark = "--end-at-once";

int nothing() { return 7; }

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
  const auto call = pynisher::limit(
      nothing, {.memory = 1_GiB, .cpu_time = 60s, .wall_time = 60s, .context = pynisher::start_method::spawn,
                .warnings = false});
  std::vector<double> bare, by_spawn;
  // In turn, so that whatever else the machine does meets both.
  for (int i = 0; i < rounds; ++i) {
    bare.push_back(milliseconds(start_bare));
    by_spawn.push_back(milliseconds([&] {
      if (call() != 7) std::abort();
    }));
  }
  std::printf("bare CreateProcess and wait %.2f ms, a call by spawn with three limits %.2f ms, ratio %.2f (medians of %d)\n",
              median(bare), median(by_spawn), median(by_spawn) / median(bare), rounds);
}
