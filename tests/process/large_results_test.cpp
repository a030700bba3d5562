// Results so large that they are read while they are still being sent.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/outcomes.hpp"
#include "support/suites.hpp"
#include "support/system.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::limit;
using pynisher::verdict;
using support::EndedAs;
using support::FailedWith;
using support::RaisedAs;
using ::testing::HasSubstr;

class LargeResults : public support::per_start_method {};
FOR_EACH_START_METHOD(LargeResults);

constexpr std::size_t mebibyte = std::size_t{1} << 20;

template <class Number>
std::vector<Number> counted(std::size_t bytes) {
  std::vector<Number> numbers(bytes / sizeof(Number));
  std::iota(numbers.begin(), numbers.end(), Number{3});
  return numbers;
}

TEST_P(LargeResults, ArriveUnchangedWhateverTheirSize) {
  const auto call = limit([](std::size_t size) { return counted<std::uint32_t>(size); }, unlimited());
  // From 32 MiB on numbers go straight to their place, beyond 64 MiB in more than one step.
  for (const std::size_t size : {32 * mebibyte - 4, 32 * mebibyte, 64 * mebibyte + 4, 200 * mebibyte}) {
    EXPECT_TRUE(call(size) == counted<std::uint32_t>(size)) << size;
  }
}

/// A large block among other things.
template <class Mood>
struct report {
  int number = 0;
  std::string title;
  std::vector<double> samples;
  std::vector<std::string> lines;
  std::vector<std::int8_t> small;
  std::vector<std::int64_t> more;

  template <class Archive>
  void save(Archive& ar) const {
    ar(number, title, samples);
    Mood::while_saving();
    ar(lines, small, more);
  }
  template <class Archive>
  void load(Archive& ar) {
    ar(number, title, samples);
    Mood::while_loading();
    ar(lines, small, more);
  }
  friend bool operator==(const report&, const report&) = default;
};

template <class Mood>
report<Mood> make_report() {
  return {7,
          "title",
          counted<double>(40 * mebibyte),
          {"one", std::string(300'000, 'x')},
          counted<std::int8_t>(5),
          counted<std::int64_t>(33 * mebibyte)};
}

struct calm {
  static void while_saving() {}
  static void while_loading() {}
};

TEST_P(LargeResults, ArriveAmongOtherThings) {
  EXPECT_TRUE(limit(make_report<calm>, unlimited())() == make_report<calm>());
  const auto result = limit(make_report<calm>, unlimited()).try_call();
  ASSERT_THAT(result, EndedAs(verdict::returned));
  EXPECT_THAT(result.explain(), HasSubstr("returned after"));
  EXPECT_EQ(result->more.size(), 33 * mebibyte / sizeof(std::int64_t));
}

struct changes_its_mind {
  static void while_saving() { throw std::out_of_range("not all of it"); }
  static void while_loading() {}
};

TEST_P(LargeResults, ThatCannotBePackedToTheEndGiveWayToTheException) {
  EXPECT_THAT(limit(make_report<changes_its_mind>, unlimited()).try_call(), RaisedAs<std::out_of_range>("not all of it"));
}

struct cannot_be_read {
  static void while_saving() {}
  static void while_loading() { throw std::runtime_error("not with me"); }
};

TEST_P(LargeResults, ThatCannotBeReadSayWhy) {
  const auto result = limit(make_report<cannot_be_read>, unlimited()).try_call();
  ASSERT_THAT(result, EndedAs(verdict::protocol_error));
  EXPECT_THAT(result.explain(), HasSubstr("not with me"));
  EXPECT_THROW(limit(make_report<cannot_be_read>, unlimited())(), pynisher::SerializationException);
}

struct throws_a_number {
  static void while_saving() {}
  static void while_loading() { throw 7; }
};

TEST_P(LargeResults, ThatThrowWhatIsNoExceptionSaySo) {
  const auto result = limit(make_report<throws_a_number>, unlimited()).try_call();
  ASSERT_THAT(result, EndedAs(verdict::protocol_error));
  EXPECT_THAT(result.explain(), HasSubstr("no std::exception"));
}

struct never_comes_back {
  static void while_saving() {
    support::sleep_forever();
  }
  static void while_loading() {}
};

TEST_P(LargeResults, AreWithinTheWallLimitUntilTheyAreSent) {
  EXPECT_THAT(limit(make_report<never_comes_back>, with({.wall_time = 3s})).try_call(), EndedAs(verdict::wall_timeout));
}

struct dies {
  static void while_saving() { support::end_by_a_signal(); }
  static void while_loading() {}
};

TEST_P(LargeResults, OfAChildThatDiesMeanwhileAreNone) {
  EXPECT_THAT(limit(make_report<dies>, unlimited()).try_call(),
              FailedWith<pynisher::SignalException>(
                  [](const auto& e) { EXPECT_EQ(e.signal(), support::signal_of_that_end); }));
}

// --- lies -------------------------------------------------------------------------------------------------------

constexpr std::uint64_t claimed = std::uint64_t{1} << 36;

/// Claims far more than it sends.
template <class Mood>
struct boast {
  std::vector<double> samples;
  template <class Archive>
  void save(Archive& ar) const {
    ar(cereal::make_size_tag(static_cast<cereal::size_type>(claimed)));
    const std::vector<char> some(4 * mebibyte, 'x');
    ar(cereal::binary_data(some.data(), some.size()));
    Mood::while_saving();
  }
  template <class Archive>
  void load(Archive& ar) {
    ar(samples);
  }
};

TEST_P(LargeResults, ThatAreClaimedAndDoNotComeCostTheirReceiverNoMemory) {
  const std::uint64_t before = support::own_peak();
  const auto ended = limit([] { return boast<calm>(); }, unlimited()).try_call();
  ASSERT_THAT(ended, EndedAs(verdict::protocol_error));
  EXPECT_THAT(ended.explain(), HasSubstr("too early"));
  EXPECT_THAT(limit([] { return boast<dies>(); }, unlimited()).try_call(), EndedAs(verdict::signalled));
  EXPECT_THAT(limit([] { return boast<never_comes_back>(); }, with({.wall_time = 2s})).try_call(),
              EndedAs(verdict::wall_timeout));
  EXPECT_LT(support::own_peak(), before + 64 * mebibyte);
}

}  // namespace
