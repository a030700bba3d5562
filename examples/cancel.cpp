// A call that is given up before it ends: from another thread, through a std::stop_token.

#include <chrono>
#include <cstdio>
#include <stop_token>
#include <thread>

#include <pynisher/pynisher.hpp>

using namespace std::chrono_literals;

void wait_for_ever() {
  for (;;) std::this_thread::sleep_for(1h);
}

int main(int argc, char** argv) {
  pynisher::init(argc, argv);  // for `spawn`, the way of systems that cannot copy a process
  bool cancelled = false;
  // std::jthread brings a stop token of its own; a std::stop_source does as well.
  std::jthread caller([&cancelled](std::stop_token stop) {
    // The library warns when a program with several threads forks. Here that is known: the other one only sleeps.
    const auto waits = pynisher::limit(wait_for_ever, {.warnings = false, .stop = stop});
    try {
      waits();
    } catch (const pynisher::CancelledException& e) {
      std::printf("%s\n", e.what());
      cancelled = true;
    }
  });
  std::this_thread::sleep_for(100ms);
  caller.request_stop();
  caller.join();
  return cancelled ? 0 : 1;
}
