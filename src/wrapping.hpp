#pragma once

#include <exception>
#include <optional>
#include <string>

#include <pynisher/outcome.hpp>

#include "exception_frame.hpp"
#include "settings.hpp"
#include "verdict.hpp"

namespace pynisher::detail {

struct wrapped_exception {
  pynisher::verdict verdict;
  std::exception_ptr error;
};

/// What `wrap_errors` makes of an exception of the function; empty: it stays as it is.
std::optional<wrapped_exception> apply_wrapping(const settings& limits, const received_exception& received,
                                                const std::string& call, const evidence& seen);

/// True if a type's name as written in a rule means the type of that name: all of it, or its last component.
bool names_type(const std::string& rule, const std::string& type_name);

}  // namespace pynisher::detail
