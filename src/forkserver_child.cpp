#include "forkserver_child.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "call_order.hpp"
#include "child_main.hpp"
#include "forkserver.hpp"

namespace pynisher::detail {

namespace {

/// Their locks would stay locked in every child.
constexpr const char* too_many_threads =
    "the forkserver has more than one thread, of a static object or a preloaded function";

rlimit descriptors_before{};

/// The pages that every call needs become this process's own while there is time.
void rehearse() {
  static const char here = 0;
  const auto place = platform::find_place(platform::place_of(&here), sizeof here, false);
  static_cast<void>(place);
  static_cast<void>(platform::mapped());
  platform::rehearse_set_up();
  std::free(std::malloc(16384));
  const std::size_t no_text = 0;
  input_archive in(reinterpret_cast<const std::byte*>(&no_text), sizeof no_text);
  std::string text;
  in(text);
  char stack[8192];
  for (std::size_t at = 0; at < sizeof stack; at += 1024) static_cast<volatile char*>(stack)[at] = 0;
}

/// Signals that came meanwhile, from the terminal perhaps, are not the call's. All are blocked.
void forget_pending_signals() noexcept {
  sigset_t pending;
  for (;;) {
    if (::sigpending(&pending) != 0) return;
    int first = 1;
    while (first < NSIG && sigismember(&pending, first) != 1) ++first;
    int taken = 0;
    if (first == NSIG || ::sigwait(&pending, &taken) != 0) return;
  }
}

}  // namespace

void take_call(int own_socket, platform::parentage parentage) {
  received<fork_request> received = receive_message<fork_request>(own_socket);
  forget_pending_signals();
  const fork_request& message = received.message;
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
    } else if (platform::is_by_server(parentage)) {
      ::close(target);
    }
  }
  const int region = take(true), doorbell = take(true);
  const auto next = [&] { return take(at < received.descriptors.size()); };
  const int order = next(), conversation = next();
  follow_order(region, doorbell, order, conversation, parentage);
}

void wait_for_call(int own_socket, platform::parentage parentage) {
  give_back_descriptors();
  platform::prepare_set_up();
  prepare_to_run();
  rehearse();
  platform::show_as_thread("pynisher-waits");
  take_call(own_socket, parentage);
}

void wait_as_copy(int socket) { take_call(socket, platform::parentage::cloned); }

fork_answer run_preloaded(const received<fork_request>& received) {
  fork_answer result;
  std::size_t at = 0;
  const auto take = [&](bool has) {
    return has && at < received.descriptors.size() ? received.descriptors[at++].get() : -1;
  };
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
    if (::pread(file, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
      throw wire_error("it was not received");
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

fork_answer ready_to_serve() {
  fork_answer ready;
  if (platform::threads() > 1) std::strncpy(ready.text, too_many_threads, sizeof ready.text - 1);
  return ready;
}

void take_all_descriptors() noexcept {
  // What some systems take for the most where they have set none.
  constexpr rlim_t enough = 10240;
  rlimit descriptors{};
  ::getrlimit(RLIMIT_NOFILE, &descriptors);
  descriptors_before = descriptors;
  descriptors.rlim_cur = descriptors.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &descriptors) == 0) return;
  descriptors.rlim_cur = std::max(descriptors_before.rlim_cur, std::min(enough, descriptors.rlim_max));
  ::setrlimit(RLIMIT_NOFILE, &descriptors);
}

void give_back_descriptors() noexcept { ::setrlimit(RLIMIT_NOFILE, &descriptors_before); }

}  // namespace pynisher::detail
