#include <algorithm>
#include <cstdlib>
#include <new>
#include <utility>

#include <pynisher/detail/execute.hpp>

namespace pynisher::detail {

reply_bytes::reply_bytes(reply_bytes&& other) noexcept
    : memory_(std::exchange(other.memory_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      capacity_(std::exchange(other.capacity_, 0)),
      begin_(std::exchange(other.begin_, 0)),
      end_(std::exchange(other.end_, 0)) {}

reply_bytes& reply_bytes::operator=(reply_bytes&& other) noexcept {
  reply_bytes old(std::move(*this));
  memory_ = std::exchange(other.memory_, nullptr);
  size_ = std::exchange(other.size_, 0);
  capacity_ = std::exchange(other.capacity_, 0);
  begin_ = std::exchange(other.begin_, 0);
  end_ = std::exchange(other.end_, 0);
  return *this;
}

reply_bytes::~reply_bytes() { std::free(memory_); }

std::byte* reply_bytes::grow(std::size_t size) {
  if (size > capacity_ - size_) {
    // realloc moves pages instead of bytes where the block is large.
    const std::size_t wanted = std::max(size_ + size, 2 * capacity_);
    auto* larger = static_cast<std::byte*>(std::realloc(memory_, wanted));
    if (larger == nullptr) throw std::bad_alloc();
    memory_ = larger;
    expect_large_block(memory_, wanted);
    capacity_ = wanted;
  }
  return memory_ + std::exchange(size_, size_ + size);
}

void reply_bytes::select(std::size_t begin, std::size_t end) {
  begin_ = begin;
  end_ = end;
}

}  // namespace pynisher::detail
