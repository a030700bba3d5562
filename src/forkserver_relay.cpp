#include "forkserver_relay.hpp"

#include <errno.h>
#include <poll.h>
#include <signal.h>

#include <new>

#include "forkserver_messages.hpp"

namespace pynisher::detail {

server_process::~server_process() {
  if (owner_ == platform::process_identity()) platform::end_own_child(pid_, end_);
}

bool server_process::has_died() const noexcept {
  pollfd ended{end_.get(), POLLIN, 0};
  return ::poll(&ended, 1, 0) > 0;
}

void server_process::let_go_on() const noexcept {
  if (!has_died()) ::kill(pid_, SIGCONT);
}

served_child::~served_child() {
  // In so many words: a copy of the program may have this end of the conversation as well.
  if (!has_asked_ && owner_ == platform::process_identity()) {
    static_cast<void>(send_message(conversation_.get(), relay_request{.what = relay_request::kind::end}, {}));
  }
}

bool served_child::give(bool whole_tree, const platform::call_mark& mark) noexcept {
  return send_message(conversation_.get(),
                      relay_request{.what = relay_request::kind::given, .whole_tree = whole_tree, .mark = mark}, {});
}

bool served_child::send(int signal) noexcept {
  return send_message(conversation_.get(), relay_request{.what = relay_request::kind::signal, .signal = signal}, {});
}

/// False: none will come.
bool served_child::await_answer() const noexcept {
  for (;;) {
    pollfd watched[] = {{conversation_.get(), POLLIN, 0}, {server_->end(), POLLIN, 0}};
    constexpr int look_every_ms = 200;
    const int ready = ::poll(watched, std::size(watched), look_every_ms);
    // The server's death closes its end, but a copy of it may have that open for a moment longer.
    if (ready > 0) return watched[0].revents != 0;
    // Somebody has stopped it; it has to reap.
    if (ready == 0 && server_->is_stopped()) server_->let_go_on();
  }
}

std::optional<platform::exit_status> served_child::end(bool orderly) noexcept {
  has_asked_ = true;
  if (!send_message(conversation_.get(), relay_request{.what = relay_request::kind::end, .orderly = orderly}, {})) {
    return std::nullopt;
  }
  if (!await_answer()) return std::nullopt;
  for (;;) {
    try {
      const auto answer = receive_message<relay_answer>(conversation_.get());
      return answer.came ? std::optional(answer.message.status) : std::nullopt;
    } catch (const std::bad_alloc&) {
      // Without memory for descriptors that do not come: when there is some again.
      ::poll(nullptr, 0, 1);
    }
  }
}

}  // namespace pynisher::detail
