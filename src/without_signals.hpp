#pragma once

#include "platform/words.hpp"

namespace pynisher::detail {

/// Blocks all signals in this thread, and gives back what it had. Threads and processes that are begun meanwhile begin
/// like that.
class without_signals {
 public:
  without_signals() : before_(platform::block_all_signals()) {}
  ~without_signals() { platform::block_signals(before_); }
  without_signals(const without_signals&) = delete;
  without_signals& operator=(const without_signals&) = delete;
  [[nodiscard]] const platform::signal_mask& before() const { return before_; }

 private:
  const platform::signal_mask before_;
};

}  // namespace pynisher::detail
