// Without exceptions: a limited call gives an optional, or a bool where the function returns nothing.

#include <chrono>
#include <cstdio>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>

#include <pynisher/pynisher.hpp>

using namespace std::chrono_literals;

int parse_port(const std::string& text) {
  const int port = std::stoi(text);
  if (port < 1 || port > 65535) throw std::out_of_range("no port: " + text);
  return port;
}

void wait_for_ever() {
  for (;;) std::this_thread::sleep_for(1h);
}

int main(int argc, char** argv) {
  pynisher::init(argc, argv);  // for `spawn`, the way of systems that cannot copy a process
  const auto port = pynisher::limit(parse_port, {.wall_time = 1min}, pynisher::no_raise);
  const auto waits = pynisher::limit(wait_for_ever, {.wall_time = 100ms}, pynisher::no_raise);

  const std::optional<int> good = port("8080");
  const std::optional<int> bad = port("eighty");
  const bool came_back = waits();

  std::printf("\"8080\": %d, \"eighty\": %s\n", good.value_or(0), bad == pynisher::EMPTY ? "no port" : "a port");
  std::printf("wait_for_ever %s\n", came_back ? "came back" : "did not come back");
  return good == 8080 && bad == pynisher::EMPTY && !came_back ? 0 : 1;
}
