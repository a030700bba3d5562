// Functions that write into the memory which they share with their parent.

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "hostile/attack.hpp"
#include "support/handshake.hpp"
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
using pynisher::detail::reply_kind;

// --- commit records -----------------------------------------------------------------------------------------------

void commit(std::uint32_t kind, std::uint64_t written, std::uint64_t begin, std::uint64_t end) {
  reply_region* region = find_region();
  region->written.store(written);
  region->kind.store(kind);
  region->begin.store(begin);
  region->end.store(end);
  region->committed.store(1);
}

constexpr auto value = static_cast<std::uint32_t>(reply_kind::value);
constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();

struct lie {
  const char* name;
  std::uint32_t kind;
  std::uint64_t written, begin, end;
  friend void PrintTo(const lie& l, std::ostream* os) { *os << l.name; }
};

class CommitRecords : public ::testing::TestWithParam<lie> {};

TEST_P(CommitRecords, ThatLieAreAProtocolError) {
  EXPECT_THAT(on_a_victim([told = GetParam()] {
                const auto result = limit([told] {
                                      commit(told.kind, told.written, told.begin, told.end);
                                      ::_exit(0);
                                      return 7;
                                    }).try_call();
                expect_verdict(result, {verdict::protocol_error});
              }),
              Survived());
}

INSTANTIATE_TEST_SUITE_P(
    Of, CommitRecords,
    ::testing::Values(lie{"no_kind", 0, 4, 0, 4}, lie{"unknown_kind", 5, 4, 0, 4},
                      lie{"huge_kind", 0xffffffff, 4, 0, 4}, lie{"begin_after_end", value, 4, 5, 4},
                      lie{"end_before_what_came", value, 8, 0, 4}, lie{"end_after_what_came", value, 4, 0, 5},
                      lie{"end_at_the_end_of_numbers", value, 4, 0, most},
                      lie{"all_at_the_end_of_numbers", value, most, most, most},
                      lie{"more_written_than_the_ring_holds", value, reply_region::ring_size + 1, 0,
                          reply_region::ring_size + 1},
                      lie{"nothing_came", value, 0, 0, 0}, lie{"too_few_bytes", value, 3, 0, 3},
                      lie{"too_many_bytes", value, 5, 0, 5},
                      lie{"an_exception_of_zeros", static_cast<std::uint32_t>(reply_kind::exception), 64, 0, 64},
                      lie{"an_exception_of_a_whole_ring", static_cast<std::uint32_t>(reply_kind::exception),
                          reply_region::ring_size, 0, reply_region::ring_size},
                      lie{"a_reason_of_no_bytes", static_cast<std::uint32_t>(reply_kind::unsendable), 0, 0, 0}),
    [](const auto& told) { return std::string(told.param.name); });

TEST(ForgedReply, OutOfMemoryWithoutALimitIsAnOrdinaryBadAlloc) {
  EXPECT_THAT(on_a_victim([] {
                const auto result = limit([] {
                                      commit(static_cast<std::uint32_t>(reply_kind::out_of_memory), 0, 0, 0);
                                      ::_exit(1);
                                    }).try_call();
                expect_verdict(result, {verdict::raised});
                bool arrived = false;
                try {
                  result.value();
                } catch (const std::bad_alloc&) {
                  arrived = true;
                } catch (...) {
                }
                HELPER_CHECK(arrived);
              }),
              Survived());
}

// --- what the kernel knows better -----------------------------------------------------------------------------------

void claim_failed_start() {
  find_region()->failed_errno.store(12);
  find_region()->failed_stage.store(3);
}

TEST(ForgedReply, AClaimedFailureOfTheStartDoesNotHideATimeout) {
  EXPECT_THAT(on_a_victim([] {
                const auto result = limit(
                                        [] {
                                          claim_failed_start();
                                          support::sleep_forever();
                                        },
                                        {.wall_time = 100ms})
                                        .try_call();
                expect_verdict(result, {verdict::wall_timeout});
              }),
              Survived());
}

TEST(ForgedReply, AClaimedFailureOfTheStartDoesNotHideACrash) {
  EXPECT_THAT(on_a_victim([] {
                const auto result = limit([] {
                                      claim_failed_start();
                                      ::raise(SIGKILL);
                                    }).try_call();
                expect_verdict(result, {verdict::signalled});
              }),
              Survived());
}

TEST(ForgedReply, ACommittedValueDoesNotMakeTheCallOutlastItsLimit) {
  EXPECT_THAT(on_a_victim([] {
                const auto result = limit(
                                        [] {
                                          commit(value, 4, 0, 4);
                                          support::sleep_forever();
                                          return 7;
                                        },
                                        {.wall_time = 100ms})
                                        .try_call();
                expect_verdict(result, {verdict::returned, verdict::wall_timeout});
              }),
              Survived());
}

// Somebody else reaps, so that the child's own count is all there is.
TEST(ForgedReply, ClaimedUsageBeyondAllNumbersIsOnlyWrong) {
  EXPECT_THAT(on_a_victim([] {
                ::signal(SIGCHLD, SIG_IGN);
                for (const std::uint64_t claim : {most, most / 2, std::uint64_t{1} << 63}) {
                  const auto result = limit(
                                          [claim] {
                                            reply_region* region = find_region();
                                            region->user_ns.store(claim);
                                            region->system_ns.store(claim);
                                            region->peak.store(claim);
                                            region->first_peak.store(most - claim);
                                            region->page_faults.store(claim);
                                            ::raise(SIGKILL);
                                          },
                                          {.cpu_time = 10s})
                                          .try_call();
                  expect_verdict(result, {verdict::signalled, verdict::exited, verdict::cpu_timeout});
                  HELPER_CHECK(!result.explain().empty());
                  HELPER_CHECK(result.usage().user_time >= 0ns && result.usage().system_time >= 0ns);
                }
              }),
              Survived());
}

// --- time and memory of the parent -----------------------------------------------------------------------------------

void ring(const std::vector<int>& bells) {
  const std::uint64_t one = 1;
  for (const int bell : bells) [[maybe_unused]] const ssize_t ignored = ::write(bell, &one, sizeof one);
}

/// Forks a helper that has the shared memory too, which the library keeps from what its children fork.
pid_t fork_with(reply_region* region) {
  ::madvise(region, reply_region::size, MADV_DOFORK);
  return ::fork();
}

/// Publishes one more byte whenever one was taken: there is always a little more to come. The parent is kept slow by a
/// claim that somebody waits for it, and hopeful by a reply that is large already.
[[noreturn]] void drip(reply_region* region, std::atomic<bool>* dripping) {
  const auto bells = hostile::doorbells();
  region->child_waits.store(1);
  region->written.store(2 * reply_region::window_size);
  ring(bells);
  for (std::uint64_t turn = 0;; ++turn) {
    const std::uint64_t consumed = region->consumed.load();
    if (region->written.load() == consumed) region->written.store(consumed + 1);
    if (turn % 1'000'000 == 0) ring(bells);
    dripping->store(true);
  }
}

// A helper of the child's does it, since the child itself is frozen by a timer of the kernel's at its limit.
TEST(ForgedReply, BytesThatKeepComingDoNotOutlastTheWallLimit) {
  EXPECT_THAT(on_a_victim([] {
                const support::shared_flag dripping;
                const auto result = limit(
                                        [dripping = dripping.get()] {
                                          reply_region* region = find_region();
                                          if (fork_with(region) == 0) drip(region, dripping);
                                          support::sleep_forever();
                                        },
                                        {.wall_time = 200ms})
                                        .try_call();
                HELPER_CHECK(dripping->load());
                expect_verdict(result, {verdict::wall_timeout, verdict::protocol_error});
              }),
              Survived());
}

TEST(ForgedReply, BytesThatKeepComingAfterTheChildsEndAreNotWaitedFor) {
  support::process_log log;
  EXPECT_THAT(on_a_victim([path = log.path()] {
                const support::shared_flag dripping;
                const auto result = limit(
                                        [dripping = dripping.get(), path] {
                                          reply_region* region = find_region();
                                          if (fork_with(region) == 0) {
                                            support::log_process(path.c_str());
                                            drip(region, dripping);
                                          }
                                          support::await_flag(*dripping);
                                          region->kind.store(value);
                                          region->committed.store(1);
                                          ::_exit(0);
                                        },
                                        {.terminate_child_processes = false})
                                        .try_call();
                expect_verdict(result, {verdict::protocol_error});
              }),
              Survived());
}

TEST(ForgedReply, AFloodEndsAtABoundThatFollowsTheMemoryLimit) {
  SKIP_UNLESS_SUPPORTED("memory");
  EXPECT_THAT(on_a_victim([] {
                const std::uint64_t before = hostile::resident_peak();
                const auto result = limit(
                                        [] {
                                          reply_region* region = find_region();
                                          const auto bells = hostile::doorbells();
                                          for (;;) {
                                            region->written.store(region->consumed.load() + reply_region::ring_size);
                                            ring(bells);
                                          }
                                        },
                                        {.memory = 16_MiB})
                                        .try_call();
                expect_verdict(result, {verdict::protocol_error});
                HELPER_CHECK(hostile::resident_peak() - before < std::uint64_t{600} << 20);
              }),
              Survived());
}

/// Packs a count that its bytes back, of elements that are far larger than their bytes.
struct inflated {
  std::deque<std::array<std::vector<int>, 512>> blocks;
  template <class Archive>
  void save(Archive& ar) const {
    constexpr std::size_t count = 1 << 18;
    ar(cereal::make_size_tag(static_cast<cereal::size_type>(count)));
    const std::vector<char> zeros(count, '\0');
    ar(cereal::binary_data(zeros.data(), zeros.size()));
  }
  template <class Archive>
  void load(Archive& ar) {
    ar(blocks);
  }
};

// 256 KiB that claim 2^18 blocks of 12 KiB each: 3 GiB if they are made before they are read.
TEST(ForgedReply, ACountOfLargeElementsDoesNotReserveThemAhead) {
  EXPECT_THAT(on_a_victim([] {
                const std::uint64_t before = hostile::resident_peak();
                const auto result = limit([] { return inflated{}; }).try_call();
                expect_verdict(result, {verdict::protocol_error});
                HELPER_CHECK(hostile::resident_peak() - before < std::uint64_t{256} << 20);
              }),
              Survived());
}

void throw_chain(int depth, const std::string& text) {
  try {
    if (depth == 0) throw std::runtime_error(text);
    throw_chain(depth - 1, text);
  } catch (const std::runtime_error&) {
    if (depth == 0) throw;
    std::throw_with_nested(std::runtime_error("and so on"));
  }
}

// A text at the bottom of a chain is part of every text above it.
TEST(ForgedReply, ALongTextBelowManyCausesDoesNotMultiplyInTheParent) {
  EXPECT_THAT(on_a_victim([] {
                const std::uint64_t before = hostile::resident_peak();
                const auto result = limit([] { throw_chain(30, std::string(std::size_t{16} << 20, 'x')); }).try_call();
                expect_verdict(result, {verdict::raised, verdict::protocol_error});
                HELPER_CHECK(hostile::resident_peak() - before < std::uint64_t{256} << 20);
              }),
              Survived());
}

// --- the mapping itself
// -----------------------------------------------------------------------------------------------

class SharedMapping : public support::per_start_method {};
FOR_EACH_START_METHOD(SharedMapping);

TEST_P(SharedMapping, WithoutTheRegionTheChildDiesByItself) {
  EXPECT_THAT(on_a_victim(
                  [] {
                    const auto result = limit(
                                            [] {
                                              ::munmap(find_region(), reply_region::size);
                                              return 7;
                                            },
                                            unlimited())
                                            .try_call();
                    expect_verdict(result, {verdict::signalled});
                  },
                  GetParam()),
              Survived());
}

TEST_P(SharedMapping, AProtectedRegionKillsOnlyTheChild) {
  EXPECT_THAT(on_a_victim(
                  [] {
                    const auto result = limit(
                                            [] {
                                              ::mprotect(find_region(), reply_region::size, PROT_NONE);
                                              return 7;
                                            },
                                            unlimited())
                                            .try_call();
                    expect_verdict(result, {verdict::signalled});
                  },
                  GetParam()),
              Survived());
}

TEST_P(SharedMapping, AValueWrittenIntoAnotherMappingNeverArrived) {
  EXPECT_THAT(on_a_victim(
                  [] {
                    const auto result = limit(
                                            [] {
                                              ::mmap(find_region(), reply_region::size, PROT_READ | PROT_WRITE,
                                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
                                              return 7;
                                            },
                                            unlimited())
                                            .try_call();
                    expect_verdict(result, {verdict::exited});
                  },
                  GetParam()),
              Survived());
}

TEST_P(SharedMapping, PagesThrownAwayAreZerosToTheParent) {
  EXPECT_THAT(on_a_victim(
                  [] {
                    const auto result = limit(
                                            [] {
                                              ::madvise(find_region(), reply_region::size, MADV_REMOVE);
                                              ::_exit(3);
                                            },
                                            unlimited())
                                            .try_call();
                    expect_verdict(result, {verdict::exited});
                  },
                  GetParam()),
              Survived());
}

// --- at random
// ----------------------------------------------------------------------------------------------------------

/// Scribbles over header and ring, mostly values at which a careless comparison turns over, and ends in some way.
void scribble(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  auto* bytes = reinterpret_cast<unsigned char*>(find_region());
  const auto number = [&random]() -> std::uint64_t {
    static constexpr std::uint64_t edges[] = {0,
                                              1,
                                              2,
                                              3,
                                              4,
                                              reply_region::ring_size - 1,
                                              reply_region::ring_size,
                                              reply_region::ring_size + 1,
                                              2 * reply_region::ring_size,
                                              reply_region::window_size,
                                              0x7fffffff,
                                              0x80000000,
                                              0xffffffff,
                                              most / 2,
                                              most / 2 + 1,
                                              most - 1,
                                              most};
    return random() % 4 == 0 ? random() : edges[random() % std::size(edges)];
  };
  const auto header_words = sizeof(reply_region) / 4;
  const int rounds = 1 + static_cast<int>(random() % 8);
  for (int round = 0; round < rounds; ++round) {
    const std::uint64_t writes = 1 + random() % 16;
    for (std::uint64_t i = 0; i < writes; ++i) {
      const std::uint64_t what = number();
      std::memcpy(bytes + 4 * (random() % (header_words - 1)), &what, random() % 2 == 0 ? 4 : 8);
    }
    const std::uint64_t spots = random() % 256;
    for (std::uint64_t i = 0; i < spots; ++i) {
      bytes[reply_region::header_size + random() % (i % 2 == 0 ? 256 : reply_region::ring_size)] =
          static_cast<unsigned char>(random());
    }
    ring(hostile::doorbells());
    if (random() % 2 == 0) std::this_thread::yield();
  }
  switch (random() % 8) {
    case 0:
      support::end_by(support::ending::throws);
      break;
    case 1:
      support::end_by(support::ending::segfault);
      break;
    case 2:
      support::end_by(support::ending::calls_underscore_exit);
      break;
    case 3:
      support::end_by(support::ending::calls_exit);
      break;
    case 4:
      if (random() % 4 == 0) support::end_by(support::ending::sleeps);
      break;
    default:
      break;
  }
}

class Scribbling : public ::testing::TestWithParam<std::tuple<pynisher::start_method, std::uint64_t>> {};

/// Any child may ask for the way to the exchange, which stays once it serves.
void have_the_exchange_serve() {
  const auto items = pynisher::create_queue<int>();
  pynisher::limit([](pynisher::queue<int> there) { there.put(1); }, {.context = pynisher::start_method::fork})(items);
}

TEST_P(Scribbling, OverTheSharedMemoryLeavesTheParentWhole) {
  const auto [method, first] = GetParam();
  const support::shared_counter at;
  const auto end = on_a_victim(
      [method, first, at = at.get()] {
        const std::uint64_t before = hostile::resident_peak();
        const auto guarded = limit(
            [](std::uint64_t seed) {
              scribble(seed);
              return std::vector<std::string>(seed % 3 == 0 ? 40'000 : 3, "a value in the midst of it");
            },
            {.wall_time = 100ms, .context = method, .warnings = false});
        for (std::uint64_t seed = first; seed < first + 100; ++seed) {
          at->store(static_cast<long>(seed));
          const auto result = guarded.try_call(seed);
          HELPER_CHECK(!result.explain().empty());
          HELPER_CHECK(result.has_value() == (result.verdict() == verdict::returned));
          HELPER_CHECK(result.usage().wall_time > 0ns);
        }
        HELPER_CHECK(hostile::resident_peak() - before < std::uint64_t{256} << 20);
      },
      method, have_the_exchange_serve);
  EXPECT_THAT(end, Survived()) << "with seed " << at->load();
}

INSTANTIATE_TEST_SUITE_P(From, Scribbling,
                         ::testing::Combine(::testing::ValuesIn(pynisher::start_methods()),
                                            ::testing::Values(0, 100, 200, 300, 400)),
                         [](const auto& p) {
                           return support::method_name(std::get<0>(p.param)) + "_" +
                                  std::to_string(std::get<1>(p.param));
                         });

}  // namespace
