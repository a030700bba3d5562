#pragma once

// Exceptions to bytes and back, in one process.

#include <exception>
#include <stdexcept>
#include <string>
#include <utility>

#include "exception_frame.hpp"
#include "unit/archive_bytes.hpp"

namespace pynisher::testing {

inline bytes packed_exception(const std::exception_ptr& thrown) {
  collecting_sink sink(100);
  detail::output_archive ar(sink, sink.first());
  detail::write_exception(ar, thrown);
  return sink.finish(ar);
}

inline detail::received_exception received(std::span<const std::byte> from) {
  const auto copy = std::make_unique<std::byte[]>(from.size());
  std::ranges::copy(from, copy.get());
  detail::input_archive ar(copy.get(), from.size());
  return detail::read_exception(ar);
}

/// What is thrown by `action`; null if nothing is.
template <class Action>
std::exception_ptr thrown_by(const Action& action) {
  try {
    action();
  } catch (...) {
    return std::current_exception();
  }
  return nullptr;
}

template <class Exception>
std::exception_ptr thrown(Exception exception) {
  return thrown_by([&]() { throw std::move(exception); });
}

inline detail::received_exception sent(const std::exception_ptr& thrown) { return received(packed_exception(thrown)); }

}  // namespace pynisher::testing
