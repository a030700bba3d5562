// A system that refuses: one kind of system call fails, and the call either comes out right or says that it could not
// be made. Nothing of it is left, and no limit is left out.

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <new>
#include <optional>
#include <string>
#include <tuple>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/pynisher.hpp>

#include "hostile/attack.hpp"
#include "support/helper_process.hpp"
#include "support/processes.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using hostile::link_of;
using hostile::open_descriptors;
using hostile::Survived;
using pynisher::limit;
using pynisher::start_method;
using pynisher::verdict;

// --- refusals -----------------------------------------------------------------------------------------------------

/// Of the low half of one argument.
struct argument_is {
  unsigned place;
  std::uint32_t value;
  std::uint32_t mask = 0xffffffff;
};

/// What must hold for a function to run at all.
enum class if_refused : std::uint8_t {
  may_run,             ///< the library can do without, or need not come to it
  must_not_run,        ///< a limit, or what keeps it, would be missing
  not_unless_adopted,  ///< the same, but in a child of the forkserver's
  not_if_powerful,     ///< the same, for a program that has a right to give up
  not_by_the_program,  ///< the same; it is the program that makes this call, and not the child
};

struct refusal {
  const char* name;
  std::vector<long> calls;
  int error;
  std::optional<argument_is> only = std::nullopt;
  if_refused then = if_refused::may_run;
};

/// Those that make processes.
std::vector<long> forking_calls() {
  return {
      SYS_clone,
#ifdef SYS_clone3
      SYS_clone3,
#endif
#ifdef SYS_fork
      SYS_fork,
#endif
#ifdef SYS_vfork
      SYS_vfork,
#endif
  };
}

const std::vector<refusal>& refusals() {
  constexpr int rlimit_locks = 10;
  constexpr std::uint32_t clone_thread = 0x10000, map_kind = 3;
  static const std::vector<refusal> all = {
      // Processes.
      {"forks_and_threads", forking_calls(), EAGAIN},
      {"clone", {SYS_clone}, EAGAIN},
      {"clone_but_for_threads", {SYS_clone}, ENOMEM, argument_is{0, 0, clone_thread}},
#ifdef SYS_clone3
      {"clone3", {SYS_clone3}, EAGAIN},
      {"clone3_as_unknown", {SYS_clone3}, ENOSYS},
#endif
#ifdef SYS_vfork
      {"vfork", {SYS_vfork}, EAGAIN},
#endif
      {"execve_of_what_is_gone", {SYS_execve}, ENOENT},
      {"execve_for_memory", {SYS_execve}, ENOMEM},
      {"pidfd_open", {SYS_pidfd_open}, EMFILE},
      {"pidfd_send_signal", {SYS_pidfd_send_signal}, EPERM},
      {"unshare", {SYS_unshare}, EPERM},
      {"setsid", {SYS_setsid}, EPERM},
      // Memory.
      {"memfd_create", {SYS_memfd_create}, EMFILE},
      {"memfd_create_as_unknown", {SYS_memfd_create}, ENOSYS},
      {"ftruncate", {SYS_ftruncate}, ENOMEM},
      {"sealing", {SYS_fcntl}, EPERM, argument_is{1, F_ADD_SEALS}},
      {"mmap_of_shared_memory", {SYS_mmap}, ENOMEM, argument_is{3, MAP_SHARED, map_kind}},
      {"madvise", {SYS_madvise}, EINVAL, std::nullopt, if_refused::must_not_run},
      {"madvise_dontfork", {SYS_madvise}, EINVAL, argument_is{2, MADV_DONTFORK}, if_refused::must_not_run},
      {"madvise_dofork", {SYS_madvise}, ENOMEM, argument_is{2, MADV_DOFORK}},
      // Descriptors.
      {"eventfd", {SYS_eventfd2}, EMFILE},
      {"socketpair", {SYS_socketpair}, EMFILE},
      {"sendmsg", {SYS_sendmsg}, ENOBUFS},
      {"recvmsg", {SYS_recvmsg}, ENOMEM},
      {"dup3", {SYS_dup3}, EMFILE},
#ifdef SYS_dup2
      {"dup2", {SYS_dup2}, EMFILE},
#endif
      {"fcntl_that_duplicates", {SYS_fcntl}, EMFILE, argument_is{1, F_DUPFD_CLOEXEC}},
      {"epoll_create1", {SYS_epoll_create1}, EMFILE},
      {"epoll_ctl", {SYS_epoll_ctl}, ENOSPC},
      {"close_range", {SYS_close_range}, ENOSYS},
      {"preadv2", {SYS_preadv2}, EOPNOTSUPP},
      {"fchdir", {SYS_fchdir}, EACCES},
      {"pipe2", {SYS_pipe2}, EMFILE},
      // Standing and rights.
      {"dying_with_the_parent", {SYS_prctl}, EINVAL, argument_is{0, PR_SET_PDEATHSIG}, if_refused::not_unless_adopted},
      {"being_the_reaper", {SYS_prctl}, EINVAL, argument_is{0, PR_SET_CHILD_SUBREAPER}, if_refused::must_not_run},
      {"names", {SYS_prctl}, EINVAL, argument_is{0, PR_SET_NAME}},
      {"dropping_bounds", {SYS_prctl}, EPERM, argument_is{0, PR_CAPBSET_DROP}, if_refused::not_if_powerful},
      {"thread_addresses", {SYS_prctl}, EINVAL, argument_is{0, PR_GET_TID_ADDRESS}},
      {"capget", {SYS_capget}, EPERM, std::nullopt, if_refused::must_not_run},
      {"capset", {SYS_capset}, EPERM, std::nullopt, if_refused::not_if_powerful},
      {"getrandom", {SYS_getrandom}, ENOSYS},
      {"getrusage", {SYS_getrusage}, EFAULT},
      // Limits.
      {"marks", {SYS_prlimit64}, EPERM, argument_is{1, rlimit_locks}},
      {"memory_limits", {SYS_prlimit64}, EPERM, argument_is{1, RLIMIT_DATA}, if_refused::must_not_run},
      {"stack_limits", {SYS_prlimit64}, EPERM, argument_is{1, RLIMIT_STACK}, if_refused::must_not_run},
      {"cpu_limits", {SYS_prlimit64}, EPERM, argument_is{1, RLIMIT_CPU}, if_refused::must_not_run},
      // Of another process: their numbers are negative.
      {"cpu_clocks", {SYS_clock_gettime}, EINVAL, argument_is{0, 0x80000000, 0x80000000}, if_refused::not_by_the_program},
      {"timers", {SYS_timer_create}, EAGAIN, std::nullopt, if_refused::must_not_run},
      {"setting_timers", {SYS_timer_settime}, EINVAL, std::nullopt, if_refused::must_not_run},
      {"signal_stacks", {SYS_sigaltstack}, ENOMEM},
      {"crash_handlers", {SYS_rt_sigaction}, EINVAL, argument_is{0, SIGSEGV}},
  };
  return all;
}

/// From here on, in this thread and in what it starts, programs included. False: the system has no such filters.
bool refuse(const refusal& what) {
#if defined(__x86_64__)
  constexpr std::uint32_t machine = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
  constexpr std::uint32_t machine = AUDIT_ARCH_AARCH64;
#else
  constexpr std::uint32_t machine = 0;
#endif
  constexpr auto of = [](unsigned code, std::uint32_t value, std::size_t if_not = 0) {
    return sock_filter{static_cast<std::uint16_t>(code), 0, static_cast<std::uint8_t>(if_not), value};
  };
  constexpr unsigned load = BPF_LD | BPF_W | BPF_ABS, equals = BPF_JMP | BPF_JEQ | BPF_K, give = BPF_RET | BPF_K;
  std::vector<sock_filter> program = {of(load, offsetof(seccomp_data, arch)), of(equals, machine, 1),
                                      sock_filter{BPF_JMP | BPF_JA, 0, 0, 1}, of(give, SECCOMP_RET_ALLOW)};
  for (const long call : what.calls) {
    const std::size_t rest = what.only ? 4 : 1;
    program.push_back(of(load, offsetof(seccomp_data, nr)));
    program.push_back(of(equals, static_cast<std::uint32_t>(call), rest));
    if (what.only) {
      program.push_back(of(load, static_cast<std::uint32_t>(offsetof(seccomp_data, args) + 8 * what.only->place)));
      program.push_back(of(BPF_ALU | BPF_AND | BPF_K, what.only->mask));
      program.push_back(of(equals, what.only->value, 1));
    }
    program.push_back(of(give, SECCOMP_RET_ERRNO | static_cast<std::uint32_t>(what.error)));
  }
  program.push_back(of(give, SECCOMP_RET_ALLOW));
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) == 0;
}

bool filters_are_to_be_had() {
  static const bool had = support::run_in_helper([] {
                            return refuse({"nothing", {SYS_getpgid}, EPERM}) ? 0 : 1;
                          }).code == 0;
  return had;
}

bool is_powerful() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  return ::syscall(SYS_capget, &header, data) == 0 && (data[0].permitted & (1u << CAP_SYS_RESOURCE)) != 0;
}

enum class since : std::uint8_t {
  before_the_first_call,
  after_a_call,   ///< what is kept between calls is there, and so is the forkserver
  in_the_server,  ///< and in its children, but not in the program
};

bool is_needed(if_refused then, start_method method, since when) {
  switch (then) {
    case if_refused::may_run:
      return false;
    case if_refused::must_not_run:
      return true;
    case if_refused::not_unless_adopted:
      return method != start_method::forkserver;
    case if_refused::not_if_powerful:
      return is_powerful();
    case if_refused::not_by_the_program:
      return when != since::in_the_server;
  }
  return false;
}

/// As a function that the forkserver is to run before it forks.
struct refusing {
  std::size_t which = 0;
  void operator()() const {
    if (!refuse(refusals()[which])) throw std::runtime_error("no filter");
  }
  template <class Archive>
  void serialize(Archive& archive) {
    archive(which);
  }
};

// --- calls --------------------------------------------------------------------------------------------------------

const char* name_of(since when) {
  switch (when) {
    case since::before_the_first_call:
      return "before_the_first_call";
    case since::after_a_call:
      return "after_a_call";
    case since::in_the_server:
      return "in_the_server";
  }
  return "unknown";
}

int run_and_tell(const std::string& path) {
  support::log_process(path.c_str());
  return 42;
}

[[noreturn]] void fail(const std::string& why) {
  std::fprintf(stderr, "%s\n", why.c_str());
  std::fflush(stderr);
  ::_exit(99);
}

/// Makes the call, by waiting for it or in flight. Empty: it was refused, in a manner that a caller can rely on.
template <class Call>
std::optional<int> value_of(const Call& call, const std::string& path, bool lacks_memory, bool in_flight) {
  try {
    const auto outcome = in_flight ? call.start(path).get_outcome() : call.try_call(path);
    if (outcome) return *outcome;
    if (outcome.verdict() != verdict::start_failed) {
      fail(std::string("not start_failed but ") + pynisher::to_string(outcome.verdict()) + ": " + outcome.explain());
    }
    outcome.value();
  } catch (const std::bad_alloc&) {
    if (!lacks_memory) fail("there is memory");
  } catch (const pynisher::StartException&) {
  } catch (const pynisher::SerializationException&) {
  } catch (const std::exception& e) {
    fail(std::string("another exception than a start may throw: ") + e.what());
  }
  return std::nullopt;
}

/// What is open, without the memory that is kept for the next call.
std::vector<std::string> what_is_open() {
  std::vector<std::string> links;
  for (const int descriptor : open_descriptors()) {
    const std::string link = link_of(descriptor);
    if (!link.starts_with("/memfd:pynisher")) links.push_back(std::to_string(descriptor) + " is " + link);
  }
  std::ranges::sort(links);
  return links;
}

void check_nothing_is_left(const std::vector<std::string>& open_before) {
  for (const std::string& link : what_is_open()) {
    if (std::ranges::find(open_before, link) == open_before.end()) fail("left open: " + link);
  }
  // Of two calls at most.
  HELPER_CHECK(open_descriptors().size() <= open_before.size() + 2);
  siginfo_t left{};
  if (::waitid(P_ALL, 0, &left, WEXITED | WSTOPPED | WNOHANG | WNOWAIT | __WALL) == 0) {
    const bool ended = left.si_pid != 0;
    fail(ended ? "a child has not been reaped: " + std::to_string(left.si_pid) : "a child still runs");
  }
  HELPER_CHECK(errno == ECHILD);
}

/// More than once: what one call has spoilt is another's trouble.
template <class Call>
void call_again_and_again(const Call& call, const std::string& path, const refusal& what, bool must_not_run,
                          bool in_flight) {
  for (int i = 0; i < 3; ++i) {
    HELPER_CHECK(::truncate(path.c_str(), 0) == 0);
    const auto value = value_of(call, path, what.error == ENOMEM, in_flight);
    const std::size_t runs = support::logged_processes(path).size();
    if (value && *value != 42) fail("a wrong value");
    if (value && runs != 1) fail("a value, but the function did not run once");
    if (!value && runs != 0) fail("refused, but the function did run");
    if (must_not_run && runs != 0) fail("the function ran without what it needs");
  }
}

pynisher::options all_limits(start_method method) {
  return {.memory = 256_MiB, .cpu_time = 20s, .wall_time = 20s, .context = method, .warnings = false};
}

void call_in_spite_of(start_method method, since when, std::size_t which, bool must_not_run, bool in_flight,
                      const std::string& path) {
  // Orphans of the call would come to this process, and be found.
  HELPER_CHECK(::prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
  const std::vector<std::string> open_before = what_is_open();
  {
    const auto call = limit(run_and_tell, all_limits(method));
    if (when == since::in_the_server) pynisher::forkserver::preload(refusing{which});
    if (when == since::after_a_call) HELPER_CHECK(call(path) == 42);
    if (when != since::in_the_server) HELPER_CHECK(refuse(refusals()[which]));
    call_again_and_again(call, path, refusals()[which], must_not_run, in_flight);
  }
  pynisher::forkserver::stop();
  check_nothing_is_left(open_before);
}

class FailingCalls : public ::testing::TestWithParam<std::tuple<start_method, since, std::size_t>> {
 protected:
  void SetUp() override {
    SKIP_UNDER_SANITIZER("it makes system calls of its own");
    SKIP_UNLESS_SUPPORTED("memory");
    if (!filters_are_to_be_had()) GTEST_SKIP() << "the system lets no process filter its system calls";
  }
};

TEST_P(FailingCalls, EndInTheRightValueOrInAnHonestRefusal) {
  const auto [method, when, which] = GetParam();
  if (when == since::in_the_server && method != start_method::forkserver) GTEST_SKIP() << "there is no server";
  const refusal& what = refusals()[which];
  // A server that runs already has children to which nothing is refused.
  const bool by_old_server = method == start_method::forkserver && when == since::after_a_call;
  const bool must_not_run = !by_old_server && is_needed(what.then, method, when);
  for (const bool in_flight : {false, true}) {
    const support::process_log log;
    EXPECT_THAT(support::run_in_helper([&] {
                  ::alarm(40);
                  ::syscall(SYS_close_range, 3u, ~0u, 0u);
                  call_in_spite_of(method, when, which, must_not_run, in_flight, log.path());
                  return 0;
                }),
                Survived())
        << (in_flight ? "in flight" : "waited for");
  }
}

std::vector<std::size_t> all_of_them() {
  std::vector<std::size_t> numbers(refusals().size());
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = i;
  return numbers;
}

std::string test_name(const ::testing::TestParamInfo<FailingCalls::ParamType>& test) {
  const auto [method, when, which] = test.param;
  return support::method_name(method) + "_" + name_of(when) + "_" + refusals()[which].name;
}

INSTANTIATE_TEST_SUITE_P(By, FailingCalls,
                         ::testing::Combine(::testing::ValuesIn(pynisher::start_methods()),
                                            ::testing::Values(since::before_the_first_call, since::after_a_call),
                                            ::testing::ValuesIn(all_of_them())),
                         test_name);
INSTANTIATE_TEST_SUITE_P(Within, FailingCalls,
                         ::testing::Combine(::testing::Values(start_method::forkserver),
                                            ::testing::Values(since::in_the_server),
                                            ::testing::ValuesIn(all_of_them())),
                         test_name);

// --- descriptors that run out -------------------------------------------------------------------------------------

class RunningOutOfDescriptors : public support::per_start_method {};
FOR_EACH_START_METHOD(RunningOutOfDescriptors);

// Each of the places at which the last one may be gone.
TEST_P(RunningOutOfDescriptors, EndsInTheRightValueOrInAnHonestRefusal) {
  SKIP_UNDER_SANITIZER("it needs descriptors of its own");
  SKIP_UNLESS_SUPPORTED("memory");
  for (const bool in_flight : {false, true}) {
    for (const bool has_called : {false, true}) {
      const support::process_log log;
      EXPECT_THAT(support::run_in_helper([&, method = GetParam(), path = log.path()] {
                    ::alarm(40);
                    ::syscall(SYS_close_range, 3u, ~0u, 0u);
                    HELPER_CHECK(::prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
                    const std::vector<std::string> open_before = what_is_open();
                    rlimit before{};
                    HELPER_CHECK(::getrlimit(RLIMIT_NOFILE, &before) == 0);
                    constexpr rlim_t enough = 40;
                    for (rlim_t most = 3; most < enough; ++most) {
                      {
                        const auto call = limit(run_and_tell, all_limits(method));
                        if (has_called) HELPER_CHECK(call(path) == 42);
                        const rlimit few{most, before.rlim_max};
                        HELPER_CHECK(::setrlimit(RLIMIT_NOFILE, &few) == 0);
                        HELPER_CHECK(::truncate(path.c_str(), 0) == 0);
                        const auto value = value_of(call, path, false, in_flight);
                        HELPER_CHECK(::setrlimit(RLIMIT_NOFILE, &before) == 0);
                        const std::size_t runs = support::logged_processes(path).size();
                        if (runs != (value ? 1u : 0u)) fail("ran " + std::to_string(runs) + " times");
                        if (most + 1 == enough && !value) fail("there were enough, but it was refused");
                      }
                      pynisher::forkserver::stop();
                      check_nothing_is_left(open_before);
                    }
                    return 0;
                  }),
                  Survived())
          << (in_flight ? "in flight" : "waited for") << (has_called ? ", after a call" : ", at first");
    }
  }
}

}  // namespace
