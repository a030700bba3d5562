#include <pynisher/shared_fd.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>

namespace pynisher {

shared_fd::owned::~owned() { ::close(descriptor); }

shared_fd::shared_fd(int descriptor) {
  const int copy = ::fcntl(descriptor, F_DUPFD_CLOEXEC, 3);
  if (copy < 0) throw std::system_error(errno, std::system_category(), "descriptor " + std::to_string(descriptor));
  *this = adopt(copy);
}

shared_fd shared_fd::adopt(int descriptor) {
  shared_fd made;
  if (descriptor >= 0) made.owned_ = std::make_shared<const owned>(descriptor);
  return made;
}

}  // namespace pynisher
