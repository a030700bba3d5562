#include "tree.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>

#include "../../fork_safe_mutex.hpp"
#include "../forked_page.hpp"
#include "raw_syscall.hpp"

namespace pynisher::platform {

namespace {

// --- marks --------------------------------------------------------------------------------------------------
//
//   bit 62      1: a mark
//   61 .. 38    the program that made the outermost call: random
//   37 .. 24    one of its calls in flight
//   23 ..  8    a call inside of that one, 65535: none
//    7 ..  0    a call inside of that one, 255: none
//
// An inner mark is smaller than the outer one, which is the only direction that needs no privilege. Inner numbers are
// scattered by process and call: several processes of one outer call may make calls, and share no table of slots.

constexpr std::uint64_t mark_bit = std::uint64_t{1} << 62;
constexpr std::uint64_t is_mark_mask = std::uint64_t{3} << 62;
constexpr int rlimit_locks = 10;

bool is_mark(std::uint64_t value) { return (value & is_mark_mask) == mark_bit; }

struct kernel_rlimit {
  std::uint64_t soft;
  std::uint64_t hard;
};

std::uint64_t mark_of(pid_t pid) noexcept {
  kernel_rlimit limit{};
  if (raw::call(SYS_prlimit64, pid, rlimit_locks, nullptr, &limit) < 0) return 0;
  return is_mark(limit.hard) ? limit.hard : 0;
}

bool carries(pid_t pid, const call_mark& mark) noexcept {
  const std::uint64_t found = mark_of(pid);
  return found != 0 && found <= mark.value && mark.value - found < mark.span;
}

/// Slots of one level, so that calls in flight have distinct marks.
template <std::size_t Count>
class slots {
 public:
  explicit constexpr slots(taken_marks& taken) : taken_(taken) {}
  /// The slot, or Count when all are taken.
  std::size_t take() noexcept {
    const std::size_t from = taken_.next.fetch_add(1, std::memory_order_relaxed);
    for (std::size_t i = 0; i < Count - for_copies; ++i) {
      const std::size_t slot = for_copies + (from + i) % (Count - for_copies);
      if (take(slot)) return slot;
    }
    return Count;
  }
  /// The next one below another.
  std::size_t take_below(std::size_t other) noexcept {
    for (std::size_t slot = std::min(other, Count); slot-- > 0;) {
      if (take(slot)) return slot;
    }
    return Count;
  }
  void give_back(std::size_t slot) noexcept { taken_.bits[slot / 64].fetch_and(~bit(slot)); }

 private:
  /// Copies of a marked process can only get a lower mark than it has.
  static constexpr std::size_t for_copies = Count / 8;
  static constexpr std::uint64_t bit(std::size_t slot) { return std::uint64_t{1} << slot % 64; }
  static_assert(Count <= 64 * taken_marks::words);

  bool take(std::size_t slot) noexcept { return (taken_.bits[slot / 64].fetch_or(bit(slot)) & bit(slot)) == 0; }

  taken_marks& taken_;
};

constexpr std::uint64_t program_bits_mask = std::uint64_t{0xffffff} << 38;
constexpr int outer_shift = 24;
constexpr std::size_t outer_calls = 0x3fff;
constexpr std::uint64_t no_inner_call = 0xffffff;
constexpr std::uint64_t outer_span = no_inner_call + 1;
constexpr std::uint64_t no_second_call = 0xff;
constexpr std::uint64_t inner_span = no_second_call + 1;

constinit slots<outer_calls> outer_slots(on_forked_page.marks);
std::atomic<std::uint32_t> inner_calls{0};

/// A forked copy of the program is a program of its own, in which no call is in flight yet.
std::uint64_t program_bits() noexcept {
  // Numbers that follow each other are far apart, too.
  const auto scattered = static_cast<std::uint64_t>(process_identity()) * 0x9e3779b97f4a7c15u;
  return (scattered >> 2) & program_bits_mask;
}

std::uint64_t scattered_inner_number() noexcept {
  const auto self = static_cast<std::uint64_t>(raw::call(SYS_getpid));
  return self * 40503u + inner_calls.fetch_add(1, std::memory_order_relaxed);
}

// --- reading /proc with nothing but a buffer on the stack ------------------------------------------------------

class proc_path {
 public:
  proc_path& add(const char* text) {
    while (*text != '\0' && size_ < sizeof text_ - 1) text_[size_++] = *text++;
    return *this;
  }
  proc_path& add(pid_t number) {
    char digits[16];
    int count = 0;
    do digits[count++] = static_cast<char>('0' + number % 10);
    while ((number /= 10) > 0);
    while (count > 0 && size_ < sizeof text_ - 1) text_[size_++] = digits[--count];
    return *this;
  }
  [[nodiscard]] const char* c_str() const { return text_; }

 private:
  char text_[96] = {};
  std::size_t size_ = 0;
};

long open_for_reading(const char* path, int flags = 0) {
  return raw::call(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC | flags, 0);
}

struct linux_dirent64 {
  std::uint64_t inode;
  std::int64_t offset;
  std::uint16_t length;
  std::uint8_t type;
  char name[1];
};

/// Calls `visit(number)` for every entry of a /proc directory that is a number. Negative: why it cannot be read.
template <class Visit>
long for_each_number(const char* directory, Visit visit) noexcept {
  const long fd = open_for_reading(directory, O_DIRECTORY);
  if (fd < 0) return fd;
  alignas(linux_dirent64) char buffer[4096];
  for (;;) {
    const long got = raw::call(SYS_getdents64, fd, buffer, sizeof buffer);
    if (got <= 0) break;
    for (long at = 0; at < got;) {
      const auto* entry = reinterpret_cast<const linux_dirent64*>(buffer + at);
      at += entry->length;
      pid_t number = 0;
      const char* c = buffer + at - entry->length + offsetof(linux_dirent64, name);
      for (; *c >= '0' && *c <= '9'; ++c) number = number * 10 + (*c - '0');
      if (*c == '\0' && number > 0) visit(number);
    }
  }
  raw::call(SYS_close, fd);
  return 0;
}

/// True if no thread of it runs any more. A process whose first thread has ended shows as a zombie as well, while its
/// other threads go on.
/// `blind`: set where there is no descriptor to look by; it counts as alive then.
bool is_dead(pid_t pid, bool& blind) noexcept {
  const long fd = open_for_reading(proc_path().add("/proc/").add(pid).add("/stat").c_str());
  if (fd == -EMFILE || fd == -ENFILE) {
    blind = true;
    return false;
  }
  if (fd < 0) return true;
  char text[512];
  const long got = raw::call(SYS_read, fd, text, sizeof text - 1);
  raw::call(SYS_close, fd);
  // The name may hold anything, so the fields are counted from the last parenthesis: the state is the third, the number
  // of threads the twentieth.
  long at = got - 1;
  while (at > 0 && text[at] != ')') --at;
  if (at + 2 >= got) return true;
  const char state = text[at + 2];
  if (state != 'Z' && state != 'X') return false;
  int field = 2;
  for (; at < got && field < 20; ++at) {
    if (text[at] == ' ') ++field;
  }
  long threads = 0;
  for (; at < got && text[at] >= '0' && text[at] <= '9'; ++at) threads = threads * 10 + (text[at] - '0');
  return threads <= 1;
}

/// The number that the system gave to a process or thread last; 0 if it does not say.
long last_pid() noexcept {
  const long fd = open_for_reading("/proc/loadavg");
  if (fd < 0) return 0;
  // In a container it may be another file, which is behind the times.
  struct statfs system {};
  const bool is_the_kernels = raw::call(SYS_fstatfs, fd, &system) == 0 && system.f_type == PROC_SUPER_MAGIC;
  char text[128];
  const long got = is_the_kernels ? raw::call(SYS_read, fd, text, sizeof text) : 0;
  raw::call(SYS_close, fd);
  long at = got;
  while (at > 0 && text[at - 1] != ' ') --at;
  long number = 0;
  for (; at < got && text[at] >= '0' && text[at] <= '9'; ++at) number = number * 10 + (text[at] - '0');
  return number;
}

/// Calls `visit(pid)` for the children of one thread, given by its directory in /proc.
template <class Visit>
void for_each_child_of(proc_path thread, Visit visit) noexcept {
  const long fd = open_for_reading(thread.add("/children").c_str());
  if (fd < 0) return;
  // Small: what it is written to may be a page of the stack that a child has made shared.
  char text[256];
  pid_t number = 0;
  for (;;) {
    const long got = raw::call(SYS_read, fd, text, sizeof text);
    if (got <= 0) break;
    for (long i = 0; i < got; ++i) {
      if (text[i] >= '0' && text[i] <= '9') {
        number = number * 10 + (text[i] - '0');
      } else if (number > 0) {
        visit(number);
        number = 0;
      }
    }
  }
  if (number > 0) visit(number);
  raw::call(SYS_close, fd);
}

/// Calls `visit(pid)` for the children of all threads of `pid`.
template <class Visit>
void for_each_child(pid_t pid, Visit visit) noexcept {
  const proc_path tasks = proc_path().add("/proc/").add(pid).add("/task");
  for_each_number(tasks.c_str(),
                  [&](pid_t thread) { for_each_child_of(proc_path(tasks).add("/").add(thread), visit); });
}

/// Depth is bounded: below it, processes become children of the reaper once their parents are dead.
int kill_below(pid_t pid, int depth) noexcept {
  int alive = 0;
  for_each_child(pid, [&](pid_t child) {
    bool blind = false;
    if (is_dead(child, blind)) return;
    // One that may not be killed (a set-user-ID program) is nobody to wait for.
    if (raw::call(SYS_kill, child, SIGKILL) == 0 && !blind) ++alive;
    if (depth > 0) alive += kill_below(child, depth - 1);
  });
  return alive;
}

void yield_for(long nanoseconds) noexcept {
  timespec pause{0, nanoseconds};
  raw::call(SYS_nanosleep, &pause, nullptr);
}

/// No children at all, dead or alive.
bool has_no_children() noexcept {
  siginfo_t ignored{};
  return raw::call(SYS_waitid, P_ALL, 0, &ignored, WEXITED | WNOHANG | WNOWAIT | __WALL, nullptr) == -ECHILD;
}

}  // namespace

std::uint64_t own_mark() noexcept { return mark_of(0); }

call_mark program_marks() noexcept {
  constexpr std::uint64_t all_calls = (std::uint64_t{1} << 38) - 1;
  return {mark_bit | program_bits() | all_calls, all_calls + 1};
}

call_mark new_mark() {
  const std::uint64_t outer = own_mark();
  if (outer == 0) {
    const std::size_t slot = outer_slots.take();
    if (slot == outer_calls) return {};
    return {mark_bit | program_bits() | (std::uint64_t{slot} << outer_shift) | no_inner_call, outer_span};
  }
  if ((outer & no_inner_call) == no_inner_call) {
    return {(outer & ~no_inner_call) | (scattered_inner_number() % 0xffff << 8) | no_second_call, inner_span};
  }
  if ((outer & no_second_call) == no_second_call) {
    return {(outer & ~no_second_call) | (scattered_inner_number() % no_second_call), 1};
  }
  return {};
}

call_mark new_mark_below(std::uint64_t mark) {
  const std::uint64_t outer = own_mark();
  if (outer == 0) {
    const std::uint64_t own = mark_bit | program_bits() | no_inner_call;
    if ((mark & ~(std::uint64_t{outer_calls} << outer_shift)) != own) return {};
    const std::size_t slot = outer_slots.take_below((mark >> outer_shift) & outer_calls);
    if (slot == outer_calls) return {};
    return {own | (std::uint64_t{slot} << outer_shift), outer_span};
  }
  if ((outer & no_inner_call) == no_inner_call) {
    const std::uint64_t number = (mark >> 8) & 0xffff;
    if (number == 0) return {};
    return {(outer & ~no_inner_call) | (scattered_inner_number() % number << 8) | no_second_call, inner_span};
  }
  const std::uint64_t number = mark & no_second_call;
  if ((outer & no_second_call) != no_second_call || number == 0) return {};
  return {(outer & ~no_second_call) | scattered_inner_number() % number, 1};
}

std::uint64_t mark_carried_by(pid_t process) noexcept { return mark_of(process); }

void release_mark(const call_mark& mark) {
  if (mark.span == outer_span) outer_slots.give_back((mark.value >> outer_shift) & outer_calls);
}

bool is_last_made(pid_t pid) noexcept { return last_pid() == pid; }

int kill_descendants(pid_t pid) noexcept { return kill_below(pid, 16); }

bool has_marked_child(const call_mark& mark) noexcept {
  bool found = false;
  for_each_child_of(proc_path().add("/proc/thread-self"), [&](pid_t child) { found = found || carries(child, mark); });
  return found;
}

namespace {

/// For a program that has no descriptor left: in a process that has.
void kill_marked_elsewhere(const call_mark& mark) noexcept {
  const long pid = raw::call(SYS_clone, 0, nullptr, nullptr, nullptr, nullptr);
  if (pid == 0) {
    if (raw::call(SYS_close_range, 3u, ~0u, 0u) == 0) kill_marked(mark);
    raw::call(SYS_exit_group, 0);
  }
  if (pid > 0) {
    while (raw::call(SYS_wait4, pid, nullptr, __WALL, nullptr) == -EINTR) {
    }
  }
}

/// Kills whoever carries a mark, one number at a time.
struct search {
  const call_mark& mark;
  int found = 0;         // alive, and killed
  bool met_any = false;  // alive or dead
  bool blind = false;

  void at(pid_t pid) noexcept {
    if (!carries(pid, mark)) return;
    met_any = true;
    // At once: it may be about to fork and exit.
    if (raw::call(SYS_kill, pid, SIGKILL) == 0 && !is_dead(pid, blind)) ++found;
  }
};

/// A process can fork and exit while the directory of all is being read, so that neither it nor its child is met. Such
/// a child has a number that was given meanwhile, after `last_seen`. Asking the newest first takes less time than a
/// fork, so that a chain of such processes is caught up with. True if all have been asked, and no number was given
/// since.
bool kill_newest(search& looked, long last_seen) noexcept {
  constexpr int enough_rounds = 1000;
  // A fork that was on its way when the number was read has taken its own before.
  constexpr long on_their_way = 64;
  constexpr long most_to_ask = 8192;
  bool all_asked = true;
  for (int round = 0; round < enough_rounds; ++round) {
    const long last = last_pid();
    if (last == 0) return false;
    if (last == last_seen && round > 0) break;
    // Where numbers have begun anew, those before the end are not known.
    if (last < last_seen || last - last_seen > most_to_ask) all_asked = false;
    const long oldest = std::max({last < last_seen ? 1 : last_seen - on_their_way, last - most_to_ask, 1L});
    for (long pid = last; pid >= oldest; --pid) looked.at(static_cast<pid_t>(pid));
    last_seen = last;
  }
  return all_asked;
}

}  // namespace

void kill_marked(const call_mark& mark) noexcept {
  // Where the system does not say whether processes were made meanwhile, or where others make them all the time.
  constexpr int enough_quiet_rounds = 40;
  search looked{mark};
  for (int quiet_rounds = 0; quiet_rounds < enough_quiet_rounds;) {
    const long last_before = last_pid();
    const int found_before = looked.found;
    const long opened = for_each_number("/proc", [&](pid_t pid) { looked.at(pid); });
    if (looked.blind || opened == -EMFILE || opened == -ENFILE) return kill_marked_elsewhere(mark);
    if (opened < 0) return;
    const bool complete = kill_newest(looked, last_before);
    const bool found = looked.found != found_before;
    if (!found && complete) break;
    quiet_rounds = found ? 0 : quiet_rounds + 1;
    if (found) yield_for(50'000);
  }
  if (!looked.met_any) return;
  // Dead ones are still there until their new parent has reaped them. That may be this process, where it is a
  // subreaper; else wait for the parent, but not for one that does not do its duty.
  for (int round = 0; round < 40; ++round) {
    bool found = false;
    for_each_number("/proc", [&](pid_t pid) {
      if (!carries(pid, mark)) return;
      if (raw::call(SYS_wait4, pid, nullptr, WNOHANG | __WALL, nullptr) != pid) found = true;
    });
    if (!found) return;
    yield_for(500'000);
  }
}

[[gnu::hot]] bool end_own_descendants() noexcept {
  // This process is the reaper of its descendants: whoever loses its parent becomes a child of this one, and when
  // there are no children there is nobody left.
  if (has_no_children()) return true;
  const auto self = static_cast<pid_t>(raw::call(SYS_getpid));
  constexpr int patience = 500;
  for (int idle_rounds = 0; idle_rounds < patience; ++idle_rounds) {
    if (kill_descendants(self) > 0) idle_rounds = 0;
    for (;;) {
      const long reaped = raw::call(SYS_wait4, -1, nullptr, WNOHANG | __WALL, nullptr);
      if (reaped == -ECHILD) return true;
      if (reaped <= 0) break;
      idle_rounds = 0;
    }
    yield_for(20'000);
  }
  return false;
}

}  // namespace pynisher::platform
