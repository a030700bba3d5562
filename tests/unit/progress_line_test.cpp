// What a progress bar's line says, and that it fits.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include <gmock/gmock.h>

#include "progress_line.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::detail::clock_text;
using pynisher::detail::progress_facts;
using pynisher::detail::progress_line;
using pynisher::detail::rate_text;
using pynisher::detail::shown_text;
using ::testing::HasSubstr;
using ::testing::Not;

progress_facts halfway() { return {"files", 450, 1000, 3, 4500ms, false}; }

TEST(ProgressLine, SaysEverythingWhereThereIsRoom) {
  EXPECT_EQ(progress_line(halfway(), 81, false),
            "files  45% [#############>                ] 450/1000, 100/s, 0:06 left, 3 failed");
}

TEST(ProgressLine, HasABarOfAtMostFortyColumns) {
  EXPECT_EQ(progress_line(halfway(), 300, false),
            "files  45% [#################>                    ] 450/1000, 100/s, 0:06 left, 3 failed");
}

TEST(ProgressLine, FitsEveryWidthAndDropsTheBarFirst) {
  for (unsigned columns = 0; columns < 120; ++columns) {
    const std::string line = progress_line(halfway(), columns, false);
    EXPECT_LT(line.size(), std::max(columns, 1u)) << line;
    if (columns > 50) {
      EXPECT_THAT(line, HasSubstr("450/1000, 100/s, 0:06 left, 3 failed"));
    }
  }
  EXPECT_THAT(progress_line(halfway(), 50, false), Not(HasSubstr("[")));
}

TEST(ProgressLine, KeepsTheLabelWithinItsRoom) {
  auto facts = halfway();
  facts.label = std::string(500, 'x');
  const std::string line = progress_line(facts, 80, false);
  EXPECT_EQ(line.size(), 79u);
  EXPECT_THAT(line, HasSubstr("450/1000"));
}

TEST(ProgressLine, WithoutATotalCountsAndTellsTheTime) {
  progress_facts facts{"lines", 7, std::nullopt, 0, 65s, false};
  EXPECT_EQ(progress_line(facts, 80, false), "lines 7, 9.29 s each, 1:05");
  facts.done = 0;
  EXPECT_EQ(progress_line(facts, 80, false), "lines 0, 1:05");
}

TEST(ProgressLine, BeginsAndEndsSensibly) {
  EXPECT_EQ(progress_line({"", 0, 10, 0, 0s, false}, 40, false), "  0% [>                    ] 0/10, 0:00");
  EXPECT_EQ(progress_line({"", 10, 10, 0, 5s, false}, 40, false), "100% [############] 10/10, 2/s, in 0:05");
  EXPECT_EQ(progress_line({"", 0, 0, 0, 0s, true}, 40, false), "100% [###################] 0/0, in 0:00");
  EXPECT_THAT(progress_line({"", 4, 10, 0, 5s, true}, 80, false), HasSubstr("4/10, 1.25 s each, in 0:05"));
}

TEST(ProgressLine, SurvivesMoreItemsThanThereWereToBe) {
  EXPECT_THAT(progress_line({"", 15, 10, 0, 5s, false}, 80, false), HasSubstr("100%"));
  EXPECT_THAT(progress_line({"", 15, 10, 0, 5s, false}, 80, false), HasSubstr("15/10"));
}

TEST(ProgressLine, NeverPromisesMoreThanACentury) {
  EXPECT_THAT(progress_line({"", 1, std::uint64_t{1} << 63, 0, 1h, false}, 120, false), HasSubstr("876000:00:00 left"));
}

TEST(ProgressLine, ColoursWhatFailedOnlyWhenAsked) {
  EXPECT_THAT(progress_line(halfway(), 80, true), HasSubstr("\x1b[31m3 failed\x1b[0m"));
  EXPECT_THAT(progress_line(halfway(), 80, false), Not(HasSubstr("\x1b")));
}

TEST(ClockText, ReadsLikeAClock) {
  EXPECT_EQ(clock_text(0s), "0:00");
  EXPECT_EQ(clock_text(59'999ms), "0:59");
  EXPECT_EQ(clock_text(61s), "1:01");
  EXPECT_EQ(clock_text(3599s), "59:59");
  EXPECT_EQ(clock_text(26h + 3min + 4s), "26:03:04");
  EXPECT_EQ(clock_text(-5s), "0:00");
}

TEST(RateText, HasThreeDigitsAndAUnit) {
  EXPECT_EQ(rate_text(0, 5s), "0/s");
  EXPECT_EQ(rate_text(1, 8100ms), "8.1 s each");
  EXPECT_EQ(rate_text(123, 1s), "123/s");
  EXPECT_EQ(rate_text(9996, 10s), "1k/s");
  EXPECT_EQ(rate_text(123'456, 1s), "123k/s");
  EXPECT_EQ(rate_text(2'500'000, 1s), "2.5M/s");
  EXPECT_EQ(rate_text(2'500'000'000, 1s), "2.5G/s");
  EXPECT_EQ(rate_text(1, 0s), "1M/s");
}

TEST(ShownText, KeepsWholeCharactersAndNoControls) {
  EXPECT_EQ(shown_text("plain", 10), "plain");
  EXPECT_EQ(shown_text("plain", 3), "pla");
  EXPECT_EQ(shown_text("a\nb\x1b[2J\x7f", 80), "a?b?[2J?");
  // Two columns are kept for what may take two.
  EXPECT_EQ(shown_text("\u00e4b\u6f22", 5), "\u00e4b\u6f22");
  EXPECT_EQ(shown_text("\u00e4b\u6f22", 4), "\u00e4b");
  // Bytes that are no characters: a lone continuation, a cut sequence, an overlong one, a C1 control.
  EXPECT_EQ(shown_text("\x80", 5), "?");
  EXPECT_EQ(shown_text("\xe6\xbc", 5), "??");
  EXPECT_EQ(shown_text("\xc0\xaf", 5), "??");
  EXPECT_EQ(shown_text("\xc2\x9b", 5), "??");
}

}  // namespace
