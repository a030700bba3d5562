#pragma once

// How much memory a piece of code asks operator new for. Include it in one source of a program only: it replaces
// operator new for all of it.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace pynisher::testing {

struct allocation_counts {
  std::atomic<std::size_t> asked_for{0};  ///< the sum of all requests
  std::atomic<std::size_t> largest{0};    ///< the largest single one
};
inline allocation_counts allocations;

inline void* count_and_allocate(std::size_t size) {
  allocations.asked_for += size;
  allocations.largest = std::max(allocations.largest.load(), size);
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}

/// Requests from its birth on.
class allocation_meter {
 public:
  allocation_meter() { allocations.asked_for = allocations.largest = 0; }
  [[nodiscard]] std::size_t asked_for() const { return allocations.asked_for; }
  [[nodiscard]] std::size_t largest() const { return allocations.largest; }
};

}  // namespace pynisher::testing

// The thread sanitizer has operators of its own, and lets nobody replace them: nothing is counted there.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define PYNISHER_TEST_COUNTS_NOTHING
#endif
#endif

#ifndef PYNISHER_TEST_COUNTS_NOTHING
// Where g++ 12 sees `free` in the place of a `delete`, and not `malloc` in that of the `new`, it takes them for a mismatch.
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void* operator new(std::size_t size) { return pynisher::testing::count_and_allocate(size); }
void* operator new[](std::size_t size) { return pynisher::testing::count_and_allocate(size); }
#endif
