#pragma once

// What an operating system has to provide. Each platform folder defines exactly these functions; CMake picks one.
// "In the child" marks those that run between fork and the function: they make system calls only, take no lock,
// allocate nothing, and report failure by return value. Where a function sets errno, it is to the system's own number,
// as std::system_category() reads it: on Windows, what GetLastError says.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <pynisher/options.hpp>
#include <pynisher/supports.hpp>
#include <pynisher/usage.hpp>

#include "../parent_death_watch.hpp"
#include "../reply_region.hpp"
#include "words.hpp"

namespace pynisher::detail {
class settings;
}

namespace pynisher::platform {

using clock = std::chrono::steady_clock;
/// Longer limits are as good as none, and could not be added to a time.
constexpr std::chrono::nanoseconds longest_wait = std::chrono::hours(24 * 365 * 100);

// --- facts ----------------------------------------------------------------------------------------------

/// Why a feature is not to be had here; empty: it is. Thread-safe; probes once.
std::string why_not(feature what);
/// What a process (0: this one) has mapped, in bytes; zeros if that cannot be told.
struct mapped_memory {
  std::uint64_t address_space = 0;
  std::uint64_t private_writable = 0;  ///< without the main stack
  std::uint64_t private_resident = 0;
};
mapped_memory mapped(pid_t process = 0);
/// What a user should know of how memory limits hold here; null: they hold.
const char* memory_limit_caveat() noexcept;
/// The same of a bound on processes.
const char* process_bound_caveat() noexcept;

/// Which bounds the parent has to keep by looking, alone or beside the kernel.
struct looked_after {
  bool address_space = false;
  bool tree = false;       ///< counted from what the child has when the function begins, for which it waits
  bool processes = false;
};
looked_after looked_after_by_parent() noexcept;

/// How many threads this process has; 1 if that cannot be told.
int threads();
/// The (mangled) name of the function that begins at `address`; empty: not known, the program is stripped.
std::string symbol_at(const void* address);
/// Asks for huge pages under a block that is about to be filled. Best effort.
void advise_huge_pages(void* data, std::size_t size) noexcept;
/// Address space that becomes memory page by page, in huge pages where there are any; null: refused.
std::byte* reserve_memory(std::size_t size) noexcept;
/// False: what is reserved counts as used.
extern const bool reserved_memory_is_free;
void release_memory(std::byte* data, std::size_t size) noexcept;
/// Bytes of memory that this machine has.
std::uint64_t physical_memory();
/// How many processors this process may have at once; at least one.
unsigned processors();

// --- the environment ------------------------------------------------------------------------------------------

/// "NAME=value" of all variables, each with a zero at its end.
std::string environment();
void forget_variable(const char* name) noexcept;
/// Makes it this process's, in place of what it has.
void take_environment(std::string variables);

// --- terminals --------------------------------------------------------------------------------------------------

bool is_terminal(int descriptor);
/// In columns; 80 where it does not tell.
unsigned terminal_width(int descriptor);
/// False: another of the terminal's jobs has it; whoever writes then may be stopped.
bool is_in_foreground(int descriptor);
/// False: it is no good any more.
bool write_to_terminal(int descriptor, std::string_view text);

// --- code ---------------------------------------------------------------------------------------------------

/// Where a function or a constant is, in words that another process of the same program understands.
struct code_place {
  std::string build;  ///< of the program or library; empty: the address is in none
  std::string path;   ///< of the library; empty: the program itself
  std::uint64_t offset = 0;
};
code_place place_of(const void* address);
struct place_in_this_process {
  const void* address = nullptr;  ///< null: there is none
  std::string why_not;
};
/// `size` bytes are there, and are code where `executable`. Opens the library where it is not open yet.
place_in_this_process find_place(const code_place& place, std::size_t size, bool executable);

// --- a descriptor ---------------------------------------------------------------------------------------

class unique_fd {
 public:
  unique_fd() = default;
  /// Takes it; never as stdin, stdout or stderr, which a program may have closed: then it gets another number.
  explicit unique_fd(int fd);
  unique_fd(unique_fd&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  unique_fd& operator=(unique_fd&& other) noexcept;
  ~unique_fd();
  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] explicit operator bool() const { return fd_ >= 0; }
  /// The caller's to close from here on.
  [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
};

/// One that belongs to a call, and that no other call's child keeps.
class call_fd : public unique_fd {
 public:
  call_fd() = default;
  explicit call_fd(int fd);
  call_fd(call_fd&&) noexcept = default;
  call_fd& operator=(call_fd&& other) noexcept;
  ~call_fd();
  int release() noexcept = delete;
};

/// In the child: closes the descriptors of all calls, but for its own doorbell and conversation.
void close_descriptors_of_calls(int own_doorbell, int own_conversation) noexcept;

/// A file that has no name and takes no disk; of `size` bytes for good, or (0) growing as it is written.
/// Invalid (false) with errno set when there is no descriptor or no memory left.
call_fd make_memory_file(std::size_t size);

/// A flag that one process or a signal handler raises and another waits for.
/// `raise` is async-signal-safe; false: the descriptor is none any more.
class doorbell {
 public:
  /// Invalid (false) with errno set when there is no descriptor left.
  doorbell();
  [[nodiscard]] explicit operator bool() const { return static_cast<bool>(fd_); }
  /// To raise it by.
  [[nodiscard]] int descriptor() const { return raised_by_ ? raised_by_.get() : fd_.get(); }
  /// To wait at: readable while it is raised. The same descriptor, where one can be both.
  [[nodiscard]] int waitable() const { return fd_.get(); }
  static bool raise(int descriptor) noexcept;
  /// Never waits.
  void clear() noexcept;
  /// True if the descriptor is (still) a doorbell: a function may have closed it and opened something else.
  static bool is_one(int descriptor) noexcept;

 private:
  call_fd fd_;
  call_fd raised_by_;  ///< invalid: by the same
};

/// Waits for many doorbells at once. For one waiting thread; added to and removed from by any.
class bell_set {
 public:
  /// Invalid (false) with errno set when there is no descriptor left.
  bell_set();
  [[nodiscard]] explicit operator bool() const { return set_ && wake_; }
  /// Each ringing ends one wait; nobody has to clear the bell. False: the system is out of something.
  bool add(const doorbell& bell);
  /// Before the doorbell goes.
  void remove(const doorbell& bell);
  /// Waits until one of them was rung since the last wait, its own bell is rung, or until then.
  void wait(std::optional<clock::time_point> until);
  /// Ends the wait, or the next one.
  void wake() noexcept { doorbell::raise(wake_.descriptor()); }

 private:
  call_fd set_;
  doorbell wake_;
};

/// Appends to such a file. False with errno set: not all of it is there.
bool write_file(int file, const std::byte* data, std::size_t size) noexcept;
/// Closes what a started process was given.
void close_received(int descriptor) noexcept;
/// The number under which a started process has its `place`th (3, 4, ...) descriptor.
int received_descriptor(int place) noexcept;

/// A file's bytes, read only, for whoever gives them back; null: they cannot be mapped.
const std::byte* map_file(int file, std::size_t size) noexcept;
void unmap_file(const std::byte* data, std::size_t size) noexcept;

// --- the program, started again -------------------------------------------------------------------------------

/// True where this process runs with rights that are not those of whoever started it, as a set-user-ID program does.
bool has_borrowed_rights() noexcept;

// --- a child --------------------------------------------------------------------------------------------

/// How a child ended, as far as the system tells.
struct exit_status {
  enum class kind : std::uint8_t { exited, signalled, unknown } how = kind::unknown;
  int value = 0;  ///< exit code or signal
  std::uint32_t system_code = 0;  ///< what the system itself calls that signal, where it has numbers of its own
  bool usage_known = false;
  pynisher::usage usage;
  std::uint64_t peak_before_kill = 0;  ///< of the program that the child runs, where it had to be killed
  bool server_lost = false;            ///< the forkserver, whose child it was, is gone: it could not tell
  bool was_alone = false;  ///< it is certain that it has started nothing: nobody else ever had what it had
};

/// The mark that a call's processes carry, so that those which left its tree are still known as its own.
struct call_mark {
  std::uint64_t value = 0;  ///< 0: none
  std::uint64_t span = 0;   ///< marks from `value - span` (exclusive) to `value` are this call's or of calls in it
};

/// How a child came to be.
enum class parentage : std::uint8_t {
  copy,     ///< forked from the program by the thread that waits for it
  fresh,    ///< the program started again by that thread
  adopted,  ///< the forkserver's, made the program's own child
  relayed,  ///< the forkserver's own child, which ends and reaps it for the program
  cloned,   ///< a copy of an isolate, made by it the program's own child
};
constexpr bool is_by_server(parentage how) { return how == parentage::adopted || how == parentage::relayed; }
/// It was there before its call was.
constexpr bool has_waited(parentage how) { return is_by_server(how) || how == parentage::cloned; }

class child_process;

/// A bound on what a call and all that it starts may use of memory together, enforced by the kernel.
class memory_bound {
 public:
  /// None.
  memory_bound() = default;
  /// False with errno set: it cannot be made.
  explicit memory_bound(std::uint64_t most);
  memory_bound(const memory_bound&) = delete;
  memory_bound& operator=(const memory_bound&) = delete;
  /// Whatever has outlived the call is bound no longer.
  ~memory_bound();
  [[nodiscard]] explicit operator bool() const { return !entry_.empty(); }
  /// How the child enters, for `join_group`.
  [[nodiscard]] const std::string& entry() const { return entry_; }
  [[nodiscard]] const std::string& group() const { return group_; }
  /// Kills whatever is left in it.
  void end_members() const noexcept;

  struct count {
    std::uint64_t used = 0;
    std::uint64_t peak = 0;
    bool has_ended_one = false;  ///< the kernel has, for want of memory
    bool is_passed = false;      ///< the kernel lets it
  };
  [[nodiscard]] count look(const child_process& child, const mapped_memory& at_start) const;

 private:
  std::string group_, entry_;
  [[maybe_unused]] bool is_version_1_ = false;
  [[maybe_unused]] std::uint64_t most_ = 0;
};
std::string why_no_memory_bound();

/// A bound on how many processes and threads a call may have at once, the child included, enforced by the kernel.
class process_bound {
 public:
  /// None.
  process_bound() = default;
  /// False with errno set: it cannot be made. `around`: another bound of the same call, or null.
  explicit process_bound(std::uint64_t most, const memory_bound* around = nullptr);
  process_bound(const process_bound&) = delete;
  process_bound& operator=(const process_bound&) = delete;
  /// Whatever has outlived the call is bound no longer.
  ~process_bound();
  [[nodiscard]] explicit operator bool() const { return !entry_.empty(); }
  /// How the child enters, for `join_group`.
  [[nodiscard]] const std::string& entry() const { return entry_; }
  /// Whoever enters has entered the bound around it as well.
  [[nodiscard]] bool is_within_memory_bound() const { return is_within_memory_bound_; }
  /// Kills whatever is left in it.
  void end_members() const noexcept;
  /// Where the kernel does not keep it: ends those that came last and are too many.
  void end_surplus(const child_process& child) const noexcept;

 private:
  std::string group_, entry_;
  bool is_within_memory_bound_ = false;
  [[maybe_unused]] std::uint64_t most_ = 0;
};
std::string why_no_process_bound();
/// In the child. False: it could not.
bool join_group(const char* entry) noexcept;

/// Everything that the child's set-up needs, filled in by the parent before the fork.
struct child_plan {
  const detail::settings* limits = nullptr;
  detail::reply_region* region = nullptr;
  call_mark mark;
  clock::time_point started;
  std::optional<std::chrono::nanoseconds> cpu_limit;  ///< the call's, or what an outer call has left
  std::optional<std::uint64_t> memory;  ///< bytes by the limits' measure; or what an outer call has left of its own
  bool measures_growth = false;
  mapped_memory at_start;     ///< what the child starts with; filled in by `fork_child` where growth is measured
  std::uint64_t not_begun = 0;  ///< what the parent has put into the region; 0: the child still waits for `let_go`
  int doorbell = -1;
  int conversation = -1;  ///< a socket that an isolate has; -1: none
  int out = -1, err = -1;  ///< a copy's standard output and error; -1: the program's
  const char* process_bound = nullptr;  ///< its entry; null: there is none
  const char* memory_bound = nullptr;
  /// Called before a fork, while this process starts no other child: what the child is to find done. In the child each
  /// page that is written to would be one more to copy. What it returns is `is_prepared`.
  bool (*before_fork)() noexcept = nullptr;
  bool is_prepared = false;
  const platform::signal_mask* signal_mask = nullptr;  ///< what the function has blocked; null: what this thread has
  platform::parentage parentage = parentage::copy;
};

/// The parent of a child that is another process's: does what only a parent may do. A number is its child's until it has
/// reaped it, which it does when it is asked for the end, and not before.
class distant_parent {
 public:
  virtual ~distant_parent() = default;
  /// False: the parent is gone.
  virtual bool send(int signal) noexcept = 0;
  /// As `child_process::end`. Empty: the parent is gone, and the child with it, or soon.
  virtual std::optional<exit_status> end(bool orderly) noexcept = 0;
};

/// A started child that is this process's to end and to reap. Move-only; must be reaped before it goes.
class child_process {
 public:
  child_process() = default;
  child_process(child_process&&) noexcept = default;
  child_process& operator=(child_process&&) noexcept = default;

  [[nodiscard]] std::int64_t pid() const { return pid_; }

  enum class woken_by : std::uint8_t { nothing, doorbell, end };
  /// Waits for the child's end, the doorbell, a signal, or until `until`.
  /// `inner`: a bell that the child does not have, may be null.
  woken_by wait(const doorbell& bell, const doorbell* inner, std::optional<clock::time_point> until) const;
  [[nodiscard]] bool has_ended() const noexcept;
  void send(int signal) const noexcept;

  /// CPU time of all its threads so far; empty if it cannot be told any more.
  [[nodiscard]] std::optional<std::chrono::nanoseconds> cpu_time() const;
  /// What it takes beyond what it had at its start: private and shared memory. Empty if it cannot be told.
  [[nodiscard]] std::optional<std::uint64_t> memory_growth(const mapped_memory& at_start) const;

  /// Ends it, if it has not ended, and reaps it. `whole_tree`: ends what it started first.
  /// Comes back when they are gone.
  exit_status end(bool whole_tree, const call_mark& mark, const detail::reply_region& region);

  /// It is that one's child, and not this process's: set at once, or never.
  void belong_to(std::shared_ptr<distant_parent> parent) noexcept { parent_ = std::move(parent); }
  /// Where children need a death watch: it ends this one, and what that starts if `whole_tree`.
  void tell_death_watch(bool whole_tree) const noexcept;

 private:
  friend class many_waiter;
  friend class memory_bound;
  friend class process_bound;
  friend struct fork_result fork_child(child_plan& plan);
  friend struct fork_result watch_started_child(pid_t pid, call_fd process, call_fd job);
  friend bool let_go(const child_process& child, child_plan& plan);
  pid_t pid_ = -1;
  call_fd pidfd_;
  call_fd job_;  ///< invalid: the system has no such thing
  std::shared_ptr<distant_parent> parent_;  ///< null: this process
};

/// Waits for many children at once. For one thread.
class many_waiter {
 public:
  /// Invalid (false) with errno set when there is no descriptor left.
  many_waiter();
  [[nodiscard]] explicit operator bool() const { return set_ && wake_; }
  /// False: the system is out of something; nothing was added. `whose` comes back with the child's events, and must be
  /// a multiple of 4.
  bool add(const child_process& child, const doorbell& bell, void* whose);
  void remove(const child_process& child, const doorbell& bell);

  struct event {
    void* whose;
    child_process::woken_by woken;
    /// One for each child; an end counts for more than a bell.
    static void add(std::vector<event>& to, void* whose, child_process::woken_by woken) {
      for (event& known : to) {
        if (known.whose != whose) continue;
        if (woken == child_process::woken_by::end) known.woken = woken;
        return;
      }
      to.push_back({whose, woken});
    }
  };
  /// Waits until there are events, its own bell is rung, or until `until`. `events` is filled anew, one for each child.
  void wait(std::optional<clock::time_point> until, std::vector<event>& events);
  /// Ends a wait when it is rung.
  [[nodiscard]] const doorbell& bell() const { return wake_; }

 private:
  call_fd set_;
  doorbell wake_;
  std::shared_ptr<void> more_;        ///< what else the system needs
  std::vector<void*> ended_at_once_;  ///< those that were reaped before they had a descriptor
};

struct fork_result {
  enum class side : std::uint8_t { parent, child, failed } where = side::failed;
  child_process child;
  int error = 0;
};

/// Forks. Runs atfork handlers; stdio must have been flushed. In the child it returns after `set_up_child`, which waits
/// for `let_go`. The plan's region is the only one that the child gets.
fork_result fork_child(child_plan& plan);

/// For a child that was started afresh: the same as `fork_child` does after the fork.
/// `process`: its descriptor, where there is one already. `job`: what holds it and all that it starts, where the system
/// has such a thing.
fork_result watch_started_child(pid_t pid, call_fd process = call_fd(), call_fd job = call_fd());
/// True: children end with a killed program by its death watch, and not by themselves.
extern const bool children_need_death_watch;
/// Lets a child go on; measures it first, where growth is to be measured. False: it cannot be measured, and the child
/// still waits.
bool let_go(const child_process& child, child_plan& plan);

/// In the child: it ends when the program ends, or the thread that started it. Does not come back if that has happened already.
void tie_to_program(pid_t program, parentage how) noexcept;
/// The same for a child of the forkserver's, which ends when that does.
void tie_to_server(pid_t server) noexcept;
/// In a child that was started afresh: what it has not inherited.
void note_outer_limits(bool within_memory_limit) noexcept;
/// True within a limited call that has a memory limit, or is in such a call.
bool is_within_memory_limit() noexcept;

/// In a child that waits for its call: as much of `set_up_child` as does not depend on the call.
void prepare_set_up() noexcept;
/// In the child: everything from the death with the parent to the limits. On failure the stage and error
/// number are in the region and it does not return.
void set_up_child(const child_plan& plan, pid_t parent) noexcept;

/// In the child: ends what the call started, if it is to be ended, and notes in the region that nothing is left.
/// Async-signal-safe.
void end_tree_in_child() noexcept;
/// In the child: has these called at `exit` and `quick_exit`, before all handlers that the parent has registered.
void catch_exits(void (*at_exit)(int code), void (*at_quick_exit)(int code)) noexcept;
/// In the parent before the fork: the same for the child. False: it has to do it itself. The parent keeps the handlers
/// until the next time, and must not mind being called itself.
bool catch_exits_of_next_child(void (*at_exit)(int code), void (*at_quick_exit)(int code)) noexcept;
/// CPU time of all threads of a process so far; empty if it cannot be told.
std::optional<std::chrono::nanoseconds> cpu_time_of(pid_t process) noexcept;
/// Most bytes that a process ever had resident since it runs its program; 0 if that cannot be told. Async-signal-safe.
std::uint64_t peak_of(pid_t process) noexcept;
/// Most bytes that this process ever had resident, and what it has from programs before it.
std::uint64_t own_peak() noexcept;
/// In the child: what it has used so far, for a parent from whom the kernel's own count is taken away.
void note_usage(detail::reply_region& region) noexcept;
/// This process and this thread, as the kernel numbers them. Async-signal-safe.
pid_t process_number() noexcept;
/// Unlike the number, never that of the process which this one is a forked copy of: where the system cannot tell, the
/// number. Not zero.
std::int64_t process_identity() noexcept;
pid_t thread_number() noexcept;
/// This thread's name as `ps` and `top` show it; and in a child that was started afresh: takes the caller's.
std::string shown_name();
void show_as_thread(const std::string& name) noexcept;
/// While another thread ends the process.
[[noreturn]] void wait_for_the_end() noexcept;
/// In the child: leaves without running a handler or a destructor.
[[noreturn]] void leave(int code) noexcept;

/// A mark for a call made here; none (0) where marks cannot be had.
call_mark new_mark();
/// For a process that carries the mark of a call made here: none (0) where all below it are taken.
call_mark new_mark_below(std::uint64_t mark);
std::uint64_t mark_carried_by(pid_t process) noexcept;
void release_mark(const call_mark& mark);

/// CPU time that the limited call in which this process runs has left; empty outside of one.
std::optional<std::chrono::nanoseconds> outer_cpu_left();
/// Bytes that the memory limit of a call around this one leaves, by that measure; empty where there is none.
std::optional<std::uint64_t> outer_memory_left(memory_measure measure);

/// Unmaps the whole pages of shared memory until they are used again.
void forget_pages(void* data, std::size_t size) noexcept;
/// Keeps shared memory out of the children of other calls, which could forge replies in it. Negative: the error number
/// for which it could not be done.
long keep_from_children(void* data, std::size_t size) noexcept;

// --- the forkserver ------------------------------------------------------------------------------------------

/// True: a process cannot make children of its parent's. The forkserver's are its own, and the program deals with them
/// through it.
extern const bool forks_stay_with_server;
/// Two connected sockets, over which descriptors can be sent. `in_messages`: what is sent at once is received at once, where
/// the system has such sockets; else bytes in their order. False with errno set.
bool connect_two_processes(unique_fd& one, unique_fd& other, bool in_messages);
/// Readable once the process has ended. Invalid with ESRCH: it has ended already; else with another errno.
unique_fd watch_end_of(pid_t process);
/// Kills and reaps a child of this process's; `end`: what watches its end. Where it is out of reach for signals, it has a
/// moment to leave by itself, and is not reaped else. Without `end` it leaves by itself, and is waited for.
void end_own_child(pid_t child, const unique_fd& end) noexcept;
bool is_stopped(pid_t process) noexcept;
/// Empty: it cannot be told; none: there is no such process.
std::optional<std::string> shown_name_of(pid_t process);
/// To be given to a process that shall work there; invalid: there is none.
unique_fd working_directory();
/// In the server: it no longer ends with the thread that has started it.
void outlive_starting_thread() noexcept;
/// In a child that waits: makes pages of the C library's its own, while there is time.
void rehearse_set_up() noexcept;

// --- waiting in shared memory -----------------------------------------------------------------------------

/// In the child: waits until `word` is no longer `seen`, or for a moment.
void wait_for_change(std::atomic<std::uint32_t>& word, std::uint32_t seen) noexcept;
void wake_waiters(std::atomic<std::uint32_t>& word) noexcept;

// --- stdio and signals ----------------------------------------------------------------------------------------

/// Writes out what the program has printed and not yet flushed, so that no child prints it again.
void flush_stdio();
/// The part of it that C++ buffers.
void flush_iostreams();
/// In the child: writes out everything that is buffered, as `exit` would.
void flush_all_stdio();
/// In the child: forgets buffered output and input of the parent.
void forget_stdio() noexcept;

}  // namespace pynisher::platform
