#pragma once

// What the program and an isolate say to each other: a header, and what is packed after it.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include <pynisher/detail/wire/types.hpp>

namespace pynisher::detail {

enum class frame_kind : std::uint32_t {
  // To the isolate.
  call,
  set,
  get,
  names,
  erase,
  reset_names,
  load,
  redirect,   ///< the two descriptors that come along are its output from now on
  give_back,  ///< and no longer
  copy,       ///< itself; the copy waits for its call at the socket that comes along
  close,
  // From it.
  piece,  ///< the beginning of a value of which more comes; forgotten if another kind than `value` ends it
  value,
  exception,
  unsendable,
  out_of_memory,
  load_failed,
};

constexpr bool is_answer(frame_kind kind) { return kind >= frame_kind::piece && kind <= frame_kind::load_failed; }

struct frame_header {
  frame_kind kind;
  std::uint32_t has_attached = 0;  ///< the value has more than bytes
  std::uint64_t size = 0;
};

/// A frame in the making: the header's place, then what is packed.
class frame_sink final : public byte_sink {
 public:
  frame_sink() : bytes_(sizeof(frame_header) + 1024) {}
  [[nodiscard]] window first() { return {bytes_.data() + sizeof(frame_header), bytes_.data() + bytes_.size()}; }
  window next(std::byte* filled_to) override {
    const auto filled = static_cast<std::size_t>(filled_to - bytes_.data());
    bytes_.resize(2 * bytes_.size());
    return {bytes_.data() + filled, bytes_.data() + bytes_.size()};
  }
  /// The whole frame.
  std::span<const std::byte> finish(frame_kind kind, const output_archive& out) {
    const frame_header header{kind, 0, out.position()};
    std::memcpy(bytes_.data(), &header, sizeof header);
    return {bytes_.data(), sizeof header + static_cast<std::size_t>(out.position())};
  }
  std::vector<std::byte> take(frame_kind kind, const output_archive& out) {
    bytes_.resize(finish(kind, out).size());
    return std::move(bytes_);
  }

 private:
  std::vector<std::byte> bytes_;
};

template <class... Values>
std::vector<std::byte> make_frame(frame_kind kind, const Values&... values) {
  frame_sink sink;
  output_archive out(sink, sink.first());
  (out(values), ...);
  return sink.take(kind, out);
}

}  // namespace pynisher::detail
