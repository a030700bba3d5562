#pragma once

// Looking up what `register_exception` put in. Lock-free, so that a forked child may do it.

#include <string>
#include <typeinfo>
#include <vector>

#include <pynisher/exception_registry.hpp>

namespace pynisher::detail {

/// Adds the standard's and this library's own exceptions; cheap after the first time.
void add_standard_codecs();

const exception_codec* codec_named(const std::string& mangled);

/// The codecs of these types, in their order: `cxx_abi::types_of` an exception.
std::vector<const exception_codec*> codecs_nearest_first(const std::vector<const std::type_info*>& types);

}  // namespace pynisher::detail
