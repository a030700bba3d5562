// Beside boost_process.cpp and boost_process_windows.cpp the only file that knows Boost.Process.

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

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
#include "platform/macos/start_again.hpp"
#include "program_start.hpp"
#include "without_signals.hpp"

namespace pynisher::detail {

namespace {

namespace process_v2 = boost::process::v2;

/// What is done between vfork and exec: there the memory is still the program's, and the program's thread waits.
class start_bare {
 public:
  start_bare(std::span<const int> descriptors, const char* const* environment, bool with_output, int& error)
      : descriptors_(descriptors), environment_(environment), with_output_(with_output), error_(error) {}

  template <class Launcher, class Path>
  boost::system::error_code on_setup(Launcher& launcher, const Path&, const char* const*) {
    launcher.env = environment_;
    for (std::size_t i = 0; i < descriptors_.size(); ++i) launcher.fd_whitelist.push_back(first_ + static_cast<int>(i));
    return {};
  }

  template <class Launcher, class Path>
  boost::system::error_code on_exec_setup(Launcher&, const Path&, const char* const*) {
    const int failed = platform::arrange_descriptors(descriptors_.data(), descriptors_.size(), with_output_);
    return {failed, boost::system::system_category()};
  }

  /// `exit`, which the launcher calls then, would run the program's own exit handlers, in the program's own memory.
  template <class... Any>
  void on_exec_error(Any&&...) {
    error_ = errno;
    ::_exit(127);
  }

  static constexpr int first_ = 3;

 private:
  std::span<const int> descriptors_;
  const char* const* environment_;
  bool with_output_;
  int& error_;
};

/// As it is, and the mark by which `init` knows what to do.
std::vector<const char*> environment_with(const std::string& mark) {
  std::vector<const char*> environment;
  for (char** entry = platform::environment_entries(); entry != nullptr && *entry != nullptr; ++entry) {
    environment.push_back(*entry);
  }
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

}  // namespace

program_started start_program(program_role role, std::span<const int> descriptors, const started_output& output) {
  program_started result;
  if (const char* why = why_not_started_again(); why != nullptr) {
    result.failed = why;
    result.error = EPERM;
    return result;
  }
  // By its path: nothing can be executed by descriptor. Another build that is there by now is refused by its identity.
  const std::string image = platform::own_image_path();
  if (image.empty()) return {-1, "find the program's own image", ENOENT};
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
    launcher(context.get_executor(), error, image, arguments.data(),
             start_bare(descriptors, environment.data(), output.inherits, exec_error));
  } catch (const child_is_started&) {
    if (error || exec_error != 0) {
      while (::waitpid(launcher.pid, nullptr, 0) < 0 && errno == EINTR) {
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

}  // namespace pynisher::detail
