// What stands on isolates: it is there, or each way to make one says that it is not.

#include <functional>
#include <string>
#include <utility>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/start_methods.hpp"

namespace {

struct worker {
  int operator()(int number) { return number + 1; }
};
int add_one(int number) { return number + 1; }

struct made_thing {
  const char* name;
  std::function<void()> make_and_use;
  const char* refused_as;
};

class PartsOfTheLibrary : public ::testing::TestWithParam<made_thing> {};

TEST_P(PartsOfTheLibrary, AreThereOrRefuseByName) {
  try {
    GetParam().make_and_use();
  } catch (const pynisher::UnsupportedException& e) {
    EXPECT_THAT(e.what(), ::testing::StartsWith(GetParam().refused_as));
    EXPECT_THROW(static_cast<void>(pynisher::isolate::create()), pynisher::UnsupportedException) << "it could stand on isolates";
  }
}

INSTANTIATE_TEST_SUITE_P(
    Are, PartsOfTheLibrary,
    ::testing::Values(made_thing{"Isolates", [] { EXPECT_EQ(pynisher::isolate::create().call(add_one, 1), 2); }, "isolate: "},
                      made_thing{"Channels",
                                 [] {
                                   auto [receiver, sender] = pynisher::create_channel<int>({.buffer = 1});
                                   sender.send(2);
                                   EXPECT_EQ(receiver.recv(), 2);
                                 },
                                 "channel: "},
                      made_thing{"Queues",
                                 [] {
                                   auto queue = pynisher::create_queue<int>();
                                   queue.put(2);
                                   EXPECT_EQ(queue.get(), 2);
                                 },
                                 "channel: "},
                      made_thing{"Buffers", [] { EXPECT_EQ(pynisher::shared_buffer(4096).size(), 4096u); }, "channel: "},
                      made_thing{"Pools",
                                 [] {
                                   pynisher::worker_pool<worker> pool({.workers = 1});
                                   for (auto&& result : pool.map({1})) EXPECT_EQ(result.value(), 2);
                                 },
                                 "pool: "},
                      made_thing{"Executors",
                                 [] {
                                   pynisher::pool_executor pool({.workers = 1});
                                   EXPECT_EQ(pool.submit(add_one, 1).get(), 2);
                                 },
                                 "pool: "}),
    [](const auto& made) { return std::string(made.param.name); });

}  // namespace
