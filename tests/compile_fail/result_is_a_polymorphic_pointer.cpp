// EXPECT: pynisher: the function.s result cannot cross between processes
#include <memory>
#include <queue>
#include <string>
#include <string_view>
#include <vector>

#include <pynisher/limit.hpp>

struct shape {
  virtual ~shape() = default;
  template <class Archive>
  void serialize(Archive&) {}
};
auto bad = pynisher::limit([]() -> std::unique_ptr<shape> { throw 1; });
