// The forkserver, on both sides.
//
//   server:  one thread; forks a child and announces it: when the last one has ended, or when it is asked for one
//   child:   waits at a socket of its own for the descriptors of a call, or for the other end to be closed
//   program: gives the announced child its call, one caller at a time
//
// A child is made with CLONE_PARENT: the program's own, not the server's. When a call is made, the fork that it needs is
// over already, unless calls follow each other at once.

#include "forkserver.hpp"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <new>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include <pynisher/exceptions.hpp>
#include <pynisher/forkserver.hpp>

#include "call_order.hpp"
#include "child_main.hpp"
#include "platform/contract.hpp"

namespace pynisher::detail {

namespace {

using platform::unique_fd;

// --- what goes over the socket --------------------------------------------------------------------------------

enum class request_kind : std::uint8_t { call, preload, child, stop };

struct request {
  request_kind kind = request_kind::call;
  // Which descriptors come along, in this order, before the call's own.
  bool has_directory = false;
  bool has_output = false;
  bool has_error_output = false;
};

/// A child, whose socket comes along, or what came of a request.
struct answer {
  std::int64_t pid = -1;
  std::int32_t error = 0;
  char text[512] = {};  ///< what a preloaded function threw
};

/// In memory that program and server share. The kernel writes it as part of the fork: there is no moment at which the
/// program could not know of a child, however the server ends.
struct ledger {
  std::atomic<pid_t> last_forked;

  static constexpr std::size_t size = 4096;
  /// Null with errno set: it cannot be mapped.
  static ledger* map(int file) {
    void* const memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    return memory == MAP_FAILED ? nullptr : static_cast<ledger*>(memory);
  }
};
static_assert(sizeof(std::atomic<pid_t>) == sizeof(pid_t) && std::atomic<pid_t>::is_always_lock_free);

constexpr std::size_t most_descriptors = 8;

template <class Message>
bool send_with_descriptors(int socket, const Message& message, std::span<const int> descriptors) {
  iovec bytes{const_cast<Message*>(&message), sizeof message};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * most_descriptors)] = {};
  msghdr header{};
  header.msg_iov = &bytes;
  header.msg_iovlen = 1;
  if (!descriptors.empty()) {
    header.msg_control = control;
    header.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* passed = CMSG_FIRSTHDR(&header);
    passed->cmsg_level = SOL_SOCKET;
    passed->cmsg_type = SCM_RIGHTS;
    passed->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(passed), descriptors.data(), descriptors.size_bytes());
  }
  for (;;) {
    if (::sendmsg(socket, &header, MSG_NOSIGNAL) == sizeof message) return true;
    if (errno != EINTR) return false;
  }
}

template <class Message>
struct received {
  bool came = false;  ///< the message, but perhaps not all of its descriptors
  bool fine = false;
  Message message;
  std::vector<unique_fd> descriptors;
};

template <class Message>
received<Message> receive(int socket, int flags = 0) {
  received<Message> came;
  iovec bytes{&came.message, sizeof came.message};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * most_descriptors)] = {};
  msghdr header{};
  header.msg_iov = &bytes;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  const ssize_t got = ::recvmsg(socket, &header, MSG_CMSG_CLOEXEC | flags);
  for (cmsghdr* passed = CMSG_FIRSTHDR(&header); got > 0 && passed != nullptr; passed = CMSG_NXTHDR(&header, passed)) {
    if (passed->cmsg_level != SOL_SOCKET || passed->cmsg_type != SCM_RIGHTS) continue;
    std::array<int, most_descriptors> numbers{};
    const std::size_t size = std::min(passed->cmsg_len - CMSG_LEN(0), sizeof numbers);
    std::memcpy(numbers.data(), CMSG_DATA(passed), size);
    for (std::size_t i = 0; i < size / sizeof(int); ++i) came.descriptors.emplace_back(numbers[i]);
  }
  came.came = got == sizeof came.message;
  came.fine = came.came && (header.msg_flags & MSG_CTRUNC) == 0;
  return came;
}

// --- the program's side ---------------------------------------------------------------------------------------

/// Whom the kernel takes this process for.
struct rights_of_process {
  uid_t user = 0, effective_user = 0;
  gid_t group = 0, effective_group = 0;

  static rights_of_process now() { return {::getuid(), ::geteuid(), ::getgid(), ::getegid()}; }
  friend bool operator==(const rights_of_process&, const rights_of_process&) = default;
};

/// A child that waits for its call.
struct waiting_child {
  unique_fd socket;
  pid_t pid = -1;
  unique_fd process;
};

/// This process's server. A forked copy of the program has none.
struct server {
  std::mutex turn;  ///< to ask, or to start or end it
  std::atomic<int> turn_users{0};  ///< those who have it, want it, or are giving it back
  int socket = -1;
  pid_t pid = 0;
  unique_fd process;
  waiting_child next;
  ledger* book = nullptr;
  std::int64_t last_announced = 0;
  rights_of_process started_with;
  std::vector<std::vector<std::byte>> preloads;  ///< functions, packed
};

/// There before all statics of the program, and never destroyed: calls may be made while those are. In place, to be made
/// anew in a forked copy.
union server_storage {
  server value;
  constexpr server_storage() : value() {}
  ~server_storage() {}
};
constinit server_storage server_memory;
constexpr server* the_server = &server_memory.value;

/// Only looks, where there is nothing to be forgotten: writing would cost each forked child a copied page.
[[gnu::hot]] void forget_server() {
  if (the_server->socket < 0 && the_server->turn_users.load(std::memory_order_relaxed) == 0) return;
  if (the_server->socket >= 0) ::close(the_server->socket);
  for (const unique_fd* own : {&the_server->process, &the_server->next.socket, &the_server->next.process}) {
    if (*own) ::close(own->get());
  }
  auto preloads = std::move(the_server->preloads);
  // The mutex may be locked by a thread that this process has not got.
  auto* fresh = new (the_server) server;
  fresh->preloads = std::move(preloads);
}

[[maybe_unused]] const int registered = ::pthread_atfork(nullptr, nullptr, forget_server);

class having_turn {
 public:
  having_turn() {
    the_server->turn_users.fetch_add(1);
    the_server->turn.lock();
  }
  ~having_turn() {
    the_server->turn.unlock();
    the_server->turn_users.fetch_sub(1);
  }
  having_turn(const having_turn&) = delete;
  having_turn& operator=(const having_turn&) = delete;
};

bool is_stopped(pid_t pid) {
  char path[32], text[256];
  std::snprintf(path, sizeof path, "/proc/%d/stat", static_cast<int>(pid));
  const unique_fd file(::open(path, O_RDONLY | O_CLOEXEC));
  const ssize_t got = file ? ::read(file.get(), text, sizeof text - 1) : -1;
  if (got <= 0) return false;
  text[got] = '\0';
  const char* name_end = std::strrchr(text, ')');
  return name_end != nullptr && name_end[1] == ' ' && (name_end[2] == 'T' || name_end[2] == 't');
}

// From here on: by whoever has the turn.

/// By descriptor: a handler of the application's may have reaped it, and the number be another's.
void kill_and_reap(const unique_fd& process) noexcept {
  if (!process) return;
  if (::syscall(SYS_pidfd_send_signal, process.get(), SIGKILL, nullptr, 0) != 0 && errno == EPERM) {
    // The program has given up rights since. It ends by itself when nobody speaks to it any more.
    pollfd ended{process.get(), POLLIN, 0};
    constexpr int patience_ms = 2000;
    if (::poll(&ended, 1, patience_ms) <= 0) return;
  }
  siginfo_t ended;
  while (::syscall(SYS_waitid, P_PIDFD, process.get(), &ended, WEXITED | __WALL, nullptr) < 0 && errno == EINTR) {
  }
}

void dismiss_waiting_child() noexcept {
  // Without a conversation it leaves by itself, should it be out of reach for signals.
  the_server->next.socket = unique_fd();
  if (the_server->next.process) {
    kill_and_reap(the_server->next.process);
  } else if (the_server->next.pid > 0) {
    // There was no descriptor left for it.
    while (::waitpid(the_server->next.pid, nullptr, __WALL) < 0 && errno == EINTR) {
    }
  }
  the_server->next = {};
}

/// False: it has been dismissed.
bool watch_waiting_child(std::int64_t pid) noexcept {
  the_server->next.pid = static_cast<pid_t>(pid);
  the_server->next.process = unique_fd(static_cast<int>(::syscall(SYS_pidfd_open, the_server->next.pid, 0)));
  if (the_server->next.process) return true;
  const int error = errno;
  // No such process: it has ended, and somebody else has reaped it.
  if (error == ESRCH) the_server->next.pid = -1;
  dismiss_waiting_child();
  errno = error;
  return false;
}

void note_announcement(const answer& announced) noexcept {
  if (announced.pid > 0) the_server->last_announced = announced.pid;
}

/// One that was announced, and that will not get a call.
void dismiss_announced(const answer& announced) noexcept {
  if (announced.pid > 0 && watch_waiting_child(announced.pid)) dismiss_waiting_child();
}

/// One that the server had no time to announce. Its end of the conversation is closed: it leaves by itself as well.
void dismiss_unannounced() noexcept {
  const pid_t pid = the_server->book->last_forked.load();
  if (pid <= 0 || pid == the_server->last_announced) return;
  char path[32], name[16] = {};
  std::snprintf(path, sizeof path, "/proc/%d/comm", static_cast<int>(pid));
  const unique_fd file(::open(path, O_RDONLY | O_CLOEXEC));
  // Should somebody else have reaped it, the number may be another's.
  if (!file && errno == ENOENT) return;
  const std::string_view prefix = "pynisher-";
  if (file && (::read(file.get(), name, sizeof name) <= 0 || !std::string_view(name).starts_with(prefix))) return;
  if (watch_waiting_child(pid)) dismiss_waiting_child();
}

bool has_died() {
  pollfd ended{the_server->process.get(), POLLIN, 0};
  return ::poll(&ended, 1, 0) > 0;
}

/// Lets it finish what it is at, so that it has announced every child that there is.
void await_end_of_server() {
  if (!send_with_descriptors(the_server->socket, request{.kind = request_kind::stop}, {})) return;
  constexpr int patience = 10, look_every_ms = 100;
  for (int i = 0; i < patience && !is_stopped(the_server->pid); ++i) {
    pollfd ended{the_server->process.get(), POLLIN, 0};
    if (::poll(&ended, 1, look_every_ms) > 0) return;
  }
}

void end_server() noexcept {
  if (the_server->socket < 0) return;
  if (the_server->process && !has_died()) await_end_of_server();
  ::shutdown(the_server->socket, SHUT_WR);
  kill_and_reap(the_server->process);
  // Children that wait, and that nobody has asked for yet.
  dismiss_waiting_child();
  // Their sockets are lost with this, as they shall be, and no descriptor is needed for it.
  answer left;
  while (::recv(the_server->socket, &left, sizeof left, MSG_DONTWAIT) == sizeof left) {
    note_announcement(left);
    dismiss_announced(left);
  }
  dismiss_unannounced();
  ::munmap(the_server->book, ledger::size);
  the_server->book = nullptr;
  ::close(the_server->socket);
  the_server->socket = -1;
  the_server->process = unique_fd();
}

/// Waits for what it says; not fine: it has died, or was stopped and had to be ended.
received<answer> hear() {
  for (;;) {
    pollfd watched[] = {{the_server->socket, POLLIN, 0}, {the_server->process.get(), POLLIN, 0}};
    constexpr int look_every_ms = 200;
    const int ready = ::poll(watched, std::size(watched), look_every_ms);
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0 && !is_stopped(the_server->pid)) continue;
    received<answer> heard;
    if (ready > 0 && (watched[0].revents & POLLIN) != 0) heard = receive<answer>(the_server->socket, MSG_DONTWAIT);
    if (heard.came) note_announcement(heard.message);
    heard.message.text[sizeof heard.message.text - 1] = '\0';
    if (heard.came && !heard.fine) {
      heard.descriptors.clear();
      dismiss_announced(heard.message);
    }
    if (!heard.fine) end_server();
    return heard;
  }
}

struct failure {
  const char* stage = nullptr;  ///< null: none
  int error = 0;
  std::string text;
};

failure send_to_server(const request& message, std::span<const int> descriptors) {
  if (!send_with_descriptors(the_server->socket, message, descriptors)) {
    const int error = errno;
    // No descriptor was left to send by, or the like: not the server's fault.
    if (error != EPIPE && error != ECONNRESET) return {"ask the forkserver", error, {}};
    end_server();
    return {"ask the forkserver, which has died", error, {}};
  }
  return {};
}

/// What each child has from the program and not from the server; -1: the program has not got it either.
struct surroundings {
  explicit surroundings(const started_output& own = {}) {
    if (own.out >= 0) output = own.out;
    if (own.err >= 0) error_output = own.err;
  }
  unique_fd directory{::open(".", O_PATH | O_DIRECTORY | O_CLOEXEC)};
  int output = ::fcntl(STDOUT_FILENO, F_GETFD) < 0 ? -1 : STDOUT_FILENO;
  int error_output = ::fcntl(STDERR_FILENO, F_GETFD) < 0 ? -1 : STDERR_FILENO;

  std::vector<int> describe(request& message, std::span<const int> own) const {
    std::vector<int> all;
    const auto add = [&all](int descriptor, bool& has) {
      has = descriptor >= 0;
      if (has) all.push_back(descriptor);
    };
    add(directory.get(), message.has_directory);
    add(output, message.has_output);
    add(error_output, message.has_error_output);
    all.insert(all.end(), own.begin(), own.end());
    return all;
  }
};

/// Has a child that waits. The server announces one by itself when the last one has ended.
failure have_waiting_child() {
  waiting_child& next = the_server->next;
  if (next.socket) return {};
  pollfd announcement{the_server->socket, POLLIN, 0};
  if (::poll(&announcement, 1, 0) <= 0) {
    if (failure failed = send_to_server({.kind = request_kind::child}, {}); failed.stage != nullptr) return failed;
  }
  received<answer> announced = hear();
  if (!announced.fine) return {"hear from the forkserver, which has died", ECONNRESET, {}};
  if (announced.message.error != 0 || announced.descriptors.empty()) {
    end_server();
    return {"fork in the forkserver", announced.message.error != 0 ? announced.message.error : EMFILE, {}};
  }
  next.socket = std::move(announced.descriptors[0]);
  if (!watch_waiting_child(announced.message.pid)) return {"watch the forkserver's child", errno, {}};
  return {};
}

failure run_preload(const std::vector<std::byte>& packed) {
  const platform::call_fd file = platform::make_memory_file(0);
  if (!file || ::write(file.get(), packed.data(), packed.size()) != static_cast<ssize_t>(packed.size())) {
    return {"make room for a preloaded function", errno, {}};
  }
  request message{.kind = request_kind::preload};
  const surroundings here;
  const int descriptor = file.get();
  const std::vector<int> all = here.describe(message, {&descriptor, 1});
  if (failure failed = send_to_server(message, all); failed.stage != nullptr) return failed;
  const received<answer> heard = hear();
  if (!heard.fine) return {"run a preloaded function in the forkserver, which has died", ECONNRESET, {}};
  if (heard.message.text[0] == '\0') return {};
  return {"run a preloaded function in the forkserver", ECANCELED, heard.message.text};
}

failure have_server() {
  const rights_of_process rights = rights_of_process::now();
  if (the_server->socket >= 0 && (has_died() || rights != the_server->started_with)) end_server();
  if (the_server->socket >= 0) return {};
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return {"make a socket", errno, {}};
  const unique_fd own_end(ends[0]), servers_end(ends[1]);
  const platform::call_fd memory = platform::make_memory_file(ledger::size);
  ledger* const book = memory ? ledger::map(memory.get()) : nullptr;
  if (book == nullptr) return {"make the forkserver's memory", errno, {}};
  // A forked copy of the program has no business with it.
  const long kept = platform::keep_from_children(book, ledger::size);
  const int given[] = {servers_end.get(), memory.get()};
  const program_started started = kept < 0 ? program_started{-1, "keep the forkserver's memory from children", static_cast<int>(-kept)}
                                           : start_program(program_role::forkserver, given, {});
  if (started.failed != nullptr) {
    ::munmap(book, ledger::size);
    return {started.failed, started.error, {}};
  }
  the_server->book = book;
  the_server->last_announced = 0;
  the_server->socket = ::fcntl(own_end.get(), F_DUPFD_CLOEXEC, 3);
  the_server->started_with = rights;
  the_server->pid = started.pid;
  the_server->process = unique_fd(static_cast<int>(::syscall(SYS_pidfd_open, started.pid, 0)));
  if (!the_server->process) {
    const int error = errno;
    ::kill(started.pid, SIGKILL);
    ::waitpid(started.pid, nullptr, __WALL);
    end_server();
    return {"watch the forkserver", error, {}};
  }
  const received<answer> ready = hear();
  if (ready.fine && ready.message.text[0] != '\0') {
    end_server();
    return {"start the forkserver", ECANCELED, ready.message.text};
  }
  if (!ready.fine) {
    return {"hear from the forkserver, which has ended before it reached pynisher::init", ECONNRESET, {}};
  }
  for (const auto& packed : the_server->preloads) {
    if (failure failed = run_preload(packed); failed.stage != nullptr) {
      end_server();
      return failed;
    }
  }
  return send_to_server({.kind = request_kind::child}, {});
}

void throw_if_failed(const failure& failed) {
  if (failed.stage == nullptr) return;
  const std::string stage = failed.text.empty() ? failed.stage : fmt::format("{} ({})", failed.stage, failed.text);
  throw StartException(stage, std::error_code(failed.error, std::system_category()));
}

}  // namespace

void have_forkserver() {
  const having_turn turn;
  static_cast<void>(have_server());
}

program_started call_by_server(std::span<const int> descriptors, const started_output& output,
                               const std::function<void()>& note_start) {
  const having_turn turn;
  const auto failed_to = [](const failure& failed) { return program_started{-1, failed.stage, failed.error, {}}; };
  if (failure failed = have_server(); failed.stage != nullptr) return failed_to(failed);
  request message{.kind = request_kind::call};
  const surroundings here(output);
  const std::vector<int> all = here.describe(message, descriptors);
  note_start();
  // The server announces another for each that is killed while it waits, and all of those may be dead by now.
  constexpr int most_dead = 1000;
  for (int dead = 0;; ++dead) {
    if (failure failed = have_waiting_child(); failed.stage != nullptr) return failed_to(failed);
    waiting_child& child = the_server->next;
    if (send_with_descriptors(child.socket.get(), message, all)) break;
    const int error = errno;
    if (error != EPIPE && error != ECONNRESET) return failed_to({"ask the forkserver's child", error, {}});
    // It has died while it waited: killed by somebody.
    dismiss_waiting_child();
    if (dead == most_dead) return failed_to({"ask the forkserver's child, which has died", error, {}});
  }
  const waiting_child started = std::exchange(the_server->next, {});
  return {started.pid, nullptr, 0, ::fcntl(started.process.get(), F_DUPFD_CLOEXEC, 0)};
}

void preload_in_forkserver(const call_entry& entry, const std::function<void(output_archive&)>& write) {
  struct growing final : byte_sink {
    std::vector<std::byte> bytes = std::vector<std::byte>(1024);
    window next(std::byte* filled_to) override {
      const auto filled = filled_to - bytes.data();
      bytes.resize(2 * bytes.size());
      return {bytes.data() + filled, bytes.data() + bytes.size()};
    }
  } sink;
  output_archive out(sink, {sink.bytes.data(), sink.bytes.data() + sink.bytes.size()});
  write_entry(out, entry);
  write(out);
  sink.bytes.resize(static_cast<std::size_t>(out.position()));
  const having_turn turn;
  the_server->preloads.push_back(std::move(sink.bytes));
  if (the_server->socket < 0) return;
  // Its children were forked before. A new one runs them all.
  end_server();
  if (failure failed = have_server(); failed.stage != nullptr) {
    the_server->preloads.pop_back();
    throw_if_failed(failed);
  }
}

// --- the server's side ----------------------------------------------------------------------------------------

namespace {

struct child_of_program {
  unique_fd process;
};

/// What the server serves by.
struct serving {
  int socket;
  ledger* book;
};

/// Their locks would stay locked in every child.
constexpr const char* too_many_threads = "the forkserver has more than one thread, of a static object or a preloaded function";

void on_signal(int /*signal*/) {}

rlimit descriptors_before{};

/// The pages that every call needs become this process's own while there is time.
void rehearse() {
  static const char here = 0;
  const auto place = platform::find_place(platform::place_of(&here), sizeof here, false);
  static_cast<void>(place);
  static_cast<void>(platform::mapped());
  const volatile auto kept = ::environ;
  ::environ = kept;
  std::free(std::malloc(16384));
  const std::size_t no_text = 0;
  input_archive in(reinterpret_cast<const std::byte*>(&no_text), sizeof no_text);
  std::string text;
  in(text);
  char stack[8192];
  for (std::size_t at = 0; at < sizeof stack; at += 1024) static_cast<volatile char*>(stack)[at] = 0;
}

/// In a child that waits: takes its call, and makes it.
[[noreturn]] void take_call(int own_socket, platform::parentage parentage) {
  received<request> received = receive<request>(own_socket);
  // Signals that came meanwhile, from the terminal perhaps, are not the call's.
  sigset_t all;
  sigfillset(&all);
  constexpr timespec none{};
  while (::sigtimedwait(&all, nullptr, &none) > 0) {
  }
  const request& message = received.message;
  const std::size_t least = std::size_t{2} + message.has_directory + message.has_output + message.has_error_output;
  // No call will come, or its descriptors are more than this process may have.
  if (!received.fine || received.descriptors.size() < least) platform::leave(0);
  ::close(own_socket);
  std::size_t at = 0;
  const auto take = [&](bool has) { return has ? received.descriptors[at++].get() : -1; };
  if (const int directory = take(received.message.has_directory); directory >= 0) {
    if (::fchdir(directory) != 0) ::_exit(1);
    ::close(directory);
  }
  for (const auto& [has, target] : {std::pair(received.message.has_output, STDOUT_FILENO),
                                    std::pair(received.message.has_error_output, STDERR_FILENO)}) {
    const int given = take(has);
    if (given >= 0) {
      ::dup2(given, target);
      ::close(given);
    } else if (parentage == platform::parentage::adopted) {
      ::close(target);
    }
  }
  const int region = take(true), doorbell = take(true);
  const auto next = [&] { return take(at < received.descriptors.size()); };
  const int order = next(), conversation = next();
  follow_order(region, doorbell, order, conversation, parentage);
}

/// In the child that was forked: waits for its call.
[[noreturn]] void become_call(const serving& server, int own_socket, const std::vector<child_of_program>& siblings) {
  ::close(server.socket);
  ::munmap(server.book, ledger::size);
  ::setrlimit(RLIMIT_NOFILE, &descriptors_before);
  for (const auto& sibling : siblings) ::close(sibling.process.get());
  ::signal(SIGTERM, SIG_DFL);
  platform::prepare_set_up();
  prepare_to_run();
  rehearse();
  ::prctl(PR_SET_NAME, "pynisher-waits");
  take_call(own_socket, platform::parentage::adopted);
}

/// As the program's child, with its number in the ledger; `process` becomes its descriptor, or remains what it is.
long fork_for_program(const serving& server, const thread_state& thread, int& process) {
  auto* const number = reinterpret_cast<pid_t*>(&server.book->last_forked);
  unsigned long flags = CLONE_PARENT | CLONE_PARENT_SETTID;
  if (thread.number != nullptr) flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
  clone_args wanted{};
  wanted.flags = flags | CLONE_PIDFD;
  wanted.pidfd = reinterpret_cast<std::uintptr_t>(&process);
  wanted.parent_tid = reinterpret_cast<std::uintptr_t>(number);
  wanted.child_tid = reinterpret_cast<std::uintptr_t>(thread.number);
  long pid = ::syscall(SYS_clone3, &wanted, sizeof wanted);
  // Filters of system calls that are older than this one.
  if (pid >= 0 || (errno != ENOSYS && errno != EPERM)) return pid;
#if defined(__x86_64__)
  pid = ::syscall(SYS_clone, flags, nullptr, number, thread.number, nullptr);
#else
  pid = ::syscall(SYS_clone, flags, nullptr, number, nullptr, thread.number);
#endif
  // Not there for one that has ended and was reaped; it needs no looking after.
  if (pid > 0) process = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  return pid;
}

/// Forks a child, the last of `siblings` then, and announces it; false: it announces that it cannot.
bool announce_child(const serving& server, std::vector<child_of_program>& siblings, const thread_state& thread) {
  int conversation[2] = {-1, -1};
  answer announced;
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, conversation) != 0) announced.error = errno;
  const unique_fd programs_end(conversation[0]), childs_end(conversation[1]);
  int process = -1;
  if (announced.error == 0) {
    const long pid = fork_for_program(server, thread, process);
    if (pid == 0) {
      thread.note_robust_list();
      ::close(programs_end.get());
      become_call(server, childs_end.get(), siblings);
    }
    if (pid < 0) announced.error = errno;
    announced.pid = pid;
  }
  if (process >= 0) siblings.push_back({unique_fd(process)});
  const bool fine = announced.error == 0;
  const int sent = programs_end.get();
  return send_with_descriptors(server.socket, announced, {&sent, fine ? std::size_t{1} : std::size_t{0}}) && fine;
}

answer run_preloaded(const received<request>& received) {
  answer result;
  std::size_t at = 0;
  const auto take = [&](bool has) { return has && at < received.descriptors.size() ? received.descriptors[at++].get() : -1; };
  if (const int directory = take(received.message.has_directory); directory >= 0) {
    static_cast<void>(::fchdir(directory));
  }
  const int nothing = ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
  ::dup2(take(received.message.has_output), STDOUT_FILENO);
  ::dup2(take(received.message.has_error_output), STDERR_FILENO);
  const auto fail = [&result](const char* why) { std::strncpy(result.text, why, sizeof result.text - 1); };
  try {
    const int file = take(true);
    const off_t size = ::lseek(file, 0, SEEK_END);
    std::vector<std::byte> bytes(static_cast<std::size_t>(std::max<off_t>(size, 0)));
    if (::pread(file, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) throw wire_error("it was not received");
    input_archive in(bytes.data(), bytes.size());
    struct nowhere final : byte_sink {
      window next(std::byte* /*filled_to*/) override { throw wire_error("a preloaded function has no reply"); }
    } sink;
    output_archive no_reply(sink, {nullptr, nullptr});
    read_call(in)->run(no_reply);
    if (platform::threads() > 1) throw std::runtime_error(too_many_threads);
  } catch (const std::exception& e) {
    fail(e.what()[0] != '\0' ? e.what() : "an exception without a text");
  } catch (...) {
    fail("it threw something that is no std::exception");
  }
  platform::flush_iostreams();
  ::fflush(nullptr);
  ::dup2(nothing, STDOUT_FILENO);
  ::dup2(nothing, STDERR_FILENO);
  ::close(nothing);
  return result;
}

/// Forgets those that have ended.
void look_after(std::vector<child_of_program>& children) {
  std::erase_if(children, [](const child_of_program& child) {
    pollfd ended{child.process.get(), POLLIN, 0};
    return ::poll(&ended, 1, 0) > 0;
  });
}

}  // namespace

/// The kernel writes a child's number where the C library keeps it, as it does for the library's own fork.
thread_state::thread_state() {
  if (::prctl(PR_GET_TID_ADDRESS, &number) != 0) number = nullptr;
  ::syscall(SYS_get_robust_list, 0, &robust_list, &robust_list_size);
}

void thread_state::note_robust_list() const {
  if (robust_list != nullptr) ::syscall(SYS_set_robust_list, robust_list, robust_list_size);
}

long fork_for_parent(const thread_state& thread) {
  unsigned long flags = CLONE_PARENT;
  if (thread.number != nullptr) flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
#if defined(__x86_64__)
  const long pid = ::syscall(SYS_clone, flags, nullptr, nullptr, thread.number, nullptr);
#else
  const long pid = ::syscall(SYS_clone, flags, nullptr, nullptr, nullptr, thread.number);
#endif
  if (pid == 0) thread.note_robust_list();
  return pid;
}

void forget_server_in_copy() { forget_server(); }

int give_call_to_copy(int socket, std::span<const int> descriptors, const started_output& output) {
  request message{.kind = request_kind::call};
  surroundings here;
  here.directory = unique_fd();
  here.output = output.out;
  here.error_output = output.err;
  return send_with_descriptors(socket, message, here.describe(message, descriptors)) ? 0 : errno;
}

void wait_as_copy(int socket) { take_call(socket, platform::parentage::cloned); }

void serve_forks(int socket, int ledger_file) {
  const pid_t program = ::getppid();
  const serving server{socket, ledger::map(ledger_file)};
  if (server.book == nullptr) platform::leave(1);
  ::close(ledger_file);
  // Signals of the terminal are the program's affair. SIGTERM tells of its end.
  struct sigaction told {};
  told.sa_handler = on_signal;
  ::sigaction(SIGTERM, &told, nullptr);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  ::prctl(PR_SET_NAME, "pynisher-forks");
  sigset_t while_waiting;
  sigfillset(&while_waiting);
  sigdelset(&while_waiting, SIGTERM);

  const thread_state thread;
  std::vector<child_of_program> children;
  std::size_t look_at = 16;
  prepare_for_children();
  // As many descriptors as there can be: each child of the program's has one here. The children get back what was.
  rlimit descriptors{};
  ::getrlimit(RLIMIT_NOFILE, &descriptors);
  descriptors_before = descriptors;
  descriptors.rlim_cur = descriptors.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &descriptors);
  answer ready;
  if (platform::threads() > 1) std::strncpy(ready.text, too_many_threads, sizeof ready.text - 1);
  bool is_heard = send_with_descriptors(socket, ready, {});
  while (is_heard && ::getppid() == program) {
    pollfd watched[] = {{socket, POLLIN, 0}, {children.empty() ? -1 : children.back().process.get(), POLLIN, 0}};
    // A signal also comes when only the thread ends that started this.
    if (::ppoll(watched, std::size(watched), nullptr, &while_waiting) < 0) continue;
    if (watched[1].revents != 0) {
      if (children.size() >= look_at) {
        look_after(children);
        look_at = 2 * children.size() + 16;
      }
      if (!announce_child(server, children, thread)) break;
    }
    if (watched[0].revents == 0) continue;
    const received<request> received = receive<request>(socket);
    if (!received.fine) break;
    if (received.message.kind == request_kind::stop) platform::leave(0);
    if (received.message.kind == request_kind::child) {
      if (!announce_child(server, children, thread)) break;
    } else {
      is_heard = send_with_descriptors(socket, run_preloaded(received), {});
    }
  }
  // The end of the conversation is the program's end, or that of its image, seen before the kernel has told.
  while (!children.empty() && ::getppid() == program) {
    constexpr timespec a_while{0, 20'000'000};
    ::ppoll(nullptr, 0, &a_while, &while_waiting);
    look_after(children);
  }
  for (const auto& child : children) ::syscall(SYS_pidfd_send_signal, child.process.get(), SIGKILL, nullptr, 0);
  platform::leave(0);
}

}  // namespace pynisher::detail

namespace pynisher::forkserver {

void start() {
  using namespace detail;
  const having_turn turn;
  throw_if_failed(have_server());
}

void stop() noexcept {
  using namespace detail;
  const having_turn turn;
  end_server();
}

}  // namespace pynisher::forkserver
