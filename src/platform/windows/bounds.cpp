// What a call and all that it starts may have together: its job's limits, set when it is let go. Beside them the parent
// looks, since some systems take such limits and do not enforce them.

#include <windows.h>

#include <algorithm>
#include <new>
#include <utility>
#include <vector>

#include "../contract.hpp"
#include "handles.hpp"
#include "job.hpp"

namespace pynisher::platform {

namespace {

std::uint64_t committed_together(HANDLE job) {
  std::uint64_t all = 0;
  for (const auto& member : members_of(job)) {
    if (const auto counts = counts_of(member.get())) all += counts->committed;
  }
  return all;
}

}  // namespace

looked_after looked_after_by_parent() noexcept {
  return {.address_space = true, .tree = true, .processes = !limits_that_jobs_keep().processes};
}

std::string why_no_memory_bound() { return {}; }
// Nothing is there to be entered: the child has been in its job from its first instruction on.
memory_bound::memory_bound(std::uint64_t most) : entry_("job"), most_(most) {}
memory_bound::~memory_bound() = default;
void memory_bound::end_members() const noexcept {}

memory_bound::count memory_bound::look(const child_process& child, const mapped_memory& at_start) const {
  count now;
  // Before the function begins, nothing is its affair.
  if (at_start.private_writable == 0 || !child.job_) return now;
  const std::uint64_t all = committed_together(to_handle(child.job_.get()));
  now.used = now.peak = all - std::min(all, at_start.private_writable);
  now.is_passed = now.used > most_;
  return now;
}

std::string why_no_process_bound() { return {}; }
process_bound::process_bound(std::uint64_t most, const memory_bound* /*around*/) : entry_("job"), most_(most) {}
process_bound::~process_bound() = default;
void process_bound::end_members() const noexcept {}

const char* process_bound_caveat() noexcept {
  if (limits_that_jobs_keep().processes) {
    return "this system's job objects bound the processes of a call, not their threads: threads are not counted.";
  }
  return "this system's job objects take a bound on processes and do not enforce it: the library looks every 5 ms, and "
         "ends those that came last and are too many. Threads are not counted.";
}

void process_bound::end_surplus(const child_process& child) const noexcept {
  const HANDLE job = to_handle(child.job_.get());
  if (processes_in(job) <= most_) return;
  try {
    auto members = members_of(job, PROCESS_TERMINATE);
    std::erase_if(members,
                  [&child](const auto& one) { return ::GetProcessId(one.get()) == static_cast<DWORD>(child.pid_); });
    std::ranges::stable_sort(members, {}, [](const auto& one) { return times_of(one.get()).value_or(process_times{}).created; });
    for (std::size_t i = most_ - 1; i < members.size(); ++i) {
      // As it is called where the kernel refuses it. One that is still being made waits for the next look.
      if (has_begun(members[i].get())) ::TerminateProcess(members[i].get(), ERROR_NOT_ENOUGH_QUOTA);
    }
  } catch (const std::bad_alloc&) {
    // Then the next time.
  }
}

}  // namespace pynisher::platform
