#pragma once

// Which thread this is, in one word that a constant can hold before there are threads.

#if defined(_WIN32)

namespace pynisher::platform {

using thread_word = unsigned long;  ///< the system's number; zero: none
thread_word this_thread() noexcept;
inline bool is_this_thread(thread_word one) noexcept { return one == this_thread(); }

}  // namespace pynisher::platform

#else

#include <pthread.h>

namespace pynisher::platform {

using thread_word = pthread_t;
inline thread_word this_thread() noexcept { return ::pthread_self(); }
inline bool is_this_thread(thread_word one) noexcept { return ::pthread_equal(one, ::pthread_self()) != 0; }

}  // namespace pynisher::platform

#endif
