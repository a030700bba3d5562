// What the function calls instead of returning.

#include <stdlib.h>

#include <cstdint>

#include "../contract.hpp"
#include "../forked_page.hpp"

extern "C" {
// Exported by glibc, which gives the handlers a second argument, the exit code, that their types do not tell.
int __cxa_atexit(void (*)(void*), void*, void*);
int __cxa_at_quick_exit(void (*)(void*), void*);
void __cxa_finalize(void*);
// There in programs that were built with a sanitizer. They put handlers of their own in the place of those.
[[gnu::weak]] void __asan_init();
[[gnu::weak]] void __tsan_init();
[[gnu::weak]] void __msan_init();
}

namespace pynisher::platform {

namespace {

using handler = void (*)(void*);

handler as_handler(void (*function)(void*, int)) {
  return reinterpret_cast<handler>(reinterpret_cast<void (*)()>(function));
}

void on_exit(int code, void* /*unused*/) { on_forked_page.call.at_exit(code); }

/// Taking a handler back calls it.
void on_exit_of_generation(void* generation, int code) {
  const call_of_child& call = on_forked_page.call;
  if (reinterpret_cast<std::uintptr_t>(generation) == call.generation) call.at_exit(code);
}

void on_quick_exit(void* /*unused*/, int code) { on_forked_page.call.at_quick_exit(code); }

/// Who has registered handlers, so that they can be taken back. A child and those that it forks differ.
char owners[2];
void* owner_of(std::uintptr_t generation) { return &owners[generation % 2]; }

/// What is in a library that is unloaded must not be called any more.
[[gnu::destructor]] void take_back_all() {
  for (char& owner : owners) ::__cxa_finalize(&owner);
}

// By pointers, which are bound when the program is loaded; a lazily bound call is dear in every new child.
int (*const volatile register_on_exit)(void (*)(int, void*), void*) = ::on_exit;
int (*const volatile register_at_quick_exit)(handler, void*) = ::__cxa_at_quick_exit;

}  // namespace

void catch_exits(void (*at_exit)(int code), void (*at_quick_exit)(int code)) noexcept {
  on_forked_page.call.at_exit = at_exit;
  on_forked_page.call.at_quick_exit = at_quick_exit;
  register_on_exit(on_exit, nullptr);
  register_at_quick_exit(as_handler(on_quick_exit), nullptr);
}

bool catch_exits_of_next_child(void (*at_exit)(int code), void (*at_quick_exit)(int code)) noexcept {
  if (__asan_init != nullptr || __tsan_init != nullptr || __msan_init != nullptr) return false;
  call_of_child& call = on_forked_page.call;
  const std::uintptr_t next = call.generation + 1;
  // Those of the child before. Right after its fork this would have been a copy of each page that says so.
  ::__cxa_finalize(owner_of(next));
  call.at_exit = at_exit;
  call.at_quick_exit = at_quick_exit;
  const bool fine =
      ::__cxa_atexit(as_handler(on_exit_of_generation), reinterpret_cast<void*>(next), owner_of(next)) == 0 &&
      register_at_quick_exit(as_handler(on_quick_exit), owner_of(next)) == 0;
  if (!fine) ::__cxa_finalize(owner_of(next));
  return fine;
}

}  // namespace pynisher::platform
