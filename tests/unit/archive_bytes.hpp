#pragma once

// Values to bytes and back, in one process: what the wire does, without the wire.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <pynisher/detail/wire/types.hpp>

namespace pynisher::testing {

using bytes = std::vector<std::byte>;

/// Hands out small windows, so that values are cut everywhere.
class collecting_sink final : public detail::byte_sink {
 public:
  explicit collecting_sink(std::size_t window_size) : window_(window_size) {}
  window first() { return {window_.data(), window_.data() + window_.size()}; }
  window next(std::byte* filled_to) override {
    keep(filled_to);
    return first();
  }
  bytes finish(const detail::output_archive& ar) {
    keep(ar.filled_to());
    return std::move(kept_);
  }

 private:
  void keep(const std::byte* filled_to) {
    kept_.insert(kept_.end(), window_.data(), window_.data() + (filled_to - window_.data()));
  }

  std::vector<std::byte> window_;
  bytes kept_;
};

template <class... T>
bytes packed_in_windows_of(std::size_t window_size, const T&... values) {
  collecting_sink sink(window_size);
  detail::output_archive ar(sink, sink.first());
  ar(values...);
  return sink.finish(ar);
}

template <class... T>
bytes packed(const T&... values) {
  return packed_in_windows_of(4096, values...);
}

/// Throws `wire_error` or whatever the type's own code throws, as the parent would meet it.
template <class T>
T unpacked(std::span<const std::byte> from, std::uint64_t origin = 0) {
  // A copy of exactly this size, so that a sanitizer sees a byte too far.
  const auto copy = std::make_unique<std::byte[]>(from.size());
  std::ranges::copy(from, copy.get());
  T value{};
  detail::input_archive ar(copy.get(), from.size(), origin);
  ar(value);
  ar.expect_end();
  return value;
}

}  // namespace pynisher::testing
