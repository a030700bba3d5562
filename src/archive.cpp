#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include <pynisher/detail/wire/archive.hpp>

#include "platform/contract.hpp"

namespace pynisher::detail {

void throw_wire_error(const char* what) { throw wire_error(what); }

void throw_truncated(std::size_t wanted, std::size_t left) {
  throw wire_error(fmt::format("the bytes end too early: {} wanted, {} left", wanted, left));
}

void input_archive::begin_window(byte_source::window fresh) {
  origin_ = position();
  begin_ = at_ = fresh.data;
  end_ = fresh.data + fresh.size;
}

void input_archive::read_straight(std::byte* to, std::size_t size) {
  const std::size_t here = std::min(size, left());
  if (here > 0) std::memcpy(to, take(here), here);
  if (here == size) return;
  const std::size_t come = source_->read(to + here, size - here);
  origin_ += come;
  if (come < size - here) throw_truncated(size, here + come);
}

void expect_large_block(void* data, std::size_t size) noexcept {
  // Below this a huge page would waste more than it saves.
  constexpr std::size_t worthwhile = std::size_t{4} << 20;
  if (size >= worthwhile) platform::advise_huge_pages(data, size);
}

}  // namespace pynisher::detail
