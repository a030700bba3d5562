// How many processes and threads a call may have: a group of its own below this process's, by the kernel's pids
// controller (cgroup v1 or v2). RLIMIT_NPROC would count all that the user runs, and does not bind root.

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "../contract.hpp"
#include "raw_syscall.hpp"

namespace pynisher::platform {

namespace {

namespace fs = std::filesystem;

constexpr const char* prefix = "pynisher-";

std::atomic<std::uint64_t> made{0};

/// The line of a controller's hierarchy in /proc/self/cgroup: "number:controllers:path".
std::string path_in_hierarchy(bool version_1) {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    if (version_1 ? controllers.find(",pids,") != std::string::npos : controllers == ",,") return line.substr(second + 1);
  }
  return {};
}

/// Where a hierarchy is mounted; the folder of this process's own group in it. Empty: it is not.
std::string own_group(bool version_1) {
  const std::string path = path_in_hierarchy(version_1);
  std::ifstream file("/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t separator = line.find(" - ");
    if (path.empty() || separator == std::string::npos) continue;
    std::istringstream left(line.substr(0, separator)), right(line.substr(separator + 3));
    std::string number, parent, device, root, point, type, source, options;
    left >> number >> parent >> device >> root >> point;
    right >> type >> source >> options;
    const bool is_it = version_1 ? type == "cgroup" && ("," + options + ",").find(",pids,") != std::string::npos
                                 : type == "cgroup2";
    if (!is_it) continue;
    if (root == "/") return path == "/" ? point : point + path;
    if (path.starts_with(root)) return point + path.substr(root.size());
  }
  return {};
}

/// With the groups below it, which calls within the call have left when they were killed. False with errno set.
bool remove_group(const std::string& group) {
  std::error_code failed;
  for (const auto& entry : fs::directory_iterator(group, failed)) {
    if (entry.is_directory(failed)) remove_group(entry.path());
  }
  return ::rmdir(group.c_str()) == 0;
}

/// Groups of programs that were killed before they could remove them.
void remove_stale_groups(const std::string& own) {
  std::error_code failed;
  for (const auto& entry : fs::directory_iterator(own, failed)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with(prefix)) continue;
    const int maker = std::atoi(name.c_str() + std::strlen(prefix));
    if (maker > 0 && ::kill(maker, 0) != 0 && errno == ESRCH) remove_group(entry.path());
  }
}

bool write_file(const std::string& path, const std::string& text) {
  const unique_fd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  return file && ::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

struct probe {
  std::string group;  ///< of this process, in which others can be made
  std::string why_not;
};

std::string try_group(const std::string& own) {
  const std::string trial = fmt::format("{}/{}{}-trial-{}", own, prefix, ::getpid(), made.fetch_add(1));
  if (::mkdir(trial.c_str(), 0755) != 0) return fmt::format("no group can be made in {}: {}", own, std::strerror(errno));
  const bool counts = ::access((trial + "/pids.max").c_str(), W_OK) == 0;
  ::rmdir(trial.c_str());
  return counts ? std::string() : fmt::format("the pids controller is not handed on to groups in {}", own);
}

probe look() {
  probe found;
  for (const bool version_1 : {true, false}) {
    const std::string own = own_group(version_1);
    if (own.empty()) continue;
    remove_stale_groups(own);
    found.why_not = try_group(own);
    if (found.why_not.empty()) {
      found.group = own;
      return found;
    }
  }
  if (found.why_not.empty()) found.why_not = "no cgroup hierarchy with the pids controller is mounted";
  return found;
}

}  // namespace

namespace {

/// The own group, if groups in it can count; without a trial.
std::string group_with_controller(bool version_1) {
  const std::string own = own_group(version_1);
  if (own.empty() || version_1) return own;
  std::ifstream handed_on(own + "/cgroup.subtree_control");
  for (std::string name; handed_on >> name;) {
    if (name == "pids") return own;
  }
  return {};
}

}  // namespace

std::string why_no_process_bound() { return look().why_not; }

process_bound::process_bound(std::uint64_t most) {
  // Anew each time: the process may have been moved, and is, within a call that has a bound itself.
  probe now;
  for (const bool version_1 : {true, false}) {
    if (now.group.empty()) now.group = group_with_controller(version_1);
  }
  const std::string group = fmt::format("{}/{}{}-{}", now.group, prefix, ::getpid(), made.fetch_add(1));
  if (now.group.empty() || ::mkdir(group.c_str(), 0755) != 0) return;
  group_ = group;
  if (write_file(group + "/pids.max", std::to_string(most))) {
    entry_ = group + "/cgroup.procs";
  } else {
    ::rmdir(group.c_str());
    group_.clear();
  }
}

process_bound::~process_bound() {
  if (group_.empty()) return;
  const std::string parent = fs::path(group_).parent_path();
  for (int attempt = 0; !remove_group(group_) && errno == EBUSY && attempt < 200; ++attempt) {
    // What was to outlive the call goes where the call came from.
    std::ifstream members(group_ + "/cgroup.procs");
    for (std::string member; std::getline(members, member);) write_file(parent + "/cgroup.procs", member);
    constexpr timespec moment{0, 500'000};
    raw::call(SYS_nanosleep, &moment, nullptr);
  }
}

bool join_process_bound(const char* entry) noexcept {
  const long file = raw::call(SYS_openat, AT_FDCWD, entry, O_WRONLY | O_CLOEXEC, 0);
  if (file < 0) return false;
  const char self[] = {'0'};
  const long written = raw::call(SYS_write, file, self, 1);
  raw::call(SYS_close, file);
  return written == 1;
}

}  // namespace pynisher::platform
