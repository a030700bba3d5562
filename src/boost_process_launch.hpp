#pragma once

// Boost.Process's launcher by vfork, as boost_process.cpp and boost_process_macos.cpp use it.

#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/process/v2/posix/vfork_launcher.hpp>
#include <boost/process/v2/process.hpp>

#include "without_signals.hpp"

namespace pynisher::detail {

/// What is done between vfork and exec begins with this: there the memory is still the program's, and the program's
/// thread waits.
class before_exec {
 public:
  explicit before_exec(int& error) : error_(error) {}

  /// `exit`, which the launcher calls then, would run the program's own exit handlers, in the program's own memory.
  template <class... Any>
  void on_exec_error(Any&&...) {
    error_ = errno;
    ::_exit(127);
  }

 private:
  int& error_;
};

/// `entries`, and the mark by which `init` knows what to do.
inline std::vector<const char*> environment_with(const char* const* entries, const std::string& mark) {
  std::vector<const char*> environment;
  for (; entries != nullptr && *entries != nullptr; ++entries) environment.push_back(*entries);
  environment.push_back(mark.c_str());
  environment.push_back(nullptr);
  return environment;
}

/// Thrown when the child runs: before the launcher wraps it into an object whose making can fail, and which nobody
/// needs.
struct child_is_started {};

class leaves_when_started final : public boost::asio::execution_context::service {
 public:
  using key_type = leaves_when_started;
  static inline boost::asio::execution_context::id id;
  leaves_when_started(boost::asio::execution_context& context, const pid_t& pid)
      : boost::asio::execution_context::service(context), pid_(pid) {}

 private:
  void shutdown() override {}
  void notify_fork(boost::asio::execution_context::fork_event event) override {
    if (event == boost::asio::execution_context::fork_parent && pid_ > 0) throw child_is_started();
  }
  const pid_t& pid_;
};

/// The child's number, to be reaped by the caller; or an error number, negative, and there is no child.
/// `exec_error`: what `setup`, a `before_exec`, notes its error in.
template <class Setup>
pid_t launch(const std::string& path, const char** arguments, Setup setup, const int& exec_error) {
  boost::system::error_code error;
  boost::process::v2::posix::vfork_launcher launcher;
  launcher.pid = -1;
  bool is_started = false;
  try {
    boost::asio::io_context context;
    boost::asio::make_service<leaves_when_started>(context, launcher.pid);
    const without_signals blocked;
    launcher(context.get_executor(), error, path, arguments, std::move(setup));
  } catch (const child_is_started&) {
    is_started = true;
  } catch (const boost::system::system_error& e) {
    return -e.code().value();
  }
  if (exec_error == 0 && !error) return launcher.pid;
  while (is_started && ::waitpid(launcher.pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  return exec_error != 0 ? -exec_error : -error.value();
}

}  // namespace pynisher::detail
