// A pointer that the child can make alias another type does not become harmless by standing in a struct.
// EXPECT: pynisher: .*shared_ptr
#include <memory>

#include <pynisher/limit.hpp>

struct node {
  std::shared_ptr<int> value;
  template <class Archive>
  void serialize(Archive& ar) {
    ar(value);
  }
};

int main() {
  return *pynisher::limit([] { return node(); })().value;
}
