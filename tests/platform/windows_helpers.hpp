#pragma once

// Programs that a test starts past the library: this one again, told by its environment what to be.

#include <windows.h>

#include <cstdlib>
#include <memory>
#include <string>

namespace support {

struct closes {
  void operator()(HANDLE handle) const { ::CloseHandle(handle); }
};
using unique_handle = std::unique_ptr<void, closes>;

/// With `variable` set, and `arguments` behind the program's name. Null: the system did not start it.
inline unique_handle start_this_program(const wchar_t* variable, const std::wstring& value,
                                        const std::wstring& arguments = {}) {
  wchar_t path[4096];
  ::GetModuleFileNameW(nullptr, path, 4096);
  std::wstring command = L"\"" + std::wstring(path) + L"\" " + arguments;
  STARTUPINFOW start{};
  start.cb = sizeof start;
  PROCESS_INFORMATION started{};
  ::SetEnvironmentVariableW(variable, value.c_str());
  const BOOL good = ::CreateProcessW(path, command.data(), nullptr, nullptr, FALSE, 0, nullptr, nullptr, &start, &started);
  ::SetEnvironmentVariableW(variable, nullptr);
  if (good == 0) return nullptr;
  ::CloseHandle(started.hThread);
  return unique_handle(started.hProcess);
}

inline bool has_ended(HANDLE process) { return ::WaitForSingleObject(process, 0) == WAIT_OBJECT_0; }

/// A program that does nothing for two minutes.
inline unique_handle start_sleeper() { return start_this_program(L"PYNISHER_TEST_SLEEPER", L"1"); }

/// In each test program that starts sleepers: what makes it one, before anything else of it runs.
inline const bool is_no_sleeper = [] {
  wchar_t mark[8];
  if (::GetEnvironmentVariableW(L"PYNISHER_TEST_SLEEPER", mark, 8) == 0) return true;
  ::Sleep(120'000);
  ::TerminateProcess(::GetCurrentProcess(), 0);
  return false;
}();

}  // namespace support
