#pragma once

// What leaves a thread by `pthread_exit` and by cancellation passes through C++ as an exception of this type, which
// must be thrown on. Where threads end without unwinding it is a type that nobody throws.

#include <cstddef>

#if defined(__GLIBCXX__)

#include <cxxabi.h>

namespace pynisher::platform {
using forced_unwind = abi::__forced_unwind;
}

#else

namespace pynisher::platform {
class forced_unwind {
  forced_unwind() = default;
};
}  // namespace pynisher::platform

#endif
