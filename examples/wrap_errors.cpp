// wrap_errors turns the function's own exceptions into this library's: all of them, or those of a list.

#include <cstdio>
#include <new>
#include <stdexcept>

#include <pynisher/pynisher.hpp>

struct NotFittedError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct DeviceOutOfMemory : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void train(bool on_device) {
  if (on_device) throw DeviceOutOfMemory("the card has 8 GiB");
  throw NotFittedError("call fit() first");
}

int main(int argc, char** argv) {
  pynisher::init(argc, argv);  // for `spawn`, the way of systems that cannot copy a process
  // A type can be named by a text, so that it need not be known here; and it can be counted as a broken limit.
  const auto trainer =
      pynisher::limit(train, {.wrap_errors = {pynisher::wrap("NotFittedError"),
                                              pynisher::wrap<DeviceOutOfMemory>(pynisher::wrap_as::memory)}});
  int seen = 0;
  try {
    trainer(false);
  } catch (const pynisher::WrappedException& e) {
    std::printf("WrappedException: %s, once a %s\n", e.message().c_str(), e.type_name().c_str());
    seen += e.type_name() == "NotFittedError";
  }
  try {
    trainer(true);
  } catch (const pynisher::MemoryLimitException& e) {
    std::printf("MemoryLimitException: %s\n", e.what());
    ++seen;
  }
  return seen == 2 ? 0 : 1;
}
