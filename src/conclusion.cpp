// A call that is over: what the kernel, the shared notes and the reply say of it, and what is made of that.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <exception>
#include <new>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include <pynisher/detail/execute.hpp>
#include <pynisher/exception_registry.hpp>
#include <pynisher/exceptions.hpp>

#include "exception_frame.hpp"
#include "mail_link.hpp"
#include "mail_packing.hpp"
#include "platform/contract.hpp"
#include "reply_region.hpp"
#include "settings.hpp"
#include "supervised_call.hpp"
#include "verdict.hpp"
#include "wrapping.hpp"

namespace pynisher::detail {

namespace {

using platform::clock;
using std::chrono::nanoseconds;

/// `inherited_peak`: where the kernel's count of the child's memory began; a program that is started again has that of
/// the one that started it. `seen`: what the parent has seen of its own.
usage usage_of(const platform::exit_status& status, const reply_region& region, nanoseconds wall,
               std::uint64_t inherited_peak, std::uint64_t seen) {
  usage used = status.usage;
  const std::uint64_t own_peak = std::max({region.peak.load(), status.peak_before_kill, seen});
  if (!status.usage_known) {
    // The child's word, within what is possible; more than that where the parent has seen more.
    const auto possible = [wall](std::uint64_t claimed) {
      const auto most = static_cast<std::uint64_t>(wall.count()) * platform::processors();
      return nanoseconds(static_cast<std::int64_t>(std::min(claimed, most)));
    };
    used.user_time = std::max(used.user_time, possible(region.user_ns.load()));
    used.system_time = possible(region.system_ns.load());
    used.peak_memory = std::min(own_peak, platform::physical_memory());
    used.page_faults = region.page_faults.load();
  }
  if (inherited_peak != 0 && own_peak != 0 && used.peak_memory <= inherited_peak) {
    used.peak_memory = std::min(used.peak_memory, own_peak);
  }
  // A forked child begins with its parent's peak. It has at least the page that it runs on.
  constexpr std::uint64_t page = 4096;
  const std::uint64_t first = region.first_peak.load();
  used.peak_memory = used.peak_memory > first + page ? used.peak_memory - first : page;
  used.wall_time = wall;
  return used;
}

void note_child_claims(evidence& seen, const platform::child_plan& plan) {
  const reply_region& region = *plan.region;
  const bool is_start = seen.cause == ended_for::nothing && !has_begun(plan);
  // A set-up that fails exits before the function begins.
  if (is_start && seen.server_lost) {
    seen.failed_stage = start_stage::stay_with_server;
    seen.start_error = std::make_error_code(std::errc::connection_reset);
  } else if (is_start && seen.how != platform::exit_status::kind::signalled) {
    seen.failed_stage = static_cast<start_stage>(region.failed_stage.load());
    seen.start_error = {region.failed_errno.load(), std::system_category()};
    if (plan.parentage != platform::parentage::copy && seen.failed_stage == start_stage::none) {
      seen.failed_stage = start_stage::reach_init;
      seen.start_error = std::make_error_code(std::errc::protocol_error);
    }
  }
  if (seen.server_lost && seen.how == platform::exit_status::kind::unknown) {
    // That is how it goes with its server, of whom nobody else is told.
    seen.how = platform::exit_status::kind::signalled;
    seen.status = SIGKILL;
  }
  const std::uint32_t flags = region.crash_flags.load();
  const bool about_this_death = seen.how != platform::exit_status::kind::signalled ||
                                region.crash_signal.load() == static_cast<std::uint32_t>(seen.status);
  seen.stack_overflow = about_this_death && (flags & crash_flag::stack_overflow) != 0;
  seen.allocation_refused = about_this_death && (flags & crash_flag::allocation_refused) != 0;
  seen.crash_address = region.crash_address.load();
  if (seen.how == platform::exit_status::kind::unknown) {
    if (region.exit_noted.load() == 1) {
      seen.how = platform::exit_status::kind::exited;
      seen.status = region.exit_code.load();
    } else if (region.crash_signal.load() != 0) {
      seen.how = platform::exit_status::kind::signalled;
      seen.status = static_cast<int>(region.crash_signal.load());
    }
  }
}

/// What a child meant that had no memory left to pack it.
received_exception unpacked_bad_alloc() {
  received_exception received;
  received.info.type_name = received.info.message = "std::bad_alloc";
  received.info.formatted = "std::bad_alloc [there was no memory left to say more]";
  received.error = make_arrived<std::bad_alloc>(std::bad_alloc(), received.info, nullptr);
  received.allocation_failed = true;
  return received;
}

raw_outcome conclude_ended(const settings& limits, evidence& seen, reply_bytes bytes, const call_name& name) {
  raw_outcome out;
  out.usage = seen.usage;
  std::string detail;
  std::optional<received_exception> received;
  try {
    if (seen.reply == reply_kind::exception) {
      input_archive in(bytes.data(), bytes.size(), bytes.begin());
      received = read_exception(in);
      // An inner call that ran into this call's limit says so by its own exception; the kernel's count decides.
      if (received->info.type_name == "pynisher::CpuTimeoutException" && seen.cpu_limit &&
          seen.usage.cpu_time() >= *seen.cpu_limit) {
        seen.cause = ended_for::cpu_time;
        seen.reply = reply_kind::none;
        received.reset();
      } else {
        seen.bad_alloc = received->allocation_failed;
        detail = fmt::format("{}: {}", received->info.type_name, received->info.message);
      }
    } else if (seen.reply == reply_kind::out_of_memory) {
      received = unpacked_bad_alloc();
      detail = received->info.message;
    } else if (seen.reply == reply_kind::unsendable) {
      input_archive in(bytes.data(), bytes.size(), bytes.begin());
      in(detail);
      in.expect_end();
    }
  } catch (const std::exception& e) {
    seen.reply_well_formed = false;
    seen.reply = reply_kind::none;
    detail = e.what();
  }

  out.verdict = judge(seen);
  if (out.verdict == verdict::returned) {
    out.reply = std::move(bytes);
    return out;
  }
  const std::string call = name.text();
  if (out.verdict == verdict::raised && received) {
    if (auto wrapped = apply_wrapping(limits, *received, call, seen)) {
      out.verdict = wrapped->verdict;
      out.error = wrapped->error;
    } else {
      out.error = received->error;
    }
    out.explanation = explain(verdict::raised, seen, call, detail);
    return out;
  }
  out.explanation = explain(out.verdict, seen, call, detail);
  out.error = exception_for(out.verdict, seen, call, out.explanation);
  return out;
}

raw_outcome failed_to_start(const call_name& name, const char* stage, int error) {
  raw_outcome out;
  out.verdict = verdict::start_failed;
  const std::error_code code(error, std::system_category());
  out.explanation = fmt::format("{} could not be started: {}: {}", name.text(), stage, code.message());
  out.error = std::make_exception_ptr(StartException(stage, code));
  return out;
}

raw_outcome could_not_be_sent(const call_name& name, const std::string& why) {
  raw_outcome out;
  out.verdict = verdict::start_failed;
  out.explanation = fmt::format("{} could not be started: {}", name.text(), why);
  out.error = std::make_exception_ptr(SerializationException(out.explanation));
  return out;
}

raw_outcome cancelled_before_start(const call_name& name) {
  raw_outcome out;
  out.verdict = verdict::cancelled;
  out.explanation = fmt::format("{} was cancelled before it began", name.text());
  out.error = std::make_exception_ptr(CancelledException(out.explanation));
  return out;
}

}  // namespace

call_record supervised_call::finish() {
  call_record record;
  if (!running_) {
    if (failed_.stage != nullptr) {
      record.failed = failed_;
    } else if (!unsendable_.empty()) {
      record.unsendable = std::move(unsendable_);
    } else {
      record.cancelled_before = true;
    }
    return record;
  }
  const std::int64_t pid = child_.pid();
  const platform::exit_status status = end();
  const nanoseconds wall = clock::now() - plan_.started;
  seen_.how = status.how;
  seen_.status = status.value;
  seen_.system_code = status.system_code;
  seen_.server_lost = status.server_lost;
  if (memory_bound_ && seen_.cause == ended_for::nothing && tree_used_up(clock::now())) seen_.cause = ended_for::memory;
  seen_.usage = usage_of(status, region_.get(), wall, inherited_peak_, peak_seen_);
  note_child_claims(seen_, plan_);
  auto reply = reader_.finish();
  seen_.reply_well_formed = reply.well_formed;
  seen_.reply = reply.kind;
  record.seen = seen_;
  record.bytes = std::move(reply.bytes);
  if (region_.get().exchange_used.load() != 0) note_process_ended(pid);
  if (region_.get().deposited.load() != 0) record.custody = until_reply_is_read(pid);
  return record;
}

std::string explain_return(const usage& used) {
  evidence seen;
  seen.usage = used;
  return explain(verdict::returned, seen, "the call", {});
}

raw_outcome conclude(const settings& limits, call_record record, const call_name& name, bool explained) {
  if (record.failed.stage != nullptr) return failed_to_start(name, record.failed.stage, record.failed.error);
  if (record.cancelled_before) return cancelled_before_start(name);
  if (!record.unsendable.empty()) return could_not_be_sent(name, record.unsendable);
  raw_outcome out = conclude_ended(limits, record.seen, std::move(record.bytes), name);
  if (explained && out.verdict == verdict::returned) out.explanation = explain_return(out.usage);
  out.custody = std::move(record.custody);
  return out;
}

void mark_undecodable(raw_outcome& raw, const std::string& why) {
  raw.verdict = verdict::protocol_error;
  raw.explanation = fmt::format("what came from the call is no value of its type: {}", why);
  raw.error = std::make_exception_ptr(SerializationException(raw.explanation));
}

}  // namespace pynisher::detail
