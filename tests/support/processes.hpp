#pragma once

// Looking at processes from outside, and keeping a list of those that a call has started.

#include <fcntl.h>
#include <signal.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace support {

/// 'R', 'S', 'T', 'Z', ... as in /proc; 0 when there is no such process.
inline char process_state(pid_t pid) {
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

/// A zombie counts as gone: it runs no more, and who reaps it is its new parent's affair.
inline bool is_gone(pid_t pid) {
  const char state = process_state(pid);
  return state == 0 || state == 'Z' || state == 'X';
}

/// Waits, without a time limit of its own (each test has one), until `condition()` holds.
template <class Condition>
void await(Condition condition) {
  while (!condition()) std::this_thread::sleep_for(std::chrono::microseconds(200));
}

inline void await_gone(pid_t pid) {
  await([pid] { return is_gone(pid); });
}
inline void await_stopped(pid_t pid) {
  await([pid] { return process_state(pid) == 'T' || is_gone(pid); });
}

/// Appends the calling process to the list kept in `file`. Async-signal-safe.
inline void log_process(const char* file) {
  const int fd = ::open(file, O_WRONLY | O_APPEND | O_CLOEXEC);
  const pid_t self = ::getpid();
  if (fd < 0 || ::write(fd, &self, sizeof self) != sizeof self) ::_exit(97);
  ::close(fd);
}

inline std::vector<pid_t> logged_processes(const std::string& file) {
  std::vector<pid_t> pids;
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  pid_t pid = 0;
  while (fd >= 0 && ::read(fd, &pid, sizeof pid) == sizeof pid) pids.push_back(pid);
  if (fd >= 0) ::close(fd);
  return pids;
}

/// Waits until at least `count` processes are in the list.
inline void await_logged(const std::string& file, std::size_t count) {
  await([&] { return logged_processes(file).size() >= count; });
}

/// A list of processes in a file: its path travels to a child of any start method. What is alive when it goes
/// is killed, so that a failed test leaves nothing behind.
class process_log {
 public:
  process_log() {
    char name[] = "/tmp/pynisher-test-XXXXXX";
    const int fd = ::mkostemp(name, O_CLOEXEC);
    if (fd < 0) throw std::runtime_error("no temporary file");
    ::close(fd);
    path_ = name;
  }
  process_log(const process_log&) = delete;
  process_log& operator=(const process_log&) = delete;
  ~process_log() {
    for (const pid_t pid : survivors()) ::kill(pid, SIGKILL);
    ::unlink(path_.c_str());
  }

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::vector<pid_t> pids() const { return logged_processes(path_); }
  /// Those of the list that are alive.
  [[nodiscard]] std::vector<pid_t> survivors() const {
    auto pids = this->pids();
    std::erase_if(pids, is_gone);
    return pids;
  }
  void clear() { [[maybe_unused]] const int ignored = ::truncate(path_.c_str(), 0); }

 private:
  std::string path_;
};

}  // namespace support
