#pragma once

#include <pynisher/detail/execute.hpp>

#include "platform/contract.hpp"
#include "reply_region.hpp"

namespace pynisher::detail {

/// Prepares what `run_in_child` will need and could not get safely after a fork. In the parent; cheap.
void prepare_for_children();

/// In a child that waits for its call: does now what every call would do first.
void prepare_to_run() noexcept;
/// In the parent before the fork: what can be done of that for the child. False: nothing.
bool prepare_next_child() noexcept;

/// What the child replies with. Made before a fork: making it needs a page of constants that a child has not got yet.
struct reply_tools {
  reply_writer writer;
  output_archive archive;
  reply_tools(reply_region& region, int doorbell) : writer(region, doorbell), archive(writer, writer.first()) {}
};

/// In the child, after its set-up: runs the task, sends what comes of it, leaves.
[[noreturn]] void run_in_child(child_task& task, reply_tools& reply, const platform::child_plan& plan) noexcept;

/// In the child, and in whatever it forks.
bool is_within_call() noexcept;
/// In the child: what it shares with its supervisor, and how to ring for that; null: this process is none.
reply_region* own_region(int& doorbell) noexcept;
/// In the child: its conversation, if it has one; else -1.
int own_conversation() noexcept;
/// In the child: nobody is replying any more; the next call may.
void forget_reply() noexcept;
/// In the child: writes out what is buffered.
void flush_output();

}  // namespace pynisher::detail
