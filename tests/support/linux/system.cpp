#include "support/system.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <stdexcept>

#include "support/posix_functions.hpp"

namespace support {

char process_state(process_id pid) {
  const std::string file = "/proc/" + std::to_string(pid) + "/stat";
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  char text[512];
  const ssize_t got = ::read(fd, text, sizeof text);
  ::close(fd);
  // The name may hold anything, so the state is what follows the last parenthesis.
  for (ssize_t i = got - 1; i > 0; --i) {
    if (text[i] == ')') return i + 2 < got ? text[i + 2] : '\0';
  }
  return 0;
}

void make_pipe(int (&ends)[2]) {
  if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
}

std::uint64_t own_peak() {
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  return static_cast<std::uint64_t>(used.ru_maxrss) * 1024;
}

std::uint64_t mapped_here() {
  std::uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

bool memory_is_refused() { return true; }

}  // namespace support
