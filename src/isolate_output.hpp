#pragma once

// Where isolates write to, on the program's side.

#include <cstdint>
#include <memory>

#include <pynisher/output.hpp>

#include "output_reader.hpp"
#include "platform/contract.hpp"

namespace pynisher {
struct isolate_options;
}

namespace pynisher::detail {

/// An isolate's own two streams, kept for all of its processes. A descriptor of -1: the program's.
struct isolate_streams {
  platform::call_fd out, err;
  std::shared_ptr<output_reader> reader;

  isolate_streams() = default;
  /// Throws `std::invalid_argument` and `StartException`. `original`: this is for a copy of its isolate.
  explicit isolate_streams(const isolate_options& wanted, const isolate_streams* original = nullptr);
};

/// What a `capture_output` reads.
struct output_capture {
  explicit output_capture(std::uint64_t most);
  std::shared_ptr<capture_sink> out, err;
  platform::call_fd write_out, write_err;
  std::shared_ptr<output_reader> reader;
};

}  // namespace pynisher::detail
