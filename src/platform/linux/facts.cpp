#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>

#include "../contract.hpp"

#if __has_include(<sys/single_threaded.h>)
#include <sys/single_threaded.h>
#endif

// There in programs that were built with a sanitizer, however this library was built.
extern "C" {
[[gnu::weak]] void __asan_init();
[[gnu::weak]] void __tsan_init();
[[gnu::weak]] void __msan_init();
}

namespace pynisher::platform {

namespace {

std::string why_no_pidfd() {
  const int fd = static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0));
  if (fd < 0) return std::string("the kernel gives no process descriptors (pidfd_open: ") + std::strerror(errno) + ")";
  ::close(fd);
  return {};
}

std::string why_no_proc() {
  if (::access("/proc/self/statm", R_OK) == 0) return {};
  return "/proc is not mounted";
}

std::string why_no_children_files() {
  if (auto why = why_no_proc(); !why.empty()) return why;
  const std::string file = "/proc/self/task/" + std::to_string(::getpid()) + "/children";
  if (::access(file.c_str(), R_OK) == 0) return {};
  return "the kernel does not list children in /proc (CONFIG_PROC_CHILDREN)";
}

/// What a child has to be, so that nothing it starts escapes it.
std::string why_no_reaper() {
  int reaper = 0;
  if (::prctl(PR_GET_CHILD_SUBREAPER, &reaper) == 0) return {};
  return std::string("the kernel makes no process the reaper of what it starts (PR_GET_CHILD_SUBREAPER: ") +
         std::strerror(errno) + ")";
}

std::string why_no_memory_limit() {
  if (__asan_init == nullptr && __tsan_init == nullptr && __msan_init == nullptr) return {};
  return "the program runs under a sanitizer, which reserves terabytes of address space for itself";
}

std::string first_of(std::string a, std::string b) { return a.empty() ? std::move(b) : std::move(a); }

/// Several threads may probe at the same time; one answer is kept, for good. But for one that is about what there was too
/// little of just then.
template <class Probe>
std::string probed_once(std::atomic<const std::string*>& known, Probe probe) {
  if (const std::string* answer = known.load()) return *answer;
  errno = 0;
  auto fresh = std::make_unique<const std::string>(probe());
  if (!fresh->empty() && (errno == EMFILE || errno == ENFILE || errno == ENOMEM)) return *fresh;
  const std::string* others = nullptr;
  return known.compare_exchange_strong(others, fresh.get()) ? *fresh.release() : *others;
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
    case feature::cancel: {
      static std::atomic<const std::string*> known{nullptr};
      return probed_once(known, why_no_pidfd);
    }
    case feature::memory:
    case feature::memory_growth: {
      static std::atomic<const std::string*> known{nullptr};
      return probed_once(known, [] { return first_of(why_no_proc(), why_no_memory_limit()); });
    }
    case feature::memory_address_space: {
      static std::atomic<const std::string*> known{nullptr};
      return probed_once(known, why_no_memory_limit);
    }
    case feature::kill_tree: {
      static std::atomic<const std::string*> known{nullptr};
      return probed_once(known, [] { return first_of(why_no_children_files(), why_no_reaper()); });
    }
    case feature::decorator:
      return {};
    case feature::memory_tree: {
      static std::atomic<const std::string*> known{nullptr};
      return probed_once(known, why_no_memory_bound);
    }
    case feature::process_count: {
      static std::atomic<const std::string*> known{nullptr};
      return probed_once(known, why_no_process_bound);
    }
  }
  return "no such feature";
}

mapped_memory mapped(pid_t process) {
  char path[32] = "/proc/self/statm";
  if (process != 0) {
    constexpr std::string_view file = "/statm";
    char* const end = std::to_chars(path + 6, path + 20, process).ptr;
    *std::copy(file.begin(), file.end(), end) = '\0';
  }
  const unique_fd file(::open(path, O_RDONLY | O_CLOEXEC));
  char text[128];
  const ssize_t got = file ? ::read(file.get(), text, sizeof text) : -1;
  // Not by snprintf and sscanf, which write to more of the stack than all else here: pages that a fork has made shared.
  constexpr std::size_t fields = 6;
  std::uint64_t numbers[fields] = {};
  const char* at = text;
  const char* const end = text + std::max<ssize_t>(got, 0);
  for (std::uint64_t& number : numbers) {
    const auto [after, error] = std::from_chars(at, end, number);
    if (error != std::errc() || after == end) return {};
    at = after + 1;
  }
  const std::uint64_t total = numbers[0], resident = numbers[1], shared = numbers[2], data = numbers[5];
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  // The kernel adds the main stack, which no limit on private memory counts; what that has at least is taken off again.
  constexpr std::uint64_t smallest_stack = 132 << 10;
  const std::uint64_t private_and_stack = data * page;
  return {total * page, private_and_stack > smallest_stack ? private_and_stack - smallest_stack : 0,
          resident > shared ? (resident - shared) * page : 0};
}

const char* signal_name(int signal) noexcept { return ::sigabbrev_np(signal); }
const char* signal_meaning(int signal) noexcept { return ::sigdescr_np(signal); }

bool has_borrowed_rights() noexcept {
  return ::getauxval(AT_SECURE) != 0 || ::geteuid() != ::getuid() || ::getegid() != ::getgid();
}

const char* memory_limit_caveat() noexcept { return nullptr; }

int threads() {
#if __has_include(<sys/single_threaded.h>)
  if (__libc_single_threaded != 0) return 1;
#endif
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("Threads:")) return std::stoi(line.substr(8));
  }
  return 1;
}

void advise_huge_pages(void* data, std::size_t size) noexcept {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<std::uintptr_t>(data) + page - 1) / page * page;
  const auto end = (reinterpret_cast<std::uintptr_t>(data) + size) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

const bool reserved_memory_is_free = true;

std::byte* reserve_memory(std::size_t size) noexcept {
  void* memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  ::madvise(memory, size, MADV_HUGEPAGE);
  return static_cast<std::byte*>(memory);
}

const std::byte* map_file(int file, std::size_t size) noexcept {
  void* const memory = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<const std::byte*>(memory);
}

void unmap_file(const std::byte* data, std::size_t size) noexcept { ::munmap(const_cast<std::byte*>(data), size); }

void release_memory(std::byte* data, std::size_t size) noexcept { ::munmap(data, size); }

std::uint64_t physical_memory() {
  static std::atomic<std::uint64_t> known{0};
  if (known.load() == 0) {
    known.store(static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
                static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)));
  }
  return known.load();
}

unsigned processors() {
  static std::atomic<unsigned> known{0};
  if (known.load() == 0) known.store(std::max(1u, std::thread::hardware_concurrency()));
  return known.load();
}

}  // namespace pynisher::platform
