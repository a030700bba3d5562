// Beside boost_process.cpp the only file that knows Boost.Process.

// Boost 1.81 forgets to include these.
#include <boost/optional.hpp>
#include <boost/type_traits/is_convertible.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/process/v2/process.hpp>

#include <memory>
#include <string>
#include <vector>

#include "fork_safe_mutex.hpp"
#include "platform/contract.hpp"
#include "platform/windows/handles.hpp"
#include "platform/windows/job.hpp"
#include "platform/windows/start_again.hpp"
#include "program_start.hpp"

namespace pynisher::detail {

namespace {

namespace process_v2 = boost::process::v2;
using platform::call_fd;
using platform::to_descriptor;
using platform::to_handle;

boost::system::error_code last_error() {
  return {static_cast<int>(::GetLastError()), boost::system::system_category()};
}

struct closes {
  void operator()(HANDLE handle) const { ::CloseHandle(handle); }
};

/// Copies that the child inherits, under the same numbers; none but those that it is given by list.
class inherited_handles {
 public:
  /// Null where there is nothing to be inherited.
  HANDLE add(HANDLE handle) {
    HANDLE copy = nullptr;
    if (handle == nullptr || handle == INVALID_HANDLE_VALUE) return nullptr;
    const HANDLE self = ::GetCurrentProcess();
    if (::DuplicateHandle(self, handle, self, &copy, 0, TRUE, DUPLICATE_SAME_ACCESS) == 0) return nullptr;
    copies_.emplace_back(to_descriptor(copy));
    list_.push_back(copy);
    return copy;
  }
  [[nodiscard]] std::vector<HANDLE>& list() { return list_; }

 private:
  std::vector<call_fd> copies_;
  std::vector<HANDLE> list_;
};

/// In its job from the first instruction on, and with the handles of the list only.
class start_in_job {
 public:
  start_in_job(HANDLE& job, inherited_handles& handles, HANDLE input, HANDLE output, HANDLE error_output,
               std::wstring environment)
      : job_(job),
        handles_(handles),
        input_(input),
        output_(output),
        error_output_(error_output),
        environment_(std::move(environment)) {}

  template <class Launcher>
  boost::system::error_code on_setup(Launcher& launcher, const process_v2::filesystem::path&, std::wstring& command_line) {
    command_line = platform::own_command_line();
    SIZE_T size = 0;
    ::InitializeProcThreadAttributeList(nullptr, 2, 0, &size);
    attributes_.resize(size);
    auto* const list = reinterpret_cast<LPPROC_THREAD_ATTRIBUTE_LIST>(attributes_.data());
    if (::InitializeProcThreadAttributeList(list, 2, 0, &size) == 0) return last_error();
    constexpr DWORD_PTR handle_list = 0x00020002, job_list = 0x0002000D;
    auto& inherited = handles_.list();
    if (::UpdateProcThreadAttribute(list, 0, job_list, &job_, sizeof job_, nullptr, nullptr) == 0) return last_error();
    launcher.startup_info.lpAttributeList = list;
    if constexpr (requires { launcher.inherited_handles; }) {
      // Since Boost 1.88: put on the list by the launcher.
      launcher.inherited_handles = inherited;
    } else {
      launcher.inherit_handles = true;
      if (::UpdateProcThreadAttribute(list, 0, handle_list, inherited.data(), inherited.size() * sizeof(HANDLE), nullptr,
                                      nullptr) == 0) {
        return last_error();
      }
    }
    launcher.creation_flags |= CREATE_UNICODE_ENVIRONMENT;
    launcher.environment = environment_.data();
    auto& standard = launcher.startup_info.StartupInfo;
    standard.dwFlags |= STARTF_USESTDHANDLES;
    standard.hStdInput = input_;
    standard.hStdOutput = output_;
    standard.hStdError = error_output_;
    return {};
  }

  template <class Launcher>
  void on_success(Launcher& launcher, const process_v2::filesystem::path&, std::wstring&) {
    const HANDLE self = ::GetCurrentProcess();
    HANDLE copy = nullptr;
    if (::DuplicateHandle(self, launcher.process_information.hProcess, self, &copy, 0, FALSE, DUPLICATE_SAME_ACCESS) == 0) {
      not_to_be_had = static_cast<int>(::GetLastError());
    }
    process.reset(copy);
    pid = launcher.process_information.dwProcessId;
  }

  std::unique_ptr<void, closes> process;
  int not_to_be_had = 0;  ///< why there is none
  DWORD pid = 0;

 private:
  HANDLE& job_;
  inherited_handles& handles_;
  HANDLE input_, output_, error_output_;
  std::wstring environment_;
  std::vector<char> attributes_;
};

/// As it is, and the mark by which `init` knows what to do.
std::wstring environment_with(const std::string& mark) {
  std::wstring block;
  wchar_t* const own = ::GetEnvironmentStringsW();
  for (const wchar_t* at = own; at != nullptr && *at != L'\0'; at += std::char_traits<wchar_t>::length(at) + 1) {
    block.append(at);
    block.push_back(L'\0');
  }
  if (own != nullptr) ::FreeEnvironmentStringsW(own);
  block.append(mark.begin(), mark.end());
  block.push_back(L'\0');
  block.push_back(L'\0');
  return block;
}

}  // namespace

program_started start_program(program_role role, std::span<const int> descriptors, const started_output& output_of_child) {
  program_started result;
  const auto failed = [](const char* stage, int error) {
    program_started none;
    none.failed = stage;
    none.error = error;
    return none;
  };
  if (const char* why = why_not_started_again(); why != nullptr) return failed(why, ERROR_NOT_SUPPORTED);

  HANDLE job = platform::make_job();
  if (job == nullptr) return failed("make a job", errno);
  std::unique_ptr<void, closes> owned_job(job);

  inherited_handles handles;
  std::string mark = start_mark;  // sums of strings are a false alarm of g++ 12's
  mark.append(1, '=').append(1, static_cast<char>(role)).append(1, ':');
  for (const int descriptor : descriptors) {
    const HANDLE copy = handles.add(to_handle(descriptor));
    if (copy == nullptr) return failed("give the child its handles", static_cast<int>(::GetLastError()));
    mark += std::to_string(to_descriptor(copy)) + ",";
  }
  const call_fd nothing(to_descriptor(::CreateFileW(
      L"NUL", GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE, nullptr, OPEN_EXISTING, 0, nullptr)));
  const HANDLE input = handles.add(to_handle(nothing.get()));
  const auto standard = [&](DWORD which) { return output_of_child.inherits ? handles.add(::GetStdHandle(which)) : nullptr; };
  const HANDLE output = standard(STD_OUTPUT_HANDLE), error_output = standard(STD_ERROR_HANDLE);

  start_in_job how(job, handles, input, output, error_output, environment_with(mark));
  boost::system::error_code error;
  // Wine says "internal error" now and then, of a process that died before anything of it ran.
  for (int attempts_left = 3; attempts_left > 0; --attempts_left) {
    error.clear();
    try {
      boost::asio::io_context context;
      process_v2::windows::default_launcher launcher;
      auto started = launcher(context.get_executor(), error, process_v2::filesystem::path(platform::own_image_path()),
                              std::vector<std::wstring>(), how);
      if (!error) static_cast<void>(started.detach());
    } catch (const boost::system::system_error& e) {
      error = e.code();
    }
    if (error.value() != ERROR_INTERNAL_ERROR) break;
  }
  if (error) return failed("start the program again", error.value());
  // It ends with its job.
  if (how.not_to_be_had != 0) return failed("have the child's handle", how.not_to_be_had);
  result.pid = static_cast<pid_t>(how.pid);
  result.process = to_descriptor(how.process.release());
  result.job = to_descriptor(owned_job.release());
  return result;
}

}  // namespace pynisher::detail
