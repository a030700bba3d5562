#include "support/system.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>
#include <stdexcept>

#include "support/posix_functions.hpp"

namespace support {

namespace {

std::chrono::nanoseconds time_of(clockid_t clock) {
  timespec used{};
  ::clock_gettime(clock, &used);
  return std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec);
}

}  // namespace

const std::uint64_t size_of_an_idle_program = std::uint64_t{16} << 20;

process_id own_pid() noexcept { return ::getpid(); }

void sleep_forever() {
  for (;;) ::pause();
}

std::chrono::nanoseconds cpu_time_used() { return time_of(CLOCK_PROCESS_CPUTIME_ID); }
std::chrono::nanoseconds cpu_time_of_thread() { return time_of(CLOCK_THREAD_CPUTIME_ID); }

const bool being_killed_is_an_exit = false;
void be_killed() {
  signal_self(SIGKILL);
  std::abort();
}

const int signal_of_that_end = SIGTERM;
const char* const name_of_that_signal = "SIGTERM";
void end_by_a_signal() {
  signal_self(SIGTERM);
  std::abort();
}

void set_environment(const char* name, const std::string& value) { ::setenv(name, value.c_str(), 1); }
void unset_environment(const char* name) { ::unsetenv(name); }

void* take_pages(std::size_t bytes) noexcept {
  void* const pages = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return pages == MAP_FAILED ? nullptr : pages;
}
void give_back_pages(void* pages, std::size_t bytes) noexcept { ::munmap(pages, bytes); }
bool reserve_address_space(std::size_t bytes) noexcept {
  return ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) != MAP_FAILED;
}

bool is_gone(process_id pid) {
  const char state = process_state(pid);
  return state == 0 || state == 'Z' || state == 'X';
}

std::string new_temporary_file() {
  char name[] = "/tmp/pynisher-test-XXXXXX";
  const int fd = ::mkostemp(name, O_CLOEXEC);
  if (fd < 0) throw std::runtime_error("no temporary file");
  ::close(fd);
  return name;
}

void log_process(const char* file) {
  const int fd = ::open(file, O_WRONLY | O_APPEND | O_CLOEXEC);
  const pid_t self = ::getpid();
  if (fd < 0 || ::write(fd, &self, sizeof self) != sizeof self) ::_exit(97);
  ::close(fd);
}

std::vector<process_id> logged_processes(const std::string& file) {
  std::vector<process_id> pids;
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  pid_t pid = 0;
  while (fd >= 0 && ::read(fd, &pid, sizeof pid) == sizeof pid) pids.push_back(pid);
  if (fd >= 0) ::close(fd);
  return pids;
}

std::vector<process_id> logged_survivors(const std::string& file) {
  auto pids = logged_processes(file);
  std::erase_if(pids, is_gone);
  return pids;
}

void kill_logged(const std::string& file) {
  for (const process_id pid : logged_survivors(file)) ::kill(pid, SIGKILL);
}

}  // namespace support
