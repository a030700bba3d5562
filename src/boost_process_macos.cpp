// Beside boost_process.cpp and boost_process_windows.cpp the only file that knows Boost.Process.

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

#include "boost_process_launch.hpp"
#include "platform/contract.hpp"
#include "platform/macos/start_again.hpp"
#include "program_start.hpp"

namespace pynisher::detail {

namespace {

/// For this program, started again: nothing but what it is given.
class start_bare : public before_exec {
 public:
  start_bare(std::span<const int> descriptors, const char* const* environment, bool with_output, int& error)
      : before_exec(error), descriptors_(descriptors), environment_(environment), with_output_(with_output) {}

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

  static constexpr int first_ = 3;

 private:
  std::span<const int> descriptors_;
  const char* const* environment_;
  bool with_output_;
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
  const std::vector<const char*> environment = environment_with(platform::environment_entries(), mark);
  std::vector<const char*> arguments = arguments_of_program();
  int exec_error = 0;
  const pid_t pid = launch(image, arguments.data(),
                           start_bare(descriptors, environment.data(), output.inherits, exec_error), exec_error);
  if (pid < 0) return {-1, "start the program again", -pid};
  // It is reaped by whoever waits for the call.
  result.pid = pid;
  return result;
}

}  // namespace pynisher::detail
