#include "isolate_copy.hpp"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <exception>
#include <system_error>

#include <fmt/format.h>

#include <pynisher/exceptions.hpp>
#include <pynisher/isolate.hpp>

#include "child_main.hpp"
#include "exception_frame.hpp"
#include "forkserver.hpp"
#include "isolate_core.hpp"
#include "isolate_serving.hpp"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

namespace pynisher::detail {

namespace {

constexpr char hello = 'c';

/// Whose word this is, as the kernel tells it; -1: nobody's that is worth anything.
pid_t hear_hello(int socket) {
  // The copy was made before the isolate has answered: it is as good as there.
  constexpr int patience_ms = 60'000;
  pollfd ready{socket, POLLIN, 0};
  int polled = 0;
  while ((polled = ::poll(&ready, 1, patience_ms)) < 0 && errno == EINTR) {
  }
  if (polled <= 0) return -1;
  char said = 0;
  iovec bytes{&said, sizeof said};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))] = {};
  msghdr message{};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  if (::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != 1 || said != hello) return -1;
  const cmsghdr* const passed = CMSG_FIRSTHDR(&message);
  if (passed == nullptr || passed->cmsg_level != SOL_SOCKET || passed->cmsg_type != SCM_CREDENTIALS) return -1;
  ucred sender{};
  std::memcpy(&sender, CMSG_DATA(passed), sizeof sender);
  return sender.pid;
}

bool is_own_child(const platform::call_fd& process) {
  siginfo_t seen{};
  return ::syscall(SYS_waitid, P_PIDFD, process.get(), &seen, WEXITED | WNOHANG | WNOWAIT | __WALL, nullptr) == 0;
}

[[noreturn]] void refuse(const isolate_core& original, const std::string& why) {
  throw IsolateError(fmt::format("{} cannot be cloned: {}", original.text(), why));
}

}  // namespace

// --- the program's side -------------------------------------------------------------------------------------------

waiting_copy::waiting_copy(isolate_core& original) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    throw StartException("make a socket", {errno, std::system_category()});
  }
  socket_ = platform::call_fd(ends[0]);
  platform::call_fd theirs(ends[1]);
  const int yes = 1;
  // What the isolate says of its copy is not believed: the kernel tells who speaks here.
  if (::setsockopt(socket_.get(), SOL_SOCKET, SO_PASSCRED, &yes, sizeof yes) != 0) {
    throw StartException("ask a socket for its sender", {errno, std::system_category()});
  }
  const int passed = theirs.get();
  const auto answered = original.ask(make_frame(frame_kind::copy), patience().get(), false, {&passed, 1});
  theirs = platform::call_fd();
  if (answered.how != isolate_core::reply::state::came) throw original.died();
  if (answered.kind == frame_kind::exception) {
    input_archive in(answered.bytes.data(), answered.bytes.size());
    const auto thrown = read_exception(in);
    refuse(original, thrown.info.message);
  }
  const pid_t pid = answered.kind == frame_kind::value ? hear_hello(socket_.get()) : -1;
  if (pid <= 0 || pid == original.process()->pid()) refuse(original, "nothing was heard of the copy");
  process_ = platform::call_fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process_) refuse(original, std::system_category().message(errno));
  if (!is_own_child(process_)) refuse(original, "the copy is not this program's child");
  pid_ = pid;
  if (original.limits().given().terminate_child_processes) mark_ = platform::mark_carried_by(pid_);
}

waiting_copy::~waiting_copy() {
  if (pid_ > 0) dismiss();
}

void waiting_copy::dismiss() noexcept {
  ::syscall(SYS_pidfd_send_signal, process_.get(), SIGKILL, nullptr, 0);
  siginfo_t ended{};
  while (::syscall(SYS_waitid, P_PIDFD, process_.get(), &ended, WEXITED | __WALL, nullptr) < 0 && errno == EINTR) {
  }
  pid_ = -1;
}

program_started waiting_copy::start(std::span<const int> descriptors, const child_extras& extras) {
  const int error = give_call_to_copy(socket_.get(), descriptors, {true, extras.out, extras.err});
  if (error != 0) return {-1, "give a copy of an isolate its order", error, -1};
  const int process = ::fcntl(process_.get(), F_DUPFD_CLOEXEC, 3);
  if (process < 0) return {-1, "watch a copy of an isolate", errno, -1};
  return {std::exchange(pid_, -1), nullptr, 0, process};
}

// --- the isolate's side -------------------------------------------------------------------------------------------

void answer_copy(const std::vector<platform::call_fd>& passed) {
  if (passed.size() != 1) throw IsolateError("it has no descriptor left");
  if (const int threads = platform::threads(); threads > 1) {
    throw IsolateError(fmt::format("{} threads run in it, and a copy has only one", threads));
  }
  // Of a child that is made so nothing would be left if this process ended before the program had heard of it.
  int death_signal = 0;
  ::prctl(PR_GET_PDEATHSIG, &death_signal);
  const thread_state thread;
  flush_output();
  const long pid = fork_for_parent(thread);
  if (pid < 0) throw IsolateError(fmt::format("it cannot fork: {}", std::system_category().message(errno)));
  if (pid > 0) return;
  ::prctl(PR_SET_PDEATHSIG, death_signal);
  forget_server_in_copy();
  platform::close_descriptors_of_calls(passed[0].get(), -1);
  give_back_output_here();
  if (::send(passed[0].get(), &hello, sizeof hello, MSG_NOSIGNAL) != sizeof hello) platform::leave(1);
  wait_as_copy(passed[0].get());
}

}  // namespace pynisher::detail
