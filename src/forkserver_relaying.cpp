// The forkserver where its children are its own: no process can make children of its parent's there, or the tests want
// it so.
//
//   server:  one thread; forks a child and announces it, as the other one does (forkserver_serving.cpp); signals, ends
//            and reaps its children when it is asked to
//   program: watches the child by its number, which is the child's until it asks for the end (forkserver_relay.hpp)
//
// A child lives no longer than the conversation about it, than the program, and than the server.

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "child_main.hpp"
#include "forkserver.hpp"
#include "forkserver_child.hpp"
#include "forkserver_messages.hpp"
#include "parent_death_watch.hpp"
#include "platform/contract.hpp"

namespace pynisher::detail {

using platform::call_fd;
using platform::unique_fd;

namespace {

/// One that waits, runs, or has ended and is not reaped.
struct own_child {
  call_fd conversation;
  platform::child_process process;
  bool is_given = false;
  // How it is to be ended, once it is given.
  bool whole_tree = false;
  platform::call_mark mark{};
};

class relaying_server {
 public:
  explicit relaying_server(int socket) : socket_(socket) {}
  [[noreturn]] void serve();

 private:
  /// False: the program speaks no more.
  bool announce_child();
  [[noreturn]] void become_child(int own_socket);
  void take_request();
  /// False: the child is gone.
  bool take_request_about(own_child& child);
  static platform::exit_status end(own_child& child, bool orderly);
  void close_socket();

  int socket_;  ///< negative: nothing will be asked for any more
  const pid_t program_ = ::getppid();
  const pid_t self_ = ::getpid();
  call_fd end_of_program_;
  call_fd end_of_last_;  ///< of the last child's, once it is given
  bool has_last_ended_ = false;
  platform::parent_death_watch death_watch_;
  void (*on_child_before_)(int) = SIG_DFL;
  std::vector<own_child> children_;
};

void relaying_server::serve() {
  platform::outlive_starting_thread();
  platform::show_as_thread("pynisher-forks");
  // Ignored, it would have the kernel reap them.
  on_child_before_ = ::signal(SIGCHLD, SIG_DFL);
  end_of_program_ = call_fd(platform::watch_end_of(program_).release());
  if (!end_of_program_) platform::leave(1);
  if (platform::children_need_death_watch) death_watch_.start();
  prepare_for_children();
  take_all_descriptors();
  if (!send_message(socket_, ready_to_serve(), {})) close_socket();

  while (socket_ >= 0 || !children_.empty()) {
    std::vector<pollfd> watched{
        {end_of_program_.get(), POLLIN, 0}, {socket_, POLLIN, 0}, {end_of_last_.get(), POLLIN, 0}};
    const std::size_t first = watched.size(), count = children_.size();
    for (const own_child& child : children_) watched.push_back({child.conversation.get(), POLLIN, 0});
    if (::poll(watched.data(), static_cast<nfds_t>(watched.size()), -1) < 0) continue;
    if (watched[0].revents != 0) break;
    // From behind: those that go leave the others' places as they are.
    for (std::size_t i = count; i-- > 0;) {
      if (watched[first + i].revents == 0 || take_request_about(children_[i])) continue;
      children_.erase(children_.begin() + static_cast<std::ptrdiff_t>(i));
    }
    // Before another is announced: the last one has died before it got its call, perhaps.
    if (watched[1].revents != 0) take_request();
    if (std::exchange(has_last_ended_, false) || (watched[2].revents != 0 && end_of_last_)) {
      end_of_last_ = call_fd();
      if (socket_ >= 0 && !announce_child()) close_socket();
    }
  }
  for (own_child& child : children_) end(child, false);
  platform::leave(0);
}

void relaying_server::close_socket() {
  ::close(socket_);
  socket_ = -1;
  end_of_last_ = call_fd();
}

void relaying_server::take_request() {
  const received<fork_request> received = receive_message<fork_request>(socket_);
  bool is_heard = received.fine && received.message.kind != fork_request_kind::stop;
  if (is_heard && received.message.kind == fork_request_kind::child) is_heard = announce_child();
  if (is_heard && received.message.kind == fork_request_kind::preload) {
    is_heard = send_message(socket_, run_preloaded(received), {});
  }
  if (!is_heard) close_socket();
}

bool relaying_server::announce_child() {
  unique_fd programs_end, childs_end, asking, asked;
  fork_answer announced;
  platform::fork_result started;
  if (!platform::connect_two_processes(programs_end, childs_end, false) ||
      !platform::connect_two_processes(asking, asked, false)) {
    announced.error = errno;
  } else {
    children_.reserve(children_.size() + 1);
    const pid_t pid = ::fork();
    if (pid == 0) {
      for (unique_fd* of_server : {&programs_end, &asking, &asked}) *of_server = unique_fd();
      become_child(childs_end.get());
    }
    started = pid < 0 ? platform::fork_result{platform::fork_result::side::failed, {}, errno}
                      : platform::watch_started_child(pid);
    if (started.where == platform::fork_result::side::failed) announced.error = started.error;
  }
  // Before the program hears of it: a child that has been killed is known by its conversation, which only it has then.
  childs_end = unique_fd();
  const bool fine = announced.error == 0;
  if (fine) {
    started.child.tell_death_watch(false);
    announced.pid = started.child.pid();
    children_.push_back({call_fd(asked.release()), std::move(started.child)});
  }
  const int sent[] = {programs_end.get(), asking.get()};
  return send_message(socket_, announced, {sent, fine ? std::size(sent) : 0}) && fine;
}

void relaying_server::become_child(int own_socket) {
  if (socket_ >= 0) ::close(socket_);
  platform::tie_to_server(self_);
  ::signal(SIGCHLD, on_child_before_);
  // Those of the others.
  platform::close_descriptors_of_calls(-1, -1);
  wait_for_call(own_socket, platform::parentage::relayed);
}

bool relaying_server::take_request_about(own_child& child) {
  const received<relay_request> received = receive_message<relay_request>(child.conversation.get());
  const relay_request& asked = received.message;
  if (!received.came) {
    // Nobody wants it.
    end(child, false);
    return false;
  }
  switch (asked.what) {
    case relay_request::kind::given:
      child.is_given = true;
      child.whole_tree = asked.whole_tree;
      child.mark = asked.mark;
      if (child.whole_tree) child.process.tell_death_watch(true);
      // The next one is made as soon as there is time.
      if (socket_ >= 0 && &child == &children_.back()) {
        end_of_last_ = call_fd(platform::watch_end_of(static_cast<pid_t>(child.process.pid())).release());
        has_last_ended_ = !end_of_last_ && errno == ESRCH;
      }
      return true;
    case relay_request::kind::signal:
      child.process.send(asked.signal);
      return true;
    case relay_request::kind::end:
      break;
  }
  const relay_answer answer{end(child, asked.orderly)};
  // Whoever asked may have been killed meanwhile.
  static_cast<void>(send_message(child.conversation.get(), answer, {}));
  return false;
}

platform::exit_status relaying_server::end(own_child& child, bool orderly) {
  reply_region told{};
  told.orderly.store(orderly ? 1 : 0);
  return child.process.end(child.whole_tree, child.mark, told);
}

}  // namespace

void relay_forks(int socket) { relaying_server(socket).serve(); }

}  // namespace pynisher::detail
