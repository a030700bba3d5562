#pragma once

#include <pynisher/detail/execute.hpp>

#include "reply_region.hpp"

namespace pynisher::detail {

/// Prepares what `run_in_child` will need and could not get safely after a fork. In the parent; cheap.
void prepare_for_children();

/// In the child, after its set-up: runs the task, sends what comes of it, leaves.
[[noreturn]] void run_in_child(child_task& task, reply_region& region, int doorbell) noexcept;

}  // namespace pynisher::detail
