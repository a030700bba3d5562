// What the function calls instead of returning.

#include <stdlib.h>

#include "../contract.hpp"

#if defined(__GLIBC__)
extern "C" int __cxa_at_quick_exit(void (*)(void*), void*);
#endif

namespace pynisher::platform {

namespace {

void (*called_at_exit)(int) = nullptr;
void (*called_at_quick_exit)(int) = nullptr;

void on_exit(int code, void* /*unused*/) { called_at_exit(code); }

// By pointers, which are bound when the program is loaded; a lazily bound call is dear in every new child.
int (*const volatile register_at_exit)(void (*)(int, void*), void*) = ::on_exit;

#if defined(__GLIBC__)
void on_quick_exit(void* /*unused*/, int code) { called_at_quick_exit(code); }

int (*const volatile register_at_quick_exit)(void (*)(void*), void*) = ::__cxa_at_quick_exit;
#endif

}  // namespace

[[gnu::hot]] void catch_exits(void (*at_exit)(int code), void (*at_quick_exit)(int code)) noexcept {
  called_at_exit = at_exit;
  called_at_quick_exit = at_quick_exit;
  register_at_exit(on_exit, nullptr);
#if defined(__GLIBC__)
  // glibc calls these with a second argument, the exit code, which the type of at_quick_exit does not tell.
  register_at_quick_exit(reinterpret_cast<void (*)(void*)>(reinterpret_cast<void (*)()>(on_quick_exit)), nullptr);
#endif
}

}  // namespace pynisher::platform
