// Attacks that need nothing but what a child of any start method has.

#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "hostile/attack.hpp"
#include "support/scenarios.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using hostile::expect_verdict;
using hostile::find_region;
using hostile::on_a_victim;
using hostile::reply_region;
using hostile::Survived;
using pynisher::limit;
using pynisher::verdict;

class Hostile : public support::per_start_method {};
FOR_EACH_START_METHOD(Hostile);

constexpr std::size_t large = std::size_t{3} << 20;  // does not fit into what is shared

void nap() {
  constexpr timespec moment{0, 200'000};
  ::nanosleep(&moment, nullptr);
}

// --- the forkserver -----------------------------------------------------------------------------------------------

/// To the server, whatever it is at, and to the child that waits.
int send_to_helpers(int signal) {
  const pid_t program = ::getppid(), server = hostile::find_helper(program, "pynisher-forks");
  if (server != 0) {
    ::kill(server, signal);
    if (signal == SIGKILL) support::await_gone(server);
  }
  while (const pid_t waiting = hostile::find_helper(program, "pynisher-waits")) {
    ::kill(waiting, signal);
    if (signal != SIGKILL) break;
    support::await_gone(waiting);
  }
  return 42;
}

TEST_P(Hostile, KillingTheForkserverAndTheWaitingChildEndsNoCall) {
  EXPECT_THAT(on_a_victim(
                  [] {
                    const auto call = limit(send_to_helpers, unlimited());
                    for (int i = 0; i < 5; ++i) {
                      const auto result = call.try_call(SIGKILL);
                      expect_verdict(result, {verdict::returned});
                      HELPER_CHECK(*result == 42);
                    }
                  },
                  GetParam()),
              Survived());
}

int answer() { return 42; }

// The server makes a new one whenever the last has gone.
TEST_P(Hostile, KillingOneWaitingChildAfterAnotherFailsNoCall) {
  if (GetParam() != pynisher::start_method::forkserver) GTEST_SKIP() << "no child waits";
  EXPECT_THAT(
      on_a_victim(
          [] {
            const auto call = limit(answer, unlimited());
            for (const int count : {1, 2, 20}) {
              HELPER_CHECK(call() == 42);
              for (int killed = 0; killed < count; ++killed) {
                pid_t waiting = 0;
                support::await([&] { return (waiting = hostile::find_helper(::getpid(), "pynisher-waits")) != 0; });
                ::kill(waiting, SIGKILL);
                support::await_gone(waiting);
              }
              HELPER_CHECK(call() == 42);
            }
          },
          GetParam()),
      Survived());
}

/// Asleep within that system call.
bool waits_in(pid_t pid, long call) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/syscall");
  long number = -1;
  return file >> number && number == call && support::process_state(pid) == 'S';
}

// With nobody to read them the announcements fill the socket, and the server waits with a child that it has not told of.
TEST_P(Hostile, AServerThatIsKilledBeforeItTellsOfAChildLeavesNone) {
  if (GetParam() != pynisher::start_method::forkserver) GTEST_SKIP() << "no server";
  if (!std::ifstream("/proc/self/syscall").good()) GTEST_SKIP() << "the kernel does not tell what a process waits in";
  EXPECT_THAT(on_a_victim(
                  [] {
                    const auto call = limit(answer, unlimited());
                    HELPER_CHECK(call() == 42);
                    const pid_t server = hostile::find_helper(::getpid(), "pynisher-forks");
                    while (!waits_in(server, SYS_sendmsg)) {
                      const pid_t waiting = hostile::find_helper(::getpid(), "pynisher-waits");
                      if (waiting == 0) continue;
                      ::kill(waiting, SIGKILL);
                      support::await_gone(waiting);
                    }
                    ::kill(server, SIGKILL);
                    support::await_gone(server);
                    HELPER_CHECK(call() == 42);
                  },
                  GetParam()),
              Survived());
}

// A stopped server fails a call that needs it, and is replaced. Children that it has made before still serve.
TEST_P(Hostile, StoppingTheForkserverAndTheWaitingChildIsGotOver) {
  EXPECT_THAT(on_a_victim(
                  [] {
                    const auto call = limit(send_to_helpers, with({.wall_time = 2s}));
                    HELPER_CHECK(call(0) == 42);
                    const pid_t stopped = hostile::find_helper(::getpid(), "pynisher-forks");
                    expect_verdict(call.try_call(SIGSTOP), {verdict::returned});
                    for (bool returned = false; !returned;) {
                      const auto result = call.try_call(0);
                      expect_verdict(result, {verdict::returned, verdict::start_failed, verdict::wall_timeout});
                      returned = result.verdict() == verdict::returned &&
                                 (stopped == 0 || hostile::find_helper(::getpid(), "pynisher-forks") != stopped);
                    }
                  },
                  GetParam()),
              Survived());
}

// --- descriptors --------------------------------------------------------------------------------------------------

TEST_P(Hostile, GarbageSentOnEverySocketIsNobodysTrouble) {
  EXPECT_THAT(on_a_victim(
                  [] {
                    const auto call = limit(
                        [] {
                          // Some of them as long as what the library sends.
                          const std::string garbage(600, '\x5a');
                          for (const int fd : hostile::open_descriptors()) {
                            for (std::size_t size = 0; size <= garbage.size(); size += 4) {
                              ::send(fd, garbage.data(), size, MSG_DONTWAIT | MSG_NOSIGNAL);
                            }
                            ::shutdown(fd, SHUT_RDWR);
                          }
                          return 42;
                        },
                        unlimited());
                    for (int i = 0; i < 3; ++i) HELPER_CHECK(call() == 42);
                  },
                  GetParam()),
              Survived());
}

TEST_P(Hostile, NoSocketOfTheLibrarysIsThereToSendOn) {
  EXPECT_THAT(on_a_victim(
                  [] {
                    const auto call = limit(
                        [] {
                          const auto is_socket = [](int fd) { return hostile::link_of(fd).starts_with("socket:"); };
                          return static_cast<int>(std::ranges::count_if(hostile::open_descriptors(), is_socket));
                        },
                        unlimited());
                    for (int i = 0; i < 3; ++i) HELPER_CHECK(call() == 0);
                  },
                  GetParam()),
              Survived());
}

// --- in the middle of a reply -------------------------------------------------------------------------------------

enum class in_the_middle : int { executes, stops, trickles };

/// Packs more than is shared, and then does something else.
struct unfinished {
  in_the_middle what = in_the_middle::executes;
  template <class Archive>
  void save(Archive& archive) const {
    const std::string piece(large, 'p');
    archive(cereal::make_size_tag(static_cast<cereal::size_type>(64 * piece.size())));
    archive(cereal::binary_data(piece.data(), piece.size()));
    switch (what) {
      case in_the_middle::executes:
        ::execl("/bin/sh", "sh", "-c", "exit 7", static_cast<char*>(nullptr));
        break;
      case in_the_middle::stops:
        ::raise(SIGSTOP);
        break;
      case in_the_middle::trickles:
        for (;;) {
          archive(cereal::binary_data(piece.data(), 1000));
          nap();
        }
    }
  }
  template <class Archive>
  void load(Archive& archive) {
    std::string all;
    archive(all);
  }
};
unfinished leave_unfinished(int what) { return {static_cast<in_the_middle>(what)}; }

TEST_P(Hostile, AnotherProgramInTheMiddleOfAReplyIsItsEnd) {
  EXPECT_THAT(on_a_victim(
                  [] {
                    const auto result =
                        limit(leave_unfinished, unlimited()).try_call(static_cast<int>(in_the_middle::executes));
                    expect_verdict(result, {verdict::exited});
                    try {
                      result.value();
                    } catch (const pynisher::ExitException& e) {
                      HELPER_CHECK(e.exit_code() == 7);
                    }
                  },
                  GetParam()),
              Survived());
}

TEST_P(Hostile, ChildrenThatDawdleOrStopInTheMiddleOfAReplyEndAtTheWallLimit) {
  for (const auto what : {in_the_middle::stops, in_the_middle::trickles}) {
    EXPECT_THAT(on_a_victim(
                    [what] {
                      const auto call = limit(leave_unfinished, with({.wall_time = 300ms}));
                      expect_verdict(call.try_call(static_cast<int>(what)), {verdict::wall_timeout});
                    },
                    GetParam()),
                Survived());
  }
}

/// Says one more byte at a time, and rings for each.
[[noreturn]] void drip_slowly() {
  reply_region* region = find_region();
  const auto bells = hostile::doorbells();
  for (;;) {
    region->written.fetch_add(1);
    const std::uint64_t one = 1;
    for (const int bell : bells) [[maybe_unused]] const ssize_t ignored = ::write(bell, &one, sizeof one);
    nap();
  }
}

TEST_P(Hostile, SingleBytesThatAreRungForDoNotPutOffTheWallLimit) {
  EXPECT_THAT(on_a_victim(
                  [] {
                    const auto call = limit([] { drip_slowly(); }, with({.wall_time = 300ms}));
                    expect_verdict(call.try_call(), {verdict::wall_timeout});
                  },
                  GetParam()),
              Survived());
}

void stop_with_a_full_ring(bool rings) {
  reply_region* region = find_region();
  region->child_waits.store(1);
  region->written.store(region->consumed.load() + reply_region::ring_size);
  const std::uint64_t one = 1;
  for (const int bell : hostile::doorbells()) {
    if (rings) [[maybe_unused]]
      const ssize_t ignored = ::write(bell, &one, sizeof one);
  }
  ::raise(SIGSTOP);
}

TEST_P(Hostile, StoppingWithAFullRingEndsAtTheWallLimit) {
  for (const bool rings : {false, true}) {
    EXPECT_THAT(on_a_victim(
                    [rings] {
                      const auto call = limit(stop_with_a_full_ring, with({.wall_time = 200ms}));
                      expect_verdict(call.try_call(rings), {verdict::wall_timeout});
                    },
                    GetParam()),
                Survived());
  }
}

// --- the shared memory --------------------------------------------------------------------------------------------

/// Writes `what` into one word of the header, and then goes on, leaves, or crashes.
std::string spoil(std::size_t word, std::uint64_t what, bool wide, int then) {
  auto* words = reinterpret_cast<std::uint32_t*>(find_region());
  std::atomic_ref(words[word]).store(static_cast<std::uint32_t>(what));
  if (wide) std::atomic_ref(words[word + 1]).store(static_cast<std::uint32_t>(what >> 32));
  if (then == 1) ::_exit(3);
  if (then == 2) support::write_to_null();
  return std::string(300, 'r');
}

/// What a set-up that fails would leave behind.
void claim_a_failed_start(std::uint64_t not_begun) {
  reply_region* region = find_region();
  region->failed_stage.store(static_cast<std::uint32_t>(pynisher::detail::start_stage::memory_limit));
  region->failed_errno.store(EPERM);
  region->not_begun.store(not_begun);
  region->ready.store(0);
  region->go.store(0);
  ::_exit(1);
}

TEST_P(Hostile, NoFunctionPassesForOneThatDidNotBegin) {
  SKIP_UNLESS_SUPPORTED("memory");
  EXPECT_THAT(on_a_victim(
                  [] {
                    for (const auto& limits : {unlimited(), with({.memory = 64_MiB, .cpu_time = 10s})}) {
                      const auto call = limit(claim_a_failed_start, limits);
                      for (const std::uint64_t number : {std::uint64_t{0}, std::uint64_t{1}}) {
                        const auto result = call.try_call(number);
                        expect_verdict(result, {verdict::exited});
                      }
                    }
                  },
                  GetParam()),
              Survived());
}

/// Says that it still waits to be measured, or wants to be measured again, in the middle of taking twice the limit.
void take_unmeasured(std::uint32_t ready, bool shared) {
  constexpr std::size_t piece = std::size_t{48} << 20;
  reply_region* region = find_region();
  region->ready.store(ready);
  for (int i = 0; i < 2; ++i) {
    const int kind = MAP_ANONYMOUS | (shared ? MAP_SHARED : MAP_PRIVATE);
    void* const memory = ::mmap(nullptr, piece, PROT_READ | PROT_WRITE, kind, -1, 0);
    std::memset(memory, 1, piece);
    // No longer what the kernel's limit counts.
    ::mprotect(memory, piece, PROT_READ);
    region->ready.store(ready);
    const std::uint64_t one = 1;
    for (const int bell : hostile::doorbells()) [[maybe_unused]] const ssize_t ignored = ::write(bell, &one, sizeof one);
    for (int moment = 0; moment < 250; ++moment) nap();
  }
  support::sleep_forever();
}

TEST_P(Hostile, NoFunctionHasASayInWhenItIsMeasured) {
  SKIP_UNLESS_SUPPORTED("memory");
  for (const std::uint32_t ready : {0u, 1u, 2u}) {
    for (const bool shared : {false, true}) {
      EXPECT_THAT(on_a_victim(
                      [ready, shared] {
                        const auto call = limit(take_unmeasured, with({.memory = 64_MiB, .wall_time = 25s}));
                        expect_verdict(call.try_call(ready, shared), {verdict::memory_limit});
                      },
                      GetParam()),
                  Survived());
    }
  }
}

TEST_P(Hostile, NoFieldOfTheSharedMemoryDoesHarm) {
  EXPECT_THAT(on_a_victim(
                  [] {
                    constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
                    const auto call = limit(spoil, with({.wall_time = 500ms}));
                    for (std::size_t word = 0; word + 1 < sizeof(reply_region) / 4; ++word) {
                      for (const std::uint64_t what : {std::uint64_t{0}, std::uint64_t{1}, most, most / 2}) {
                        const int then = static_cast<int>(word + what % 3) % 3;
                        const auto result = call.try_call(word, what, word % 2 == 0, then);
                        HELPER_CHECK(!result.explain().empty());
                        HELPER_CHECK(result.has_value() == (result.verdict() == verdict::returned));
                        HELPER_CHECK(result.usage().wall_time > 0ns);
                        if (then == 0 && result.has_value()) HELPER_CHECK(*result == std::string(300, 'r'));
                      }
                    }
                  },
                  GetParam()),
              Survived());
}

}  // namespace
