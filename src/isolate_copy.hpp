#pragma once

// Copies of isolates, on both sides.
//
//   program: asks the isolate for a copy, is told which process that is, gives it its order as the forkserver's get
//   theirs isolate: forks a child that is the program's own, which waits for its order

#include <sys/types.h>

#include <cstdint>
#include <span>
#include <vector>

#include "platform/contract.hpp"
#include "supervised_call.hpp"

namespace pynisher::detail {

class isolate_core;

/// A copy that has no call yet. It ends if it does not get one.
class waiting_copy final : public other_start {
 public:
  /// By whoever has the turn. Throws `IsolateError`.
  explicit waiting_copy(isolate_core& original);
  waiting_copy(const waiting_copy&) = delete;
  waiting_copy& operator=(const waiting_copy&) = delete;
  ~waiting_copy() override;

  [[nodiscard]] std::uint64_t mark_above() const override { return mark_; }
  program_started start(std::span<const int> descriptors, const child_extras& extras) override;

 private:
  void dismiss() noexcept;

  platform::call_fd socket_;
  pid_t pid_ = -1;
  platform::call_fd process_;
  std::uint64_t mark_ = 0;
};

/// In the isolate. Throws `IsolateError`.
void answer_copy(const std::vector<platform::call_fd>& passed);

}  // namespace pynisher::detail
