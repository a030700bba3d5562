// The reply's way through shared memory, both ends in one process: first by turns, then from two threads.

#include "reply_region.hpp"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "platform/contract.hpp"

namespace {

using namespace pynisher::detail;
using pynisher::platform::doorbell;
using state = reply_reader::state;

constexpr std::uint64_t unlimited = std::uint64_t{1} << 40;
constexpr auto ring = reply_region::ring_size;

struct channel {
  reply_region_owner owner{false};
  doorbell bell;
  reply_region& region = owner.get();
  reply_writer writer{region, bell.descriptor()};
  output_archive archive{writer, writer.first()};
  /// As before a fork: the first ring is asked for before there is anybody to ring.
  channel() { region.parent_waits.store(1); }
};

std::string text_of(const reply_bytes& bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

std::string pattern(std::size_t size, unsigned seed = 1) {
  std::string text(size, '\0');
  std::uint32_t value = seed;
  for (auto& c : text) c = static_cast<char>((value = value * 1664525u + 1013904223u) >> 24);
  return text;
}

// --- by turns -----------------------------------------------------------------------------------------------

TEST(ReplyRegion, IsZeroAtFirst) {
  const channel c;
  EXPECT_EQ(c.region.written.load(), 0u);
  EXPECT_EQ(c.region.committed.load(), 0u);
  EXPECT_EQ(c.region.failed_stage.load(), 0u);
}

TEST(Reply, ArrivesAsItWasWritten) {
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{1000}, reply_region::window_size,
                                 reply_region::window_size + 1, ring - 1, ring}) {
    channel c;
    const std::string sent = pattern(size);
    c.archive.write(sent.data(), sent.size());
    c.writer.commit(reply_kind::value, 0, c.archive);
    reply_reader reader(c.region, unlimited);
    auto reply = reader.finish();
    EXPECT_TRUE(reply.well_formed) << size;
    EXPECT_EQ(reply.kind, reply_kind::value) << size;
    EXPECT_TRUE(text_of(reply.bytes) == sent) << size;
  }
}

TEST(Reply, WithoutACommitIsNoReply) {
  channel c;
  const std::string sent = pattern(200'000);
  c.archive.write(sent.data(), sent.size());
  reply_reader reader(c.region, unlimited);
  EXPECT_EQ(reader.take(), state::fine);
  EXPECT_FALSE(reader.complete());
  const auto reply = reader.finish();
  EXPECT_EQ(reply.kind, reply_kind::none);
  EXPECT_TRUE(reply.well_formed) << "nothing was claimed";
  EXPECT_EQ(reply.bytes.size(), 0u);
}

TEST(Reply, MayBeginLaterThanItsBytes) {
  channel c;
  const std::string given_up = pattern(300'000), sent = pattern(1000, 7);
  c.archive.write(given_up.data(), given_up.size());
  const auto begin = c.archive.position();
  c.archive.write(sent.data(), sent.size());
  c.writer.commit(reply_kind::exception, begin, c.archive);
  reply_reader reader(c.region, unlimited);
  const auto reply = reader.finish();
  EXPECT_EQ(reply.kind, reply_kind::exception);
  EXPECT_EQ(reply.bytes.begin(), given_up.size());
  EXPECT_TRUE(text_of(reply.bytes) == sent);
}

TEST(Reply, OfNoBytesNeedsNoMemoryToBePacked) {
  channel c;
  c.writer.commit_without_bytes(reply_kind::out_of_memory);
  reply_reader reader(c.region, unlimited);
  EXPECT_TRUE(reader.complete());
  const auto reply = reader.finish();
  EXPECT_TRUE(reply.well_formed);
  EXPECT_EQ(reply.kind, reply_kind::out_of_memory);
}

TEST(Reply, OfNoBytesMayFollowBytesThatWereGivenUp) {
  channel c;
  const std::string given_up = pattern(3 * reply_region::window_size);
  c.archive.write(given_up.data(), given_up.size());
  c.writer.commit_without_bytes(reply_kind::out_of_memory);
  reply_reader reader(c.region, unlimited);
  const auto reply = reader.finish();
  EXPECT_TRUE(reply.well_formed);
  EXPECT_EQ(reply.kind, reply_kind::out_of_memory);
  EXPECT_EQ(reply.bytes.size(), 0u);
}

TEST(Reply, WrapsAroundTheRing) {
  channel c;
  reply_reader reader(c.region, unlimited);
  std::string sent;
  for (int turn = 0; turn < 50; ++turn) {
    const std::string piece = pattern(100'003, static_cast<unsigned>(turn) + 1);
    sent += piece;
    c.archive.write(piece.data(), piece.size());
    ASSERT_EQ(reader.take(), state::fine);
  }
  ASSERT_GT(sent.size(), 4 * ring);
  c.writer.commit(reply_kind::value, 0, c.archive);
  const auto reply = reader.finish();
  EXPECT_TRUE(reply.well_formed);
  EXPECT_TRUE(text_of(reply.bytes) == sent);
}

// --- what a child may claim -----------------------------------------------------------------------------------

TEST(LyingCounters, AreNoticed) {
  for (const std::uint64_t written : {ring + 1, std::uint64_t{1} << 32, ~std::uint64_t{0}}) {
    const channel c;
    reply_reader reader(c.region, unlimited);
    c.region.written.store(written);
    EXPECT_EQ(reader.take(), state::lies) << written;
    EXPECT_EQ(reader.take(), state::lies) << "once a liar, always a liar";
    c.region.written.store(10);
    EXPECT_EQ(reader.take(), state::lies);
  }
}

TEST(LyingCounters, MayNotGoBack) {
  const channel c;
  reply_reader reader(c.region, unlimited);
  c.region.written.store(1000);
  ASSERT_EQ(reader.take(), state::fine);
  c.region.written.store(999);
  EXPECT_EQ(reader.take(), state::lies);
}

TEST(LyingCounters, MakeTheReplyWorthNothing) {
  const channel c;
  reply_reader reader(c.region, unlimited);
  c.region.kind.store(static_cast<std::uint32_t>(reply_kind::value));
  c.region.committed.store(1);
  c.region.written.store(ring + 1);
  const auto reply = reader.finish();
  EXPECT_FALSE(reply.well_formed);
  EXPECT_EQ(reply.kind, reply_kind::none);
  EXPECT_EQ(reply.bytes.size(), 0u);
}

// The parent's own counters lie in the same memory. It must not believe them either.
TEST(LyingCounters, TheParentsOwnAreNotReadBack) {
  const channel c;
  reply_reader reader(c.region, unlimited);
  c.region.written.store(100);
  ASSERT_EQ(reader.take(), state::fine);
  c.region.consumed.store(~std::uint64_t{0});
  c.region.room_bell.store(12345);
  c.region.written.store(200);
  ASSERT_EQ(reader.take(), state::fine);
  EXPECT_EQ(c.region.consumed.load(), 200u);
}

TEST(Flood, EndsAtWhatTheParentIsReadyToHold) {
  const channel c;
  reply_reader reader(c.region, 1000);
  c.region.written.store(1000);
  EXPECT_EQ(reader.take(), state::fine);
  c.region.written.store(1001);
  EXPECT_EQ(reader.take(), state::too_large);
  c.region.kind.store(static_cast<std::uint32_t>(reply_kind::value));
  c.region.end.store(1001);
  c.region.committed.store(1);
  EXPECT_FALSE(reader.finish().well_formed);
}

TEST(CommitRecord, MakesSenseOnlyWhereItFitsWhatArrived) {
  const auto kind = [](reply_kind k) { return static_cast<std::uint32_t>(k); };
  for (const auto k : {reply_kind::value, reply_kind::exception, reply_kind::out_of_memory, reply_kind::unsendable}) {
    EXPECT_TRUE(makes_sense({kind(k), 0, 0}, 0));
    EXPECT_TRUE(makes_sense({kind(k), 0, 100}, 100));
    EXPECT_TRUE(makes_sense({kind(k), 100, 100}, 100));
  }
  EXPECT_FALSE(makes_sense({kind(reply_kind::none), 0, 100}, 100));
  EXPECT_FALSE(makes_sense({kind(reply_kind::unsendable) + 1, 0, 100}, 100));
  EXPECT_FALSE(makes_sense({~0u, 0, 100}, 100));
  EXPECT_FALSE(makes_sense({kind(reply_kind::value), 101, 100}, 100));
  EXPECT_FALSE(makes_sense({kind(reply_kind::value), 0, 99}, 100)) << "fewer than arrived";
  EXPECT_FALSE(makes_sense({kind(reply_kind::value), 0, 101}, 100)) << "more than arrived";
  EXPECT_FALSE(makes_sense({kind(reply_kind::value), ~std::uint64_t{0}, 100}, 100));
  EXPECT_FALSE(makes_sense({kind(reply_kind::value), 0, ~std::uint64_t{0}}, 100));
  EXPECT_FALSE(makes_sense({kind(reply_kind::value), ~std::uint64_t{0}, ~std::uint64_t{0}}, 100));
}

TEST(CommitRecord, ThatDoesNotFitMakesTheReplyIllFormed) {
  const channel c;
  c.region.written.store(100);
  c.region.kind.store(static_cast<std::uint32_t>(reply_kind::value));
  c.region.begin.store(5);
  c.region.end.store(4);
  c.region.committed.store(1);
  reply_reader reader(c.region, unlimited);
  const auto reply = reader.finish();
  EXPECT_FALSE(reply.well_formed);
  EXPECT_EQ(reply.kind, reply_kind::none);
}

TEST(CommitRecord, CountsOnlyWithItsFlag) {
  const channel c;
  c.region.kind.store(static_cast<std::uint32_t>(reply_kind::value));
  reply_reader reader(c.region, unlimited);
  EXPECT_FALSE(reader.complete());
  EXPECT_EQ(reader.finish().kind, reply_kind::none);
}

TEST(StartStages, HaveNames) {
  for (std::uint32_t stage = 0; stage <= static_cast<std::uint32_t>(start_stage::memory_limit); ++stage) {
    EXPECT_STRNE(to_string(static_cast<start_stage>(stage)), "unknown stage") << stage;
  }
  EXPECT_STREQ(to_string(static_cast<start_stage>(~0u)), "unknown stage");
}

// --- from two threads -----------------------------------------------------------------------------------------

/// Plays the parent until the reply is there or worth nothing.
reply_reader::reply received(channel& c, reply_reader& reader, std::thread& child) {
  while (!reader.complete()) {
    if (reader.take() != state::fine) break;
    // The next ring, or the commit of a reply too small to be rung for.
    const timespec moment{0, 1'000'000};
    nanosleep(&moment, nullptr);
    c.bell.clear();
  }
  child.join();
  return reader.finish();
}

TEST(LargeReply, GoesThroughASmallRing) {
  channel c;
  const std::string sent = pattern(20 * ring + 12345);
  std::thread child([&] {
    c.archive.write(sent.data(), sent.size());
    c.writer.commit(reply_kind::value, 0, c.archive);
  });
  reply_reader reader(c.region, unlimited);
  const auto reply = received(c, reader, child);
  EXPECT_TRUE(reply.well_formed);
  EXPECT_TRUE(text_of(reply.bytes) == sent);
}

TEST(LargeReply, GoesThroughInPiecesOfAnySize) {
  for (unsigned seed = 1; seed <= 5; ++seed) {
    channel c;
    std::string sent;
    std::thread child([&] {
      std::mt19937 random(seed);
      while (sent.size() < 4 * ring) {
        const std::string piece = pattern(random() % 5 == 0 ? random() % (2 * ring) : random() % 1000, seed);
        sent += piece;
        c.archive.write(piece.data(), piece.size());
      }
      c.writer.commit(reply_kind::value, 0, c.archive);
    });
    reply_reader reader(c.region, unlimited);
    const auto reply = received(c, reader, child);
    EXPECT_TRUE(reply.well_formed);
    EXPECT_TRUE(text_of(reply.bytes) == sent) << "seed " << seed;
  }
}

TEST(LargeReply, EndsWithTheBellWhileTheParentWaitsForIt) {
  channel c;
  const std::string sent = pattern(3 * ring);
  std::thread child([&] {
    c.archive.write(sent.data(), sent.size());
    c.writer.commit(reply_kind::value, 0, c.archive);
  });
  reply_reader reader(c.region, unlimited);
  // Nothing but the bell: a ring that is missed would leave both sides waiting for ever.
  while (!reader.complete()) {
    eventfd_t rings = 0;
    ::fcntl(c.bell.descriptor(), F_SETFL, ::fcntl(c.bell.descriptor(), F_GETFL) & ~O_NONBLOCK);
    ASSERT_EQ(::eventfd_read(c.bell.descriptor(), &rings), 0);
    ASSERT_EQ(reader.take(), state::fine);
  }
  child.join();
  EXPECT_TRUE(text_of(reader.finish().bytes) == sent);
}

// A child that publishes a byte at a time, and never pauses for long, must not keep the parent from its deadlines:
// those are looked at by whoever calls take(). The bytes come from a timer's signal in this thread, so that they come
// however busy the machine is.
namespace endless {
reply_region* region = nullptr;
volatile std::sig_atomic_t bytes_left = 0;
void publish_one(int /*signal*/) {
  if (bytes_left == 0) return;
  bytes_left = bytes_left - 1;
  region->written.fetch_add(1);
}
}  // namespace endless

TEST(EndlessReply, DoesNotKeepTheReaderForGood) {
  const channel c;
  c.region.written.store(2 * reply_region::window_size);
  endless::region = &c.region;
  endless::bytes_left = 20'000;
  struct sigaction action{};
  action.sa_handler = endless::publish_one;
  action.sa_flags = SA_RESTART;
  ASSERT_EQ(::sigaction(SIGALRM, &action, nullptr), 0);
  const itimerval often{{0, 20}, {0, 20}}, never{};
  ASSERT_EQ(::setitimer(ITIMER_REAL, &often, nullptr), 0);
  reply_reader reader(c.region, unlimited);
  (void)reader.take();
  const auto left = endless::bytes_left;
  ::setitimer(ITIMER_REAL, &never, nullptr);
  ::signal(SIGALRM, SIG_DFL);
  EXPECT_GT(left, 0) << "the reader stayed until the child had nothing more to say";
}

TEST(ChangingCounters, DoNoHarmWhileTheyAreRead) {
  const channel c;
  std::atomic<bool> stop{false};
  std::thread liar([&] {
    std::mt19937_64 random(7);
    while (!stop) {
      c.region.written.store(random() % (2 * ring));
      c.region.begin.store(random());
      c.region.end.store(random() % (2 * ring));
      c.region.kind.store(static_cast<std::uint32_t>(random() % 7));
      c.region.committed.store(static_cast<std::uint32_t>(random() % 2));
      c.region.child_waits.store(static_cast<std::uint32_t>(random() % 3));
    }
  });
  for (int i = 0; i < 2000; ++i) {
    reply_reader reader(c.region, unlimited);
    for (int j = 0; j < 5; ++j) (void)reader.take();
    const auto reply = reader.finish();
    // Whatever came out of it, its bytes are bytes that can be read.
    unsigned sum = 0;
    for (std::size_t j = 0; j < reply.bytes.size(); j += 1000) sum += static_cast<unsigned>(reply.bytes.data()[j]);
    ASSERT_TRUE(sum > 0 || reply.bytes.size() < 100'000'000);
  }
  stop = true;
  liar.join();
}

// --- read as it comes -------------------------------------------------------------------------------------------

void send(channel& c, reply_kind kind, const std::string& bytes) {
  c.archive.write(bytes.data(), bytes.size());
  c.writer.commit(kind, 0, c.archive);
}

/// What `reader` gives straight away, in pieces of `piece` at most.
std::string taken_straight(reply_reader& reader, std::size_t piece) {
  std::string taken;
  std::vector<std::byte> room(piece);
  for (;;) {
    const std::size_t some = reader.take_to(room.data(), room.size());
    if (some == 0) return taken;
    taken.append(reinterpret_cast<const char*>(room.data()), some);
  }
}

TEST(ReadAsItComes, GoesWhereItBelongsAndIsKeptNowhere) {
  channel c;
  const std::string sent = pattern(ring);
  send(c, reply_kind::value, sent);
  reply_reader reader(c.region, unlimited);
  EXPECT_TRUE(reader.has_some());
  EXPECT_TRUE(taken_straight(reader, 10'007) == sent);
  EXPECT_FALSE(reader.has_some());
  EXPECT_FALSE(reader.will_be_rung());
  auto reply = reader.finish();
  EXPECT_TRUE(reply.well_formed);
  EXPECT_EQ(reply.kind, reply_kind::value);
  EXPECT_TRUE(reply.bytes.is_gone());
  EXPECT_EQ(reply.bytes.size(), sent.size());
}

TEST(ReadAsItComes, EndsWhereTheValueWasGivenUp) {
  const std::string value = pattern(300'000, 1), why = pattern(200'000, 2);
  for (const bool some_is_here : {false, true}) {
    channel c;
    c.archive.write(value.data(), value.size());
    reply_reader reader(c.region, unlimited);
    std::string got;
    if (some_is_here) {
      reader.take_at_once();
      const auto here = reader.here();
      got.assign(reinterpret_cast<const char*>(here.data), here.size);
      reader.drop(here.size);
    }
    c.writer.give_up(c.archive.position());
    c.writer.give_up(c.archive.position() + 7);  // only the first counts
    c.archive.write(why.data(), why.size());
    c.writer.commit(reply_kind::exception, value.size(), c.archive);
    EXPECT_TRUE(got + taken_straight(reader, 4096) == value) << some_is_here;
    reader.take_at_once();
    EXPECT_EQ(reader.here().size, 0u);
    auto reply = reader.finish();
    EXPECT_TRUE(reply.well_formed);
    EXPECT_EQ(reply.kind, reply_kind::exception);
    EXPECT_TRUE(text_of(reply.bytes) == why) << some_is_here;
  }
}

TEST(ReadAsItComes, OnlyAValueMayBeGone) {
  channel c;
  const std::string sent = pattern(10'000);
  send(c, reply_kind::exception, sent);
  reply_reader reader(c.region, unlimited);
  EXPECT_TRUE(taken_straight(reader, 1000) == sent);
  EXPECT_FALSE(reader.finish().well_formed);
}

TEST(ReadAsItComes, EndsAtCountersThatCannotBe) {
  channel c;
  c.region.written.store(ring + 1);
  reply_reader reader(c.region, unlimited);
  EXPECT_EQ(taken_straight(reader, 100), "");
  EXPECT_EQ(reader.how(), state::lies);
  EXPECT_FALSE(reader.will_be_rung());
}

TEST(ReadAsItComes, AnOldEndOfTheValueTakesNothingBack) {
  channel c;
  const std::string sent = pattern(10'000);
  send(c, reply_kind::value, sent);
  reply_reader reader(c.region, unlimited);
  std::byte some[100];
  EXPECT_EQ(reader.take_to(some, sizeof some), sizeof some);
  // A child that lies: where the value is said to have ended, reading has gone on already.
  c.region.value_ends.store(51);
  EXPECT_EQ(reader.take_to(some, sizeof some), 0u);
  reader.take_at_once();
  EXPECT_EQ(reader.here().size, 0u);
}

// --- the bytes' own house ---------------------------------------------------------------------------------------

TEST(ReplyBytes, KeepWhatTheyHoldWhenTheyGrowAndMove) {
  reply_bytes bytes;
  std::string sent;
  for (const std::size_t size : {std::size_t{1}, std::size_t{100}, std::size_t{500'000}, std::size_t{700'000},
                                 std::size_t{5'000'000}, std::size_t{300'000'000 / 16}}) {
    const std::string piece = pattern(size, static_cast<unsigned>(size));
    std::memcpy(bytes.grow(size), piece.data(), size);
    sent += piece;
  }
  EXPECT_EQ(bytes.arrived(), sent.size());
  reply_bytes moved = std::move(bytes);
  reply_bytes assigned;
  (void)assigned.grow(10);
  assigned = std::move(moved);
  assigned.select(0, sent.size());
  EXPECT_TRUE(text_of(assigned) == sent);
  assigned.select(3, 10);
  EXPECT_EQ(text_of(assigned), sent.substr(3, 7));
}

TEST(ReplyBytes, KeepTheirPlacesWhenTheFirstOnesAreGivenUp) {
  reply_bytes bytes;
  const std::string sent = pattern(1000);
  std::memcpy(bytes.grow(600), sent.data(), 600);
  bytes.drop(500);
  EXPECT_EQ(bytes.size_here(), 100u);
  std::memcpy(bytes.grow(400), sent.data() + 600, 400);
  EXPECT_EQ(bytes.arrived(), sent.size());
  reply_bytes moved;
  moved = std::move(bytes);
  moved.select(550, 1000);
  EXPECT_FALSE(moved.is_gone());
  EXPECT_EQ(text_of(moved), sent.substr(550));
  moved.select(499, 1000);
  EXPECT_TRUE(moved.is_gone());
  EXPECT_EQ(moved.data(), nullptr);
}

TEST(ReplyBytes, ThrowWhereThereIsNoMemory) {
  reply_bytes bytes;
  EXPECT_THROW((void)bytes.grow(std::size_t{1} << 60), std::bad_alloc);
  EXPECT_EQ(bytes.arrived(), 0u);
}

}  // namespace
