#pragma once

#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include <pynisher/detail/execute.hpp>
#include <pynisher/detail/wire/archive.hpp>
#include <pynisher/detail/wire/types.hpp>
#include <pynisher/outcome.hpp>

namespace pynisher::detail {

/// Nothing else may be in it. Returns where it ended.
template <class R>
std::uint64_t read_whole(input_archive& in, std::optional<R>& value) {
  in(value.emplace());
  in.expect_end();
  return in.position();
}

/// Unpacks a value that is still arriving, on the caller's thread.
template <class R>
class arriving_value final : public value_receiver {
 public:
  void receive(byte_source& bytes) override {
    why_not_ = "reading it threw something that is no std::exception";
    try {
      input_archive in(bytes);
      size_ = read_whole(in, value_);
      why_not_ = "it is not what was unpacked as it came";
    } catch (const std::exception& e) {
      why_not_ = e.what();
    }
  }
  /// `reply`: whose value it is to be. Empty: `why_not`.
  [[nodiscard]] std::optional<R> value_of(const reply_bytes& reply) && {
    if (reply.begin() != 0 || reply.size() != size_) return std::nullopt;
    return std::move(value_);
  }
  [[nodiscard]] const std::string& why_not() const { return why_not_; }

 private:
  std::optional<R> value_;
  std::uint64_t size_ = 0;  ///< of what it was read from; 0: it is not whole
  std::string why_not_;
};
template <>
class arriving_value<void> {};

/// `come`: what has been unpacked already, if anything.
template <class R>
outcome<R> decode(raw_outcome raw, arriving_value<R> come = {}) {
  if constexpr (std::is_void_v<R>) {
    if (!raw.error && raw.reply.size() != 0) mark_undecodable(raw, "bytes are left over after no value");
    return {raw.verdict, raw.usage, std::move(raw.error), std::move(raw.explanation)};
  } else {
    std::optional<R> value;
    if (!raw.error && raw.reply.is_gone()) {
      value = std::move(come).value_of(raw.reply);
      if (!value) mark_undecodable(raw, come.why_not());
    } else if (!raw.error) {
      try {
        input_archive in(raw.reply.data(), raw.reply.size(), raw.reply.begin());
        read_whole(in, value);
      } catch (const std::exception& e) {
        mark_undecodable(raw, e.what());
      } catch (...) {
        mark_undecodable(raw, "reading it threw something that is no std::exception");
      }
      if (raw.error) value.reset();
    }
    return {raw.verdict, raw.usage, std::move(raw.error), std::move(raw.explanation), std::move(value)};
  }
}

/// Fewer arguments than the one signature has, where `F` has defaults for the others.
template <class F, std::size_t most, class... A>
concept shorter_call = sizeof...(A) < most && std::invocable<F&, A...>;

}  // namespace pynisher::detail
