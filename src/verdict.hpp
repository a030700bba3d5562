#pragma once

// From what was seen to what it means: a table, written as one pure function.

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <system_error>

#include <pynisher/outcome.hpp>
#include <pynisher/units.hpp>
#include <pynisher/usage.hpp>

#include "platform/contract.hpp"
#include "reply_region.hpp"

namespace pynisher::detail {

/// Why the parent ended the child, if it did.
enum class ended_for : std::uint8_t {
  nothing,
  wall_time,
  cpu_time,
  memory,
  cancelled,
  interrupted,
  lying,      ///< counters in shared memory that cannot be true
  too_large,  ///< a reply beyond what this process is ready to hold
};

/// Everything that was seen of one call. What comes from the child itself is marked "claim": it can pick between
/// two readings of what the kernel says, but not overrule it.
struct evidence {
  // The limits that held.
  std::optional<std::uint64_t> memory_limit;
  memory_size memory_written;  ///< the caller's own words for it; unset: an outer limit held
  std::optional<std::chrono::nanoseconds> cpu_limit;
  std::optional<std::chrono::nanoseconds> wall_limit;

  // The parent's own knowledge.
  ended_for cause = ended_for::nothing;
  pynisher::usage usage;
  std::uint64_t memory_seen = 0;  ///< growth when the memory watch fired; or the most that all processes held
  bool memory_of_tree = false;    ///< `memory_seen` is the parent's count of the call and all that it started
  bool memory_by_kernel = false;  ///< `memory_seen` is the kernel's count of the call and all that it started
  bool interrupt_forwarded = false;

  // The kernel's.
  platform::exit_status::kind how = platform::exit_status::kind::unknown;
  int status = 0;
  std::uint32_t system_code = 0;
  bool server_lost = false;  ///< the forkserver has died, whose child it was: it went with it, however it was reported

  // The child's claims.
  start_stage failed_stage = start_stage::none;
  std::error_code start_error;
  bool reply_well_formed = true;
  reply_kind reply = reply_kind::none;
  bool bad_alloc = false;  ///< the reply is an exception, and it is a std::bad_alloc
  bool stack_overflow = false;
  bool allocation_refused = false;
  std::uint64_t crash_address = 0;
};

/// What it comes down to.
[[nodiscard]] verdict judge(const evidence& seen);

/// One sentence for it. `detail`: the exception's or the sender's own text, where there is one.
[[nodiscard]] std::string explain(verdict decided, const evidence& seen, const std::string& call,
                                  const std::string& detail);

/// The exception that the caller gets; null for `returned`. For `raised` the one that arrived is taken instead.
[[nodiscard]] std::exception_ptr exception_for(verdict decided, const evidence& seen, const std::string& call,
                                               const std::string& text);

}  // namespace pynisher::detail
