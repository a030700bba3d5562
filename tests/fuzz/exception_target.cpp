// Any bytes as an exception. What is accepted can be thrown, asked, and sent on to the next process.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>

#include "fuzz/thrown_samples.hpp"
#include "unit/exception_bytes.hpp"

namespace {

void look_at(const std::exception_ptr& error, std::size_t depth) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    if (e.what() == nullptr) std::abort();
    const auto* nested = dynamic_cast<const std::nested_exception*>(&e);
    if (nested != nullptr && nested->nested_ptr() && depth < 1000) look_at(nested->nested_ptr(), depth + 1);
  } catch (...) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  pynisher::detail::received_exception first;
  try {
    first = pynisher::testing::received(std::span(reinterpret_cast<const std::byte*>(data), size));
  } catch (const pynisher::detail::wire_error&) {
    return 0;
  }
  if (!first.error) std::abort();
  look_at(first.error, 0);
  if (first.info.chain.size() > 100) std::abort();
  const auto second = pynisher::testing::sent(first.error);
  if (!second.error) std::abort();
  look_at(second.error, 0);
  return 0;
}
