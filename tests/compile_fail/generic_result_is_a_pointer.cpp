// With a generic callable the result is known only at the call.
// EXPECT: pynisher: the function.s result cannot cross between processes
#include <pynisher/limit.hpp>

int main() {
  const auto guarded = pynisher::limit([](auto x) { return new int(x); });
  return *guarded(1);
}
