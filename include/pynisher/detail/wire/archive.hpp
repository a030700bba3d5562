#pragma once

// The two cereal archives through which every value crosses between processes.
//
// `output_archive` writes into a window of memory and asks for the next window when that is full: no stream, no
// intermediate string. `input_archive` reads from bytes of which nothing is believed: a count above the
// bytes left, a nesting too deep, a bool that is neither 0 nor 1, a byte too few or too many end in
// `wire_error`, and no allocation runs ahead of the bytes that back it.
//
// Both sides are the same program on the same machine: numbers cross in their own representation.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <cereal/cereal.hpp>
#include <cereal/types/common.hpp>

#include <pynisher/detail/wire/refusals.hpp>

namespace pynisher::detail {

/// The bytes are not what the type needs, or the value cannot be put into bytes.
class wire_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Nesting of objects beyond this is refused on both sides: the reader recurses once per level.
inline constexpr std::uint32_t max_wire_depth = 1000;

/// Vectors of numbers that take this many bytes start at a multiple of this many bytes, so that the
/// receiver can take them as what they are.
inline constexpr std::size_t wire_alignment = 16;
inline constexpr std::size_t aligned_from = 64;

/// Where packed bytes go.
class byte_sink {
 public:
  struct window {
    std::byte* begin;
    std::byte* end;
  };
  /// Takes the bytes up to `filled_to` and returns the next window, never empty. Throws `wire_error` when the
  /// receiver takes no more.
  virtual window next(std::byte* filled_to) = 0;

 protected:
  ~byte_sink() = default;
};

[[noreturn]] void throw_wire_error(const char* what);
[[noreturn]] void throw_truncated(std::size_t wanted, std::size_t left);

class output_archive : public cereal::OutputArchive<output_archive> {
 public:
  output_archive(byte_sink& sink, byte_sink::window first)
      : OutputArchive(this), sink_(&sink), window_begin_(first.begin), at_(first.begin), end_(first.end) {}

  void write(const void* data, std::size_t size) {
    if (size <= static_cast<std::size_t>(end_ - at_)) [[likely]] {
      if (size > 0) std::memcpy(at_, data, size);
      at_ += size;
    } else {
      write_through(static_cast<const std::byte*>(data), size);
    }
  }
  void align(std::size_t alignment) {
    static constexpr std::byte zeros[wire_alignment] = {};
    write(zeros, (alignment - position() % alignment) % alignment);
  }
  /// Bytes written since the beginning.
  [[nodiscard]] std::uint64_t position() const {
    return before_ + static_cast<std::uint64_t>(at_ - window_begin_);
  }
  [[nodiscard]] std::byte* filled_to() const { return at_; }

  void enter() {
    if (++depth_ > max_wire_depth) throw_wire_error("the value nests more than 1000 objects deep");
  }
  void leave() { --depth_; }
  void restart_depth() { depth_ = 0; }

 private:
  void write_through(const std::byte* data, std::size_t size) {
    while (size > 0) {
      if (at_ == end_) {
        const auto fresh = sink_->next(at_);
        before_ = position();
        window_begin_ = at_ = fresh.begin;
        end_ = fresh.end;
      }
      const std::size_t piece = (std::min)(size, static_cast<std::size_t>(end_ - at_));
      std::memcpy(at_, data, piece);
      at_ += piece;
      data += piece;
      size -= piece;
    }
  }

  byte_sink* sink_;
  std::byte* window_begin_;
  std::byte* at_;
  std::byte* end_;
  std::uint64_t before_ = 0;
  std::uint32_t depth_ = 0;
};

/// Packed bytes that are still being sent. Only large blocks of numbers are read as they come, straight to where they
/// belong; all else is read when the sender has ended, of whose memory the receiver's would be copies until then.
class byte_source {
 public:
  struct window {
    const std::byte* data;
    std::size_t size;
  };
  /// What has come so far.
  virtual window begin() = 0;
  /// Once what had come is read: the next bytes, to `to`. Returns how many: fewer than `size` only where no more will come.
  virtual std::size_t read(std::byte* to, std::size_t size) = 0;
  /// All that is left, when the sender has ended. Throws where nothing has been read by `read`: then all of it is best read
  /// from its beginning.
  virtual window rest() = 0;

 protected:
  ~byte_source() = default;
};

class input_archive : public cereal::InputArchive<input_archive> {
 public:
  /// `origin`: where the first byte stood in the sender's stream, for alignment.
  input_archive(const std::byte* data, std::size_t size, std::uint64_t origin = 0)
      : InputArchive(this), begin_(data), at_(data), end_(data + size), origin_(origin) {}
  explicit input_archive(byte_source& source) : input_archive(source, source.begin()) {}

  [[nodiscard]] std::size_t left() const { return static_cast<std::size_t>(end_ - at_); }
  /// Where the next byte stood in the sender's stream.
  [[nodiscard]] std::uint64_t position() const { return origin_ + static_cast<std::uint64_t>(at_ - begin_); }

  /// The next `size` bytes, in place.
  const std::byte* take(std::size_t size) {
    if (size > left()) [[unlikely]] {
      await_end();
      if (size > left()) throw_truncated(size, left());
    }
    return std::exchange(at_, at_ + size);
  }
  void read(void* data, std::size_t size) {
    const std::byte* from = take(size);
    if (size > 0) std::memcpy(data, from, size);
  }
  void align(std::size_t alignment) { take((alignment - position() % alignment) % alignment); }

  /// Of a block of as many bytes: so large that malloc maps memory for it that no other process has.
  [[nodiscard]] bool comes_straight(std::size_t size) const {
    constexpr std::size_t always_mapped = std::size_t{32} << 20;
    return source_ != nullptr && size >= always_mapped && size > left();
  }
  /// The next `size` bytes, as they come.
  void read_straight(std::byte* to, std::size_t size);

  /// A count of elements. Elements of no bytes at all exist, but not without end.
  std::size_t read_count() {
    cereal::size_type count = 0;
    read(&count, sizeof count);
    return checked_count(count);
  }
  std::size_t checked_count(cereal::size_type count) {
    await_end();
    if (count > left()) {
      const cereal::size_type unbacked = count - left();
      if (unbacked > bodiless_) throw_wire_error("a container claims more elements than there are bytes");
      bodiless_ -= static_cast<std::size_t>(unbacked);
    }
    return static_cast<std::size_t>(count);
  }
  bool read_bool() {
    unsigned char byte = 0;
    read(&byte, 1);
    if (byte > 1) throw_wire_error("a bool is neither 0 nor 1");
    return byte == 1;
  }

  void enter() {
    if (++depth_ > max_wire_depth) throw_wire_error("the value nests more than 1000 objects deep");
  }
  void leave() { --depth_; }
  void expect_end() {
    await_end();
    if (at_ != end_) throw_wire_error("bytes are left over after the value");
  }

 private:
  input_archive(byte_source& source, byte_source::window first) : input_archive(first.data, first.size) {
    source_ = &source;
  }
  void begin_window(byte_source::window fresh);
  /// From here on, all bytes that will ever come are here.
  void await_end() {
    if (source_ != nullptr) begin_window(std::exchange(source_, nullptr)->rest());
  }

  byte_source* source_ = nullptr;
  const std::byte* begin_;
  const std::byte* at_;
  const std::byte* end_;
  std::uint64_t origin_;
  std::size_t bodiless_ = std::size_t{1} << 16;
  std::uint32_t depth_ = 0;
};

// --- what cereal calls for the types that every archive must know itself ------------------------------------

// cereal wraps every object, members of a user's types too, in prologue and epilogue; here they count the nesting and
// refuse pointers.
template <class T>
  requires(!std::is_arithmetic_v<T>)
void prologue(output_archive& ar, const T&) {
  refuse_untrusted_pointer<T>();
  ar.enter();
}
template <class T>
  requires(!std::is_arithmetic_v<T>)
void epilogue(output_archive& ar, const T&) {
  ar.leave();
}
template <class T>
  requires(!std::is_arithmetic_v<T>)
void prologue(input_archive& ar, const T&) {
  refuse_untrusted_pointer<T>();
  ar.enter();
}
template <class T>
  requires(!std::is_arithmetic_v<T>)
void epilogue(input_archive& ar, const T&) {
  ar.leave();
}

template <class T>
  requires std::is_arithmetic_v<T>
void CEREAL_SAVE_FUNCTION_NAME(output_archive& ar, const T& value) {
  ar.write(&value, sizeof value);
}
template <class T>
  requires std::is_arithmetic_v<T>
void CEREAL_LOAD_FUNCTION_NAME(input_archive& ar, T& value) {
  if constexpr (std::is_same_v<T, bool>) {
    value = ar.read_bool();
  } else {
    ar.read(&value, sizeof value);
  }
}

template <class T>
void CEREAL_SAVE_FUNCTION_NAME(output_archive& ar, const cereal::NameValuePair<T>& pair) {
  ar(pair.value);
}
template <class T>
void CEREAL_LOAD_FUNCTION_NAME(input_archive& ar, cereal::NameValuePair<T>& pair) {
  ar(pair.value);
}

template <class T>
void CEREAL_SAVE_FUNCTION_NAME(output_archive& ar, const cereal::SizeTag<T>& tag) {
  const cereal::size_type count = tag.size;
  ar.write(&count, sizeof count);
}
template <class T>
void CEREAL_LOAD_FUNCTION_NAME(input_archive& ar, cereal::SizeTag<T>& tag) {
  tag.size = static_cast<std::remove_cvref_t<T>>(ar.read_count());
}

template <class T>
using binary_element = std::remove_cv_t<std::remove_all_extents_t<std::remove_pointer_t<std::decay_t<T>>>>;

template <class T>
void CEREAL_SAVE_FUNCTION_NAME(output_archive& ar, const cereal::BinaryData<T>& blob) {
  ar.write(blob.data, static_cast<std::size_t>(blob.size));
}
template <class T>
void CEREAL_LOAD_FUNCTION_NAME(input_archive& ar, cereal::BinaryData<T>& blob) {
  const auto size = static_cast<std::size_t>(blob.size);
  if constexpr (std::is_same_v<binary_element<T>, bool>) {
    auto* at = static_cast<bool*>(static_cast<void*>(blob.data));
    for (std::size_t i = 0; i < size; ++i) at[i] = ar.read_bool();
  } else {
    ar.read(blob.data, size);
  }
}

/// Tells the operating system that a large block is about to be filled, before it is.
void expect_large_block(void* data, std::size_t size) noexcept;

template <class T>
concept plain_number = std::is_arithmetic_v<T> && !std::is_same_v<T, bool>;

// Vectors are read here and not by cereal: cereal resizes to the claimed count first.
template <plain_number T, class A>
void CEREAL_SAVE_FUNCTION_NAME(output_archive& ar, const std::vector<T, A>& values) {
  ar(cereal::make_size_tag(static_cast<cereal::size_type>(values.size())));
  const std::size_t bytes = values.size() * sizeof(T);
  if (bytes >= aligned_from) ar.align(wire_alignment);
  ar.write(values.data(), bytes);
}
/// As they come. Of the memory that is claimed no more is reserved than is in proportion to what has come.
template <class Numbers>
void read_straight(input_archive& ar, Numbers& values, std::size_t count) {
  using T = typename Numbers::value_type;
  constexpr std::size_t piece = (std::size_t{32} << 10) / sizeof(T), at_first = (std::size_t{64} << 20) / sizeof(T);
  while (values.size() < count) {
    const std::size_t before = values.size();
    if (before == values.capacity()) {
      values.reserve((std::min)(count, at_first + 8 * before));
      expect_large_block(values.data(), values.capacity() * sizeof(T));
    }
    const std::size_t more = (std::min)({piece, count - before, values.capacity() - before});
    values.resize(before + more);
    ar.read_straight(reinterpret_cast<std::byte*>(values.data() + before), more * sizeof(T));
  }
}

template <plain_number T, class A>
void CEREAL_LOAD_FUNCTION_NAME(input_archive& ar, std::vector<T, A>& values) {
  static_assert(alignof(T) <= wire_alignment);
  cereal::size_type claimed = 0;
  ar.read(&claimed, sizeof claimed);
  values.clear();
  if (claimed > (std::numeric_limits<std::size_t>::max)() / sizeof(T)) throw_wire_error("a vector is too long");
  if (ar.comes_straight(static_cast<std::size_t>(claimed) * sizeof(T))) {
    ar.align(wire_alignment);
    return read_straight(ar, values, static_cast<std::size_t>(claimed));
  }
  const std::size_t count = ar.checked_count(claimed);
  const std::size_t bytes = count * sizeof(T);
  if (bytes < aligned_from) {
    values.resize(count);
    ar.read(values.data(), bytes);
    return;
  }
  ar.align(wire_alignment);
  const std::byte* from = ar.take(bytes);
  values.reserve(count);
  expect_large_block(values.data(), bytes);
  if (reinterpret_cast<std::uintptr_t>(from) % alignof(T) == 0) {
    const T* first = reinterpret_cast<const T*>(from);
    values.assign(first, first + count);
  } else {
    values.resize(count);
    std::memcpy(values.data(), from, bytes);
  }
}

/// How many bytes one element brings along: what has a count of its own takes at least those of that. As many as it
/// takes in memory, where that is not known: an honest value may bring fewer, and then arrives one by one.
template <class T>
inline constexpr std::size_t least_bytes = sizeof(T);
template <class T>
  requires requires { typename T::allocator_type; }
inline constexpr std::size_t least_bytes<T> = sizeof(cereal::size_type);
template <class T, std::size_t N>
inline constexpr std::size_t least_bytes<std::array<T, N>> = N * least_bytes<T>;

template <class T, class A>
  requires(!plain_number<T> && !std::is_same_v<T, bool>)
void CEREAL_SAVE_FUNCTION_NAME(output_archive& ar, const std::vector<T, A>& values) {
  ar(cereal::make_size_tag(static_cast<cereal::size_type>(values.size())));
  for (const auto& value : values) ar(value);
}
template <class T, class A>
  requires(!plain_number<T> && !std::is_same_v<T, bool>)
void CEREAL_LOAD_FUNCTION_NAME(input_archive& ar, std::vector<T, A>& values) {
  refuse_unmakeable_element<T>();
  const std::size_t count = ar.read_count();
  values.clear();
  // Room for what the bytes can back; more only as elements really arrive.
  const std::size_t backed = (std::size_t{1} << 20) / sizeof(T) + ar.left() / (std::max)(least_bytes<T>, std::size_t{1}) + 1;
  values.reserve((std::min)(count, backed));
  if (values.capacity() >= count) expect_large_block(values.data(), count * sizeof(T));
  for (std::size_t i = 0; i < count; ++i) {
    values.emplace_back();
    ar(values.back());
  }
}

// Short strings are most of what crosses; cereal's own version resizes, which clears, and then reads.
template <class Traits, class A>
void CEREAL_SAVE_FUNCTION_NAME(output_archive& ar, const std::basic_string<char, Traits, A>& text) {
  const cereal::size_type size = text.size();
  ar.write(&size, sizeof size);
  ar.write(text.data(), text.size());
}
template <class Traits, class A>
void CEREAL_LOAD_FUNCTION_NAME(input_archive& ar, std::basic_string<char, Traits, A>& text) {
  cereal::size_type size = 0;
  ar.read(&size, sizeof size);
  if (size > ar.left()) throw_truncated(static_cast<std::size_t>(size), ar.left());
  text.assign(reinterpret_cast<const char*>(ar.take(static_cast<std::size_t>(size))),
              static_cast<std::size_t>(size));
}

}  // namespace pynisher::detail

CEREAL_SETUP_ARCHIVE_TRAITS(pynisher::detail::input_archive, pynisher::detail::output_archive)
