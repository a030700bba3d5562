#pragma once

// What a process that is started afresh is told of its call: the limits and where it comes from, then the call itself.
//
//   program: packs it into the region's ring, or into a file in memory where it is larger
//   child:   unpacks it from there before its limits are set, and before the ring takes its reply

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <pynisher/detail/execute.hpp>

#include "platform/contract.hpp"
#include "reply_region.hpp"
#include "settings.hpp"

namespace pynisher::detail {

/// The callable and its arguments. Throw `wire_error` where something cannot be sent, or is not there.
void write_call(output_archive& out, const child_task& task);
void write_entry(output_archive& out, const call_entry& entry);
std::unique_ptr<child_task> read_call(input_archive& in);
/// A constant of the program's, or of a library's, by its place there.
void write_constant(output_archive& out, const void* constant);
const void* read_constant(input_archive& in, std::size_t size);

/// Where the program packs to. Throws `StartException` of its stage, and `std::bad_alloc`.
class order_sink final : public byte_sink {
 public:
  static constexpr const char* stage = "keep the arguments for the child";
  explicit order_sink(reply_region& region) : region_(region) {}
  [[nodiscard]] window first();
  window next(std::byte* filled_to) override;
  void finish(const output_archive& archive);
  /// The file that the child needs as well; none (-1) where the ring was enough.
  [[nodiscard]] int file() const { return file_.get(); }

 private:
  void write_out(const std::byte* filled_to);

  reply_region& region_;
  platform::call_fd file_;
};

/// All but the call.
void write_order(output_archive& out, const settings& limits, const platform::child_plan& plan, const platform::signal_mask& mask);

/// In the child: sets itself up as the order says, makes the call, and leaves.
/// `order_file`: used where the order is larger than the region's ring. `conversation`: used where the order says so.
[[noreturn]] void follow_order(int region_file, int doorbell, int order_file, int conversation,
                               platform::parentage parentage);

}  // namespace pynisher::detail
