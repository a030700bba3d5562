#pragma once

#include <pthread.h>

#include <cstddef>

namespace support {

/// There can be no further thread while it lives: none has room for such a stack.
class no_threads {
 public:
  no_threads() {
    ::pthread_getattr_default_np(&usual_);
    ::pthread_attr_t huge;
    ::pthread_getattr_default_np(&huge);
    ::pthread_attr_setstacksize(&huge, std::size_t{1} << 60);
    ::pthread_setattr_default_np(&huge);
    ::pthread_attr_destroy(&huge);
  }
  no_threads(const no_threads&) = delete;
  no_threads& operator=(const no_threads&) = delete;
  ~no_threads() {
    ::pthread_setattr_default_np(&usual_);
    ::pthread_attr_destroy(&usual_);
  }

 private:
  ::pthread_attr_t usual_;
};

}  // namespace support
