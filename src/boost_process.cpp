// The only file that knows Boost.Process.

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

#include "boost_process_launch.hpp"
#include "platform/contract.hpp"
#include "program_start.hpp"

namespace pynisher::detail {

namespace {

/// For this program, started again: nothing but what it is given.
class start_bare : public before_exec {
 public:
  /// The last descriptor is the image, which does not stay open.
  start_bare(std::span<const int> descriptors, const char* const* environment, const started_output& output, int& error)
      : before_exec(error), descriptors_(descriptors), environment_(environment), output_(output) {}

  template <class Launcher, class Path>
  boost::system::error_code on_setup(Launcher& launcher, const Path&, const char* const*) {
    launcher.env = environment_;
    for (std::size_t i = 0; i < descriptors_.size(); ++i) launcher.fd_whitelist.push_back(first_ + static_cast<int>(i));
    return {};
  }

  template <class Launcher, class Path>
  boost::system::error_code on_exec_setup(Launcher&, const Path&, const char* const*) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    // Out of the way of each other first.
    std::array<int, most_> moved{};
    for (std::size_t i = 0; i < descriptors_.size(); ++i) {
      moved[i] = ::fcntl(descriptors_[i], F_DUPFD_CLOEXEC, first_ + static_cast<int>(most_));
      if (moved[i] < 0) return last_error();
    }
    std::array<int, 2> own_output{output_.out, output_.err};
    for (int& given : own_output) {
      if (given >= 0 && (given = ::fcntl(given, F_DUPFD_CLOEXEC, first_ + static_cast<int>(most_))) < 0) {
        return last_error();
      }
    }
    for (std::size_t i = 0; i < descriptors_.size(); ++i) {
      const bool is_image = i + 1 == descriptors_.size();
      if (::dup3(moved[i], first_ + static_cast<int>(i), is_image ? O_CLOEXEC : 0) < 0) return last_error();
    }
    const int nothing = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd < (output_.inherits ? 1 : first_); ++fd) {
      if (nothing >= 0) {
        ::dup2(nothing, fd);
      } else {
        ::close(fd);
      }
    }
    if (own_output[0] >= 0 && ::dup2(own_output[0], STDOUT_FILENO) < 0) return last_error();
    if (own_output[1] >= 0 && ::dup2(own_output[1], STDERR_FILENO) < 0) return last_error();
    ::close_range(static_cast<unsigned>(first_) + static_cast<unsigned>(descriptors_.size()), ~0u, 0);
    return {};
  }

  static constexpr int first_ = 3;

 private:
  static constexpr std::size_t most_ = 8;
  static boost::system::error_code last_error() { return {errno, boost::system::system_category()}; }

  std::span<const int> descriptors_;
  const char* const* environment_;
  started_output output_;
};

/// For a program of another's: the usual signals, and nothing open but what it is to write to.
class start_plain : public before_exec {
 public:
  start_plain(int output, int& error) : before_exec(error), output_(output) {}

  template <class Launcher, class Path>
  boost::system::error_code on_setup(Launcher& /*launcher*/, const Path&, const char* const*) {
    return {};
  }
  template <class Launcher, class Path>
  boost::system::error_code on_exec_setup(Launcher&, const Path&, const char* const*) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int nothing = ::open("/dev/null", O_RDONLY);
    if (nothing < 0 || ::dup2(nothing, STDIN_FILENO) < 0 || ::dup2(output_, STDOUT_FILENO) < 0 ||
        ::dup2(output_, STDERR_FILENO) < 0) {
      return {errno, boost::system::system_category()};
    }
    ::close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
    for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    return {};
  }

 private:
  int output_;
};

}  // namespace

program_started start_program(program_role role, std::span<const int> descriptors, const started_output& output) {
  program_started result;
  if (const char* why = why_not_started_again(); why != nullptr) {
    result.failed = why;
    result.error = EPERM;
    return result;
  }
  // By descriptor: the file may be gone or another by now.
  const platform::call_fd image(::open("/proc/self/exe", O_PATH | O_CLOEXEC));
  if (!image) return {-1, "open the program's own image", errno};
  std::vector<int> all(descriptors.begin(), descriptors.end());
  const std::string path = "/proc/self/fd/" + std::to_string(start_bare::first_ + static_cast<int>(all.size()));
  all.push_back(image.get());
  const std::string mark = std::string(start_mark) + "=" + static_cast<char>(role);
  const std::vector<const char*> environment = environment_with(::environ, mark);
  std::vector<const char*> arguments = arguments_of_program();
  int exec_error = 0;
  const pid_t pid = launch(path, arguments.data(), start_bare(all, environment.data(), output, exec_error), exec_error);
  if (pid < 0) return {-1, "start the program again", -pid};
  // It is reaped by whoever waits for the call.
  result.pid = pid;
  return result;
}

program_ended run_program(const std::vector<std::string>& command, int output) {
  std::vector<const char*> arguments;
  for (const std::string& word : command) arguments.push_back(word.c_str());
  arguments.push_back(nullptr);
  int exec_error = 0;
  const pid_t pid = launch(command.at(0), arguments.data(), start_plain(output, exec_error), exec_error);
  if (pid < 0) return {-1, "start the compiler", -pid};
  int status = -1;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), nullptr, 0};
}

}  // namespace pynisher::detail
