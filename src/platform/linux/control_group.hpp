#pragma once

// Groups of processes of which the kernel's controllers count and bound something: cgroups, of version 1 or 2. A call
// gets a group of its own below the one that this process is in.

#include <string>

#include "../contract.hpp"

namespace pynisher::platform {

/// A controller, and the file by which its groups are known: version 1 has another name for it.
struct controller {
  const char* name;
  const char* file_1;
  const char* file_2;
};

struct group_place {
  std::string folder;  ///< of this process's own group; empty: there is none in which groups could be made
  bool version_1 = false;
};

/// Anew each time: the process may have been moved, and is, within a call that has a group itself. Without a trial.
group_place place_for_groups(const controller& what);
/// Makes a group for trial. Removes those of programs that were killed before they could.
std::string why_no_groups(const controller& what);

/// Empty with errno set: it cannot be made.
std::string make_group(const std::string& folder);
/// Kills all members, of the groups below as well, until there are none alive.
void end_group(const std::string& group) noexcept;
/// With the groups below it. What has outlived the call goes where the call came from.
void unmake_group(const std::string& group);

bool write_group_file(const std::string& path, const std::string& text);
/// Empty: it cannot be read.
std::string read_group_file(const std::string& path);

}  // namespace pynisher::platform
