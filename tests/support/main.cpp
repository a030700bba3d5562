// Every test program can be started again as a child.

#include <algorithm>
#include <cstdlib>

#if __has_include(<sys/resource.h>)
#include <sys/resource.h>
#endif

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/init.hpp>

#include "forkserver.hpp"

namespace {

/// macOS gives 256 to begin with, fewer than many calls in flight need.
void have_enough_descriptors() {
#if __has_include(<sys/resource.h>)
  rlimit descriptors{};
  ::getrlimit(RLIMIT_NOFILE, &descriptors);
  constexpr rlim_t enough = 1024;
  if (descriptors.rlim_cur >= enough) return;
  descriptors.rlim_cur = std::min(enough, descriptors.rlim_max);
  ::setrlimit(RLIMIT_NOFILE, &descriptors);
#endif
}

}  // namespace

int main(int argc, char** argv) {
  // The forkserver of those systems where its children are its own, on one where it need not be so.
  if (std::getenv("PYNISHER_TEST_RELAYED") != nullptr) pynisher::detail::relay_forks_always();
  pynisher::init(argc, argv);
  have_enough_descriptors();
  ::testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
