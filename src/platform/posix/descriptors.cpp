#include "descriptors.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <utility>

#include "../contract.hpp"
#include "../forked_page.hpp"

namespace pynisher::platform {

unique_fd::unique_fd(int fd) : fd_(fd) {
  constexpr int first_free = 3;
  if (fd < 0 || fd >= first_free) return;
  fd_ = ::fcntl(fd, F_DUPFD_CLOEXEC, first_free);
  const int error = errno;
  ::close(fd);
  errno = error;
}

unique_fd& unique_fd::operator=(unique_fd&& other) noexcept {
  unique_fd old(std::move(*this));
  fd_ = std::exchange(other.fd_, -1);
  return *this;
}

[[gnu::hot]] unique_fd::~unique_fd() {
  if (fd_ >= 0) close_descriptor(fd_);
}

namespace {

constexpr listed_descriptors& listed = on_forked_page.listed;

void list_descriptor(int fd) noexcept {
  if (const pid_t self = process_number(); listed.owner.load(std::memory_order_relaxed) != self) {
    for (std::size_t place = 0; place < listed.places_used.load(); ++place) listed.places[place].store(0);
    listed.owner.store(self);
  }
  for (std::size_t place = 0; place < listed_descriptors::most; ++place) {
    int empty = 0;
    if (listed.places[place].load(std::memory_order_relaxed) != 0 ||
        !listed.places[place].compare_exchange_strong(empty, fd + 1)) {
      continue;
    }
    std::size_t used = listed.places_used.load();
    while (used <= place && !listed.places_used.compare_exchange_weak(used, place + 1)) {
    }
    return;
  }
}

void unlist_descriptor(int fd) noexcept {
  for (std::size_t place = 0; place < listed.places_used.load(); ++place) {
    int taken = fd + 1;
    if (listed.places[place].load(std::memory_order_relaxed) == taken &&
        listed.places[place].compare_exchange_strong(taken, 0)) {
      return;
    }
  }
}

}  // namespace

call_fd::call_fd(int fd) : unique_fd(fd) {
  if (get() >= 0) list_descriptor(get());
}

call_fd& call_fd::operator=(call_fd&& other) noexcept {
  // What was here goes from the list as well.
  const call_fd old(std::move(*this));
  unique_fd::operator=(std::move(other));
  return *this;
}

[[gnu::hot]] call_fd::~call_fd() {
  if (get() >= 0) unlist_descriptor(get());
}

[[gnu::hot]] void close_descriptors_of_calls(int own_doorbell, int own_conversation) noexcept {
  const std::size_t used = listed.places_used.load();
  for (std::size_t place = 0; place < used; ++place) {
    const int fd = listed.places[place].load() - 1;
    // Its own stay listed: what this process calls must not have them.
    if (fd < 0 || fd == own_doorbell || fd == own_conversation) continue;
    listed.places[place].store(0);
    close_descriptor_in_child(fd);
  }
  listed.owner.store(process_number());
}

bool write_file(int file, const std::byte* data, std::size_t size) noexcept {
  while (size > 0) {
    const ssize_t written = ::write(file, data, size);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    data += written;
    size -= static_cast<std::size_t>(written);
  }
  return true;
}

void close_received(int descriptor) noexcept { ::close(descriptor); }

// As they are numbered by whoever starts the process.
int received_descriptor(int place) noexcept { return place; }

void wait_for_the_end() noexcept {
  for (;;) ::pause();
}

}  // namespace pynisher::platform
