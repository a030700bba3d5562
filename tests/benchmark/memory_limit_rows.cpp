// How much more than its limit a call can get hold of.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include <sys/mman.h>

#include <pynisher/pynisher.hpp>

#include "proc_facts.hpp"
#include "row.hpp"
#include "shared_board.hpp"

namespace pynisher_benchmark {

namespace {

using namespace pynisher::literals;

constexpr std::size_t step = std::size_t{64} << 10;

struct board {
  std::atomic<std::uint64_t> held{0};
};

/// Maps and touches, piece by piece, until it is refused.
void take_all(int kind, board& told) {
  for (;;) {
    void* piece = mmap(nullptr, step, PROT_READ | PROT_WRITE, kind | MAP_ANONYMOUS, -1, 0);
    if (piece == MAP_FAILED) throw std::bad_alloc();
    auto* bytes = static_cast<volatile char*>(piece);
    for (std::size_t i = 0; i < step; i += 4096) bytes[i] = 1;
    told.held.fetch_add(step);
  }
}

double overshoot(int kind, pynisher::memory_measure measure, std::uint64_t had) {
  constexpr std::uint64_t room = std::uint64_t{64} << 20;
  const shared_board<board> told;
  const auto limited =
      pynisher::limit([&] { take_all(kind, *told.operator->()); },
                      {.memory = pynisher::memory_size(had + room), .measure = measure, .warnings = false});
  const auto result = limited.try_call();
  expect(result.verdict() == pynisher::verdict::memory_limit, "no memory limit");
  const std::uint64_t held = told->held.load();
  expect(held >= room / 2, "refused long before the limit");
  return held > room ? static_cast<double>(held - room) : 0;
}

row memory_row(std::string name, std::string what, int kind, pynisher::memory_measure measure) {
  const bool absolute = measure == pynisher::memory_measure::address_space;
  return {.name = "overshoot/memory_" + std::move(name),
          .what = std::move(what),
          .in = unit::bytes,
          .bar = 0,
          .rounds = 20,
          .smoke_rounds = 2,
          .measure = [=](benchmark::State& state) {
            // What a child begins with, less the reply's memory, which does not count. The library keeps other memory of
            // its own from it.
            constexpr std::uint64_t reply = std::uint64_t{1} << 20;
            const auto begins_with = pynisher::limit(mapped_bytes, {.warnings = false});
            return alone(state, [&] { return overshoot(kind, measure, absolute ? begins_with() - reply : 0); });
          }};
}

}  // namespace

std::vector<row> memory_limit_rows() {
  using pynisher::memory_measure;
  std::vector<row> rows;
  if (pynisher::supports(pynisher::feature::memory_address_space)) {
    rows.push_back(memory_row("address_space", "memory limit, overshoot, address space", MAP_PRIVATE,
                              memory_measure::address_space));
  }
  if (pynisher::supports(pynisher::feature::memory_growth)) {
    rows.push_back(
        memory_row("growth", "memory limit, overshoot, growth, private memory", MAP_PRIVATE, memory_measure::growth));
    row shared =
        memory_row("shared", "memory limit, overshoot, growth, shared memory", MAP_SHARED, memory_measure::growth);
    shared.bar.reset();  // watched, not refused
    rows.push_back(std::move(shared));
  }
  return rows;
}

}  // namespace pynisher_benchmark
