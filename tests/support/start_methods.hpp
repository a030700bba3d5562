#pragma once

// One suite over all start methods, and skips that give their reason.
//
//     class Results : public support::per_start_method {};
//     FOR_EACH_START_METHOD(Results);
//     TEST_P(Results, ComeBackAsTheyWere) {
//       EXPECT_EQ(pynisher::limit(answer, with({.wall_time = 10s}))(), 42);
//     }

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <pynisher/limit.hpp>
#include <pynisher/options.hpp>
#include <pynisher/supports.hpp>

#include "support/system.hpp"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PYNISHER_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define PYNISHER_TEST_SANITIZED 1
#endif
#endif
#ifndef PYNISHER_TEST_SANITIZED
#define PYNISHER_TEST_SANITIZED 0
#endif

#if defined(__SANITIZE_THREAD__)
#define PYNISHER_TEST_THREAD_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define PYNISHER_TEST_THREAD_SANITIZED 1
#endif
#endif
#ifndef PYNISHER_TEST_THREAD_SANITIZED
#define PYNISHER_TEST_THREAD_SANITIZED 0
#endif

namespace support {

inline constexpr bool sanitized = PYNISHER_TEST_SANITIZED != 0;
inline constexpr bool thread_sanitized = PYNISHER_TEST_THREAD_SANITIZED != 0;

inline std::string method_name(pynisher::start_method method) {
  switch (method) {
    case pynisher::start_method::automatic:
      return "automatic";
    case pynisher::start_method::fork:
      return "fork";
    case pynisher::start_method::spawn:
      return "spawn";
    case pynisher::start_method::forkserver:
      return "forkserver";
  }
  return "unknown";
}

/// An emulator of another machine's kernel lacks some of what `supports` asks for.
inline bool is_emulated() {
#if defined(__linux__)
  return !pynisher::supports("kill_tree");
#else
  return false;
#endif
}

/// Those by which something can be started. An emulator may be unable to start a program of the other machine again:
/// there, and only there, each is tried.
inline std::vector<pynisher::start_method> usable_start_methods() {
  auto methods = pynisher::start_methods();
  if (!is_emulated()) return methods;
  std::erase_if(methods, [](pynisher::start_method method) {
    const auto nothing = pynisher::limit(+[] {}, {.context = method, .warnings = false});
    return nothing.try_call().verdict() == pynisher::verdict::start_failed;
  });
  return methods;
}

class per_start_method : public ::testing::TestWithParam<pynisher::start_method> {
 protected:
  /// `limits`, by the start method that is being tested. No warnings: a test that wants them sets them again.
  [[nodiscard]] static pynisher::options with(pynisher::options limits) {
    limits.context = GetParam();
    limits.warnings = false;
    return limits;
  }
  [[nodiscard]] static pynisher::options unlimited() { return with({}); }
};

}  // namespace support

/// Instantiates a suite derived from `per_start_method` for what this system has.
#define FOR_EACH_START_METHOD(Suite)                                                          \
  INSTANTIATE_TEST_SUITE_P(By, Suite, ::testing::ValuesIn(::support::usable_start_methods()), \
                           [](const auto& method) { return ::support::method_name(method.param); })

/// Leaves the test, with the library's reason, where the feature ("memory", "kill_tree", ...) is not to be had.
#define SKIP_UNLESS_SUPPORTED(feature_name) \
  if (!::pynisher::supports(feature_name)) GTEST_SKIP() << feature_name << ": " << ::pynisher::why_not(feature_name)

/// For what only a kernel does that refuses memory itself.
#define SKIP_WHERE_MEMORY_IS_SAMPLED() \
  if (!::support::memory_is_refused()) GTEST_SKIP() << "no allocation is refused here: the parent looks now and then"

/// For what cannot be sent to a process that is started afresh.
#define ONLY_BY_FORK(reason) \
  if (GetParam() != ::pynisher::start_method::fork) GTEST_SKIP() << "not by fork: " << (reason)

/// For what a sanitizer's own handlers and mappings change.
#define SKIP_UNDER_SANITIZER(reason) \
  if (::support::sanitized) GTEST_SKIP() << "sanitizer: " << reason
#define SKIP_UNDER_THREAD_SANITIZER(reason) \
  if (::support::thread_sanitized) GTEST_SKIP() << "thread sanitizer: " << reason
