// The program's side of the forkserver (forkserver_serving.cpp): gives each announced child its call, one caller at a
// time.

#include "forkserver.hpp"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include <pynisher/exceptions.hpp>
#include <pynisher/forkserver.hpp>

#include "call_order.hpp"
#include "forkserver_messages.hpp"
#include "forkserver_relay.hpp"
#include "platform/contract.hpp"

namespace pynisher::detail {

using platform::unique_fd;

namespace {

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
  std::shared_ptr<served_child> parent;  ///< null: this process
};

/// This process's server. A forked copy of the program has none.
struct server {
  std::mutex turn;                 ///< to ask, or to start or end it
  std::atomic<int> turn_users{0};  ///< those who have it, want it, or are giving it back
  int socket = -1;
  std::shared_ptr<server_process> process;
  waiting_child next;
  fork_ledger* book = nullptr;  ///< null: its children are its own, and it relays
  std::int64_t last_announced = 0;
  rights_of_process started_with;
  std::vector<std::vector<std::byte>> preloads;  ///< functions, packed
};

/// There before all statics of the program, and never destroyed: calls may be made while those are. In place, to be
/// made anew in a forked copy.
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
  for (const unique_fd* own : {&the_server->next.socket, &the_server->next.process}) {
    if (*own) ::close(own->get());
  }
  auto preloads = std::move(the_server->preloads);
  // A copy has no hold on them, and only lets them go.
  const auto process = std::move(the_server->process);
  const auto parent = std::move(the_server->next.parent);
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

// From here on: by whoever has the turn.

void dismiss_waiting_child() noexcept {
  // Without a conversation it leaves by itself, should it be out of reach for signals.
  the_server->next.socket = unique_fd();
  // A server that relays is told when the conversation about it goes.
  if (!the_server->next.parent && the_server->next.pid > 0) {
    platform::end_own_child(the_server->next.pid, the_server->next.process);
  }
  the_server->next = {};
}

/// False: it has been dismissed.
bool watch_waiting_child(std::int64_t pid) noexcept {
  the_server->next.pid = static_cast<pid_t>(pid);
  the_server->next.process = platform::watch_end_of(the_server->next.pid);
  if (the_server->next.process) return true;
  const int error = errno;
  // No such process: it has ended, and somebody else has reaped it.
  if (error == ESRCH) the_server->next.pid = -1;
  dismiss_waiting_child();
  errno = error;
  return false;
}

void note_announcement(const fork_answer& announced) noexcept {
  if (announced.pid > 0) the_server->last_announced = announced.pid;
}

/// One that was announced, and that will not get a call.
void dismiss_announced(const fork_answer& announced) noexcept {
  if (the_server->book != nullptr && announced.pid > 0 && watch_waiting_child(announced.pid)) dismiss_waiting_child();
}

/// One that the server had no time to announce. Its end of the conversation is closed: it leaves by itself as well.
void dismiss_unannounced() noexcept {
  const pid_t pid = the_server->book->last_forked.load();
  if (pid <= 0 || pid == the_server->last_announced) return;
  const std::optional<std::string> name = platform::shown_name_of(pid);
  // Should somebody else have reaped it, the number may be another's.
  if (!name || (!name->empty() && !name->starts_with("pynisher-"))) return;
  if (watch_waiting_child(pid)) dismiss_waiting_child();
}

bool has_died() { return the_server->process->has_died(); }

/// Lets it finish what it is at.
void await_end_of(const server_process& server) noexcept {
  constexpr int patience = 10, look_every_ms = 100;
  for (int i = 0; i < patience && !server.is_stopped(); ++i) {
    pollfd ended{server.end(), POLLIN, 0};
    if (::poll(&ended, 1, look_every_ms) > 0) return;
  }
}

/// Calls in flight need it still: it goes with the last of them.
void end_relaying_server() noexcept {
  static_cast<void>(send_message(the_server->socket, fork_request{.kind = fork_request_kind::stop}, {}));
  dismiss_waiting_child();
  // With what it has announced, which it ends.
  ::close(the_server->socket);
  the_server->socket = -1;
  const std::shared_ptr<server_process> last = std::move(the_server->process);
  if (last.use_count() == 1) await_end_of(*last);
}

void end_server() noexcept {
  if (the_server->socket < 0) return;
  if (the_server->book == nullptr) return end_relaying_server();
  // So that it has announced every child that there is.
  if (!has_died() && send_message(the_server->socket, fork_request{.kind = fork_request_kind::stop}, {})) {
    await_end_of(*the_server->process);
  }
  ::shutdown(the_server->socket, SHUT_WR);
  the_server->process.reset();
  // Children that wait, and that nobody has asked for yet.
  dismiss_waiting_child();
  // Their sockets are lost with this, as they shall be, and no descriptor is needed for it.
  fork_answer left;
  while (::recv(the_server->socket, &left, sizeof left, MSG_DONTWAIT) == sizeof left) {
    note_announcement(left);
    dismiss_announced(left);
  }
  dismiss_unannounced();
  ::munmap(the_server->book, fork_ledger::size);
  the_server->book = nullptr;
  ::close(the_server->socket);
  the_server->socket = -1;
}

/// Waits for what it says; not fine: it has died, or was stopped and had to be ended.
received<fork_answer> hear() {
  for (;;) {
    pollfd watched[] = {{the_server->socket, POLLIN, 0}, {the_server->process->end(), POLLIN, 0}};
    constexpr int look_every_ms = 200;
    const int ready = ::poll(watched, std::size(watched), look_every_ms);
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0 && !the_server->process->is_stopped()) continue;
    received<fork_answer> heard;
    if (ready > 0 && (watched[0].revents & POLLIN) != 0)
      heard = receive_message<fork_answer>(the_server->socket, MSG_DONTWAIT);
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

failure send_to_server(const fork_request& message, std::span<const int> descriptors) {
  if (!send_message(the_server->socket, message, descriptors)) {
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
  unique_fd directory = platform::working_directory();
  int output = ::fcntl(STDOUT_FILENO, F_GETFD) < 0 ? -1 : STDOUT_FILENO;
  int error_output = ::fcntl(STDERR_FILENO, F_GETFD) < 0 ? -1 : STDERR_FILENO;

  std::vector<int> describe(fork_request& message, std::span<const int> own) const {
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
    if (failure failed = send_to_server({.kind = fork_request_kind::child}, {}); failed.stage != nullptr) return failed;
  }
  received<fork_answer> announced = hear();
  if (!announced.fine) return {"hear from the forkserver, which has died", ECONNRESET, {}};
  const bool relays = the_server->book == nullptr;
  if (announced.message.error != 0 || announced.descriptors.size() != (relays ? 2 : 1)) {
    end_server();
    return {"fork in the forkserver", announced.message.error != 0 ? announced.message.error : EMFILE, {}};
  }
  next.socket = std::move(announced.descriptors[0]);
  if (relays) {
    next.parent =
        std::make_shared<served_child>(platform::call_fd(announced.descriptors[1].release()), the_server->process);
  }
  if (!watch_waiting_child(announced.message.pid)) return {"watch the forkserver's child", errno, {}};
  return {};
}

failure run_preload(const std::vector<std::byte>& packed) {
  const platform::call_fd file = platform::make_memory_file(0);
  if (!file || ::write(file.get(), packed.data(), packed.size()) != static_cast<ssize_t>(packed.size())) {
    return {"make room for a preloaded function", errno, {}};
  }
  fork_request message{.kind = fork_request_kind::preload};
  const surroundings here;
  const int descriptor = file.get();
  const std::vector<int> all = here.describe(message, {&descriptor, 1});
  if (failure failed = send_to_server(message, all); failed.stage != nullptr) return failed;
  const received<fork_answer> heard = hear();
  if (!heard.fine) return {"run a preloaded function in the forkserver, which has died", ECONNRESET, {}};
  if (heard.message.text[0] == '\0') return {};
  return {"run a preloaded function in the forkserver", ECANCELED, heard.message.text};
}

std::atomic<bool> relays_for_tests{false};

/// The memory that is shared with a server whose children are this process's own; it has none else.
struct shared_ledger {
  platform::call_fd file;
  fork_ledger* book = nullptr;
};

failure make_ledger(shared_ledger& ledger) {
  ledger.file = platform::make_memory_file(fork_ledger::size);
  ledger.book = ledger.file ? fork_ledger::map(ledger.file.get()) : nullptr;
  if (ledger.book == nullptr) return {"make the forkserver's memory", errno, {}};
  // A forked copy of the program has no business with it.
  const long kept = platform::keep_from_children(ledger.book, fork_ledger::size);
  if (kept >= 0) return {};
  ::munmap(ledger.book, fork_ledger::size);
  return {"keep the forkserver's memory from children", static_cast<int>(-kept), {}};
}

/// It runs, and nothing has been heard of it yet.
failure start_server() {
  const bool relays = forks_are_relayed();
  unique_fd own_end, servers_end;
  if (!platform::connect_two_processes(own_end, servers_end, !relays)) return {"make a socket", errno, {}};
  shared_ledger ledger;
  if (!relays) {
    if (failure failed = make_ledger(ledger); failed.stage != nullptr) return failed;
  }
  const int given[] = {servers_end.get(), ledger.file.get()};
  const program_started started = start_program(relays ? program_role::relaying_forkserver : program_role::forkserver,
                                                {given, relays ? std::size_t{1} : std::size_t{2}}, {});
  platform::call_fd end;
  int error = started.error;
  if (started.failed == nullptr) {
    end = platform::call_fd(platform::watch_end_of(started.pid).release());
    error = errno;
  }
  if (!end) {
    if (ledger.book != nullptr) ::munmap(ledger.book, fork_ledger::size);
    if (started.failed != nullptr) return {started.failed, error, {}};
    ::kill(started.pid, SIGKILL);
    platform::end_own_child(started.pid, unique_fd());
    return {"watch the forkserver", error, {}};
  }
  the_server->process = std::make_shared<server_process>(started.pid, std::move(end));
  the_server->book = ledger.book;
  the_server->last_announced = 0;
  the_server->socket = own_end.release();
  return {};
}

failure have_server() {
  const rights_of_process rights = rights_of_process::now();
  if (the_server->socket >= 0 && (has_died() || rights != the_server->started_with)) end_server();
  if (the_server->socket >= 0) return {};
  if (failure failed = start_server(); failed.stage != nullptr) return failed;
  the_server->started_with = rights;
  const received<fork_answer> ready = hear();
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
  return send_to_server({.kind = fork_request_kind::child}, {});
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

bool forks_are_relayed() noexcept { return platform::forks_stay_with_server || relays_for_tests.load(); }
void relay_forks_always() noexcept { relays_for_tests.store(true); }

program_started call_by_server(std::span<const int> descriptors, const started_output& output, const tree_to_end& tree,
                               const std::function<void()>& note_start) {
  const having_turn turn;
  const auto failed_to = [](const failure& failed) { return program_started{-1, failed.stage, failed.error, {}}; };
  if (failure failed = have_server(); failed.stage != nullptr) return failed_to(failed);
  fork_request message{.kind = fork_request_kind::call};
  const surroundings here(output);
  const std::vector<int> all = here.describe(message, descriptors);
  note_start();
  // The server announces another for each that is killed while it waits, and all of those may be dead by now.
  constexpr int most_dead = 1000;
  for (int dead = 0;; ++dead) {
    if (failure failed = have_waiting_child(); failed.stage != nullptr) return failed_to(failed);
    waiting_child& child = the_server->next;
    if (child.parent && !child.parent->give(tree.whole, tree.mark)) {
      const int error = errno;
      end_server();
      return failed_to({"ask the forkserver, which has died", error, {}});
    }
    if (send_message(child.socket.get(), message, all)) break;
    const int error = errno;
    if (error != EPIPE && error != ECONNRESET) return failed_to({"ask the forkserver's child", error, {}});
    // It has died while it waited: killed by somebody. The mark is the next one's.
    if (child.parent) static_cast<void>(child.parent->give(false, {}));
    dismiss_waiting_child();
    if (dead == most_dead) return failed_to({"ask the forkserver's child, which has died", error, {}});
  }
  waiting_child started = std::exchange(the_server->next, {});
  return {started.pid, nullptr, 0, started.process.release(), -1, std::move(started.parent)};
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

void forget_server_in_copy() { forget_server(); }

int give_call_to_copy(int socket, std::span<const int> descriptors, const started_output& output) {
  fork_request message{.kind = fork_request_kind::call};
  surroundings here;
  here.directory = unique_fd();
  here.output = output.out;
  here.error_output = output.err;
  return send_message(socket, message, here.describe(message, descriptors)) ? 0 : errno;
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
