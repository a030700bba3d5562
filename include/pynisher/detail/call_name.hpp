#pragma once

#include <string>
#include <typeinfo>

namespace pynisher::detail {

/// What is called with what, put in words only when somebody asks; the callable and its arguments may be gone then.
struct call_name {
  const void* function = nullptr;        ///< its address, or
  const std::type_info* type = nullptr;  ///< the callable's type
  std::string arguments;                 ///< with neither of them: all that there is to say

  /// "train(1000)".
  [[nodiscard]] std::string text() const;
};

}  // namespace pynisher::detail
