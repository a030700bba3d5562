// EXPECT: pynisher: the function.s result type needs a default constructor
#include <memory>
#include <queue>
#include <string>
#include <string_view>
#include <vector>

#include <pynisher/limit.hpp>

struct number {
  explicit number(int) {}
  template <class Archive>
  void serialize(Archive&) {}
};
auto bad = pynisher::limit([]() -> number { throw 1; });
