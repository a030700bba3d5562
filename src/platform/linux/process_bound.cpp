// How many processes and threads a call may have: a group of its own, by the kernel's pids controller. RLIMIT_NPROC
// would count all that the user runs, and does not bind root.

#include <cerrno>
#include <cstdint>
#include <string>

#include "../contract.hpp"
#include "control_group.hpp"

namespace pynisher::platform {

namespace {

constexpr controller pids{"pids", "pids.max", "pids.max"};

}  // namespace

std::string why_no_process_bound() { return why_no_groups(pids); }

process_bound::process_bound(std::uint64_t most, const memory_bound* around) {
  group_place place = place_for_groups(pids);
  if (around != nullptr && !place.version_1) {
    // One process, one group: the one is made within the other.
    place.folder = around->group();
    if (!write_group_file(place.folder + "/cgroup.subtree_control", "+pids")) return;
  }
  group_ = make_group(place.folder);
  if (group_.empty()) return;
  if (write_group_file(group_ + "/pids.max", std::to_string(most))) {
    entry_ = group_ + "/cgroup.procs";
    is_within_memory_bound_ = around != nullptr && !place.version_1;
    return;
  }
  const int error = errno;
  unmake_group(group_);
  group_.clear();
  errno = error;
}

process_bound::~process_bound() {
  if (!group_.empty()) unmake_group(group_);
}

void process_bound::end_members() const noexcept {
  if (!group_.empty()) end_group(group_);
}

void process_bound::end_surplus(const child_process& /*child*/) const noexcept {}
const char* process_bound_caveat() noexcept { return nullptr; }
looked_after looked_after_by_parent() noexcept { return {}; }

}  // namespace pynisher::platform
