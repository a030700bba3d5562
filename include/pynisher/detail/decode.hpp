#pragma once

#include <exception>
#include <optional>
#include <type_traits>
#include <utility>

#include <pynisher/detail/execute.hpp>
#include <pynisher/detail/wire/archive.hpp>
#include <pynisher/detail/wire/types.hpp>
#include <pynisher/outcome.hpp>

namespace pynisher::detail {

template <class R>
outcome<R> decode(raw_outcome raw) {
  if constexpr (std::is_void_v<R>) {
    if (!raw.error && raw.reply.size() != 0) mark_undecodable(raw, "bytes are left over after no value");
    return {raw.verdict, raw.usage, std::move(raw.error), std::move(raw.explanation)};
  } else {
    std::optional<R> value;
    if (!raw.error) {
      try {
        input_archive in(raw.reply.data(), raw.reply.size(), raw.reply.begin());
        value.emplace();
        in(*value);
        in.expect_end();
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
