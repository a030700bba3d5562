#include <pynisher/shared_buffer.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <new>
#include <utility>

#include "platform/contract.hpp"
#include "reply_region.hpp"

namespace pynisher {

namespace {

/// Nobody may make it shorter: that would leave us with addresses that have no memory behind them.
bool keeps_its_size(int file) {
  const int seals = ::fcntl(file, F_GET_SEALS);
  return seals >= 0 && (seals & F_SEAL_SHRINK) != 0;
}

struct stat status_of(int file) {
  struct stat status {};
  if (::fstat(file, &status) != 0) status.st_size = 0;
  return status;
}

}  // namespace

class shared_buffer::mapping {
 public:
  mapping(platform::unique_fd file, std::size_t bytes)
      : file_(std::move(file)), memory_(file_.get(), bytes), size_(bytes) {}
  [[nodiscard]] int file() const { return file_.get(); }
  [[nodiscard]] std::byte* data() const { return memory_.data(); }
  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  platform::unique_fd file_;
  detail::mapped_file memory_;
  std::size_t size_;
};

shared_buffer::shared_buffer(std::shared_ptr<mapping> memory)
    : memory_(std::move(memory)),
      data_(memory_->data()),
      size_(memory_->size()),
      identity_(status_of(memory_->file()).st_ino) {}

shared_buffer::shared_buffer(std::size_t bytes) {
  if (bytes == 0) return;
  // Not one of a call's: what a child inherits of it stays with it.
  const platform::call_fd made = platform::make_memory_file(bytes);
  platform::unique_fd file(made ? ::fcntl(made.get(), F_DUPFD_CLOEXEC, 3) : -1);
  if (!file) throw std::bad_alloc();
  *this = shared_buffer(std::make_shared<mapping>(std::move(file), bytes));
}

void shared_buffer::save(detail::output_archive& out) const {
  out(static_cast<std::uint64_t>(size_));
  if (memory_) detail::write_descriptor(out, memory_->file());
}

void shared_buffer::load(detail::input_archive& in) {
  *this = shared_buffer();
  std::uint64_t size = 0;
  in(size);
  if (size == 0) return;
  platform::unique_fd file(detail::read_descriptor(in));
  const auto there = static_cast<std::uint64_t>(status_of(file.get()).st_size);
  if (!file || size > there || !keeps_its_size(file.get())) {
    detail::throw_wire_error("a shared buffer is not what it says");
  }
  *this = shared_buffer(std::make_shared<mapping>(std::move(file), static_cast<std::size_t>(size)));
}

}  // namespace pynisher
