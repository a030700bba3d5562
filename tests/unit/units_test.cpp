#include <pynisher/units.hpp>

#include <gtest/gtest.h>

namespace {

using namespace pynisher::literals;
using pynisher::memory_size;

TEST(MemorySize, CountsInPowersOf1024WhateverTheUnitIsCalled) {
  EXPECT_EQ(memory_size(1, "KB").bytes(), 1024u);
  EXPECT_EQ(memory_size(1, "kib").bytes(), 1024u);
  EXPECT_EQ(memory_size(200, "MB"), 200_MiB);
}

}  // namespace
