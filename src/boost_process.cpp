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

#define BOOST_PROCESS_V2_HEADER_ONLY 1
#include <boost/asio/io_context.hpp>
#include <boost/process/v2/posix/vfork_launcher.hpp>
#include <boost/process/v2/process.hpp>

#include "platform/contract.hpp"
#include "program_start.hpp"
#include "without_signals.hpp"

namespace pynisher::detail {

namespace {

namespace process_v2 = boost::process::v2;


/// What is done between vfork and exec: there the memory is still the program's, and the program's thread waits.
class start_bare {
 public:
  /// The last descriptor is the image, which does not stay open.
  start_bare(std::span<const int> descriptors, const char* const* environment, const started_output& output, int& error)
      : descriptors_(descriptors), environment_(environment), output_(output), error_(error) {}

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

  /// `exit`, which the launcher calls then, would run the program's own exit handlers, in the program's own memory.
  template <class... Any>
  void on_exec_error(Any&&...) {
    error_ = errno;
    ::_exit(127);
  }

  static constexpr int first_ = 3;

 private:
  static constexpr std::size_t most_ = 8;
  static boost::system::error_code last_error() { return {errno, boost::system::system_category()}; }

  std::span<const int> descriptors_;
  const char* const* environment_;
  started_output output_;
  int& error_;
};

/// For a program of another's: the usual signals, and nothing open but what it is to write to.
class start_plain {
 public:
  start_plain(int output, int& error) : output_(output), error_(error) {}

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
  template <class... Any>
  void on_exec_error(Any&&...) {
    error_ = errno;
    ::_exit(127);
  }

 private:
  int output_;
  int& error_;
};

/// As it is, and the mark by which `init` knows what to do.
std::vector<const char*> environment_with(const std::string& mark) {
  std::vector<const char*> environment;
  for (char** entry = ::environ; entry != nullptr && *entry != nullptr; ++entry) environment.push_back(*entry);
  environment.push_back(mark.c_str());
  environment.push_back(nullptr);
  return environment;
}

/// Thrown when the child runs: before the launcher wraps it into an object whose making can fail, and which nobody needs.
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
  const std::vector<const char*> environment = environment_with(mark);
  std::vector<const char*> arguments = arguments_of_program();
  int exec_error = 0;
  boost::system::error_code error;
  process_v2::posix::vfork_launcher launcher;
  launcher.pid = -1;
  try {
    boost::asio::io_context context;
    boost::asio::make_service<leaves_when_started>(context, launcher.pid);
    const without_signals blocked;
    launcher(context.get_executor(), error, path, arguments.data(),
             start_bare(all, environment.data(), output, exec_error));
  } catch (const child_is_started&) {
    if (error || exec_error != 0) {
      while (::waitpid(launcher.pid, nullptr, __WALL) < 0 && errno == EINTR) {
      }
    }
  } catch (const boost::system::system_error& e) {
    return {-1, "start the program again", e.code().value()};
  }
  if (exec_error != 0) return {-1, "start the program again", exec_error};
  if (error) return {-1, "start the program again", error.value()};
  // It is reaped by whoever waits for the call.
  result.pid = launcher.pid;
  return result;
}

program_ended run_program(const std::vector<std::string>& command, int output) {
  std::vector<const char*> arguments;
  for (const std::string& word : command) arguments.push_back(word.c_str());
  arguments.push_back(nullptr);
  int exec_error = 0;
  boost::system::error_code error;
  process_v2::posix::vfork_launcher launcher;
  launcher.pid = -1;
  try {
    boost::asio::io_context context;
    boost::asio::make_service<leaves_when_started>(context, launcher.pid);
    const without_signals blocked;
    launcher(context.get_executor(), error, command.at(0), arguments.data(), start_plain(output, exec_error));
  } catch (const child_is_started&) {
  } catch (const boost::system::system_error& e) {
    return {-1, "start the compiler", e.code().value()};
  }
  int status = -1;
  if (launcher.pid > 0) {
    while (::waitpid(launcher.pid, &status, 0) < 0 && errno == EINTR) {
    }
  }
  if (exec_error != 0) return {-1, "start the compiler", exec_error};
  if (error) return {-1, "start the compiler", error.value()};
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), nullptr, 0};
}

}  // namespace pynisher::detail
