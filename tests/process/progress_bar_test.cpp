// Progress bars on a terminal (a pseudo one), and where there is none.

#include <fcntl.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <list>
#include <memory>
#include <optional>
#include <ranges>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "progress_display.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::progress_bar;
using pynisher::progress_options;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

/// A clock that is set by hand. Static, as the display takes a plain function.
class manual_clock {
 public:
  using time_point = std::chrono::steady_clock::time_point;
  static time_point now() { return time_point(ticks_.load()); }
  static void advance(std::chrono::nanoseconds time) { ticks_ = ticks_.load() + time; }

 private:
  static inline std::atomic<std::chrono::nanoseconds> ticks_{1h};
};

class terminal {
 public:
  explicit terminal(unsigned short columns = 80) {
    winsize size{24, columns, 0, 0};
    if (::openpty(&outside_, &inside_, nullptr, nullptr, &size) != 0) throw std::runtime_error("no pseudo terminal");
    ::fcntl(outside_, F_SETFL, O_NONBLOCK);
  }
  terminal(const terminal&) = delete;
  terminal& operator=(const terminal&) = delete;
  ~terminal() {
    ::close(outside_);
    if (inside_ >= 0) ::close(inside_);
  }
  [[nodiscard]] int descriptor() const { return inside_; }
  void hang_up() { ::close(std::exchange(outside_, ::open("/dev/null", O_RDWR | O_CLOEXEC))); }
  void resize(unsigned short columns) const {
    const winsize size{24, columns, 0, 0};
    ::ioctl(outside_, TIOCSWINSZ, &size);
  }
  /// All that has been written and not read yet.
  [[nodiscard]] std::string shown() const {
    std::string all;
    std::array<char, 4096> some{};
    for (ssize_t got = 0; (got = ::read(outside_, some.data(), some.size())) > 0;) {
      all.append(some.data(), static_cast<std::size_t>(got));
    }
    return all;
  }

 private:
  int outside_ = -1;
  int inside_ = -1;
};

/// With a terminal that is known, in colours.
class ProgressBar : public ::testing::Test {
 protected:
  ProgressBar() {
    ::setenv("TERM", "xterm", 1);
    ::unsetenv("NO_COLOR");
  }
  [[nodiscard]] progress_options on_terminal(progress_options wanted = {}) const {
    wanted.descriptor = terminal_.descriptor();
    wanted.interval = 0ms;
    return wanted;
  }
  /// A bar whose time stands still.
  [[nodiscard]] std::unique_ptr<pynisher::detail::progress_display> display(progress_options wanted) const {
    wanted.descriptor = terminal_.descriptor();
    return std::make_unique<pynisher::detail::progress_display>(wanted, &manual_clock::now);
  }
  terminal terminal_;
};

TEST_F(ProgressBar, FollowsARangeAndEndsItsLine) {
  const std::vector<int> numbers{1, 2, 3, 4};
  int sum = 0;
  for (const int number : progress_bar(numbers, on_terminal({.label = "numbers"}))) sum += number;
  EXPECT_EQ(sum, 10);
  const std::string shown = terminal_.shown();
  EXPECT_THAT(shown, StartsWith("\rnumbers   0% ["));
  EXPECT_THAT(shown, HasSubstr("numbers  50% ["));
  EXPECT_THAT(shown, HasSubstr("] 4/4, "));
  EXPECT_THAT(shown, EndsWith("\x1b[K\r\n"));
  EXPECT_EQ(std::ranges::count(shown, '\n'), 1);
}

TEST_F(ProgressBar, HandsOnReferencesAndTakesTemporaries) {
  std::vector<int> numbers{1, 2, 3};
  for (int& number : progress_bar(numbers, on_terminal())) number *= 2;
  EXPECT_THAT(numbers, ::testing::ElementsAre(2, 4, 6));
  std::vector<std::string> moved;
  for (auto&& text : progress_bar(std::list<std::string>{"a", "b"}, on_terminal())) moved.push_back(std::move(text));
  EXPECT_THAT(moved, ::testing::ElementsAre("a", "b"));
}

TEST_F(ProgressBar, FollowsRangesWithoutSizeAndWithoutEnd) {
  std::istringstream words("to be or not to be");
  std::size_t count = 0;
  for (auto&& word : progress_bar(std::ranges::istream_view<std::string>(words), on_terminal({.label = "words"}))) {
    count += word.size();
  }
  EXPECT_EQ(count, 13u);
  std::string shown = terminal_.shown();
  EXPECT_THAT(shown, HasSubstr("words 6, "));
  EXPECT_THAT(shown, Not(HasSubstr("%")));

  for (const int number : progress_bar(std::views::iota(0), on_terminal({.label = "numbers"}))) {
    if (number == 5) break;
  }
  shown = terminal_.shown();
  EXPECT_THAT(shown, HasSubstr("numbers 5, "));
  EXPECT_THAT(shown, EndsWith("\r\n"));
}

TEST_F(ProgressBar, TakesATotalForARangeThatKnowsNone) {
  for (const int number : progress_bar(std::views::iota(0), on_terminal({.total = 4}))) {
    if (number == 3) break;
  }
  EXPECT_THAT(terminal_.shown(), HasSubstr("] 3/4, "));
}

TEST_F(ProgressBar, EndsItsLineWhenTheLoopThrows) {
  const auto loop = [this] {
    for (const int number : progress_bar(std::views::iota(0, 10), on_terminal())) {
      if (number == 3) throw std::runtime_error("three");
    }
  };
  EXPECT_THROW(loop(), std::runtime_error);
  const std::string shown = terminal_.shown();
  EXPECT_THAT(shown, HasSubstr("] 3/10, "));
  EXPECT_THAT(shown, EndsWith("\r\n"));
}

TEST_F(ProgressBar, EndsItsLineWithTheLoopWhereItIsKept) {
  auto bar = progress_bar(std::views::iota(0, 3), on_terminal());
  EXPECT_EQ(bar.size(), 3);
  for ([[maybe_unused]] const int number : bar) {
  }
  EXPECT_THAT(terminal_.shown(), EndsWith("\r\n"));
}

TEST_F(ProgressBar, FollowsAnEmptyRange) {
  for ([[maybe_unused]] const int number : progress_bar(std::vector<int>(), on_terminal())) FAIL();
  EXPECT_THAT(terminal_.shown(), HasSubstr("] 0/0, in 0:00\x1b[K\r\n"));
}

struct result {
  bool good;
  [[nodiscard]] bool ok() const { return good; }
};

TEST_F(ProgressBar, CountsWhatSaysThatItIsNotOk) {
  const std::vector<result> results{{true}, {false}, {true}, {false}, {true}};
  int seen = 0;
  for (const auto& one : progress_bar(results, on_terminal())) seen += one.ok() ? 1 : 0;
  EXPECT_EQ(seen, 3);
  EXPECT_THAT(terminal_.shown(), HasSubstr("] 5/5, "));
}

TEST_F(ProgressBar, ShowsTheFailedInRedUnlessNoColourIsWanted) {
  const std::vector<result> results{{true}, {false}};
  for ([[maybe_unused]] const auto& one : progress_bar(results, on_terminal())) {
  }
  EXPECT_THAT(terminal_.shown(), HasSubstr("\x1b[31m1 failed\x1b[0m"));
  ::setenv("NO_COLOR", "1", 1);
  for ([[maybe_unused]] const auto& one : progress_bar(results, on_terminal())) {
  }
  const std::string shown = terminal_.shown();
  EXPECT_THAT(shown, HasSubstr(", 1 failed"));
  EXPECT_THAT(shown, Not(HasSubstr("\x1b[3")));
}

TEST_F(ProgressBar, IsSilentWhereNothingMovesACursor) {
  const auto draw = [this] {
    for ([[maybe_unused]] const int n : progress_bar(std::views::iota(0, 3), on_terminal())) {
    }
    return terminal_.shown();
  };
  ASSERT_THAT(draw(), Not(IsEmpty()));
  ::setenv("TERM", "dumb", 1);
  EXPECT_THAT(draw(), IsEmpty());
  ::unsetenv("TERM");
  EXPECT_THAT(draw(), IsEmpty());
}

TEST_F(ProgressBar, WritesNothingIntoFilesAndPipes) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const progress_options piped{.label = "piped", .interval = 0ms, .descriptor = ends[1]};
  for ([[maybe_unused]] const int n : progress_bar(std::views::iota(0, 3), piped)) {
  }
  {
    progress_bar bar(piped);
    bar.add(3);
  }
  ::close(ends[1]);
  char byte = 0;
  EXPECT_EQ(::read(ends[0], &byte, 1), 0);
  ::close(ends[0]);
}

TEST_F(ProgressBar, IsSilentWithoutADescriptor) {
  progress_bar bar({.interval = 0ms, .descriptor = 1 << 20});
  bar.add();
  bar.finish();
}

TEST_F(ProgressBar, GivesUpATerminalThatIsGone) {
  progress_bar bar(on_terminal());
  terminal_.hang_up();
  bar.add();
  bar.add();
  bar.finish();
}

TEST_F(ProgressBar, TakesWhatAPoolReports) {
  struct report {
    std::uint64_t done;
    std::optional<std::uint64_t> total;
    std::uint64_t failed;
    std::chrono::nanoseconds elapsed;
  };
  std::optional<pynisher::progress_callback> callback;
  {
    progress_bar bar(on_terminal({.label = "tasks"}));
    callback = bar.callback();
    (*callback)(report{1, std::nullopt, 0, 1s});
    EXPECT_THAT(terminal_.shown(), HasSubstr("tasks 1, "));
    (*callback)(report{2, 8, 1, 1s});
    const std::string shown = terminal_.shown();
    EXPECT_THAT(shown, HasSubstr("] 2/8, "));
    EXPECT_THAT(shown, HasSubstr("1 failed"));
  }
  EXPECT_THAT(terminal_.shown(), EndsWith("\r\n"));
  (*callback)(report{3, 8, 1, 1s});
  EXPECT_THAT(terminal_.shown(), IsEmpty()) << "the bar is gone";
}

TEST_F(ProgressBar, CountsFromManyThreads) {
  progress_bar bar(on_terminal({.total = 4000}));
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&bar] {
      for (int i = 0; i < 1000; ++i) bar.add(1, i % 10 == 0 ? 1 : 0);
    });
  }
  // A terminal that nobody reads takes no more after a while.
  std::jthread reader([this](const std::stop_token& stop) {
    while (!stop.stop_requested()) static_cast<void>(terminal_.shown());
  });
  threads.clear();
  reader = {};
  bar.finish();
  const std::string shown = terminal_.shown();
  EXPECT_THAT(shown, HasSubstr("4000/4000, "));
  EXPECT_THAT(shown, HasSubstr("400 failed"));
}

TEST_F(ProgressBar, IsNotDrawnByAChild) {
  progress_bar bar(on_terminal({.label = "parent"}));
  static_cast<void>(terminal_.shown());
  pynisher::limit(
      [&bar] {
        bar.add();
        bar.finish();
      },
      {.context = pynisher::start_method::fork, .warnings = false})();
  EXPECT_THAT(terminal_.shown(), IsEmpty());
  bar.add();
  EXPECT_THAT(terminal_.shown(), HasSubstr("parent 1, "));
}

TEST_F(ProgressBar, FollowsTheWidthOfItsTerminal) {
  progress_bar bar(on_terminal({.label = "a label", .total = 100}));
  bar.add();
  EXPECT_THAT(terminal_.shown(), HasSubstr("["));
  terminal_.resize(30);
  bar.add(49);
  const std::string narrow = terminal_.shown();
  EXPECT_THAT(narrow, HasSubstr("50/100"));
  EXPECT_LT(narrow.size() - std::string("\r\x1b[K").size(), 30u) << narrow;
}

// --- with a clock that stands still
// -------------------------------------------------------------------------------------

TEST_F(ProgressBar, DrawsNoMoreOftenThanItsInterval) {
  const auto bar = display({.total = 10, .interval = 100ms});
  EXPECT_THAT(terminal_.shown(), HasSubstr("0/10"));
  bar->add(1, 0);
  manual_clock::advance(99ms);
  bar->add(1, 0);
  EXPECT_THAT(terminal_.shown(), IsEmpty());
  manual_clock::advance(1ms);
  bar->add(1, 0);
  EXPECT_THAT(terminal_.shown(), HasSubstr("3/10"));
  bar->add(1, 0);
  EXPECT_THAT(terminal_.shown(), IsEmpty());
  bar->finish();
  EXPECT_THAT(terminal_.shown(), HasSubstr("4/10")) << "the last state is drawn, however soon it comes";
  bar->finish();
  manual_clock::advance(1h);
  bar->add(1, 0);
  EXPECT_THAT(terminal_.shown(), IsEmpty());
}

TEST_F(ProgressBar, ItsTimeStandsStillOnceAllIsDone) {
  const auto bar = display({.total = 10});
  manual_clock::advance(5s);
  bar->add(10, 0);
  static_cast<void>(terminal_.shown());
  manual_clock::advance(55s);
  bar->finish();
  EXPECT_THAT(terminal_.shown(), HasSubstr("10/10, 2/s, in 0:05"));
  // Until there is more to be done.
  const auto growing = display({.total = 1});
  growing->add(1, 0);
  growing->set(1, 2, 0);
  manual_clock::advance(10s);
  growing->add(1, 0);
  manual_clock::advance(10s);
  growing->finish();
  EXPECT_THAT(terminal_.shown(), HasSubstr("2/2, 5 s each, in 0:10"));
}

TEST_F(ProgressBar, TellsRateAndRemainingTime) {
  const auto bar = display({.total = 100, .interval = 100ms});
  manual_clock::advance(10s);
  bar->add(20, 0);
  EXPECT_THAT(terminal_.shown(), HasSubstr("20/100, 2/s, 0:40 left"));
  manual_clock::advance(10s);
  bar->set(80, std::nullopt, 0);
  EXPECT_THAT(terminal_.shown(), HasSubstr("80/100, 4/s, 0:05 left"));
  manual_clock::advance(5s);
  bar->add(20, 0);
  EXPECT_THAT(terminal_.shown(), HasSubstr("100/100, 4/s, in 0:25"));
}

}  // namespace
