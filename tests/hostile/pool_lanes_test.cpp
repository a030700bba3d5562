// Workers that lie in the memory that they share with the program.

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <ranges>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/pynisher.hpp>

#include "pool/batch.hpp"
#include "pool/lane.hpp"
#include "pool/lane_end.hpp"
#include "support/pools.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::detail::batch;
using pynisher::detail::lane;
using pynisher::detail::lane_end;
using pynisher::detail::lane_frame;
using pynisher::detail::lane_frame_header;
using pynisher::detail::lane_frame_measured;
using pynisher::detail::reply_bytes;
using state = lane_end::frame::state_kind;

/// The program's end of a lane, and a hand that writes into it as a worker would.
struct forged {
  lane_end end;
  lane& memory = end.memory()->get();
  std::uint64_t written = 0;
  reply_bytes bytes;

  void frame(std::uint32_t kind, std::uint32_t size, std::uint64_t takes) {
    const lane_frame_header header{kind, size, 0};
    std::memcpy(memory.result_bytes() + written % lane::results_size, &header, sizeof header);
    written += takes;
    memory.written.store(written);
  }
  void frame(lane_frame kind, std::uint32_t size) {
    frame(static_cast<std::uint32_t>(kind), size, sizeof(lane_frame_header) + lane::padded(size));
  }
};

TEST(ForgedFrames, HonestOnesAreTaken) {
  forged worker;
  EXPECT_EQ(worker.end.next(&worker.bytes).state, state::none);
  worker.frame(lane_frame::piece, 32);
  worker.frame(lane_frame::value, 8);
  const auto came = worker.end.next(&worker.bytes);
  EXPECT_EQ(came.state, state::came);
  EXPECT_EQ(came.size, 40u);
}

TEST(ForgedFrames, CountersOutOfTheRing) {
  for (const std::uint64_t lie :
       {~std::uint64_t{0}, std::uint64_t{lane::results_size + 16}, std::uint64_t{1}, std::uint64_t{8}}) {
    forged worker;
    worker.memory.written.store(lie);
    EXPECT_EQ(worker.end.next(&worker.bytes).state, state::lies) << lie;
  }
  // Backwards.
  forged worker;
  worker.frame(lane_frame::value, 16);
  EXPECT_EQ(worker.end.next(&worker.bytes).state, state::came);
  worker.memory.written.store(16);
  EXPECT_EQ(worker.end.next(&worker.bytes).state, state::lies);
}

TEST(ForgedFrames, SizesBeyondWhatWasWritten) {
  for (const std::uint32_t size : {17u, 1000u, 0xffff'fff0u, 0xffff'ffffu}) {
    forged worker;
    worker.frame(static_cast<std::uint32_t>(lane_frame::value), size, 32);
    EXPECT_EQ(worker.end.next(&worker.bytes).state, state::lies) << size;
  }
}

TEST(ForgedFrames, UnknownKinds) {
  for (const std::uint32_t kind : {0u, 100u, 0xffff'ffffu, 0x100u}) {
    forged worker;
    worker.frame(kind, 16, 32);
    EXPECT_EQ(worker.end.next(&worker.bytes).state, state::lies) << kind;
  }
}

TEST(ForgedFrames, SkipsThatDoNotReachTheRingsEnd) {
  forged worker;
  worker.frame(lane_frame::skip, 16);
  EXPECT_EQ(worker.end.next(&worker.bytes).state, state::lies);
}

TEST(ForgedFrames, ResultsThatNobodyWaitsFor) {
  for (const lane_frame kind : {lane_frame::piece, lane_frame::value, lane_frame::exception, lane_frame::ready}) {
    forged worker;
    worker.frame(kind, 16);
    EXPECT_EQ(worker.end.next(nullptr).state, state::lies);
  }
}

TEST(ForgedFrames, AMeasureThatIsNotThere) {
  forged worker;
  worker.frame(static_cast<std::uint32_t>(lane_frame::value) | lane_frame_measured, 16, 32);
  EXPECT_EQ(worker.end.next(&worker.bytes).state, state::lies);
}

TEST(ForgedFrames, NoiseIsNeverMoreThanALie) {
  for (std::uint32_t seed = 0; seed < 300; ++seed) {
    std::mt19937 dice(seed);
    forged worker;
    auto* const all = reinterpret_cast<unsigned char*>(worker.memory.result_bytes());
    for (std::size_t i = 0; i < 4096; ++i) all[i] = static_cast<unsigned char>(dice() % (seed % 2 == 0 ? 256 : 12));
    worker.memory.written.store((dice() % 300) * 16);
    for (int i = 0; i < 1000; ++i) {
      const auto came = worker.end.next(&worker.bytes);
      if (came.state != state::came) break;
      ASSERT_LE(came.begin + came.size, worker.bytes.arrived());
    }
    ASSERT_LE(worker.bytes.arrived(), std::size_t{1} << 20);
  }
}

// --- real ones ----------------------------------------------------------------------------------------------------

/// The lane of this worker, as hostile code finds it.
lane* own_lane() {
  std::FILE* const maps = std::fopen("/proc/self/maps", "r");
  char line[512];
  lane* found = nullptr;
  while (std::fgets(line, sizeof line, maps) != nullptr) {
    unsigned long begin = 0, end = 0;
    if (std::sscanf(line, "%lx-%lx", &begin, &end) != 2) continue;
    if (end - begin == (lane::size + 4095) / 4096 * 4096 && std::strstr(line, "memfd:pynisher") != nullptr) {
      found = reinterpret_cast<lane*>(begin);
    }
  }
  std::fclose(maps);
  return found;
}

int lie(int how) {
  lane* const memory = own_lane();
  if (memory == nullptr) return -1;
  switch (how) {
    case 1:
      memory->written.store(~std::uint64_t{0});
      break;
    case 2:
      std::memset(static_cast<void*>(memory), 0xff, lane::size);
      break;
    case 3:
      // A result too many.
      std::memset(static_cast<void*>(memory->result_bytes()), 0, lane::results_size);
      memory->written.fetch_add(lane::results_size);
      break;
    case 4:
      // It has never begun.
      for (auto& slot : memory->slots) slot.state.store(pynisher::detail::lane_slot::sent);
      ::_exit(0);
    case 5:
      memory->item_began.store(std::int64_t{1} << 62);
      for (;;) ::pause();
    default:
      return how;
  }
  for (;;) ::pause();
}

class LyingWorkers : public support::per_kind_of_worker {};
FOR_EACH_KIND_OF_PROCESS(LyingWorkers);

// Each is given a limit, for those that lie and then say nothing more: a worker that nobody rings for is a stuck one.
// What the same worker had done just before, and nobody had taken yet, is lost with its counters.
TEST_P(LyingWorkers, CostNoOtherWorkersItems) {
  auto pool = pynisher::make_pool(with({.workers = 2, .limits = {.wall_time = 2s}}), &lie);
  for (const int how : {1, 2, 3, 4, 5}) {
    std::vector<int> items(12, 0);
    items[3] = how;
    std::size_t count = 0, lost = 0;
    for (auto&& one : pool.map(items)) {
      ++count;
      if (one.index() == 3) {
        EXPECT_FALSE(one.ok()) << how;
      } else if (one.ok()) {
        EXPECT_EQ(one.value(), 0);
      } else {
        try {
          one.value();
        } catch (const pynisher::SerializationException&) {
          ++lost;
        } catch (const pynisher::WallTimeoutException&) {
          // A machine that stands still for two seconds.
        }
      }
    }
    EXPECT_EQ(count, 12u);
    EXPECT_LE(lost, 1u) << how;
  }
}

}  // namespace
