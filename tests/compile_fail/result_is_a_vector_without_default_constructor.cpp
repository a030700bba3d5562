// EXPECT: pynisher: .*default constructor
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
auto bad = pynisher::limit([]() -> std::vector<number> { throw 1; });
auto called = bad();
