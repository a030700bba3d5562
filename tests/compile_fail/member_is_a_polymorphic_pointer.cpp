// EXPECT: pynisher: .*unique_ptr to a polymorphic class
#include <memory>

#include <pynisher/limit.hpp>

struct shape {
  virtual ~shape() = default;
  template <class Archive>
  void serialize(Archive&) {}
};
struct drawing {
  std::unique_ptr<shape> first;
  template <class Archive>
  void serialize(Archive& ar) {
    ar(first);
  }
};

int main() {
  return pynisher::limit([] { return drawing(); })().first == nullptr;
}
