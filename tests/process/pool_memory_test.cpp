// Pools in a program that has no memory left: nothing is lost by that but what there was no memory for.

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <ranges>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/pynisher.hpp>

#include "support/pools.hpp"

namespace {

thread_local bool there_is_memory = true;

/// This thread gets none while it lives.
class no_memory {
 public:
  no_memory() { there_is_memory = false; }
  no_memory(const no_memory&) = delete;
  no_memory& operator=(const no_memory&) = delete;
  ~no_memory() { there_is_memory = true; }
};
}  // namespace

// The thread sanitizer has operators of its own, and lets nobody replace them.
#if !PYNISHER_TEST_THREAD_SANITIZED
static void* allocate(std::size_t size) {
  if (there_is_memory) {
    if (void* memory = std::malloc(size)) return memory;
  }
  throw std::bad_alloc();
}

[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void* operator new(std::size_t size) { return allocate(size); }
void* operator new[](std::size_t size) { return allocate(size); }
#endif

namespace {

using pynisher::make_pool;
using pynisher::order;

class PoolMemory : public support::per_kind_of_worker {
 protected:
  void SetUp() override {
    SKIP_UNDER_THREAD_SANITIZER("there is always memory");
  }
};
FOR_EACH_KIND_OF_WORKER(PoolMemory);

std::string text_of(int number) { return std::string(2000, 'x') + std::to_string(number); }

/// It works as ever.
void expect_values(auto& pool) {
  int count = 0;
  for (auto&& one : pool.map(std::views::iota(0, 10))) {
    EXPECT_EQ(one.value(), text_of(count++));
  }
  EXPECT_EQ(count, 10);
}

template <class Results>
std::unique_ptr<Results> on_its_own(Results results) {
  return std::make_unique<Results>(std::move(results));
}

TEST_P(PoolMemory, AMapIsLetGoOfWithoutAny) {
  for (const std::size_t chunk : {1u, 4u}) {
    for (const order wanted : {order::input, order::completion}) {
      auto pool = make_pool(with({.workers = 2, .chunk = chunk, .window = 300}), &text_of);
      auto results = on_its_own(pool.map(std::views::iota(0, 1000), wanted));
      static_cast<void>(results->begin());
      {
        const no_memory here;
        results.reset();
      }
      expect_values(pool);
    }
  }
}

TEST_P(PoolMemory, AMapThatRunsOutOfItIsOver) {
  auto pool = make_pool(with({.workers = 2, .chunk = 4, .window = 300}), &text_of);
  auto results = on_its_own(pool.map(std::views::iota(0, 1000)));
  auto at = results->begin();
  bool has_thrown = false;
  {
    const no_memory here;
    try {
      for (; at != results->end(); ++at) {
      }
    } catch (const std::bad_alloc&) {
      has_thrown = true;
    }
  }
  EXPECT_TRUE(has_thrown);
  while (at != results->end()) {
    try {
      ++at;
    } catch (const std::bad_alloc&) {
      // Of the input, kept until what was read before it was given out.
    }
  }
  results.reset();
  expect_values(pool);
}

}  // namespace
