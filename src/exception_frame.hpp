#pragma once

// Exceptions as bytes: written in the child, read by a parent that believes none of it.

#include <exception>
#include <string>
#include <system_error>

#include <pynisher/detail/wire/archive.hpp>
#include <pynisher/exceptions.hpp>

namespace pynisher::detail {

/// Writes what was thrown, with its nested causes. Throws `std::bad_alloc`, `wire_error`, or what the
/// exception's own serialize function throws.
void write_exception(output_archive& ar, const std::exception_ptr& thrown);

struct received_exception {
  std::exception_ptr error;
  exception_info info;
  std::error_code code;          ///< of a `std::system_error`, else 0
  bool allocation_failed = false;  ///< a `std::bad_alloc` that is not a limit hit of an inner call
};

/// Reads it again. Throws `wire_error` for bytes that are no exception.
received_exception read_exception(input_archive& ar);

/// The category of that name, so that codes compare equal to those made here.
const std::error_category& category_named(const std::string& name);

}  // namespace pynisher::detail
