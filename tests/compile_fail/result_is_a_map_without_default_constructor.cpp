// EXPECT: pynisher: .*default constructor
#include <map>

#include <pynisher/limit.hpp>

struct number {
  explicit number(int) {}
  template <class Archive>
  void serialize(Archive&) {}
};
auto bad = pynisher::limit([]() -> std::map<int, number> { throw 1; });
auto called = bad();
