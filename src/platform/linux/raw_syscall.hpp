#pragma once

// System calls without the C library in between: no errno, no lock, no lazily bound symbol (the first one called
// through the linker in a fresh child costs a dozen page faults), usable where thread-local storage belongs to
// somebody else. The result is what the kernel returns: negative error numbers from -4095 to -1.

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <type_traits>

namespace pynisher::platform::raw {

template <class T>
[[gnu::always_inline]] inline long argument(T value) {
  if constexpr (std::is_pointer_v<T>) {
    return reinterpret_cast<long>(value);
  } else if constexpr (std::is_null_pointer_v<T>) {
    return 0;
  } else {
    return static_cast<long>(value);
  }
}

#if defined(__x86_64__)

[[gnu::always_inline]] inline long call6(long n, long a, long b, long c, long d, long e, long f) {
  long result;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
}

#elif defined(__aarch64__)

[[gnu::always_inline]] inline long call6(long n, long a, long b, long c, long d, long e, long f) {
  register long x8 asm("x8") = n;
  register long x0 asm("x0") = a;
  register long x1 asm("x1") = b;
  register long x2 asm("x2") = c;
  register long x3 asm("x3") = d;
  register long x4 asm("x4") = e;
  register long x5 asm("x5") = f;
  asm volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
  return x0;
}

#else

inline long call6(long n, long a, long b, long c, long d, long e, long f) {
  const long result = ::syscall(n, a, b, c, d, e, f);
  return result == -1 ? -errno : result;
}

#endif

template <class A = long, class B = long, class C = long, class D = long, class E = long, class F = long>
[[gnu::always_inline]] inline long call(long number, A a = {}, B b = {}, C c = {}, D d = {}, E e = {}, F f = {}) {
  return call6(number, argument(a), argument(b), argument(c), argument(d), argument(e), argument(f));
}

}  // namespace pynisher::platform::raw
