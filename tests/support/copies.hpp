#pragma once

// What a pool's members do in a copy that the program makes of itself by fork().

#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <pynisher/pool_errors.hpp>

namespace support {

template <class What>
bool is_refused(const What& what) {
  try {
    what();
  } catch (const pynisher::BrokenPoolError&) {
    return true;
  }
  return false;
}

/// Fails the test unless `fine` is true in a copy.
template <class Fine>
void expect_in_a_copy(const Fine& fine) {
  const pid_t copy = ::fork();
  if (copy == 0) ::_exit(fine() ? 0 : 1);
  int status = -1;
  ASSERT_EQ(::waitpid(copy, &status, 0), copy);
  EXPECT_EQ(status, 0);
}

}  // namespace support
