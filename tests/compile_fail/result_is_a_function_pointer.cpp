// EXPECT: pynisher: the function.s result cannot cross between processes
#include <memory>
#include <queue>
#include <string>
#include <string_view>
#include <vector>

#include <pynisher/limit.hpp>

auto bad = pynisher::limit([]() -> void (*)() { throw 1; });
