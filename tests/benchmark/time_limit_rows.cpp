// How late a call that breaks a time limit comes back.

#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <unistd.h>

#include <pynisher/pynisher.hpp>

#include "row.hpp"

namespace pynisher_benchmark {

namespace {

using namespace std::chrono_literals;

void sleep_for_ever() {
  for (;;) pause();
}

void spin_for_ever() {
  static volatile bool on = true;
  while (on) {
  }
}

void spin_in_two_threads() {
  std::thread other(spin_for_ever);
  spin_for_ever();
}

using measurement = std::function<double()>;

/// By the caller's clock, from before the call.
measurement wall_overshoot(void (*fn)(), std::chrono::milliseconds limit) {
  return [limited = pynisher::limit(fn, {.wall_time = limit, .warnings = false}), limit] {
    const auto begin = steady::now();
    const auto result = limited.try_call();
    const double taken = seconds_since(begin);
    expect(result.verdict() == pynisher::verdict::wall_timeout, "no wall timeout");
    return taken - std::chrono::duration<double>(limit).count();
  };
}

/// CPU time that the call got beyond its limit, as the kernel counted it in the end.
measurement cpu_overshoot(void (*fn)(), std::chrono::milliseconds limit) {
  return [limited = pynisher::limit(fn, {.cpu_time = limit, .warnings = false}), limit] {
    const auto result = limited.try_call();
    expect(result.verdict() == pynisher::verdict::cpu_timeout, "no CPU timeout");
    return std::chrono::duration<double>(result.usage().cpu_time() - limit).count();
  };
}

row overshoot(std::string name, std::string what, double bar, double stretch,
              measurement (*of)(void (*)(), std::chrono::milliseconds), void (*fn)(), std::chrono::milliseconds limit) {
  return {.name = "overshoot/" + std::move(name),
          .what = std::move(what),
          .bar = bar,
          .stretch = stretch,
          .rounds = 100,
          .smoke_rounds = 2,
          .measure = [=](benchmark::State& state) {
            const measurement once = of(fn, limit);
            once();
            return alone(state, once);
          }};
}

}  // namespace

std::vector<row> time_limit_rows() {
  auto two_threads = overshoot("cpu_two_threads", "CPU limit of 20 ms, overshoot, two threads", 0, 0, cpu_overshoot,
                               spin_in_two_threads, 20ms);
  two_threads.bar.reset();
  two_threads.stretch.reset();
  return {
      overshoot("wall_sleeping", "wall limit of 20 ms, overshoot, sleeping child", 1e-3, 0.1e-3, wall_overshoot,
                sleep_for_ever, 20ms),
      overshoot("wall_spinning", "wall limit of 20 ms, overshoot, spinning child", 4.5e-3, 0.1e-3, wall_overshoot,
                spin_for_ever, 20ms),
      overshoot("cpu", "CPU limit of 20 ms, overshoot, one thread", 4.5e-3, 0.2e-3, cpu_overshoot, spin_for_ever, 20ms),
      overshoot("cpu_least", "CPU limit of 1 ms, overshoot, one thread", 4.5e-3, 0.2e-3, cpu_overshoot, spin_for_ever,
                1ms),
      two_threads,
  };
}

}  // namespace pynisher_benchmark
