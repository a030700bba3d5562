// Workers that lie in the memory that they share with the program.

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <ranges>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/pynisher.hpp>

#include "pool/batch.hpp"
#include "pool/descriptors.hpp"
#include "pool/lane.hpp"
#include "pool/lane_end.hpp"
#include "pool/lane_server.hpp"
#include "support/pools.hpp"
#include "support/processes.hpp"

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

TEST(ForgedFrames, AttachmentsThatAreNotThereOrWhereNoneCanBe) {
  using pynisher::detail::lane_frame_attached;
  for (const auto kind : {lane_frame::value, lane_frame::exception}) {
    for (const std::uint32_t size : {8u, 16u, 24u}) {
      forged worker;
      worker.frame(static_cast<std::uint32_t>(kind) | lane_frame_attached, size,
                   sizeof(lane_frame_header) + lane::padded(size));
      const bool fits = kind == lane_frame::value && size >= 16;
      const auto came = worker.end.next(&worker.bytes);
      EXPECT_EQ(came.state, fits ? state::came : state::lies);
      if (fits) {
        EXPECT_EQ(came.size, size - 16);
        EXPECT_TRUE(came.attached);
      }
    }
  }
}

// --- a worker that is halted --------------------------------------------------------------------------------------

std::atomic<int> begun{0}, may_end{0};
void begin_and_wait(void* /*nothing*/, pynisher::detail::input_archive& in, pynisher::detail::output_archive& out) {
  int number = 0;
  in(number);
  begun = number;
  support::await([number] { return may_end >= number; });
  out(number);
}
constexpr pynisher::detail::task_entry waiting_entry{pynisher::detail::task_entry::own_stamp, 1, &begin_and_wait};

// Who ends a worker for an item must know that it has not begun with the next one.
TEST(HaltedWorkers, BeginNothingMoreUntilTheyMayGoOn) {
  lane_end end;
  std::array<pynisher::platform::call_fd, pynisher::detail::descriptors_of_lane> received;
  ASSERT_TRUE(pynisher::detail::receive_descriptors(end.workers_socket(), received));
  std::jthread worker([&] {
    pynisher::detail::lane_server server(end.memory()->get(), std::span(received).subspan(1), -1, false);
    server.live([](const std::function<void(void*)>& serve) { serve(nullptr); });
  });
  reply_bytes words;
  support::await([&] { return end.next(&words).state == state::came; });

  // The last two are items of one message.
  std::array<batch, 2> messages;
  for (int i = 0; i < 2; ++i) {
    batch& one = messages[static_cast<std::size_t>(i)];
    pynisher::detail::item_packer packer(false);
    packer.pack([i](auto& out) { out(i + 1); });
    if (i == 1) packer.pack([](auto& out) { out(3); });
    one.items = packer.items();
    one.entry = &waiting_entry;
    one.packed = packer.take();
    end.push(one);
  }
  for (int item = 1; item <= 3; ++item) {
    support::await([item] { return begun == item; });
    end.halt();
    may_end = item;
    batch& of = messages[item == 1 ? 0 : 1];
    support::await([&] { return end.next(&of.replies).state == state::came; });
    if (item != 2) end.first_is_over();
    // There is no sign of its not beginning: it has the time to do wrong.
    std::this_thread::sleep_for(20ms);
    EXPECT_EQ(begun, item);
    end.go_on();
  }
  end.close();
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
// What the same worker had done just before, and nobody had taken yet, is lost with its counters; nothing that it has
// begun is given to another one.
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
