#include "../../fork_safe_mutex.hpp"

#include <windows.h>

#include "../forked_page.hpp"

namespace pynisher::platform {

constinit forked_page on_forked_page;

thread_word this_thread() noexcept { return ::GetCurrentThreadId(); }

}  // namespace pynisher::platform

namespace pynisher::detail {

// There is no fork that could catch them locked.
constinit fork_safe_mutex& library_mutex = platform::on_forked_page.library_mutex;
constinit fork_safe_mutex& fork_mutex = platform::on_forked_page.fork_mutex;

// libstdc++'s own wait loses wake-ups where it knows no way of the system's to wait for a word.
void wait_while(std::atomic<int>& word, int is) noexcept { ::WaitOnAddress(&word, &is, sizeof is, INFINITE); }
void wake_one(std::atomic<int>& word) noexcept { ::WakeByAddressSingle(&word); }

}  // namespace pynisher::detail
