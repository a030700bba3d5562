// The control: everything that the other files do wrong, done right.
#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include <pynisher/pynisher.hpp>

using namespace std::chrono_literals;

struct point {
  int x = 0;
  template <class Archive>
  void serialize(Archive& ar) {
    ar(x);
  }
};
struct my_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};
PYNISHER_EXCEPTION(my_error);

int number(int x) { return x; }
const auto restricted = RESTRICTED(.memory = {200, "MB"}, .wall_time = 1s) number;

int main() {
  auto value = pynisher::limit([](int) { return std::vector<std::optional<point>>(); }, {.memory = 500});
  auto text = pynisher::limit([] { return std::string(); }, {.wall_time = 1.5}, pynisher::no_raise);
  pynisher::register_exception<my_error>();
  return static_cast<int>(value(1).size() + text()->size()) + restricted(1);
}
