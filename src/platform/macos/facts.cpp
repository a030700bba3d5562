#include <dlfcn.h>
#include <libproc.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/proc_info.h>
#include <sys/resource.h>
#include <sys/sysctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>
#include <thread>

#include "../contract.hpp"
#include "accounting.hpp"
#include "reaping.hpp"

namespace pynisher::platform {

const char* signal_name(int signal) noexcept {
  if (signal <= 0 || signal >= NSIG) return nullptr;
  // "segv"
  static char names[NSIG][12];
  static const bool made = [] {
    for (int i = 1; i < NSIG; ++i) {
      for (std::size_t at = 0; at + 1 < sizeof names[i] && ::sys_signame[i][at] != '\0'; ++at) {
        const char letter = ::sys_signame[i][at];
        names[i][at] = letter >= 'a' && letter <= 'z' ? static_cast<char>(letter - 'a' + 'A') : letter;
      }
    }
    return true;
  }();
  return made ? names[signal] : nullptr;
}
const char* signal_meaning(int signal) noexcept {
  return signal > 0 && signal < NSIG ? ::sys_siglist[signal] : nullptr;
}

namespace {

/// In a child.
bool refuses_what_is_above_the_limit() noexcept {
  constexpr std::size_t piece = std::size_t{1} << 40;
  // Far above what any process has, and below what it could have.
  constexpr std::size_t limit = 4 * piece;
  const rlimit wanted{limit, limit};
  if (::setrlimit(RLIMIT_AS, &wanted) != 0) return false;
  for (int i = 0; i < 5; ++i) {
    if (::mmap(nullptr, piece, PROT_NONE, MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0) == MAP_FAILED) return true;
  }
  return false;
}

/// Tried in a child: older systems take the limit and do not mind it, newer ones refuse one below what is mapped.
bool address_space_limit_holds() {
  static std::atomic<int> known{-1};
  if (known.load() >= 0) return known.load() == 1;
  // By memory, and not by its exit code, which nobody gets where SIGCHLD is ignored.
  void* const shared = ::mmap(nullptr, sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANON, -1, 0);
  if (shared == MAP_FAILED) return false;
  auto* const holds = static_cast<volatile int*>(shared);
  const pid_t child = ::fork();
  if (child == 0) {
    *holds = refuses_what_is_above_the_limit() ? 1 : 0;
    ::_exit(0);
  }
  if (child > 0) {
    reap(child);
    known.store(*holds);
  }
  ::munmap(shared, sizeof(int));
  return known.load() == 1;
}

std::optional<proc_taskinfo> task_of(pid_t process) noexcept {
  proc_taskinfo info{};
  const int got = ::proc_pidinfo(process == 0 ? ::getpid() : process, PROC_PIDTASKINFO, 0, &info, sizeof info);
  if (got != static_cast<int>(sizeof info)) return std::nullopt;
  return info;
}

/// What the kernel counts time in here: nanoseconds on Intel's processors, something else on Apple's. There
/// mach_timebase_info tells a program that is translated from Intel's about its own clock, and not about the kernel's.
std::chrono::nanoseconds from_mach_time(std::uint64_t ticks) noexcept {
  static std::atomic<std::uint64_t> known{0};
  std::uint64_t per_second = known.load();
  if (per_second == 0) {
    std::size_t size = sizeof per_second;
    if (::sysctlbyname("hw.tbfrequency", &per_second, &size, nullptr, 0) != 0 || per_second == 0) {
      return std::chrono::nanoseconds(ticks);
    }
    known.store(per_second);
  }
  return std::chrono::nanoseconds(
      static_cast<std::int64_t>(static_cast<double>(ticks) * 1e9 / static_cast<double>(per_second)));
}

}  // namespace

std::string why_not(feature what) {
  switch (what) {
    case feature::wall_time:
    case feature::cpu_time:
    case feature::fork:
    case feature::spawn:
    case feature::forkserver:
    case feature::parent_death:
    case feature::cancel:
    case feature::memory:
    case feature::memory_growth:
    case feature::decorator:
      return {};
    case feature::memory_address_space:
      if (address_space_limit_holds()) return {};
      return "this system does not enforce a limit on address space (RLIMIT_AS)";
    case feature::kill_tree:
      return "nothing marks a process here for good: one that has left the session of its call is not known any more "
             "when the processes between it and the call have ended";
    case feature::memory_tree:
      return why_no_memory_bound();
    case feature::process_count:
      return why_no_process_bound();
  }
  return "no such feature";
}

const char* memory_limit_caveat() noexcept {
  return "no limit of this system's kernel bounds the memory of a call: the child's footprint is sampled every 1 to 50 "
         "ms, the more often the nearer it is, and the child is ended when it is above. It may overshoot by what it "
         "takes in a millisecond, some 8 MiB, and by what it takes while the caller gets no processor. An allocation "
         "is never refused. What a forked child reads of its parent's memory counts as its own.";
}

std::string why_no_process_bound() { return "this system counts the processes of a user, not those of a call"; }

// Never made: `supports` has refused it.
process_bound::process_bound(std::uint64_t /*most*/, const memory_bound* /*around*/) { errno = ENOTSUP; }
process_bound::~process_bound() = default;
void process_bound::end_members() const noexcept {}
void process_bound::end_surplus(const child_process& /*child*/) const noexcept {}
const char* process_bound_caveat() noexcept { return nullptr; }
looked_after looked_after_by_parent() noexcept { return {}; }
bool join_group(const char* /*entry*/) noexcept { return false; }

std::string why_no_memory_bound() {
  return "measure: this system does not count the memory of a call's processes together";
}
memory_bound::memory_bound(std::uint64_t /*most*/) { errno = ENOTSUP; }
memory_bound::~memory_bound() = default;
void memory_bound::end_members() const noexcept {}
memory_bound::count memory_bound::look(const child_process& /*child*/, const mapped_memory& /*at_start*/) const {
  return {};
}

std::uint64_t own_peak() noexcept { return peak_of(::getpid()); }

std::optional<process_accounts> accounts_of(pid_t process) noexcept {
  rusage_info_v4 info{};
  if (::proc_pid_rusage(process, RUSAGE_INFO_V4, reinterpret_cast<rusage_info_t*>(&info)) != 0) return std::nullopt;
  return process_accounts{info.ri_phys_footprint, info.ri_lifetime_max_phys_footprint,
                          from_mach_time(info.ri_user_time), from_mach_time(info.ri_system_time)};
}

std::int64_t beginning_of(pid_t process) noexcept {
  proc_bsdinfo info{};
  constexpr std::uint64_t zombies_too = 1;
  if (::proc_pidinfo(process, PROC_PIDTBSDINFO, zombies_too, &info, sizeof info) != static_cast<int>(sizeof info))
    return 0;
  return static_cast<std::int64_t>(info.pbi_start_tvsec * 1'000'000 + info.pbi_start_tvusec);
}

mapped_memory mapped(pid_t process) {
  const auto task = task_of(process);
  const auto accounts = accounts_of(process == 0 ? ::getpid() : process);
  if (!task || !accounts) return {};
  return {task->pti_virtual_size, accounts->footprint, accounts->footprint};
}

std::optional<std::chrono::nanoseconds> cpu_time_of(pid_t process) noexcept {
  const auto accounts = accounts_of(process);
  if (!accounts) return std::nullopt;
  return accounts->user_time + accounts->system_time;
}

std::uint64_t peak_of(pid_t process) noexcept {
  const auto accounts = accounts_of(process);
  return accounts ? accounts->peak_footprint : 0;
}

int threads() {
  const auto task = task_of(0);
  return task ? std::max(1, static_cast<int>(task->pti_threadnum)) : 1;
}

// The system chooses its pages itself.
void advise_huge_pages(void* /*data*/, std::size_t /*size*/) noexcept {}

const bool reserved_memory_is_free = true;

std::byte* reserve_memory(std::size_t size) noexcept {
  void* memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<std::byte*>(memory);
}

void release_memory(std::byte* data, std::size_t size) noexcept { ::munmap(data, size); }

const std::byte* map_file(int file, std::size_t size) noexcept {
  void* const memory = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<const std::byte*>(memory);
}

void unmap_file(const std::byte* data, std::size_t size) noexcept { ::munmap(const_cast<std::byte*>(data), size); }

std::uint64_t physical_memory() {
  static std::atomic<std::uint64_t> known{0};
  if (known.load() == 0) {
    std::uint64_t bytes = 0;
    std::size_t size = sizeof bytes;
    if (::sysctlbyname("hw.memsize", &bytes, &size, nullptr, 0) != 0) bytes = std::uint64_t{4} << 30;
    known.store(bytes);
  }
  return known.load();
}

unsigned processors() {
  static std::atomic<unsigned> known{0};
  if (known.load() == 0) known.store(std::max(1u, std::thread::hardware_concurrency()));
  return known.load();
}

std::string symbol_at(const void* address) {
  Dl_info info{};
  if (::dladdr(address, &info) == 0 || info.dli_sname == nullptr || info.dli_saddr != address) return {};
  return info.dli_sname;
}

}  // namespace pynisher::platform
