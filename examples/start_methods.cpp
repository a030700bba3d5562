// The same call by every start method: what the child has of the program's own state.

#include <chrono>
#include <cstdio>

#include <pynisher/pynisher.hpp>

using namespace std::chrono_literals;

int prepared = 1;  // as the program is linked
int seen() { return prepared; }

int main(int argc, char** argv) {
  pynisher::init(argc, argv);
  if (pynisher::supports("forkserver")) pynisher::forkserver::preload([] { prepared = 2; });
  prepared = 3;

  bool right = true;
  for (const auto method : pynisher::start_methods()) {
    const int value = pynisher::limit(seen, {.wall_time = 1min, .context = method})();
    switch (method) {
      case pynisher::start_method::fork:
        std::printf("fork: %d, as the program has it now\n", value);
        right = right && value == 3;
        break;
      case pynisher::start_method::spawn:
        std::printf("spawn: %d, as the program begins\n", value);
        right = right && value == 1;
        break;
      default:
        std::printf("forkserver: %d, as it was preloaded\n", value);
        right = right && value == 2;
    }
  }
  return right ? 0 : 1;
}
