// Every test program can be started again as a child.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/init.hpp>

int main(int argc, char** argv) {
  pynisher::init(argc, argv);
  ::testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
