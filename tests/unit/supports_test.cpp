#include <pynisher/supports.hpp>

#include <algorithm>
#include <stdexcept>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/limit.hpp>

namespace {

using pynisher::feature;

struct named {
  const char* name;
  feature what;
};
constexpr named all_features[] = {
    {"wall_time", feature::wall_time},
    {"cpu_time", feature::cpu_time},
    {"memory", feature::memory},
    {"decorator", feature::decorator},
    {"memory_growth", feature::memory_growth},
    {"memory_address_space", feature::memory_address_space},
    {"memory_tree", feature::memory_tree},
    {"fork", feature::fork},
    {"spawn", feature::spawn},
    {"forkserver", feature::forkserver},
    {"kill_tree", feature::kill_tree},
    {"process_count", feature::process_count},
    {"parent_death", feature::parent_death},
    {"cancel", feature::cancel},
};

TEST(Supports, AnswersTheSameByNameAndByFeature) {
  for (const auto& [name, what] : all_features) {
    EXPECT_EQ(pynisher::supports(name), pynisher::supports(what)) << name;
    EXPECT_EQ(pynisher::why_not(name), pynisher::why_not(what)) << name;
  }
}

TEST(Supports, HasAReasonExactlyWhereItSaysNo) {
  for (const auto& [name, what] : all_features) {
    EXPECT_EQ(pynisher::supports(what), pynisher::why_not(what).empty()) << name;
  }
}

TEST(Supports, KnowsTheFourNamesOfPynisherAndTakesThemInAnyCase) {
  for (const char* name : {"wall_time", "WALL_TIME", "Cpu_Time", "memory", "Memory", "decorator"}) {
    EXPECT_NO_THROW((void)pynisher::supports(name)) << name;
  }
  EXPECT_TRUE(pynisher::supports("decorator"));
  EXPECT_TRUE(pynisher::supports("fork"));
}

TEST(Supports, MemoryIsTheDefaultMeasure) {
  EXPECT_EQ(pynisher::supports(feature::memory), pynisher::supports(feature::memory_growth));
}

TEST(Supports, RefusesAnUnknownNameAndListsTheKnownOnes) {
  for (const char* name : {"warp_drive", "", "memor", "memory ", "wall-time"}) {
    try {
      (void)pynisher::supports(name);
      ADD_FAILURE() << "\"" << name << "\" is no feature";
    } catch (const std::invalid_argument& e) {
      EXPECT_THAT(e.what(), testing::HasSubstr(std::string("\"") + name + "\""));
      for (const auto& known : all_features) EXPECT_THAT(e.what(), testing::HasSubstr(known.name));
    }
    EXPECT_THROW((void)pynisher::why_not(name), std::invalid_argument);
  }
}

TEST(Supports, IsAskedOfALimitedCallableToo) {
  const auto limited = pynisher::limit([] { return 1; });
  for (const auto& [name, what] : all_features) EXPECT_EQ(limited.supports(what), pynisher::supports(what)) << name;
}

TEST(StartMethods, AreThoseThatAreSupportedTheDefaultFirst) {
  const auto methods = pynisher::start_methods();
  const auto has = [&](pynisher::start_method m) { return std::ranges::count(methods, m) == 1; };
  EXPECT_EQ(has(pynisher::start_method::fork), pynisher::supports("fork"));
  EXPECT_EQ(has(pynisher::start_method::spawn), pynisher::supports("spawn"));
  EXPECT_EQ(has(pynisher::start_method::forkserver), pynisher::supports("forkserver"));
  EXPECT_FALSE(has(pynisher::start_method::automatic));
  ASSERT_FALSE(methods.empty());
  if (pynisher::supports("fork")) {
    EXPECT_EQ(methods.front(), pynisher::start_method::fork);
  }
}

}  // namespace
