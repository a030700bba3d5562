// EXPECT: pynisher: .*default constructor
#include <optional>

#include <pynisher/limit.hpp>

struct number {
  explicit number(int) {}
  template <class Archive>
  void serialize(Archive&) {}
};
auto bad = pynisher::limit([]() -> std::optional<number> { throw 1; });
auto called = bad();
