// The forkserver where its children are the program's own.
//
//   server:  one thread; forks a child and announces it: when the last one has ended, or when it is asked for one
//   child:   waits at a socket of its own for the descriptors of a call, or for the other end to be closed
//   program: gives the announced child its call (forkserver.cpp)
//
// A child is made with CLONE_PARENT: the program's own, not the server's. When a call is made, the fork that it needs
// is over already, unless calls follow each other at once.

#include <errno.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "child_main.hpp"
#include "forkserver.hpp"
#include "forkserver_child.hpp"
#include "forkserver_messages.hpp"
#include "platform/contract.hpp"

namespace pynisher::detail {

using platform::unique_fd;

namespace {

struct child_of_program {
  unique_fd process;
};

/// What the server serves by.
struct serving {
  int socket;
  fork_ledger* book;
};

void on_signal(int /*signal*/) {}

/// In the child that was forked: waits for its call.
[[noreturn]] void become_call(const serving& server, int own_socket, const std::vector<child_of_program>& siblings) {
  ::close(server.socket);
  ::munmap(server.book, fork_ledger::size);
  for (const auto& sibling : siblings) ::close(sibling.process.get());
  ::signal(SIGTERM, SIG_DFL);
  wait_for_call(own_socket, platform::parentage::adopted);
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
  fork_answer announced;
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, conversation) != 0) announced.error = errno;
  const unique_fd programs_end(conversation[0]);
  unique_fd childs_end(conversation[1]);
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
  // Before the program hears of it: a child that has been killed is known by its conversation, which only it has then.
  childs_end = unique_fd();
  if (process >= 0) siblings.push_back({unique_fd(process)});
  const bool fine = announced.error == 0;
  const int sent = programs_end.get();
  return send_message(server.socket, announced, {&sent, fine ? std::size_t{1} : std::size_t{0}}) && fine;
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

void serve_forks(int socket, int ledger_file) {
  const pid_t program = ::getppid();
  const serving server{socket, fork_ledger::map(ledger_file)};
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
  // Each child of the program's has one here.
  take_all_descriptors();
  bool is_heard = send_message(socket, ready_to_serve(), {});
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
    const received<fork_request> received = receive_message<fork_request>(socket);
    if (!received.fine) break;
    if (received.message.kind == fork_request_kind::stop) platform::leave(0);
    if (received.message.kind == fork_request_kind::child) {
      if (!announce_child(server, children, thread)) break;
    } else {
      is_heard = send_message(socket, run_preloaded(received), {});
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
