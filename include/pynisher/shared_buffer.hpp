#pragma once

// Memory that every holder shares: what one process writes, the others see, and nothing is copied on the way.
//
//     pynisher::shared_buffer picture(64 << 20);
//     iso.call([](pynisher::shared_buffer there) { std::ranges::fill(there, std::byte{7}); }, picture);
//     assert(picture[0] == std::byte{7});
//
// Who writes when is the holders' own affair: hand it over by a channel, and write only while it is yours.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include <pynisher/detail/mail.hpp>

namespace pynisher {

/// A share in a block of memory, all zeros at first. It is there until the last holder, in whatever process, is gone.
/// Copies may be used from different threads; the bytes are as shared as any memory between threads.
class shared_buffer {
 public:
  /// No memory.
  shared_buffer() = default;
  /// Throws `std::bad_alloc`.
  explicit shared_buffer(std::size_t bytes);

  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
  [[nodiscard]] std::span<std::byte> bytes() const noexcept { return {data_, size_}; }
  [[nodiscard]] std::byte* begin() const noexcept { return data_; }
  [[nodiscard]] std::byte* end() const noexcept { return data_ + size_; }
  [[nodiscard]] std::byte& operator[](std::size_t at) const noexcept { return data_[at]; }

  /// The same memory.
  friend bool operator==(const shared_buffer& a, const shared_buffer& b) noexcept { return a.identity_ == b.identity_; }

  void save(detail::output_archive& out) const;
  void load(detail::input_archive& in);

 private:
  friend struct std::hash<shared_buffer>;
  class mapping;
  explicit shared_buffer(std::shared_ptr<mapping> memory);
  std::shared_ptr<mapping> memory_;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::uint64_t identity_ = 0;
};

}  // namespace pynisher

template <>
struct std::hash<pynisher::shared_buffer> {
  std::size_t operator()(const pynisher::shared_buffer& which) const noexcept {
    return std::hash<std::uint64_t>()(which.identity_);
  }
};
