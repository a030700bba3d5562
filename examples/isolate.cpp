// A process that is prepared once and then handles requests, keeps its own count of them, and is replaced when it crashes.

#include <chrono>
#include <cstdio>
#include <map>
#include <string>

#include <pynisher/pynisher.hpp>

using namespace std::chrono_literals;
using namespace pynisher::literals;

// The isolate's own: this program's stay empty.
std::map<std::string, std::string> menu;
int requests = 0;

void prepare() { menu = {{"spam", "eggs"}, {"lobster", "thermidor"}}; }

std::string handle(const std::string& order) {
  ++requests;
  if (order == "parrot") *static_cast<volatile int*>(nullptr) = 0;
  return menu.at(order);
}

int main(int argc, char** argv) {
  pynisher::init(argc, argv);
  auto kitchen = pynisher::isolate::create({.name = "kitchen", .limits = {.memory = 1_GiB}});
  kitchen.call(prepare);

  int served = 0, unknown = 0, crashed = 0;
  for (const char* order : {"spam", "parrot", "lobster", "shrubbery", "spam"}) {
    try {
      std::printf("%s: %s\n", order, kitchen.call({.wall_time = 10s}, handle, order).c_str());
      ++served;
    } catch (const std::out_of_range&) {
      std::printf("%s: not on the menu\n", order);
      ++unknown;
    } catch (const pynisher::IsolateDiedError& e) {
      std::printf("%s: %s\n", order, e.what());
      ++crashed;
      kitchen.reset();  // another process, with the same id and limits
      kitchen.call(prepare);
    }
  }
  const int handled = kitchen.call([] { return requests; });
  std::printf("the new one has handled %d; here: %d, %zu\n", handled, requests, menu.size());
  return served == 3 && unknown == 1 && crashed == 1 && handled == 3 && requests == 0 ? 0 : 1;
}
