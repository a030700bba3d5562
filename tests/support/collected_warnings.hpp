#pragma once

#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include <pynisher/warnings.hpp>

namespace support {

/// Warnings that come while it exists.
class collected_warnings {
 public:
  collected_warnings()
      : before_(pynisher::set_warning_sink([this](std::string_view text) {
          const std::lock_guard lock(mutex_);
          texts_.emplace_back(text);
        })) {}
  collected_warnings(const collected_warnings&) = delete;
  collected_warnings& operator=(const collected_warnings&) = delete;
  ~collected_warnings() { pynisher::set_warning_sink(before_); }
  [[nodiscard]] std::vector<std::string> texts() const {
    const std::lock_guard lock(mutex_);
    return texts_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> texts_;
  pynisher::warning_sink before_;
};

}  // namespace support
