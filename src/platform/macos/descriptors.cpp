// Descriptors that this system has not got as one thing: doorbells, files in memory, conversations.

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <string>

#include <fmt/format.h>

#include "../contract.hpp"
#include "../posix/descriptors.hpp"
#include "descriptors.hpp"

namespace pynisher::platform {

namespace {

/// Between the making and this, another thread's `exec` may take it along; the library's own children close it.
bool keep_from_exec(int fd) { return ::fcntl(fd, F_SETFD, FD_CLOEXEC) == 0; }

bool never_wait(int fd) { return ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK) == 0; }

/// Memory that has a size for good: such an object can be given one only once.
call_fd make_sized_memory(std::size_t size) {
  static std::atomic<unsigned> made{0};
  for (;;) {
    // At most 31 characters. The name is gone before anybody else could want it.
    const std::string name = fmt::format("/pynisher-{}-{}", ::getpid(), made.fetch_add(1));
    call_fd memory(::shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL, S_IRUSR | S_IWUSR));
    if (!memory && errno == EEXIST) continue;
    if (!memory) return memory;
    ::shm_unlink(name.c_str());
    return keep_from_exec(memory.get()) && ::ftruncate(memory.get(), static_cast<off_t>(size)) == 0 ? std::move(memory)
                                                                                                    : call_fd();
  }
}

/// Shared memory cannot be written to as a file; this is one that has no name any more.
call_fd make_growing_file() {
  const char* const folder = std::getenv("TMPDIR");
  std::string name = std::string(folder != nullptr && *folder != '\0' ? folder : "/tmp") + "/pynisher-XXXXXX";
  call_fd file(::mkstemp(name.data()));
  if (!file) return file;
  ::unlink(name.c_str());
  return keep_from_exec(file.get()) ? std::move(file) : call_fd();
}

template <class Descriptor>
bool connect_both(Descriptor& one, Descriptor& other) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) return false;
  one = Descriptor(ends[0]);
  other = Descriptor(ends[1]);
  if (!one || !other) return false;
  for (const int end : {one.get(), other.get()}) {
    const int yes = 1;
    if (!keep_from_exec(end) || ::setsockopt(end, SOL_SOCKET, SO_NOSIGPIPE, &yes, sizeof yes) != 0) return false;
  }
  return true;
}

}  // namespace

bool connect_two(call_fd& one, call_fd& other) { return connect_both(one, other); }
bool connect_two(unique_fd& one, unique_fd& other) { return connect_both(one, other); }

void close_descriptor(int fd) noexcept { ::close(fd); }

void close_descriptor_in_child(int fd) noexcept { ::close(fd); }

call_fd make_memory_file(std::size_t size) { return size == 0 ? make_growing_file() : make_sized_memory(size); }

int poll_until(pollfd* watched, std::size_t count, std::optional<clock::time_point> until) noexcept {
  int timeout = -1;
  if (until) {
    // Up to a millisecond late, rather than looking again and again in the last one.
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*until - clock::now()).count();
    timeout = static_cast<int>(std::clamp<std::int64_t>(left, 0, 1'000'000'000));
  }
  return ::poll(watched, static_cast<nfds_t>(count), timeout);
}

// --- doorbells ------------------------------------------------------------------------------------------------

doorbell::doorbell() {
  if (!connect_two(fd_, raised_by_) || !never_wait(fd_.get()) || !never_wait(raised_by_.get())) fd_ = call_fd();
}

bool doorbell::raise(int descriptor) noexcept {
  const char one = 1;
  // Full: it has been raised often enough.
  return ::write(descriptor, &one, 1) == 1 || errno == EAGAIN;
}

void doorbell::clear() noexcept {
  char bytes[256];
  while (::recv(fd_.get(), bytes, sizeof bytes, MSG_DONTWAIT) > 0) {
  }
}

bool doorbell::is_one(int descriptor) noexcept {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  return ::getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size) == 0 && address.ss_family == AF_UNIX;
}

}  // namespace pynisher::platform
