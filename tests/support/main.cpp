// Every test program can be started again as a child.

#include <cstdlib>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/init.hpp>

#include "forkserver.hpp"

int main(int argc, char** argv) {
  // The forkserver of those systems where its children are its own, on one where it need not be so.
  if (std::getenv("PYNISHER_TEST_RELAYED") != nullptr) pynisher::detail::relay_forks_always();
  pynisher::init(argc, argv);
  ::testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
