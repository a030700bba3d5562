#include "control_group.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include <fmt/format.h>

#include "raw_syscall.hpp"

namespace pynisher::platform {

namespace {

namespace fs = std::filesystem;

constexpr const char* prefix = "pynisher-";

std::atomic<std::uint64_t> made{0};

bool lists(const std::string& names, const char* name) {
  return ("," + names + ",").find(fmt::format(",{},", name)) != std::string::npos;
}

/// The line of a controller's hierarchy in /proc/self/cgroup: "number:controllers:path".
std::string path_in_hierarchy(const controller& what, bool version_1) {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (version_1 ? lists(controllers, what.name) : controllers.empty()) return line.substr(second + 1);
  }
  return {};
}

/// Where a hierarchy is mounted; the folder of this process's own group in it. Empty: it is not.
std::string own_group(const controller& what, bool version_1) {
  const std::string path = path_in_hierarchy(what, version_1);
  std::ifstream file("/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t separator = line.find(" - ");
    if (path.empty() || separator == std::string::npos) continue;
    std::istringstream left(line.substr(0, separator)), right(line.substr(separator + 3));
    std::string number, parent, device, root, point, type, source, options;
    left >> number >> parent >> device >> root >> point;
    right >> type >> source >> options;
    if (version_1 ? type != "cgroup" || !lists(options, what.name) : type != "cgroup2") continue;
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

/// How many members there were, of the groups below as well.
int kill_members(const std::string& group) {
  int killed = 0;
  std::error_code failed;
  for (const auto& entry : fs::directory_iterator(group, failed)) {
    if (entry.is_directory(failed)) killed += kill_members(entry.path());
  }
  std::ifstream members(group + "/cgroup.procs");
  // Zero: one that this process's namespace has no number for.
  for (pid_t member = 0; members >> member;) {
    if (member > 0 && ::kill(member, SIGKILL) == 0) ++killed;
  }
  return killed;
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

std::string try_group(const std::string& own, const controller& what, bool version_1) {
  const std::string trial = fmt::format("{}/{}{}-trial-{}", own, prefix, ::getpid(), made.fetch_add(1));
  if (::mkdir(trial.c_str(), 0755) != 0)
    return fmt::format(
        "no control group can be made in {}: {}; it takes root, or a group that was handed to this user, as "
        "systemd-run --user --scope -p Delegate=yes does",
        own, std::strerror(errno));
  const bool counts = ::access(fmt::format("{}/{}", trial, version_1 ? what.file_1 : what.file_2).c_str(), W_OK) == 0;
  ::rmdir(trial.c_str());
  return counts ? std::string() : fmt::format("the {} controller is not handed on to groups in {}", what.name, own);
}

}  // namespace

std::string why_no_groups(const controller& what) {
  std::string why;
  for (const bool version_1 : {true, false}) {
    const std::string own = own_group(what, version_1);
    if (own.empty()) continue;
    remove_stale_groups(own);
    why = try_group(own, what, version_1);
    if (why.empty()) return why;
  }
  return why.empty() ? fmt::format("no cgroup hierarchy with the {} controller is mounted", what.name) : why;
}

group_place place_for_groups(const controller& what) {
  if (std::string own = own_group(what, true); !own.empty()) return {std::move(own), true};
  const std::string own = own_group(what, false);
  std::ifstream handed_on(own + "/cgroup.subtree_control");
  for (std::string name; handed_on >> name;) {
    if (name == what.name) return {own, false};
  }
  return {};
}

std::string make_group(const std::string& folder) {
  const std::string group = fmt::format("{}/{}{}-{}", folder, prefix, ::getpid(), made.fetch_add(1));
  if (folder.empty()) {
    errno = ENOENT;
    return {};
  }
  return ::mkdir(group.c_str(), 0755) == 0 ? group : std::string();
}

void end_group(const std::string& group) noexcept {
  constexpr int patience = 400;
  try {
    for (int attempt = 0; kill_members(group) > 0 && attempt < patience; ++attempt) {
      constexpr timespec moment{0, 50'000};
      raw::call(SYS_nanosleep, &moment, nullptr);
    }
  } catch (const std::exception&) {
    // Without memory to read who they are; those with a mark are dead already.
  }
}

void unmake_group(const std::string& group) {
  const std::string parent = fs::path(group).parent_path();
  for (int attempt = 0; !remove_group(group) && errno == EBUSY && attempt < 200; ++attempt) {
    std::ifstream members(group + "/cgroup.procs");
    for (std::string member; std::getline(members, member);) write_group_file(parent + "/cgroup.procs", member);
    constexpr timespec moment{0, 500'000};
    raw::call(SYS_nanosleep, &moment, nullptr);
  }
}

bool write_group_file(const std::string& path, const std::string& text) {
  const unique_fd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  return file && ::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

std::string read_group_file(const std::string& path) {
  const unique_fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::array<char, 4096> text;
  const ssize_t got = file ? ::read(file.get(), text.data(), text.size()) : -1;
  return got > 0 ? std::string(text.data(), static_cast<std::size_t>(got)) : std::string();
}

bool join_group(const char* entry) noexcept {
  const long file = raw::call(SYS_openat, AT_FDCWD, entry, O_WRONLY | O_CLOEXEC, 0);
  if (file < 0) return false;
  const char self[] = {'0'};
  const long written = raw::call(SYS_write, file, self, 1);
  raw::call(SYS_close, file);
  return written == 1;
}

}  // namespace pynisher::platform
