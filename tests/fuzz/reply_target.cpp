// The parent's whole way of reading a reply, played against a child that writes what it likes where it likes: counters,
// ring, commit record, and then the bytes as value, exception or text.
//
// An input is a program for the child: one byte that says what to write, then the value.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <span>

#include "exception_frame.hpp"
#include "fuzz/archive_shapes.hpp"
#include "fuzz/reply_program.hpp"
#include "fuzz/thrown_samples.hpp"
#include "reply_region.hpp"

namespace {

using namespace pynisher::detail;

constexpr std::uint64_t largest = std::uint64_t{4} << 20;

reply_region& fresh_region() {
  static const reply_region_owner owner(false);
  return *new (&owner.get()) reply_region{};
}

void read_as_the_parent_does(reply_reader::reply reply) {
  if (!reply.well_formed || reply.kind == reply_kind::none) {
    if (reply.bytes.size() != 0) std::abort();
    return;
  }
  if (reply.bytes.size() > largest || reply.bytes.begin() > largest) std::abort();
  input_archive in(reply.bytes.data(), reply.bytes.size(), reply.bytes.begin());
  try {
    if (reply.kind == reply_kind::exception) {
      (void)read_exception(in);
    } else if (reply.kind == reply_kind::unsendable) {
      std::string text;
      in(text);
    } else {
      fuzz::tree value;
      in(value);
      in.expect_end();
    }
  } catch (const std::exception&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using fuzz::act;
  reply_region& region = fresh_region();
  reply_reader reader(region, largest);
  std::span input(data, size);
  std::uint64_t ring_at = 0;
  while (!input.empty()) {
    const auto what = static_cast<act>(input[0] % fuzz::act_count);
    input = input.subspan(1);
    std::uint64_t value = 0;
    const auto width = std::min<std::size_t>(input.size(), sizeof value);
    std::memcpy(&value, input.data(), width);
    input = input.subspan(width);
    switch (what) {
      case act::set_written:
        region.written.store(value);
        break;
      case act::write_bytes: {
        const auto length = std::min<std::uint64_t>(value % 4096, input.size());
        for (std::uint64_t i = 0; i < length; ++i) {
          region.ring()[ring_at++ % reply_region::ring_size] = static_cast<std::byte>(input[i]);
        }
        input = input.subspan(length);
        region.written.fetch_add(length);
        break;
      }
      case act::skip_bytes:
        ring_at += value % (2 * reply_region::ring_size);
        region.written.fetch_add(value % (2 * reply_region::ring_size));
        break;
      case act::set_consumed:
        region.consumed.store(value);
        break;
      case act::set_waits:
        region.child_waits.store(static_cast<std::uint32_t>(value));
        region.parent_waits.store(static_cast<std::uint32_t>(value >> 32));
        break;
      case act::set_kind:
        region.kind.store(static_cast<std::uint32_t>(value));
        break;
      case act::set_begin:
        region.begin.store(value);
        break;
      case act::set_end:
        region.end.store(value);
        break;
      case act::commit:
        region.committed.store(static_cast<std::uint32_t>(value));
        break;
      case act::parent_takes:
        if (reader.take() != reply_reader::state::fine && reader.take() == reply_reader::state::fine) std::abort();
        break;
    }
  }
  read_as_the_parent_does(reader.finish());
  return 0;
}
