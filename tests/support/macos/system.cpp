#include "support/system.hpp"

#include <fcntl.h>
#include <mach/mach.h>
#include <sys/proc.h>
#include <sys/resource.h>
#include <sys/sysctl.h>
#include <unistd.h>

#include <stdexcept>

#include "support/posix_functions.hpp"

namespace support {

char process_state(process_id pid) {
  int name[] = {CTL_KERN, KERN_PROC, KERN_PROC_PID, pid};
  kinfo_proc told{};
  std::size_t size = sizeof told;
  if (::sysctl(name, 4, &told, &size, nullptr, 0) != 0 || size == 0) return 0;
  switch (told.kp_proc.p_stat) {
    case SZOMB:
      return 'Z';
    case SSTOP:
      return 'T';
    case SSLEEP:
      return 'S';
    default:
      return 'R';
  }
}

void make_pipe(int (&ends)[2]) {
  if (::pipe(ends) != 0) throw std::runtime_error("no pipe");
  for (const int end : ends) ::fcntl(end, F_SETFD, FD_CLOEXEC);
}

std::uint64_t own_peak() {
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  return static_cast<std::uint64_t>(used.ru_maxrss);
}

std::uint64_t mapped_here() {
  mach_task_basic_info_data_t told{};
  mach_msg_type_number_t count = MACH_TASK_BASIC_INFO_COUNT;
  // NOLINTNEXTLINE: the kernel's way to pass any structure.
  const auto asked = ::task_info(::mach_task_self(), MACH_TASK_BASIC_INFO, reinterpret_cast<task_info_t>(&told), &count);
  return asked == KERN_SUCCESS ? told.virtual_size : 0;
}

bool memory_is_refused() { return false; }

}  // namespace support
