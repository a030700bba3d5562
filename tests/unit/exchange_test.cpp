// The exchange without processes: what it answers, and long random histories against a model that is too simple to be
// wrong.

#include <cstring>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include <gmock/gmock.h>

#include "exchange.hpp"

namespace {

using namespace pynisher::detail;
using pynisher::unbound;

std::shared_ptr<parcel> number(std::uint32_t value) {
  auto made = std::make_shared<parcel>();
  made->bytes.resize(sizeof value);
  std::memcpy(made->bytes.data(), &value, sizeof value);
  return made;
}
std::uint32_t number_in(const parcel& from) {
  std::uint32_t value = 0;
  std::memcpy(&value, from.bytes.data(), sizeof value);
  return value;
}

/// An exchange and who is in it, with all answers kept by operation.
class world {
 public:
  party_id join(std::int64_t isolate = 0, std::uint64_t household = 0, bool head = false, bool remote = false) {
    return core.join({isolate, household, head, remote, ++last_pid_});
  }
  operation_id ask(party_id who, request what) {
    const operation_id operation = ++last_;
    run([&](effects& out) { core.handle(who, operation, std::move(what), out); });
    return operation;
  }
  operation_id send(party_id who, std::int64_t channel, std::shared_ptr<parcel> what,
                    send_mode mode = send_mode::wait) {
    request asked;
    asked.what = verb::send;
    asked.channel = channel;
    asked.mode = static_cast<std::uint8_t>(mode);
    asked.content = std::move(what);
    return ask(who, asked);
  }
  operation_id receive(party_id who, std::int64_t channel, bool nowait = false) {
    request asked;
    asked.what = verb::receive;
    asked.channel = channel;
    asked.mode = nowait ? 1 : 0;
    return ask(who, asked);
  }
  operation_id about(party_id who, verb what, std::uint64_t value, std::int64_t channel = 0,
                     end_kind end = end_kind::receiving, std::uint8_t mode = 0) {
    request asked;
    asked.what = what;
    asked.number = value;
    asked.channel = channel;
    asked.end = end;
    asked.mode = mode;
    return ask(who, asked);
  }
  std::int64_t create(party_id who, std::uint64_t capacity, unbound policy = unbound::sentinel, bool is_queue = false) {
    request asked;
    asked.what = verb::create;
    asked.number = capacity;
    asked.mode = static_cast<std::uint8_t>(policy);
    asked.end = is_queue ? end_kind::queue : end_kind::receiving;
    return at(ask(who, asked)).number;
  }
  void leave(party_id who) {
    run([&](effects& out) { core.leave(who, out); });
  }
  void abandon(party_id who, bool keeps_items) {
    run([&](effects& out) { core.abandon(who, 0, ~operation_id{0}, out, keeps_items); });
  }
  [[nodiscard]] bool has(operation_id operation) const { return answers.contains(operation); }
  answer& at(operation_id operation) { return answers.at(operation); }
  [[nodiscard]] mail_status status(operation_id operation) const { return answers.at(operation).status; }

  exchange core;
  std::map<operation_id, answer> answers;

 private:
  template <class Do>
  void run(Do act) {
    effects out;
    act(out);
    for (answer& made : out.answers) {
      const operation_id operation = made.operation;
      EXPECT_TRUE(answers.emplace(operation, std::move(made)).second) << "answered twice";
    }
  }
  operation_id last_ = 0;
  std::int64_t last_pid_ = 100;
};

TEST(Exchange, GivesAnItemThatItsReceiverDidNotLiveToHaveToTheNextOne) {
  world w;
  const party_id main = w.join(), far = w.join(1, 11, true, true);
  const auto channel = w.create(main, 0);
  const auto first = w.receive(far, channel);
  const auto sent = w.send(main, channel, number(5));
  ASSERT_EQ(w.status(first), mail_status::item);
  EXPECT_TRUE(w.at(first).is_in_hand);
  EXPECT_FALSE(w.has(sent)) << "not taken before it has come";
  w.leave(far);
  const auto second = w.receive(main, channel, true);
  ASSERT_EQ(w.status(second), mail_status::item);
  EXPECT_EQ(number_in(*w.at(second).content), 5u);
  EXPECT_EQ(w.status(sent), mail_status::done);
}

TEST(Exchange, AnItemInHandIsNotWithdrawn) {
  world w;
  const party_id main = w.join(), far = w.join(1, 11, true, true);
  const auto channel = w.create(main, 0);
  const auto got = w.receive(far, channel);
  const auto sent = w.send(main, channel, number(5));
  w.about(main, verb::cancel, sent);
  EXPECT_EQ(w.status(sent), mail_status::done);
  w.about(far, verb::acknowledge, got);
  EXPECT_EQ(w.status(w.receive(main, channel, true)), mail_status::empty);
}

TEST(Exchange, NobodyAcknowledgesCancelsOrAwaitsForOthers) {
  world w;
  const party_id main = w.join(), far = w.join(1, 11, true, true), other = w.join(2, 12, true, true);
  const auto channel = w.create(main, 0);
  const auto got = w.receive(far, channel);
  const auto sent = w.send(main, channel, number(5));
  w.about(other, verb::acknowledge, got);
  EXPECT_FALSE(w.has(sent));
  w.about(other, verb::cancel, sent);
  EXPECT_FALSE(w.has(sent));
  const auto posted = w.send(main, channel, number(6), send_mode::post);
  const auto receipt = static_cast<std::uint64_t>(w.at(posted).number);
  EXPECT_EQ(w.status(w.about(other, verb::receipt_wait, receipt)), mail_status::not_yours);
}

TEST(Exchange, BoundsWhatOnePartyHas) {
  world w;
  party_budget small;
  small.operations = 2;
  small.channels = 1;
  small.bytes = 6;
  w.core.set_budget(small);
  const party_id main = w.join(), far = w.join(1, 11, true, true);
  const auto channel = w.create(main, 100);
  w.create(far, 0);
  request again;
  again.what = verb::create;
  EXPECT_EQ(w.status(w.ask(far, again)), mail_status::too_much);
  EXPECT_EQ(w.status(w.send(far, channel, number(1))), mail_status::done);
  const auto refused = w.send(far, channel, number(1));
  EXPECT_EQ(w.status(refused), mail_status::too_much);
  EXPECT_EQ(w.at(refused).number, static_cast<std::int64_t>(mail_limit::bytes));
  EXPECT_THAT(w.at(refused).facts, testing::ElementsAre(6u));
  EXPECT_EQ(w.status(w.receive(main, channel)), mail_status::item);
  EXPECT_EQ(w.status(w.send(far, channel, number(1))), mail_status::done);
  w.receive(main, channel);
  EXPECT_FALSE(w.has(w.receive(far, channel)));
  EXPECT_FALSE(w.has(w.receive(far, channel)));
  EXPECT_EQ(w.status(w.receive(far, channel)), mail_status::too_much);
}

TEST(Exchange, ADepositThatNobodyFetchesIsGivenBack) {
  world w;
  const party_id main = w.join();
  const auto channel = w.create(main, 0);
  request deposit;
  deposit.what = verb::deposit;
  deposit.key = {1, 2};
  deposit.content = std::make_shared<parcel>();
  deposit.content->attached.push_back({attachment::kind::end, end_kind::sending, channel, 0, nullptr});
  ASSERT_EQ(w.status(w.ask(main, deposit)), mail_status::done);
  w.about(main, verb::drop, 1, channel, end_kind::sending);
  const auto waits = w.receive(main, channel);
  EXPECT_FALSE(w.has(waits)) << "there is a sender on its way";
  request revoke;
  revoke.what = verb::revoke;
  revoke.key = {1, 2};
  w.ask(main, revoke);
  EXPECT_EQ(w.status(waits), mail_status::closed);
}

TEST(Exchange, EndsWithinEndsGoAllTheWayDown) {
  world w;
  const party_id main = w.join();
  // Each channel holds the receiver of the one before, and nobody has any but the last.
  std::int64_t last = w.create(main, 1);
  for (int i = 0; i < 10'000; ++i) {
    const auto outer = w.create(main, 1);
    auto item = number(0);
    item->attached.push_back({attachment::kind::end, end_kind::receiving, last, 0, nullptr});
    ASSERT_EQ(w.status(w.send(main, outer, item)), mail_status::done);
    w.about(main, verb::drop, 1, last, end_kind::receiving);
    w.about(main, verb::drop, 1, last, end_kind::sending);
    last = outer;
  }
  w.about(main, verb::drop, 1, last, end_kind::receiving);
  w.about(main, verb::drop, 1, last, end_kind::sending);
  EXPECT_TRUE(w.core.is_empty());
}

/// Ends that lie in items which nobody can receive are nobody's.
TEST(Exchange, ChannelsThatOnlyHoldEachOtherGo) {
  const auto holding = [](std::int64_t channel, end_kind end) {
    auto item = number(0);
    item->attached.push_back({attachment::kind::end, end, channel, 0, nullptr});
    return item;
  };
  for (const end_kind end : {end_kind::receiving, end_kind::sending}) {
    world w;
    const party_id main = w.join();
    const auto a = w.create(main, 2), b = w.create(main, 2), c = w.create(main, 2);
    w.send(main, a, holding(b, end));
    w.send(main, b, holding(c, end));
    w.send(main, c, holding(a, end));
    w.send(main, c, holding(c, end));
    for (const auto channel : {a, b}) {
      w.about(main, verb::drop, 1, channel, end_kind::receiving);
      w.about(main, verb::drop, 1, channel, end_kind::sending);
    }
    w.about(main, verb::drop, 1, c, end_kind::sending);
    // All of them can still be had through this one, item by item.
    const auto first = w.receive(main, c, true);
    ASSERT_EQ(w.status(first), mail_status::item);
    EXPECT_EQ(w.at(first).content->attached[0].channel, a);
    w.about(main, verb::drop, 1, a, end);
    w.about(main, verb::drop, 1, c, end_kind::receiving);
    EXPECT_TRUE(w.core.is_empty());
  }
}

TEST(Exchange, AQueueThatHoldsItselfGoes) {
  world w;
  const party_id main = w.join();
  const auto queue = w.create(main, 2, unbound::sentinel, true);
  auto item = number(0);
  item->attached.push_back({attachment::kind::end, end_kind::queue, queue, 0, nullptr});
  w.send(main, queue, item);
  EXPECT_FALSE(w.core.is_empty());
  w.about(main, verb::drop, 1, queue, end_kind::queue);
  EXPECT_TRUE(w.core.is_empty());
}

TEST(Exchange, WhoWaitsForAReceiverThatNobodyCanHaveIsTold) {
  world w;
  const party_id main = w.join(), far = w.join(1, 11, true, true);
  const auto inner = w.create(main, 0), outer = w.create(main, 1);
  auto item = number(0);
  item->attached.push_back({attachment::kind::end, end_kind::receiving, inner, 0, nullptr});
  w.send(main, outer, item);
  w.about(main, verb::drop, 1, inner, end_kind::receiving);
  const auto waits = w.send(main, inner, number(1));
  EXPECT_FALSE(w.has(waits)) << "its receiver can be received";
  // In the hand of somebody it can be had as well.
  const auto got = w.receive(far, outer, true);
  ASSERT_EQ(w.status(got), mail_status::item);
  w.about(main, verb::drop, 1, outer, end_kind::receiving);
  EXPECT_FALSE(w.has(waits));
  w.leave(far);
  ASSERT_TRUE(w.has(waits));
  EXPECT_EQ(w.status(waits), mail_status::closed);
}

TEST(Exchange, WhatWaitsOfAnIsolateThatEndsFollowsThePolicy) {
  for (const bool hangs_up_before : {false, true}) {
    world w;
    const party_id main = w.join(), far = w.join(1, 11, true, true);
    const auto channel = w.create(main, 0, unbound::sentinel);
    w.send(far, channel, number(5));
    if (hangs_up_before) w.abandon(far, true);
    w.leave(far);
    EXPECT_EQ(w.status(w.receive(main, channel, true)), mail_status::sentinel);
  }
  // In the hand of another that dies later.
  world w;
  const party_id main = w.join(), far = w.join(1, 11, true, true), other = w.join(2, 12, true, true);
  const auto channel = w.create(main, 0, unbound::sentinel);
  w.send(far, channel, number(5));
  ASSERT_EQ(w.status(w.receive(other, channel, true)), mail_status::item);
  w.leave(far);
  w.leave(other);
  EXPECT_EQ(w.status(w.receive(main, channel, true)), mail_status::sentinel);
}

TEST(Exchange, WhatIsKeptStaysWithTheLastThatKeepsIt) {
  world w;
  const party_id main = w.join(), far = w.join(1, 11, true, true), copy = w.join(2, 12, true, true);
  const auto channel = w.create(main, 0);
  request deposit;
  deposit.what = verb::deposit;
  deposit.key = {1, 2};
  deposit.mode = static_cast<std::uint8_t>(deposit_mode::kept);
  deposit.content = std::make_shared<parcel>();
  deposit.content->attached.push_back({attachment::kind::end, end_kind::sending, channel, 0, nullptr});
  ASSERT_EQ(w.status(w.ask(main, deposit)), mail_status::done);
  w.about(main, verb::drop, 1, channel, end_kind::sending);
  request keep = deposit;
  keep.what = verb::keep;
  keep.content = nullptr;
  request revoke = keep;
  revoke.what = verb::revoke;
  ASSERT_EQ(w.status(w.ask(far, keep)), mail_status::done);
  ASSERT_EQ(w.status(w.ask(far, keep)), mail_status::done);
  ASSERT_EQ(w.status(w.ask(copy, keep)), mail_status::done);
  const auto waits = w.receive(main, channel);
  w.ask(main, revoke);
  w.ask(far, revoke);
  w.ask(main, revoke);  // not its any more
  w.leave(copy);
  EXPECT_FALSE(w.has(waits));
  w.ask(far, revoke);
  ASSERT_TRUE(w.has(waits));
  EXPECT_EQ(w.status(waits), mail_status::closed);
  EXPECT_EQ(w.status(w.ask(far, keep)), mail_status::not_found);
}

// Results of a worker, which are told apart: what has been adopted does not go with it, what it had not sent does.
TEST(Exchange, AResultThatIsAdoptedOutlivesWhoDepositedIt) {
  world w;
  const party_id main = w.join(), far = w.join(0, 0, false, true);
  constexpr std::uint64_t pid_of_far = 102;
  const auto channel = w.create(far, 0);
  request deposit;
  deposit.what = verb::deposit;
  deposit.mode = static_cast<std::uint8_t>(deposit_mode::result);
  for (const std::uint64_t key : {1u, 2u, 3u}) {
    deposit.key = {key, key};
    deposit.content = std::make_shared<parcel>();
    deposit.content->attached.push_back({attachment::kind::end, end_kind::sending, channel, 0, nullptr});
    ASSERT_EQ(w.status(w.ask(far, deposit)), mail_status::done);
  }
  request adopt = deposit;
  adopt.what = verb::adopt;
  adopt.content = nullptr;
  adopt.key = {1, 1};
  adopt.mode = static_cast<std::uint8_t>(deposit_mode::kept);
  w.ask(main, adopt);
  request revoke = adopt;
  revoke.what = verb::revoke;
  revoke.key = {2, 2};
  w.ask(main, revoke);
  w.leave(far);
  w.about(main, verb::revoke_results, pid_of_far);

  request redeem = adopt;
  redeem.what = verb::redeem;
  for (const std::uint64_t key : {2u, 3u}) {
    redeem.key = {key, key};
    EXPECT_EQ(w.status(w.ask(main, redeem)), mail_status::not_found) << key;
  }
  redeem.key = {1, 1};
  EXPECT_EQ(w.status(w.ask(main, redeem)), mail_status::item);
  EXPECT_EQ(w.status(w.ask(main, redeem)), mail_status::item);
  revoke.key = {1, 1};
  w.ask(main, revoke);
  EXPECT_EQ(w.status(w.ask(main, redeem)), mail_status::not_found);
  w.about(main, verb::drop, 2, channel, end_kind::sending);
  w.leave(main);
  EXPECT_TRUE(w.core.is_empty());
}

/// One channel, no deaths: the answers are known exactly.
class simple_channel {
 public:
  explicit simple_channel(std::uint64_t capacity) : capacity_(capacity) {}
  void send(operation_id operation, std::uint32_t value,
            std::map<operation_id, std::pair<mail_status, std::uint32_t>>& out) {
    line_.push_back({operation, value});
    settle(out);
  }
  bool would_take() const { return !waiting_.empty() || line_.size() < capacity_; }
  bool would_give() const { return !line_.empty(); }
  void receive(operation_id operation, std::map<operation_id, std::pair<mail_status, std::uint32_t>>& out) {
    waiting_.push_back(operation);
    settle(out);
  }
  void cancel(operation_id operation, std::map<operation_id, std::pair<mail_status, std::uint32_t>>& out) {
    if (std::erase(waiting_, operation) > 0) out[operation] = {mail_status::withdrawn, 0};
    const auto size = line_.size();
    std::erase_if(line_, [&](const auto& one) { return one.operation == operation && !out.contains(operation); });
    if (line_.size() < size) out[operation] = {mail_status::withdrawn, 0};
    settle(out);
  }

 private:
  struct entry {
    operation_id operation;
    std::uint32_t value;
  };
  void settle(std::map<operation_id, std::pair<mail_status, std::uint32_t>>& out) {
    while (!waiting_.empty() && !line_.empty()) {
      out[waiting_.front()] = {mail_status::item, line_.front().value};
      out.try_emplace(line_.front().operation, mail_status::done, 0u);
      waiting_.pop_front();
      line_.pop_front();
    }
    for (std::size_t i = 0; i < line_.size() && i < capacity_; ++i)
      out.try_emplace(line_[i].operation, mail_status::done, 0u);
  }
  std::uint64_t capacity_;
  std::deque<entry> line_;
  std::deque<operation_id> waiting_;
};

TEST(Exchange, AnswersAsTheSimpleModelDoes) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    std::mt19937 random(seed);
    const std::uint64_t capacity = seed % 4;
    world w;
    const party_id main = w.join();
    const auto channel = w.create(main, capacity);
    simple_channel model(capacity);
    std::map<operation_id, std::pair<mail_status, std::uint32_t>> expected;
    std::vector<operation_id> asked;
    for (std::uint32_t step = 0; step < 300; ++step) {
      switch (random() % 5) {
        case 0:
          asked.push_back(w.send(main, channel, number(step)));
          model.send(asked.back(), step, expected);
          break;
        case 1: {
          const bool takes = model.would_take();
          const auto operation = w.send(main, channel, number(step), send_mode::nowait);
          if (takes) {
            model.send(operation, step, expected);
          } else {
            expected[operation] = {mail_status::not_received, 0};
          }
          break;
        }
        case 2:
          asked.push_back(w.receive(main, channel));
          model.receive(asked.back(), expected);
          break;
        case 3: {
          const bool gives = model.would_give();
          const auto operation = w.receive(main, channel, true);
          if (gives) {
            model.receive(operation, expected);
          } else {
            expected[operation] = {mail_status::empty, 0};
          }
          break;
        }
        default:
          if (asked.empty()) break;
          const operation_id operation = asked[random() % asked.size()];
          w.about(main, verb::cancel, operation);
          model.cancel(operation, expected);
      }
      for (const auto& [operation, what] : expected) {
        ASSERT_TRUE(w.has(operation)) << "seed " << seed << " step " << step;
        ASSERT_EQ(w.status(operation), what.first) << "seed " << seed << " step " << step;
        if (what.first == mail_status::item) {
          ASSERT_EQ(number_in(*w.at(operation).content), what.second);
        }
      }
      // And nothing that the model has not: besides the channel's making.
      ASSERT_EQ(w.answers.size(), expected.size() + 1) << "seed " << seed << " step " << step;
    }
  }
}

/// Processes that come and die at any moment: each item is had once at most, none is lost that has been sent and that
/// no death explains, each sender's come in order, and when all are gone nothing is left.
TEST(Exchange, LosesAndDoublesNothingHoweverPartiesDie) {
  for (unsigned seed = 1; seed <= 150; ++seed) {
    std::mt19937 random(seed);
    world w;
    const party_id main = w.join();
    std::vector<std::int64_t> channels;
    for (const std::uint64_t capacity : {0u, 1u, 5u}) channels.push_back(w.create(main, capacity, unbound::remove));
    std::vector<party_id> alive;
    std::map<operation_id, std::uint32_t> sent;
    std::map<std::uint32_t, party_id> sender_of;
    std::map<operation_id, std::pair<party_id, std::int64_t>> receiving;
    std::set<operation_id> had;
    std::set<std::uint32_t> delivered;
    std::uint32_t next = 0;
    const auto have = [&](operation_id operation) {
      const std::uint32_t value = number_in(*w.at(operation).content);
      ASSERT_TRUE(delivered.insert(value).second) << "seed " << seed << ": had twice";
      had.insert(operation);
    };
    const auto acknowledge_some = [&] {
      for (const auto& [operation, whose] : receiving) {
        const bool lives = std::find(alive.begin(), alive.end(), whose.first) != alive.end();
        if (!w.has(operation) || had.contains(operation) || !lives || random() % 2 == 0) continue;
        if (w.status(operation) != mail_status::item) continue;
        w.about(whose.first, verb::acknowledge, operation);
        have(operation);
        if (::testing::Test::HasFatalFailure()) return;
      }
    };
    for (unsigned step = 0; step < 300; ++step) {
      if (alive.size() < 2 || random() % 20 == 0) alive.push_back(w.join(next, 1000 + step, true, true));
      const party_id who = alive[random() % alive.size()];
      const std::int64_t channel = channels[random() % channels.size()];
      switch (random() % 8) {
        case 0:
        case 1:
        case 2: {
          const auto mode = static_cast<send_mode>(random() % 3);
          sender_of[next] = who;
          sent[w.send(who, channel, number(next), mode)] = next;
          ++next;
          break;
        }
        case 3:
        case 4:
        case 5:
          receiving[w.receive(who, channel, random() % 2 == 0)] = {who, channel};
          break;
        case 6:
          acknowledge_some();
          break;
        default:
          if (random() % 3 == 0) {
            w.leave(who);
            std::erase(alive, who);
          }
      }
      if (HasFatalFailure()) return;
    }
    // Who is left takes what is left.
    for (const auto& [operation, whose] : receiving) {
      const bool lives = std::find(alive.begin(), alive.end(), whose.first) != alive.end();
      if (!lives || had.contains(operation)) continue;
      w.about(whose.first, verb::cancel, operation);
      if (w.status(operation) != mail_status::item) continue;
      w.about(whose.first, verb::acknowledge, operation);
      have(operation);
      if (HasFatalFailure()) return;
    }
    for (const std::int64_t channel : channels) {
      for (;;) {
        const auto operation = w.receive(main, channel, true);
        if (w.status(operation) != mail_status::item) break;
        have(operation);
        if (HasFatalFailure()) return;
      }
    }
    for (const auto& [operation, value] : sent) {
      const bool lives = std::find(alive.begin(), alive.end(), sender_of[value]) != alive.end();
      if (!lives) continue;
      ASSERT_TRUE(w.has(operation)) << "seed " << seed << ": a sender waits for ever";
      const bool was_sent = w.status(operation) == mail_status::done;
      ASSERT_EQ(delivered.contains(value), was_sent) << "seed " << seed << " item " << value;
    }
    for (const party_id who : alive) w.leave(who);
    w.leave(main);
    ASSERT_TRUE(w.core.is_empty()) << "seed " << seed;
  }
}

}  // namespace
