// Beside boost_process.cpp and boost_process_windows.cpp the only file that knows Boost.Process.

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <mutex>
#include <string>
#include <vector>

#include "boost_process_launch.hpp"
#include "fork_safe_mutex.hpp"
#include "platform/contract.hpp"
#include "platform/macos/descriptors.hpp"
#include "platform/macos/reaping.hpp"
#include "platform/macos/start_again.hpp"
#include "program_start.hpp"

namespace pynisher::detail {

namespace {

/// For this program, started again: nothing but what it is given.
class start_bare {
 public:
  /// `told_by`: what a child writes to that does not become the program.
  start_bare(std::span<const int> descriptors, const char* const* environment, bool with_output, int told_by)
      : descriptors_(descriptors), environment_(environment), with_output_(with_output), told_by_(told_by) {}

  template <class Launcher, class Path>
  boost::system::error_code on_setup(Launcher& launcher, const Path&, const char* const*) {
    launcher.env = environment_;
    for (std::size_t i = 0; i < descriptors_.size(); ++i) launcher.fd_whitelist.push_back(first_ + static_cast<int>(i));
    launcher.fd_whitelist.push_back(told_by_);
    return {};
  }

  template <class Launcher, class Path>
  boost::system::error_code on_exec_setup(Launcher&, const Path&, const char* const*) {
    const int failed = platform::arrange_descriptors(descriptors_.data(), descriptors_.size(), with_output_);
    return {failed, boost::system::system_category()};
  }

  // The launcher's way on is `exit`, which would run the program's own exit handlers.
  template <class... Any>
  void on_exec_error(Any&&...) {
    const int error = errno != 0 ? errno : EINVAL;
    static_cast<void>(::write(told_by_, &error, sizeof error));
    ::_exit(127);
  }

 private:
  static constexpr int first_ = 3;

  std::span<const int> descriptors_;
  const char* const* environment_;
  bool with_output_;
  int told_by_;
};

/// The child's number; or an error number, negative, and there is no child. `hears`: of a child that has failed yet.
pid_t launch_bare(const std::string& image, std::span<const int> descriptors, const char* const* environment,
                  bool with_output, platform::unique_fd& hears) {
  // No other child may have what is written to: its end is what tells of success.
  const std::lock_guard<fork_safe_mutex> lock(fork_mutex);
  platform::unique_fd tells;
  if (!platform::connect_two(hears, tells)) return -errno;
  // Out of the way of what the child is given. It is closed by exec.
  constexpr int out_of_the_way = 16;
  const platform::unique_fd told_by(::fcntl(tells.get(), F_DUPFD_CLOEXEC, out_of_the_way));
  if (!told_by) return -errno;
  std::vector<const char*> arguments = arguments_of_program();
  constexpr int not_told_by_memory = 0;
  return launch(image, arguments.data(), start_bare(descriptors, environment, with_output, told_by.get()),
                not_told_by_memory);
}

/// `vfork` is a fork here that shares no memory, and comes back before the child has become the program. Why it did
/// not; 0: it did, or was killed, or takes its time.
int hear_of_failure(const platform::unique_fd& hears) {
  pollfd told{hears.get(), POLLIN, 0};
  const auto until = platform::clock::now() + std::chrono::seconds(10);
  while (platform::poll_until(&told, 1, until) < 0 && errno == EINTR) {
  }
  int error = 0;
  return ::recv(hears.get(), &error, sizeof error, MSG_DONTWAIT) == sizeof error ? error : 0;
}

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
  const std::vector<const char*> environment = environment_with(platform::environment_entries(), mark);
  platform::unique_fd hears;
  const pid_t pid = launch_bare(image, descriptors, environment.data(), output.inherits, hears);
  if (pid < 0) return {-1, "start the program again", -pid};
  if (const int error = hear_of_failure(hears); error != 0) {
    platform::reap(pid);
    return {-1, "start the program again", error};
  }
  // It is reaped by whoever waits for the call.
  result.pid = pid;
  return result;
}

}  // namespace pynisher::detail
