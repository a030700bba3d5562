// EXPECT: pynisher: the function.s result cannot cross between processes
#include <memory>
#include <queue>
#include <string>
#include <string_view>
#include <vector>

#include <pynisher/limit.hpp>

struct opaque {
  int hidden = 0;
};
auto bad = pynisher::limit([]() -> std::vector<opaque> { throw 1; });
