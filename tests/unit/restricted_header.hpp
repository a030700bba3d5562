#pragma once

// RESTRICTED in a header that two translation units include: no second definition, no warning.

#include <chrono>
#include <string>

#include <pynisher/pynisher.hpp>

namespace restricted_in_header {

using namespace std::chrono_literals;

inline int twice(int x) { return 2 * x; }

const auto limited_function = RESTRICTED(.wall_time = 30s) twice;
const auto limited_lambda = RESTRICTED_NO_RAISE(.wall_time = 30s)[](const std::string& text) { return text.size(); };
inline const auto shared_lambda = RESTRICTED(.name = "shared", .cpu_time = {30, "s"})[](int x) { return x + 1; };

struct service {
  static inline const auto parse = RESTRICTED(.wall_time = 30s)[](const std::string& text) { return std::stoi(text); };
  pynisher::limited<int (*)(int)> member = RESTRICTED(.wall_time = 30s) twice;
};

/// Defined in the other translation unit.
int call_all_of_them(int x);

}  // namespace restricted_in_header
