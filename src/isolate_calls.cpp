#include "isolate_calls.hpp"

#include <csignal>
#include <utility>

#include <fmt/format.h>

#include <pynisher/exceptions.hpp>

#include "call_order.hpp"
#include "supervised_call.hpp"
#include "verdict.hpp"

namespace pynisher::detail {

raw_outcome cancelled_before(const CancelledException& how) {
  raw_outcome out;
  out.verdict = verdict::cancelled;
  out.explanation = how.what();
  out.error = std::make_exception_ptr(how);
  return out;
}

raw_outcome outcome_of(isolate_core& core, isolate_core::reply answered, const settings* limits,
                       const call_name& name) {
  using state = isolate_core::reply::state;
  call_record record;
  evidence& seen = record.seen;
  seen.usage = answered.usage;
  seen.memory_limit = core.limits().memory();
  if (limits != nullptr) {
    seen.wall_limit = limits->wall_time();
    seen.cpu_limit = limits->cpu_time();
  }
  seen.how = platform::exit_status::kind::exited;
  switch (answered.how) {
    case state::came:
      break;
    case state::died: {
      raw_outcome out = core.end_of_process();
      const IsolateDiedError error = core.died();
      out.explanation = fmt::format("{}: {}", name.text(), error.what());
      if (out.verdict == verdict::returned) out.verdict = verdict::exited;
      out.error = std::make_exception_ptr(error);
      return out;
    }
    case state::not_begun:
      return cancelled_before(CancelledException(name.text() + " was cancelled before it began"));
    case state::too_large:
      seen.cause = ended_for::too_large;
      break;
    case state::hung_up:
    case state::lies:
      seen.cause = ended_for::lying;
      break;
    case state::wall_time:
      seen.cause = ended_for::wall_time;
      break;
    case state::cpu_time:
      seen.cause = ended_for::cpu_time;
      break;
    case state::cancelled:
      seen.cause = ended_for::cancelled;
      break;
  }
  if (answered.how == state::came) {
    switch (answered.kind) {
      case frame_kind::value:
        seen.reply = reply_kind::value;
        break;
      case frame_kind::exception:
        seen.reply = reply_kind::exception;
        break;
      case frame_kind::out_of_memory:
        seen.reply = reply_kind::out_of_memory;
        break;
      default:
        seen.reply = reply_kind::unsendable;
    }
    record.bytes = std::move(answered.bytes);
    record.custody = std::move(answered.custody);
  } else {
    seen.how = platform::exit_status::kind::signalled;
    seen.status = SIGKILL;
  }
  raw_outcome out = conclude(core.limits(), std::move(record), name);
  if (answered.how != state::came) core.note_end(out.explanation);
  return out;
}

std::shared_ptr<const settings> limits_of_call(const options& given) {
  if (given.memory.has_value() || given.processes != 0 || !given.name.empty() ||
      given.context != start_method::automatic) {
    throw std::invalid_argument(
        "memory, processes, name and context are the isolate's, from its creation; one call has wall_time, cpu_time "
        "and "
        "stop");
  }
  if (!given.wall_time.has_value() && !given.cpu_time.has_value() && !given.stop.stop_possible()) return nullptr;
  return validate(given);
}

packed_call call_frame(const child_task& task) {
  packed_call packed;
  frame_sink sink;
  output_archive out(sink, sink.first());
  try {
    packing_scope packing(deposit_mode::argument);
    write_call(out, task);
    packed.attached = packing.finish();
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& e) {
    throw SerializationException(fmt::format("{} could not be sent: {}", task.name().text(), e.what()));
  }
  packed.frame = sink.take(frame_kind::call, out);
  return packed;
}

}  // namespace pynisher::detail
