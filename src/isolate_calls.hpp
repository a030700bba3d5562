#pragma once

// Calls of an isolate: as a request, and what came of them as an outcome.

#include <cstddef>
#include <memory>
#include <vector>

#include <pynisher/detail/execute.hpp>
#include <pynisher/detail/in_flight.hpp>
#include <pynisher/exceptions.hpp>
#include <pynisher/options.hpp>

#include "isolate_core.hpp"
#include "mail_packing.hpp"

namespace pynisher::detail {

/// A request, and what belongs to its arguments and is no bytes: to be kept until the call is over.
struct packed_call {
  std::vector<std::byte> frame;
  std::shared_ptr<deposited> attached;
};

/// Limits of one call; null: there are none. Throws what `limit` throws.
std::shared_ptr<const settings> limits_of_call(const options& given);
/// The call as a frame. Throws `SerializationException`.
packed_call call_frame(const child_task& task);
raw_outcome outcome_of(isolate_core& core, isolate_core::reply answered, const settings* limits, const call_name& name);
/// A call whose turn had not come.
raw_outcome cancelled_before(const CancelledException& how);
/// A call on a thread of its own.
std::unique_ptr<call_in_flight> start_isolate_call(std::shared_ptr<isolate_core> core, const options& limits,
                                                   packed_call request, call_name name);

}  // namespace pynisher::detail
