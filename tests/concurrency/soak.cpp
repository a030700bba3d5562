// A hundred thousand calls that end at random: does anything grow, does anything get slower?
//
//     soak [calls] [seed] [fork|spawn|forkserver] [busy loops beside it]
//
// Prints the latency of the first and the last thousand calls, and exits with 1 if the program is not at its end as it
// was after the first thousand.

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include <pynisher/pynisher.hpp>

#include "concurrency/world.hpp"
#include "support/scenarios.hpp"
#include "support/start_methods.hpp"

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using clock_type = std::chrono::steady_clock;
using pynisher::limit;
using pynisher::verdict;

struct mixed {
  const char* name;
  unsigned weight;
  verdict expected;
  verdict (*call)();
};

pynisher::start_method method = pynisher::start_method::fork;

template <class F>
verdict verdict_of(F fn, pynisher::options limits = {}) {
  limits.context = method;
  return limit(fn, std::move(limits)).try_call().verdict();
}
/// Killed from outside, at a moment of its own.
verdict verdict_of_killed() {
  auto call = limit(support::sleep_forever, {.context = method, .warnings = false}).start();
  ::kill(static_cast<pid_t>(call.pid()), SIGKILL);
  return call.get_outcome().verdict();
}

const mixed calls[] = {
    {"value", 60, verdict::returned, [] { return verdict_of([] { return 7; }); }},
    {"large value", 5, verdict::returned, [] { return verdict_of([] { return std::string(2 << 20, 'x'); }); }},
    {"exception", 10, verdict::raised, [] { return verdict_of([] { throw std::out_of_range("row 7"); }); }},
    {"exit", 8, verdict::exited, [] { return verdict_of([] { std::exit(3); }); }},
    {"crash", 5, verdict::signalled, [] { return verdict_of(support::write_to_null); }},
    {"kill", 3, verdict::signalled, [] { return verdict_of([] { ::raise(SIGKILL); }); }},
    {"kill from outside", 2, verdict::signalled, verdict_of_killed},
    {"wall limit", 3, verdict::wall_timeout, [] { return verdict_of(support::sleep_forever, {.wall_time = 2ms}); }},
    {"cpu limit", 2, verdict::cpu_timeout, [] { return verdict_of(support::spin_forever, {.cpu_time = 2ms}); }},
    {"tree", 2, verdict::returned,
     [] {
       return verdict_of([] {
         if (::fork() == 0) {
           ::setsid();
           if (::fork() == 0) support::sleep_two_minutes();
           ::_exit(0);
         }
       });
     }},
};

const mixed& pick(std::mt19937& random) {
  unsigned at = static_cast<unsigned>(random()) % 100;
  for (const auto& kind : calls) {
    if (at < kind.weight) return kind;
    at -= kind.weight;
  }
  return calls[0];
}

void print_percentiles(const char* what, std::vector<double> microseconds) {
  std::sort(microseconds.begin(), microseconds.end());
  const auto at = [&](double part) {
    return microseconds[static_cast<std::size_t>(part * static_cast<double>(microseconds.size() - 1))];
  };
  std::printf("%-28s us: p10 %.0f  p50 %.0f  p90 %.0f  p99 %.0f  max %.0f\n", what, at(0.1), at(0.5), at(0.9), at(0.99),
              at(1));
}

}  // namespace

int main(int argc, char** argv) {
  pynisher::init(argc, argv);
  const long count = argc > 1 ? std::atol(argv[1]) : 100'000;
  const auto seed = static_cast<unsigned>(argc > 2 ? std::atol(argv[2]) : 1);
  const std::string wanted = argc > 3 ? argv[3] : "fork";
  const int loops = argc > 4 ? std::atoi(argv[4]) : 0;
  if (wanted == "spawn") method = pynisher::start_method::spawn;
  if (wanted == "forkserver") method = pynisher::start_method::forkserver;
  for (int i = 0; i < loops; ++i) {
    if (::fork() != 0) continue;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
    }
  }
  const long edge = std::min(1000L, count / 2);
  std::printf("%ld calls by %s, seed %u\n", count, wanted.c_str(), seed);
  std::mt19937 random(seed);
  std::vector<double> first, last;
  concurrency::world before;
  std::uint64_t resident_before = 0;
  long wrong = 0;
  for (long i = 0; i < count; ++i) {
    const mixed& kind = pick(random);
    const auto from = clock_type::now();
    const verdict seen = kind.call();
    const double took = std::chrono::duration<double, std::micro>(clock_type::now() - from).count();
    if (seen != kind.expected) {
      ++wrong;
      std::printf("call %ld (%s): %s\n", i, kind.name, pynisher::to_string(seen));
    }
    if (std::string(kind.name) == "value") {
      if (i < edge) first.push_back(took);
      if (i >= count - edge) last.push_back(took);
    }
    if (i == edge) {
      // Its children come and go.
      pynisher::forkserver::stop();
      before = concurrency::look_around(false);
      resident_before = concurrency::resident_bytes();
    }
  }
  pynisher::forkserver::stop();
  const std::uint64_t resident_after = concurrency::resident_bytes();
  const std::string changed = concurrency::changes(before, concurrency::look_around(false));
  print_percentiles("values in the first thousand", first);
  print_percentiles("values in the last thousand", last);
  std::printf("resident: %llu KiB, at the end %llu KiB\n%s", static_cast<unsigned long long>(resident_before >> 10),
              static_cast<unsigned long long>(resident_after >> 10), changed.c_str());
  // A sanitizer keeps what has been freed.
  const bool grew = !support::sanitized && resident_after > resident_before + (std::uint64_t{4} << 20);
  if (support::sanitized) std::printf("sanitizer: whether memory grows is not judged\n");
  return wrong > 0 || grew || !changed.empty() ? 1 : 0;
}
