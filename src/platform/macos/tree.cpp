#include "tree.hpp"

#include <libproc.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/proc_info.h>
#include <time.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <iterator>

#include "../posix/sweep.hpp"

namespace pynisher::platform {

namespace {

/// What the kernel says and does: system calls alone.
struct kernel {
  static std::size_t listed(std::uint32_t which, pid_t of, pid_t* to, std::size_t room) noexcept {
    const int bytes =
        ::proc_listpids(which, static_cast<std::uint32_t>(of), to, static_cast<int>(room * sizeof(pid_t)));
    return bytes > 0 ? static_cast<std::size_t>(bytes) / sizeof(pid_t) : 0;
  }
  static std::size_t children_of(pid_t parent, pid_t* to, std::size_t room) noexcept {
    return listed(PROC_PPID_ONLY, parent, to, room);
  }
  static std::size_t all(pid_t* to, std::size_t room) noexcept { return listed(PROC_ALL_PIDS, 0, to, room); }
  static pid_t session_of(pid_t pid) noexcept { return ::getsid(pid); }
  static void stop(pid_t pid) noexcept { ::kill(pid, SIGSTOP); }
  static bool kill(pid_t pid) noexcept { return ::kill(pid, SIGKILL) == 0; }
  static void pause() noexcept {
    constexpr timespec moment{0, 1'000'000};
    ::nanosleep(&moment, nullptr);
  }
};

/// Room for twice as many as there are; where that is refused, for a few on the stack.
class room_for_processes {
 public:
  room_for_processes() noexcept {
    const std::size_t there_are = kernel::all(nullptr, 0);
    size_ = 2 * there_are * sizeof(pid_t);
    void* const memory = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    if (memory != MAP_FAILED) memory_ = memory;
  }
  ~room_for_processes() {
    if (memory_ != nullptr) ::munmap(memory_, size_);
  }
  room_for_processes(const room_for_processes&) = delete;
  room_for_processes& operator=(const room_for_processes&) = delete;

  process_list list() noexcept {
    if (memory_ == nullptr) return {few_, std::size(few_)};
    return {static_cast<pid_t*>(memory_), size_ / sizeof(pid_t)};
  }

 private:
  void* memory_ = nullptr;
  std::size_t size_ = 0;
  pid_t few_[1024];
};

}  // namespace

void kill_descendants(pid_t pid) noexcept {
  room_for_processes room;
  process_list found = room.list();
  kernel system;
  end_descendants(system, pid, found);
}

void kill_session(pid_t leader) noexcept {
  constexpr int most_rounds = 1000;
  room_for_processes room;
  process_list all = room.list();
  kernel system;
  end_session(system, leader, all, most_rounds);
}

}  // namespace pynisher::platform
