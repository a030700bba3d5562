#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include <pynisher/detail/execute.hpp>

#include "platform/contract.hpp"

namespace pynisher::detail {

namespace {

/// Up to here a reply lives on the heap.
constexpr std::size_t small_reply = std::size_t{1} << 20;

}  // namespace

reply_bytes::reply_bytes(reply_bytes&& other) noexcept
    : memory_(std::exchange(other.memory_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      capacity_(std::exchange(other.capacity_, 0)),
      gone_(std::exchange(other.gone_, 0)),
      begin_(std::exchange(other.begin_, 0)),
      end_(std::exchange(other.end_, 0)) {}

reply_bytes& reply_bytes::operator=(reply_bytes&& other) noexcept {
  reply_bytes old(std::move(*this));
  memory_ = std::exchange(other.memory_, nullptr);
  size_ = std::exchange(other.size_, 0);
  capacity_ = std::exchange(other.capacity_, 0);
  gone_ = std::exchange(other.gone_, 0);
  begin_ = std::exchange(other.begin_, 0);
  end_ = std::exchange(other.end_, 0);
  return *this;
}

reply_bytes::~reply_bytes() { release(); }

void reply_bytes::release() noexcept {
  if (capacity_ > small_reply) {
    platform::release_memory(memory_, capacity_);
  } else {
    std::free(memory_);
  }
}

void reply_bytes::move_to_capacity(std::size_t wanted) {
  std::byte* larger = nullptr;
  if (wanted <= small_reply) {
    larger = static_cast<std::byte*>(std::malloc(wanted));
  } else {
    // Address space costs nothing until it is touched, and moving huge pages costs more than filling them: so a large
    // block is made far too large, where that is allowed and free, and hardly ever moves.
    const std::size_t most = platform::reserved_memory_is_free ? 64 * wanted : wanted;
    for (std::size_t generous = most; larger == nullptr && generous >= wanted; generous /= 2) {
      larger = platform::reserve_memory(generous);
      if (larger != nullptr) wanted = generous;
    }
  }
  if (larger == nullptr) throw std::bad_alloc();
  if (size_ > 0) std::memcpy(larger, memory_, size_);
  release();
  memory_ = larger;
  capacity_ = wanted;
}

std::byte* reply_bytes::grow(std::size_t size) {
  if (size > capacity_ - size_) move_to_capacity(std::max(size_ + size, 2 * capacity_));
  return memory_ + std::exchange(size_, size_ + size);
}

void reply_bytes::drop(std::size_t size) noexcept {
  if (size == 0) return;
  size_ -= size;
  gone_ += size;
  if (size_ > 0) std::memmove(memory_, memory_ + size, size_);
}

void reply_bytes::select(std::size_t begin, std::size_t end) {
  begin_ = begin;
  end_ = end;
}

}  // namespace pynisher::detail
