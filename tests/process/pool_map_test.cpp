// Maps over pools: what comes out, in which order, how far ahead is read, and who may use a pool at once.

#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <forward_list>
#include <iterator>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <ranges>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/pynisher.hpp>

#include "support/pools.hpp"
#include "support/processes.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::make_pool;
using pynisher::order;
using pynisher::passing;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::UnorderedElementsAreArray;

class PoolMap : public support::per_kind_of_worker {};
FOR_EACH_KIND_OF_WORKER(PoolMap);

int square(int x) { return x * x; }
std::string joined(std::string a, int b) { return a + std::to_string(b); }
void nothing(int /*x*/) {}

std::vector<int> numbers(int count) {
  std::vector<int> all(static_cast<std::size_t>(count));
  std::iota(all.begin(), all.end(), 0);
  return all;
}
std::vector<int> squares(int count) {
  auto all = numbers(count);
  for (int& one : all) one *= one;
  return all;
}
template <class Results>
std::vector<int> values_of(Results&& results) {
  std::vector<int> values;
  for (auto&& one : results) values.push_back(one.value());
  return values;
}

/// Counts what is taken from it.
auto counted(int count, int& taken) {
  return std::views::iota(0, count) | std::views::transform([&taken](int i) {
           ++taken;
           return i;
         });
}

TEST_P(PoolMap, GivesWhatTheSequentialMapWouldGive) {
  for (const std::size_t workers : {1u, 3u}) {
    for (const std::size_t chunk : {1u, 4u}) {
      auto pool = make_pool(with({.workers = workers, .chunk = chunk}), &square);
      for (const int count : {0, 1, 2, 5, 40}) {
        EXPECT_EQ(values_of(pool.map(numbers(count))), squares(count));
        EXPECT_THAT(values_of(pool.map(numbers(count), order::completion)), UnorderedElementsAreArray(squares(count)));
      }
    }
  }
}

TEST_P(PoolMap, NamesItemAndWorkerOfEachResult) {
  auto pool = make_pool(with({.workers = 2, .chunk = 3}), &square);
  std::size_t expected = 0;
  for (auto&& one : pool.map(std::views::iota(0, 20))) {
    EXPECT_EQ(one.index(), expected++);
    EXPECT_LT(one.worker(), 2u);
    EXPECT_TRUE(one.ok());
    EXPECT_EQ(one.what(), "");
    EXPECT_GE(one.usage().wall_time, 0ns);
  }
  EXPECT_EQ(expected, 20u);
}

TEST_P(PoolMap, HasASizeWhereTheInputHasOne) {
  auto pool = make_pool(with({.workers = 1}), &square);
  const auto all = numbers(7);
  auto sized = pool.map(all);
  EXPECT_EQ(sized.size(), 7u);
  std::istringstream text("1 2 3");
  auto unsized = pool.map(std::views::istream<int>(text));
  static_assert(std::ranges::sized_range<decltype(sized)>);
  static_assert(!std::ranges::sized_range<decltype(unsized)>);
  static_assert(std::ranges::input_range<decltype(unsized)>);
  EXPECT_THAT(values_of(unsized), ElementsAre(1, 4, 9));
}

TEST_P(PoolMap, TakesListsAndTemporariesAndViews) {
  auto pool = make_pool(with({.workers = 1}), &square);
  EXPECT_THAT(values_of(pool.map({1, 2, 3})), ElementsAre(1, 4, 9));
  EXPECT_THAT(values_of(pool.map(std::forward_list<int>{4, 5})), ElementsAre(16, 25));
  std::vector<int> kept;
  for (auto&& one : pool.map(std::views::iota(1)) | std::views::take(3)) kept.push_back(one.value());
  EXPECT_THAT(kept, ElementsAre(1, 4, 9));
}

TEST_P(PoolMap, RunsFunctionsThatReturnNothing) {
  auto pool = make_pool(with({.workers = 1}), &nothing);
  int count = 0;
  for (auto&& one : pool.map(numbers(5))) {
    one.value();
    ++count;
  }
  EXPECT_EQ(count, 5);
}

struct named_item {
  std::string a;
  int b = 0;
};

TEST_P(PoolMap, SpreadsTuplesAndPairsAndFields) {
  {
    auto pool = make_pool(with({.workers = 1, .passing = passing::unpack}), &joined);
    std::vector<std::string> all;
    for (auto&& one : pool.map(std::vector<std::pair<std::string, int>>{{"a", 1}, {"b", 2}}))
      all.push_back(one.value());
    for (auto&& one : pool.map(std::vector<std::tuple<const char*, short>>{{"c", short{3}}}))
      all.push_back(one.value());
    EXPECT_THAT(all, ElementsAre("a1", "b2", "c3"));
  }
  auto pool = make_pool(with({.workers = 1, .passing = passing::named}), &joined);
  std::vector<std::string> all;
  for (auto&& one : pool.map(std::vector<named_item>{{"x", 7}, {"y", 8}})) all.push_back(one.value());
  EXPECT_THAT(all, ElementsAre("x7", "y8"));
}

TEST_P(PoolMap, RefusesItemsThatCannotBePassedInThisWay) {
  auto pool = make_pool(with({.workers = 1, .passing = passing::unpack}), &square);
  EXPECT_THROW(static_cast<void>(pool.map(numbers(3))), std::invalid_argument);
}

TEST_P(PoolMap, MapsItemsOfSeveralTypesOverOneGenericWorker) {
  auto pool = make_pool(with({.workers = 1}), [](auto x) { return x + x; });
  EXPECT_THAT(values_of(pool.map({1, 2})), ElementsAre(2, 4));
  std::vector<std::string> texts;
  for (auto&& one : pool.map(std::vector<std::string>{"a", "b"})) texts.push_back(one.value());
  EXPECT_THAT(texts, ElementsAre("aa", "bb"));
  EXPECT_THAT(values_of(pool.map({3})), ElementsAre(6));
}

// --- how far ahead ------------------------------------------------------------------------------------------------

TEST_P(PoolMap, ReadsNothingBeforeTheFirstResultIsAskedFor) {
  auto pool = make_pool(with({.workers = 2}), &square);
  int taken = 0;
  auto results = pool.map(counted(100, taken));
  EXPECT_EQ(taken, 0);
  results.begin();
  EXPECT_GE(taken, 1);
}

TEST_P(PoolMap, NeverReadsFurtherThanTheWindow) {
  for (const order wanted : {order::input, order::completion}) {
    for (const auto& [chunk, window] :
         std::vector<std::pair<std::size_t, std::size_t>>{{1, 0}, {1, 1}, {3, 0}, {10, 4}, {1, 50}}) {
      auto pool = make_pool(with({.workers = 2, .chunk = chunk, .window = window}), &square);
      const std::size_t bound = window != 0 ? window : 2 * 2 * chunk;
      int taken = 0;
      std::size_t given = 0;
      for (auto&& one : pool.map(counted(200, taken), wanted)) {
        EXPECT_TRUE(one.ok());
        // The one that is being given out has been.
        EXPECT_LE(static_cast<std::size_t>(taken), given + bound);
        ++given;
      }
      EXPECT_EQ(given, 200u);
      EXPECT_EQ(taken, 200);
    }
  }
}

TEST_P(PoolMap, TakesInputsWithoutEnd) {
  auto pool = make_pool(with({.workers = 2, .chunk = 5}), &square);
  std::vector<int> first;
  for (auto&& one : pool.map(std::views::iota(0))) {
    first.push_back(one.value());
    if (first.size() == 12) break;
  }
  EXPECT_EQ(first, squares(12));
  // And is there for others.
  EXPECT_EQ(values_of(pool.map(numbers(5))), squares(5));
}

/// Waits for a file of that name.
int wait_for_file(std::pair<int, std::string> what) {
  if (what.first == 0) {
    while (::access(what.second.c_str(), F_OK) != 0) std::this_thread::sleep_for(1ms);
  }
  return what.first;
}

// A barrier for each chunk would hold up all the others until the first item is done.
TEST_P(PoolMap, KeepsAllWorkersBusyBehindASlowFirstItem) {
  support::process_log place;
  const std::string gate = place.path() + ".go";
  auto pool = make_pool(with({.workers = 2,
                              .window = 8,
                              .progress =
                                  [&](const pynisher::pool_progress& now) {
                                    // All others of the window are done first.
                                    if (now.done == 7) {
                                      std::FILE* file = std::fopen(gate.c_str(), "w");
                                      std::fclose(file);
                                    }
                                  }}),
                        &wait_for_file);
  std::vector<std::pair<int, std::string>> items;
  for (int i = 0; i < 8; ++i) items.emplace_back(i, gate);
  EXPECT_EQ(values_of(pool.map(items)), numbers(8));
  ::unlink(gate.c_str());
}

TEST_P(PoolMap, TellsItsProgressItemByItem) {
  std::vector<std::uint64_t> done;
  std::optional<std::uint64_t> total;
  auto pool = make_pool(with({.workers = 2,
                              .chunk = 4,
                              .progress =
                                  [&](const pynisher::pool_progress& now) {
                                    done.push_back(now.done);
                                    total = now.total;
                                  }}),
                        &square);
  values_of(pool.map(numbers(10)));
  EXPECT_THAT(done, ElementsAre(1, 2, 3, 4, 5, 6, 7, 8, 9, 10));
  EXPECT_EQ(total, 10u);
}

// --- inputs that fail ---------------------------------------------------------------------------------------------

TEST_P(PoolMap, AnInputThatThrowsIsHeardOfBehindTheResultsOfWhatItGave) {
  const auto source = std::views::iota(0) | std::views::transform([](int i) {
                        if (i == 6) throw std::out_of_range("no more");
                        return i;
                      });
  for (const std::size_t chunk : {1u, 4u}) {
    auto pool = make_pool(with({.workers = 2, .chunk = chunk, .window = 20}), &square);
    auto results = pool.map(source);
    std::vector<int> values;
    const auto read_all = [&] {
      for (auto&& one : results) values.push_back(one.value());
    };
    EXPECT_THROW(read_all(), std::out_of_range);
    EXPECT_EQ(values, squares(6));
    read_all();
    EXPECT_EQ(values, squares(6)) << "there is nothing more to come";
    EXPECT_EQ(values_of(pool.map(numbers(5))), squares(5)) << "nobody else is hurt";
  }
}

TEST_P(PoolMap, AnInputThatThrowsDoesNotHideTheFailuresThatWereCollected) {
  auto pool = make_pool(with({.workers = 2, .on_error = pynisher::on_error::collect}), [](int i) {
    if (i == 1) throw std::domain_error("one");
    return i;
  });
  auto results = pool.map(std::views::iota(0) | std::views::transform([](int i) {
                            if (i == 3) throw std::out_of_range("no more");
                            return i;
                          }));
  auto at = results.begin();
  ++at;
  EXPECT_EQ(at->value(), 2);
  EXPECT_THROW(++at, std::out_of_range);
  EXPECT_THROW(++at, pynisher::PoolErrors);
}

TEST_P(PoolMap, ResultsAreMovedWithWhatIsOnItsWay) {
  auto pool = make_pool(with({.workers = 2}), &square);
  std::istringstream text("0 1 2 3 4 5");
  auto first = pool.map(std::views::istream<int>(text));
  auto at = first.begin();
  EXPECT_EQ(at->value(), 0);
  auto second = std::move(first);
  EXPECT_EQ((++at)->value(), 1);
  ++at;
  EXPECT_EQ(values_of(std::move(second)), (std::vector{4, 9, 16, 25}));
}

TEST_P(PoolMap, IsOverOnceItHasThrown) {
  auto pool = make_pool(with({.workers = 2, .on_error = pynisher::on_error::immediate}), [](int i) {
    if (i == 3) throw std::domain_error("three");
    return i;
  });
  int taken = 0;
  auto results = pool.map(counted(1000, taken));
  const auto read_all = [&] {
    for (auto&& one : results) EXPECT_LT(one.value(), 3);
  };
  EXPECT_THROW(read_all(), std::domain_error);
  const int taken_then = taken;
  auto at = results.begin();
  EXPECT_TRUE(at == results.end());
  ++at;
  EXPECT_TRUE(at == results.end());
  EXPECT_EQ(taken, taken_then) << "what is left of the input is not read";
  EXPECT_LT(taken, 1000);
}

TEST_P(PoolMap, IsOverOnceItsProgressHasThrown) {
  for (const std::uint64_t fails_at : {1u, 3u}) {
    auto pool = make_pool(with({.workers = 2,
                                .progress =
                                    [fails_at](const pynisher::pool_progress& now) {
                                      if (now.done == fails_at) throw std::domain_error("enough");
                                    }}),
                          &square);
    int taken = 0;
    auto results = pool.map(counted(1000, taken), order::completion);
    const auto read_all = [&] {
      for (auto&& one : results) EXPECT_TRUE(one.ok());
    };
    EXPECT_THROW(read_all(), std::domain_error);
    EXPECT_TRUE(results.begin() == results.end());
    EXPECT_LT(taken, 1000);
  }
}

/// What takes its time, so that whoever waits for results sleeps.
int takes_its_time(const std::pair<std::string, int>& given) {
  const auto& [answer, which] = given;
  const auto until = std::chrono::steady_clock::now() + 90us;
  while (std::chrono::steady_clock::now() < until) {
  }
  while (which == 2 && ::access(answer.c_str(), F_OK) != 0) ::usleep(200);
  return which;
}

TEST_P(PoolMap, AResultDoesNotWaitForTheRestOfItsChunk) {
  auto pool = make_pool(with({.workers = 1, .chunk = 3}), &takes_its_time);
  support::call_log names;
  const std::string answer = names.path() + "-answer";
  for (int round = 0; round < 40; ++round) {
    int seen = 0;
    for (auto&& one : pool.map(std::views::iota(0, 3) |
                               std::views::transform([&](int which) { return std::pair(answer, which); }))) {
      EXPECT_EQ(one.value(), seen++);
      // The third one waits for this.
      if (seen == 2) std::fclose(std::fopen(answer.c_str(), "w"));
    }
    EXPECT_EQ(seen, 3);
    ::unlink(answer.c_str());
  }
}

/// Cannot be packed, or not be unpacked, where it says so.
struct awkward {
  int value = 0;
  template <class Archive>
  void save(Archive& archive) const {
    if (value == 3) throw std::runtime_error("three does not travel");
    if (value == 9) throw 9;
    archive(value);
  }
  template <class Archive>
  void load(Archive& archive) {
    archive(value);
    if (value == 5) throw std::runtime_error("five does not arrive");
    if (value == 10) throw 10;
  }
};
awkward same(awkward what) { return {what.value == 7 ? 3 : what.value == 8 ? 5 : what.value}; }

TEST_P(PoolMap, WhatCannotBePackedOrUnpackedCostsOnlyItself) {
  for (const std::size_t chunk : {1u, 4u}) {
    auto pool = make_pool(with({.workers = 2, .chunk = chunk}), &same);
    std::vector<awkward> items;
    for (int i = 0; i < 12; ++i) items.push_back({i});
    std::vector<std::size_t> failed;
    for (auto&& one : pool.map(items)) {
      if (one.ok()) {
        EXPECT_EQ(one.value().value, static_cast<int>(one.index()));
      } else {
        failed.push_back(one.index());
      }
    }
    EXPECT_THAT(failed, ElementsAre(3u, 5u, 7u, 8u, 9u, 10u));
  }
}

// --- many at once ---------------------------------------------------------------------------------------------------

TEST_P(PoolMap, TwoMapsInterleaved) {
  auto pool = make_pool(with({.workers = 2}), &square);
  auto first = pool.map(numbers(50));
  auto second = pool.map(numbers(50), order::completion);
  auto a = first.begin();
  auto b = second.begin();
  std::vector<int> from_a, from_b;
  while (a != first.end() || b != second.end()) {
    if (a != first.end()) {
      from_a.push_back(a->value());
      ++a;
    }
    if (b != second.end()) {
      from_b.push_back(b->value());
      ++b;
    }
  }
  EXPECT_EQ(from_a, squares(50));
  EXPECT_THAT(from_b, UnorderedElementsAreArray(squares(50)));
}

TEST_P(PoolMap, ManyThreadsMapAtOnce) {
  auto pool = make_pool(with({.workers = 2, .chunk = 2}), &square);
  std::atomic<int> right{0};
  std::vector<std::jthread> threads;
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 5; ++round) {
        if (i % 2 == 0) {
          if (values_of(pool.map(numbers(60))) == squares(60)) ++right;
        } else {
          int taken = 0;
          for (auto&& one : pool.map(std::views::iota(0), order::completion)) {
            if (!one.ok() || ++taken == 7) break;
          }
          if (taken == 7) ++right;
        }
      }
    });
  }
  threads.clear();
  EXPECT_EQ(right, 30);
}

TEST_P(PoolMap, AMapOutlivesItsPoolAsAFailure) {
  std::optional pool(make_pool(with({.workers = 1, .window = 2}), &square));
  auto results = pool->map(numbers(100));
  auto at = results.begin();
  EXPECT_TRUE(at->ok());
  pool->close();
  int broken = 0;
  for (; at != results.end(); ++at) {
    if (at->ok()) continue;
    EXPECT_THROW(at->value(), pynisher::BrokenPoolError);
    ++broken;
  }
  EXPECT_GT(broken, 0);
}

TEST_P(PoolMap, LargeItemsAndResultsCross) {
  auto pool = make_pool(with({.workers = 2}), [](std::vector<double> what) {
    what.push_back(1.5);
    return what;
  });
  std::vector<std::vector<double>> items;
  for (const std::size_t size : {std::size_t{10}, std::size_t{10'000}, std::size_t{3'000'000}, std::size_t{100'000}}) {
    items.emplace_back(size, static_cast<double>(size));
  }
  for (auto&& one : pool.map(items)) {
    auto expected = items[one.index()];
    expected.push_back(1.5);
    EXPECT_TRUE(one.value() == expected) << one.index();
  }
}

}  // namespace
