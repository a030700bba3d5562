#include "verdict.hpp"

#include <fmt/format.h>

#include <pynisher/exceptions.hpp>
#include <pynisher/format.hpp>

namespace pynisher {

const char* to_string(verdict v) noexcept {
  switch (v) {
    case verdict::returned:
      return "returned";
    case verdict::raised:
      return "raised";
    case verdict::wall_timeout:
      return "wall_timeout";
    case verdict::cpu_timeout:
      return "cpu_timeout";
    case verdict::memory_limit:
      return "memory_limit";
    case verdict::signalled:
      return "signalled";
    case verdict::exited:
      return "exited";
    case verdict::cancelled:
      return "cancelled";
    case verdict::start_failed:
      return "start_failed";
    case verdict::protocol_error:
      return "protocol_error";
  }
  return "unknown";
}

}  // namespace pynisher

namespace pynisher::detail {

using pynisher::to_string;

namespace {

using how = platform::exit_status::kind;

bool killed_by(const evidence& seen, int signal) { return seen.how == how::signalled && seen.status == signal; }

/// The kernel's own guard was faster than the parent.
bool reached_cpu_limit(const evidence& seen) {
  return seen.cpu_limit && (killed_by(seen, SIGKILL) || killed_by(seen, SIGXCPU)) &&
         seen.usage.cpu_time() >= *seen.cpu_limit;
}

/// A crash right after a refused allocation, in code that did not look.
bool crashed_for_want_of_memory(const evidence& seen) {
  return seen.memory_limit && seen.allocation_refused && !seen.stack_overflow &&
         (killed_by(seen, SIGSEGV) || killed_by(seen, SIGBUS) || killed_by(seen, SIGABRT) || killed_by(seen, SIGILL) ||
          killed_by(seen, SIGTRAP));
}

bool interrupted_as_told(const evidence& seen) { return seen.interrupt_forwarded && killed_by(seen, SIGINT); }

verdict judge_reply(const evidence& seen) {
  switch (seen.reply) {
    case reply_kind::value:
      return verdict::returned;
    case reply_kind::exception:
      return seen.bad_alloc && seen.memory_limit ? verdict::memory_limit : verdict::raised;
    case reply_kind::out_of_memory:
      return seen.memory_limit ? verdict::memory_limit : verdict::raised;
    case reply_kind::unsendable:
    case reply_kind::none:
      break;
  }
  return verdict::protocol_error;
}

std::string signal_name(int signal) {
  const char* name = platform::signal_name(signal);
  return name != nullptr ? fmt::format("SIG{}", name) : fmt::format("signal {}", signal);
}

std::string signal_text(const evidence& seen) {
  const char* meaning = platform::signal_meaning(seen.status);
  std::string text = fmt::format("{} ({})", signal_name(seen.status), meaning != nullptr ? meaning : "no description");
  if (seen.system_code != 0) text += fmt::format(", {:#010x} to the system", seen.system_code);
  if (seen.stack_overflow) {
    text += fmt::format(": stack overflow, at address {:#x}", seen.crash_address);
  } else if ((seen.status == SIGSEGV || seen.status == SIGBUS) && seen.crash_address != 0) {
    text += fmt::format(" at address {:#x}", seen.crash_address);
  }
  if (seen.server_lost) {
    text += ", with the forkserver, which has died";
  } else if (seen.status == SIGKILL) {
    text += ", which this library did not send (the system does when memory runs out)";
  }
  return text;
}

std::string memory_evidence(const evidence& seen) {
  if (seen.cause == ended_for::memory && seen.memory_by_kernel) {
    return fmt::format("the kernel ended one of its processes when they held {} together",
                       to_string(memory_size(seen.memory_seen)));
  }
  if (seen.cause == ended_for::memory) {
    return fmt::format("the parent saw {} hold {}", seen.memory_of_tree ? "its processes together" : "it",
                       to_string(memory_size(seen.memory_seen)));
  }
  if (seen.reply == reply_kind::exception || seen.reply == reply_kind::out_of_memory) {
    return "std::bad_alloc left the function";
  }
  return fmt::format("an allocation was refused and the function then died of {}", signal_name(seen.status));
}

memory_size limit_as_written(const evidence& seen) {
  return seen.memory_written ? seen.memory_written : memory_size(*seen.memory_limit);
}

std::string cpu_evidence(const evidence& seen) {
  return seen.cause == ended_for::cpu_time ? "seen by the parent on the child's CPU clock"
                                           : "killed by the kernel (RLIMIT_CPU)";
}

}  // namespace

verdict judge(const evidence& seen) {
  if (seen.failed_stage != start_stage::none) return verdict::start_failed;
  // What has arrived whole counts, even if a limit was reached a moment later.
  if (seen.reply_well_formed && seen.reply != reply_kind::none) return judge_reply(seen);

  switch (seen.cause) {
    case ended_for::wall_time:
      return verdict::wall_timeout;
    case ended_for::cpu_time:
      return verdict::cpu_timeout;
    case ended_for::memory:
      return verdict::memory_limit;
    case ended_for::cancelled:
    case ended_for::interrupted:
      return verdict::cancelled;
    case ended_for::lying:
    case ended_for::too_large:
      return verdict::protocol_error;
    case ended_for::nothing:
      break;
  }
  if (!seen.reply_well_formed) return verdict::protocol_error;
  if (reached_cpu_limit(seen)) return verdict::cpu_timeout;
  if (crashed_for_want_of_memory(seen)) return verdict::memory_limit;
  if (interrupted_as_told(seen)) return verdict::cancelled;
  return seen.how == how::signalled ? verdict::signalled : verdict::exited;
}

std::string explain(verdict decided, const evidence& seen, const std::string& call, const std::string& detail) {
  switch (decided) {
    case verdict::returned:
      return fmt::format("{} returned after {}", call, to_string(seen.usage.wall_time));
    case verdict::raised:
      return fmt::format("{} threw {}", call, detail);
    case verdict::wall_timeout:
      return fmt::format("{} reached its wall time limit of {}: ended after {}, by the parent's monotonic clock", call,
                         to_string(*seen.wall_limit), to_string(seen.usage.wall_time));
    case verdict::cpu_timeout:
      return fmt::format("{} reached its CPU time limit of {}: ended after {} of CPU time, {}", call,
                         to_string(*seen.cpu_limit), to_string(seen.usage.cpu_time()), cpu_evidence(seen));
    case verdict::memory_limit:
      return fmt::format("{} {} its memory limit of {}: {}; {} were resident at its peak", call,
                         seen.cause == ended_for::memory ? "passed" : "asked for more than",
                         to_string(memory_size(*seen.memory_limit)), memory_evidence(seen),
                         to_string(memory_size(seen.usage.peak_memory)));
    case verdict::signalled:
      return fmt::format("{} died of {} after {}", call, signal_text(seen), to_string(seen.usage.wall_time));
    case verdict::exited:
      if (seen.how == how::unknown) {
        return fmt::format(
            "{} ended without a result; how is not known, because another part of the program took "
            "the exit status",
            call);
      }
      return fmt::format("{} exited with code {} instead of returning, after {}", call, seen.status,
                         to_string(seen.usage.wall_time));
    case verdict::cancelled:
      return fmt::format("{} was {} after {}", call,
                         seen.cause == ended_for::cancelled ? "cancelled" : "interrupted from the keyboard (SIGINT)",
                         to_string(seen.usage.wall_time));
    case verdict::start_failed:
      return fmt::format("{} could not be started: {}: {}", call, to_string(seen.failed_stage),
                         seen.start_error.message());
    case verdict::protocol_error:
      if (seen.cause == ended_for::too_large) {
        return fmt::format("the result of {} is too large: more came than this process is ready to hold", call);
      }
      if (seen.reply == reply_kind::unsendable) {
        return fmt::format("the result of {} could not be packed: {}", call, detail);
      }
      return fmt::format("what came from {} is no result: {}", call,
                         detail.empty() ? "its frame does not fit what arrived" : detail);
  }
  return call;
}

std::exception_ptr exception_for(verdict decided, const evidence& seen, const std::string& call,
                                 const std::string& text) {
  const usage& used = seen.usage;
  switch (decided) {
    case verdict::returned:
      return nullptr;
    case verdict::raised:
      break;
    case verdict::wall_timeout:
      return std::make_exception_ptr(WallTimeoutException(text, *seen.wall_limit, used.wall_time, call, used));
    case verdict::cpu_timeout:
      return std::make_exception_ptr(CpuTimeoutException(text, *seen.cpu_limit, used.cpu_time(), call, used));
    case verdict::memory_limit:
      return std::make_exception_ptr(
          MemoryLimitException(text, limit_as_written(seen),
                               seen.cause == ended_for::memory ? seen.memory_seen : used.peak_memory, call, used));
    case verdict::signalled:
      return std::make_exception_ptr(SignalException(text, seen.status, call, used, seen.system_code));
    case verdict::exited:
      if (seen.how == how::unknown) return std::make_exception_ptr(ChildDiedException(text, call, used));
      return std::make_exception_ptr(ExitException(text, seen.status, call, used));
    case verdict::cancelled:
      if (seen.cause == ended_for::cancelled) return std::make_exception_ptr(CancelledException(text));
      return std::make_exception_ptr(KeyboardInterrupt(text));
    case verdict::start_failed:
      return std::make_exception_ptr(StartException(to_string(seen.failed_stage), seen.start_error));
    case verdict::protocol_error:
      return std::make_exception_ptr(SerializationException(text));
  }
  return std::make_exception_ptr(SerializationException(text));
}

}  // namespace pynisher::detail
