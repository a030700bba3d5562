#pragma once

// `support/start_methods.hpp`, for tests that start processes of their own.

#include <cstddef>

#include <pynisher/options.hpp>

#include "support/processes.hpp"
#include "support/start_methods.hpp"

namespace support {

/// `call(limits)`, again with twice the time until it has put `count` processes into the list: on a loaded machine a
/// short limit is reached before the function has started anything, which proves nothing.
template <class Call>
auto with_time_enough(pynisher::options limits, process_log& log, std::size_t count, Call call) {
  for (;;) {
    auto ended = call(limits);
    if (log.pids().size() >= count || !(limits.wall_time || limits.cpu_time)) return ended;
    log.clear();
    if (limits.wall_time) limits.wall_time = 2 * limits.wall_time.nanoseconds();
    if (limits.cpu_time) limits.cpu_time = 2 * limits.cpu_time.nanoseconds();
  }
}

}  // namespace support
