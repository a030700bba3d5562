// Any bytes as a value of any shape. What is accepted must go out and come in again as the same value.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>

#include "fuzz/archive_shapes.hpp"
#include "unit/archive_bytes.hpp"

namespace {

template <class T>
void try_as(std::span<const std::byte> input, std::uint64_t origin) {
  pynisher::testing::bytes first;
  try {
    first = pynisher::testing::packed(pynisher::testing::unpacked<T>(input, origin));
  } catch (const std::exception&) {
    return;
  }
  // Outside of the try block: from here on an exception is a defect. Hashed containers keep no order, so that sizes
  // are compared and not bytes.
  const auto second = pynisher::testing::packed(pynisher::testing::unpacked<T>(first));
  if (second.size() != first.size()) {
    std::fprintf(stderr, "a value of %zu bytes went out again as %zu bytes\n", first.size(), second.size());
    std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::span input(reinterpret_cast<const std::byte*>(data) + 2, size - 2);
  fuzz::with_shape(data[0], [&]<class T>() { try_as<T>(input, data[1] % 32u); });
  return 0;
}
