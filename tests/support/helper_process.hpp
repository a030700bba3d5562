#pragma once

// Code in a process of the test's own: for what a test cannot do to the process that runs all the tests (signals,
// its death, its standard output, its exit).

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <ostream>
#include <stdexcept>
#include <string>
#include <utility>

#include "support/posix_functions.hpp"

namespace support {

struct helper_result {
  bool exited = false;
  int code = -1;   ///< what the code returned, or gave to exit; -1 when killed
  int signal = 0;  ///< what killed it
  std::string out, err;

  friend std::ostream& operator<<(std::ostream& os, const helper_result& r) {
    if (r.exited) {
      os << "exit code " << r.code;
    } else {
      os << "signal " << r.signal;
    }
    return os << ", stdout \"" << r.out << "\", stderr \"" << r.err << '"';
  }
};

/// A fork of the (single-threaded) test process that runs `fn` and leaves by `_exit` with the int it returns. Its
/// output is captured. An exception that leaves `fn` is exit code 98, its text in `err`.
class helper_process {
 public:
  template <class F>
  explicit helper_process(F&& fn) {
    int out[2], err[2];
    make_pipe(out);
    make_pipe(err);
    std::cout.flush();
    std::cerr.flush();
    std::fflush(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(out[1], 1);
      ::dup2(err[1], 2);
      leave_with(fn);
    }
    ::close(out[1]);
    ::close(err[1]);
    out_ = out[0];
    err_ = err[0];
    if (pid_ < 0) throw std::runtime_error("no fork");
  }
  helper_process(const helper_process&) = delete;
  helper_process& operator=(const helper_process&) = delete;
  ~helper_process() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      wait();
    }
    ::close(out_);
    ::close(err_);
  }

  [[nodiscard]] pid_t pid() const { return pid_; }
  void send(int signal) const { ::kill(pid_, signal); }

  /// Until it has ended. What it has printed is complete; what survivors of it may print later is not waited for.
  helper_result wait() {
    helper_result result;
    int status = 0;
    pid_t ended = 0;
    while (ended == 0) {
      pollfd readable[] = {{out_, POLLIN, 0}, {err_, POLLIN, 0}};
      ::poll(readable, 2, 2);
      ended = ::waitpid(pid_, &status, WNOHANG);
      drain(out_, result.out);
      drain(err_, result.err);
    }
    pid_ = -1;
    result.exited = ended > 0 && WIFEXITED(status);
    result.code = result.exited ? WEXITSTATUS(status) : -1;
    result.signal = ended > 0 && WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    return result;
  }

 private:
  template <class F>
  [[noreturn]] static void leave_with(F& fn) {
    int code = 98;
    try {
      code = fn();
    } catch (const std::exception& e) {
      std::fprintf(stderr, "left by %s", e.what());
    } catch (...) {
      std::fprintf(stderr, "left by an exception");
    }
    std::cout.flush();
    std::fflush(nullptr);
    ::_exit(code);
  }
  static void drain(int fd, std::string& text) {
    ::fcntl(fd, F_SETFL, O_NONBLOCK);
    char buffer[4096];
    for (;;) {
      const ssize_t got = ::read(fd, buffer, sizeof buffer);
      if (got <= 0) return;
      text.append(buffer, static_cast<std::size_t>(got));
    }
  }

  pid_t pid_ = -1;
  int out_ = -1, err_ = -1;
};

template <class F>
helper_result run_in_helper(F&& fn) {
  return helper_process(std::forward<F>(fn)).wait();
}

}  // namespace support

/// In a helper process: says what failed and leaves with code 99.
#define HELPER_CHECK(condition)                                                      \
  do {                                                                               \
    if (!(condition)) {                                                              \
      std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      std::fflush(stderr);                                                           \
      ::_exit(99);                                                                   \
    }                                                                                \
  } while (false)
