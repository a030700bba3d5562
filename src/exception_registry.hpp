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

/// The codecs that fit an exception of dynamic type `type`: its own first, then by distance in the hierarchy.
std::vector<const exception_codec*> codecs_nearest_first(const std::type_info& type);

std::vector<const std::type_info*> public_bases(const std::type_info& type);

}  // namespace pynisher::detail
