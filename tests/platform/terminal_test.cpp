// The contract's terminals.

#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include <gmock/gmock.h>

#include "platform/contract.hpp"
#include "support/handshake.hpp"

namespace {

namespace platform = pynisher::platform;

TEST(PlatformTerminals, AreToldFromPipesAndFromNothing) {
  int outside = -1, inside = -1;
  ASSERT_EQ(::openpty(&outside, &inside, nullptr, nullptr, nullptr), 0);
  const support::handshake pipe;
  EXPECT_TRUE(platform::is_terminal(inside));
  EXPECT_FALSE(platform::is_terminal(pipe.writing_end()));
  EXPECT_FALSE(platform::is_terminal(-1));
  ::close(inside);
  ::close(outside);
}

TEST(PlatformTerminals, TellTheirWidth) {
  int outside = -1, inside = -1;
  winsize size{24, 132, 0, 0};
  ASSERT_EQ(::openpty(&outside, &inside, nullptr, nullptr, &size), 0);
  EXPECT_EQ(platform::terminal_width(inside), 132u);
  size.ws_col = 0;
  ASSERT_EQ(::ioctl(outside, TIOCSWINSZ, &size), 0);
  EXPECT_EQ(platform::terminal_width(inside), 80u);
  EXPECT_EQ(platform::terminal_width(-1), 80u);
  ::close(inside);
  ::close(outside);
}

TEST(PlatformTerminals, TakeTextWhileThereIsSomebody) {
  int outside = -1, inside = -1;
  ASSERT_EQ(::openpty(&outside, &inside, nullptr, nullptr, nullptr), 0);
  EXPECT_TRUE(platform::write_to_terminal(inside, "spam"));
  char seen[8] = {};
  EXPECT_EQ(::read(outside, seen, 4), 4);
  EXPECT_EQ(std::string(seen), "spam");
  ::close(outside);
  EXPECT_FALSE(platform::write_to_terminal(inside, "spam"));
  ::close(inside);
}

/// A session of its own on a terminal: its first process looks, moves another group to the foreground, looks again.
int looks_from_both_sides() {
  int outside = -1, inside = -1;
  if (::openpty(&outside, &inside, nullptr, nullptr, nullptr) != 0) return 2;
  ::setsid();
  if (::ioctl(inside, TIOCSCTTY, 0) != 0) return 3;
  if (!platform::is_in_foreground(inside)) return 4;
  const pid_t other = ::fork();
  if (other == 0) {
    for (;;) ::pause();
  }
  ::setpgid(other, other);
  if (::tcsetpgrp(inside, other) != 0) return 5;
  const bool still = platform::is_in_foreground(inside);
  ::kill(other, SIGKILL);
  ::waitpid(other, nullptr, 0);
  return still ? 6 : 0;
}

TEST(PlatformTerminals, KnowWhoHasThem) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ::_exit(looks_from_both_sides());
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  // One that is not this process's own has no foreground.
  int outside = -1, inside = -1;
  ASSERT_EQ(::openpty(&outside, &inside, nullptr, nullptr, nullptr), 0);
  EXPECT_TRUE(platform::is_in_foreground(inside));
  ::close(inside);
  ::close(outside);
}

}  // namespace
