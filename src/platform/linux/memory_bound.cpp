// How much memory a call and all that it starts may really use, together: a group of its own, by the kernel's memory
// controller. At the limit the kernel takes back what it can, and then ends one of the group.

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "../contract.hpp"
#include "control_group.hpp"

namespace pynisher::platform {

namespace {

constexpr controller memory{"memory", "memory.limit_in_bytes", "memory.max"};

std::uint64_t number_in(const std::string& text) { return std::strtoull(text.c_str(), nullptr, 10); }

/// "name value" in lines.
std::uint64_t field_of(const std::string& text, const std::string& name) {
  const std::string all = "\n" + text;
  const std::size_t at = all.find("\n" + name + " ");
  return at == std::string::npos ? 0 : number_in(all.substr(at + name.size() + 2));
}

}  // namespace

std::string why_no_memory_bound() { return why_no_groups(memory); }

memory_bound::memory_bound(std::uint64_t most) {
  const group_place place = place_for_groups(memory);
  is_version_1_ = place.version_1;
  group_ = make_group(place.folder);
  if (group_.empty()) return;
  const std::string bytes = std::to_string(most);
  bool fine = write_group_file(group_ + (is_version_1_ ? "/memory.limit_in_bytes" : "/memory.max"), bytes);
  // Without these the kernel does not count what is swapped out, and there is nothing more to be bound.
  if (is_version_1_) {
    const std::string with_swap = group_ + "/memory.memsw.limit_in_bytes";
    fine = fine && (read_group_file(with_swap).empty() || write_group_file(with_swap, bytes));
  } else {
    const std::string swap = group_ + "/memory.swap.max";
    fine = fine && (read_group_file(swap).empty() || write_group_file(swap, "0"));
    // All of the call is over when one of it has to go.
    write_group_file(group_ + "/memory.oom.group", "1");
  }
  if (fine) {
    entry_ = group_ + "/cgroup.procs";
    return;
  }
  const int error = errno;
  unmake_group(group_);
  group_.clear();
  errno = error;
}

memory_bound::~memory_bound() {
  if (!group_.empty()) unmake_group(group_);
}

void memory_bound::end_members() const noexcept {
  if (!group_.empty()) end_group(group_);
}

memory_bound::count memory_bound::look(const child_process& /*child*/, const mapped_memory& /*at_start*/) const {
  const auto file = [this](const char* version_1, const char* version_2) {
    return read_group_file(group_ + "/" + (is_version_1_ ? version_1 : version_2));
  };
  count now;
  now.used = number_in(file("memory.usage_in_bytes", "memory.current"));
  // Kernels before 5.19 keep no peak of groups of version 2.
  now.peak = std::max(now.used, number_in(file("memory.max_usage_in_bytes", "memory.peak")));
  now.has_ended_one = field_of(file("memory.oom_control", "memory.events"), "oom_kill") != 0;
  return now;
}

}  // namespace pynisher::platform
