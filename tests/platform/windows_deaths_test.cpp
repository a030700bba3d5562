// How a child ends on Windows, and what is said of it: the signal by its POSIX number, and the process's NTSTATUS.

#include <windows.h>
#if defined(_MSC_VER)
#include <intrin.h>
#endif

#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <string>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/outcomes.hpp"

namespace {

volatile int zero = 0;
volatile int deepest = 0x7fffffff;

void write_to_null() {
  volatile int* volatile nowhere = nullptr;
  *nowhere = 1;
}
int overflow_stack(int depth) {
  volatile char room[4096];
  room[0] = static_cast<char>(depth);
  return depth < deepest ? overflow_stack(depth + 1) + room[0] : 0;
}
void overflow() { overflow_stack(0); }
void divide_by_zero() { zero = 7 / zero; }
void run_into_nothing() {
#if defined(_MSC_VER) && !defined(__clang__)
  __ud2();
#else
  __builtin_trap();
#endif
}
void raise_breakpoint() { ::RaiseException(0x80000003, 0, 0, nullptr); }
void end_by_a_code_of_its_own() { ::TerminateProcess(::GetCurrentProcess(), 0xE0001234); }
void give_up() { std::abort(); }

struct death {
  const char* name;
  void (*how)();
  int signal;  ///< 0: it counts as an exit
  std::uint32_t code;
};

class WindowsDeaths : public ::testing::TestWithParam<death> {};

TEST_P(WindowsDeaths, AreToldBySignalAndByStatus) {
  const auto ended = pynisher::limit(GetParam().how, {.warnings = false}).try_call();
  ASSERT_FALSE(ended);
  try {
    std::rethrow_exception(ended.error());
  } catch (const pynisher::SignalException& e) {
    EXPECT_EQ(e.signal(), GetParam().signal);
    EXPECT_EQ(e.system_code(), GetParam().code);
  } catch (const pynisher::ExitException& e) {
    EXPECT_EQ(GetParam().signal, 0) << e.what();
    EXPECT_EQ(static_cast<std::uint32_t>(e.exit_code()), GetParam().code);
  }
}

INSTANTIATE_TEST_SUITE_P(Of, WindowsDeaths,
                         ::testing::Values(death{"AccessViolation", write_to_null, SIGSEGV, 0xC0000005},
                                           death{"StackOverflow", overflow, SIGSEGV, 0xC00000FD},
                                           death{"DivisionByZero", divide_by_zero, SIGFPE, 0xC0000094},
                                           death{"IllegalInstruction", run_into_nothing, SIGILL, 0xC000001D},
                                           death{"Breakpoint", raise_breakpoint, 5, 0x80000003},
                                           death{"Abort", give_up, SIGABRT, 0xC0000409},
                                           death{"CodeOfItsOwn", end_by_a_code_of_its_own, 0, 0xE0001234}),
                         [](const auto& param_info) { return std::string(param_info.param.name); });

void exit_with(int code) { std::exit(code); }

/// They are what the kernel gives a process that has used up its job's CPU time, and what a program may end with itself.
TEST(WindowsDeaths, ACodeThatMeansAQuotaIsAnExitAsLongAsThereIsTimeLeft) {
  using namespace std::chrono_literals;
  for (const int code : {1816, static_cast<int>(0xC0000044)}) {
    const auto ended = pynisher::limit(exit_with, {.cpu_time = 120s, .warnings = false}).try_call(code);
    ASSERT_THAT(ended, support::EndedAs(pynisher::verdict::exited));
    try {
      std::rethrow_exception(ended.error());
    } catch (const pynisher::ExitException& e) {
      EXPECT_EQ(e.exit_code(), code);
    }
  }
}

TEST(WindowsHandles, NoneIsLeftByCallsHoweverTheyEnd) {
  const auto open = [] {
    DWORD count = 0;
    ::GetProcessHandleCount(::GetCurrentProcess(), &count);
    return count;
  };
  const auto calls = [] {
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(pynisher::limit(write_to_null, {.warnings = false}).try_call().verdict(), pynisher::verdict::signalled);
      EXPECT_EQ(pynisher::limit(give_up, {.warnings = false}).try_call().verdict(), pynisher::verdict::signalled);
      EXPECT_EQ(pynisher::limit(+[] {}, {.warnings = false}).try_call().verdict(), pynisher::verdict::returned);
    }
  };
  calls();
  const DWORD before = open();
  if (before == 0) GTEST_SKIP() << "this system does not count handles";
  calls();
  EXPECT_LE(open(), before);
}

}  // namespace
