// The program that is started again: what it is told, and what becomes of it when its parent is interrupted.

#include <windows.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "platform/contract.hpp"
#include "platform/posix/interrupts.hpp"
#include "platform/windows/console_events.hpp"
#include "platform/windows_helpers.hpp"
#include "support/outcomes.hpp"

using namespace std::chrono_literals;
using pynisher::limit;
using pynisher::verdict;
using support::EndedAs;
namespace fs = std::filesystem;

namespace {

fs::path fresh_path(const wchar_t* name) {
  const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
  return fs::temp_directory_path() / (std::wstring(name) + std::to_wstring(now));
}

std::wstring variable(const wchar_t* name) {
  wchar_t value[4096];
  const DWORD size = ::GetEnvironmentVariableW(name, value, 4096);
  return std::wstring(value, size < 4096 ? size : 0);
}

// --- what it is told ------------------------------------------------------------------------------------------------

std::wstring current_directory() {
  wchar_t path[4096];
  return std::wstring(path, ::GetCurrentDirectoryW(4096, path));
}
std::wstring command_line() { return ::GetCommandLineW(); }

TEST(WindowsProgram, TheCurrentDirectoryMayHaveAnyName) {
  const std::wstring before = current_directory();
  const fs::path folder = fresh_path(L"p\u00e4th \u65e5\u672c \u0436 ");
  ASSERT_TRUE(fs::create_directory(folder));
  ASSERT_NE(::SetCurrentDirectoryW(folder.c_str()), 0);
  const std::wstring own = current_directory();
  const std::wstring seen = limit(current_directory, {.warnings = false})();
  ::SetCurrentDirectoryW(before.c_str());
  fs::remove(folder);
  EXPECT_EQ(seen, own);
  EXPECT_THAT(seen, ::testing::HasSubstr(L"\u65e5\u672c"));
}

TEST(WindowsProgram, TheEnvironmentMayHoldAnyText) {
  const std::wstring text = L"gr\u00fc\u00dfe \u65e5\u672c = \u0436";
  ASSERT_NE(::SetEnvironmentVariableW(L"PYNISHER_TEST_GR\u00dcSSE", text.c_str()), 0);
  const auto read = limit(+[] { return variable(L"PYNISHER_TEST_GR\u00dcSSE"); }, {.warnings = false});
  EXPECT_EQ(read(), text);
  ::SetEnvironmentVariableW(L"PYNISHER_TEST_GR\u00dcSSE", nullptr);
}

/// Says by its end whether its child has the arguments that it has itself.
TEST(WindowsProgram, TheArgumentsMayBeAnyText) {
  constexpr const wchar_t* mark = L"PYNISHER_TEST_ARGUMENTS";
  if (!variable(mark).empty()) {
    const std::wstring own = command_line();
    const bool same = limit(command_line, {.warnings = false})() == own;
    ::TerminateProcess(::GetCurrentProcess(), same && own.find(L"\u65e5\u672c \\\"x\\\"") != own.npos ? 7 : 1);
  }
  const auto started = support::start_this_program(
      mark, L"1", L"--gtest_filter=WindowsProgram.TheArgumentsMayBeAnyText \"gr\u00fc\u00dfe \u65e5\u672c \\\"x\\\"\"");
  ASSERT_TRUE(started);
  ::WaitForSingleObject(started.get(), INFINITE);
  DWORD code = 0;
  ::GetExitCodeProcess(started.get(), &code);
  EXPECT_EQ(code, 7u);
}

std::size_t size_of(const std::string& text) { return text.size(); }

/// Arguments that do not fit into shared memory go through a file.
TEST(WindowsProgram, AFolderForTemporaryFilesThatIsNoneIsNamedAsTheReason) {
  const std::wstring before = variable(L"TMP");
  const auto measure = limit(size_of, {.warnings = false});
  const std::string text(16 << 20, 'x');
  for (const std::wstring& folder : {std::wstring(L"C:\\there is none"), L"C:\\" + std::wstring(300, L'x')}) {
    ASSERT_NE(::SetEnvironmentVariableW(L"TMP", folder.c_str()), 0);
    EXPECT_THAT(measure.try_call(text), EndedAs(verdict::start_failed));
  }
  ASSERT_NE(::SetEnvironmentVariableW(L"TMP", before.empty() ? nullptr : before.c_str()), 0);
  EXPECT_EQ(measure(text), text.size());
}

TEST(WindowsProgram, NoDialogHoldsUpAChildThatCrashes) {
  constexpr UINT none = SEM_NOGPFAULTERRORBOX | SEM_FAILCRITICALERRORS | SEM_NOOPENFILEERRORBOX;
  const auto mode = limit(+[] { return ::GetErrorMode(); }, {.warnings = false})();
  EXPECT_EQ(mode & none, none);
  const auto library_mode = limit(+[] { return ::_set_error_mode(_REPORT_ERRMODE); }, {.warnings = false})();
  EXPECT_EQ(library_mode, _OUT_TO_STDERR);
}

// --- what becomes of its children -----------------------------------------------------------------------------------

void tell_and_sleep(std::wstring file) {
  const std::wstring unfinished = file + L"_";
  const auto sleeper = support::start_sleeper();
  std::ofstream(fs::path(unfinished)) << ::GetCurrentProcessId() << ' ' << ::GetProcessId(sleeper.get());
  fs::rename(unfinished, file);
  for (;;) ::Sleep(1000);
}

/// The program is this one again; it makes a call, whose function starts a program, too.
TEST(WindowsProgram, NothingOutlivesAProgramThatIsKilled) {
  constexpr const wchar_t* mark = L"PYNISHER_TEST_KILLED";
  if (const std::wstring file = variable(mark); !file.empty()) {
    ::SetEnvironmentVariableW(mark, nullptr);
    limit(tell_and_sleep, {.warnings = false})(file);
  }
  const fs::path file = fresh_path(L"pynisher-killed-");
  const auto program = support::start_this_program(mark, file.wstring(),
                                                   L"--gtest_filter=WindowsProgram.NothingOutlivesAProgramThatIsKilled");
  ASSERT_TRUE(program);
  DWORD child = 0, grandchild = 0;
  // It may be there and not to be opened yet.
  while (!(std::ifstream(file) >> child >> grandchild)) {
    ASSERT_FALSE(support::has_ended(program.get()));
    ::Sleep(1);
  }
  const support::unique_handle left[] = {support::unique_handle(::OpenProcess(SYNCHRONIZE, FALSE, child)),
                                         support::unique_handle(::OpenProcess(SYNCHRONIZE, FALSE, grandchild))};
  for (const auto& one : left) {
    ASSERT_TRUE(one);
    ASSERT_FALSE(support::has_ended(one.get()));
  }
  ::TerminateProcess(program.get(), 1);
  for (const auto& one : left) EXPECT_EQ(::WaitForSingleObject(one.get(), INFINITE), WAIT_OBJECT_0);
  fs::remove(file);
}

// --- code of a library ----------------------------------------------------------------------------------------------

using plugin_function = int(int);

plugin_function* function_of_plugin() {
  const HMODULE plugin = ::LoadLibraryW(fs::path(PLUGIN).c_str());
  if (plugin == nullptr) return nullptr;
  return reinterpret_cast<plugin_function*>(reinterpret_cast<void (*)()>(::GetProcAddress(plugin, "plugin_function")));
}

TEST(WindowsProgram, AFunctionOfALibraryThatWasOpenedLaterIsCalled) {
  plugin_function* const function = function_of_plugin();
  ASSERT_NE(function, nullptr);
  EXPECT_EQ(limit(function, {.warnings = false})(14), 42);
}

TEST(WindowsProgram, ALibraryIsKnownByItsBuildAndNotByItsPlaceAlone) {
  namespace platform = pynisher::platform;
  const auto* const address = reinterpret_cast<const void*>(function_of_plugin());
  platform::code_place place = platform::place_of(address);
  EXPECT_THAT(place.path, ::testing::HasSubstr("windows_plugin"));
  EXPECT_THAT(place.build, ::testing::StartsWith("pe "));
  EXPECT_EQ(platform::find_place(place, 1, true).address, address);
  place.build += "0";
  EXPECT_EQ(platform::find_place(place, 1, true).address, nullptr);
  EXPECT_THAT(platform::find_place(place, 1, true).why_not, ::testing::HasSubstr("another build"));
  place.path += ".gone";
  EXPECT_THAT(platform::find_place(place, 1, true).why_not, ::testing::HasSubstr("could not be opened"));
}

// --- interrupts -----------------------------------------------------------------------------------------------------
// Nothing here can press the keys: the console's handler is called as the console would call it.

void sleep_forever() {
  for (;;) ::Sleep(1000);
}
/// Once it is asked to.
int answer_when(std::wstring file) {
  while (!fs::exists(file)) ::Sleep(1);
  return 42;
}

class WindowsInterrupts : public ::testing::TestWithParam<DWORD> {};

TEST_P(WindowsInterrupts, EndACallAtOnce) {
  auto call = limit(sleep_forever, {.wall_time = 60s, .warnings = false}).start();
  EXPECT_FALSE(pynisher::platform::tell_of_console_event(GetParam())) << "the program may end of it";
  const auto ended = call.get_outcome();
  EXPECT_THAT(ended, EndedAs(verdict::cancelled));
  EXPECT_THROW(std::rethrow_exception(ended.error()), pynisher::KeyboardInterrupt);
}

std::atomic<int> interrupts{0};

TEST_P(WindowsInterrupts, WaitForACallThatIsToBeWaitedFor) {
  const auto before = std::signal(SIGINT, [](int) { ++interrupts; });
  interrupts = 0;
  const fs::path file = fresh_path(L"pynisher-interrupt-");
  auto call = limit(answer_when, {.wall_time = 60s, .warnings = false, .forceful_keyboard_interrupt = false}).start(file.wstring());
  EXPECT_TRUE(pynisher::platform::tell_of_console_event(GetParam())) << "not before the call is over";
  std::ofstream(file) << '.';
  EXPECT_EQ(call.get(), 42);
  pynisher::platform::take_pending_default_action();
  EXPECT_EQ(interrupts, 1);
  std::signal(SIGINT, before);
  fs::remove(file);
}

INSTANTIATE_TEST_SUITE_P(By, WindowsInterrupts, ::testing::Values(CTRL_C_EVENT, CTRL_BREAK_EVENT),
                         [](const auto& what) { return what.param == CTRL_C_EVENT ? "CtrlC" : "CtrlBreak"; });

TEST(WindowsConsole, OtherEventsOfTheConsoleAreNotTheLibrarys) {
  auto call = limit(+[] { return 42; }, {.wall_time = 60s, .warnings = false}).start();
  EXPECT_FALSE(pynisher::platform::tell_of_console_event(CTRL_CLOSE_EVENT));
  EXPECT_EQ(call.get(), 42);
}

}  // namespace
