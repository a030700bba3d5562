// Ending processes that come and go, without a process: a system that is made up.

#include <algorithm>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include <gmock/gmock.h>

#include "platform/posix/sweep.hpp"

namespace {

using pynisher::platform::end_descendants;
using pynisher::platform::end_session;
using pynisher::platform::process_list;

struct made_up_process {
  pid_t parent;
  pid_t session;
  int to_fork = 0;       ///< children that it has yet when it is stopped, one for each time that it is asked for them
  bool in_reach = true;  ///< for signals
  bool is_stopped = false;
};

struct made_up_system {
  std::map<pid_t, made_up_process> processes;
  std::vector<pid_t> zombies;
  pid_t next = 90000;
  int stops = 0;
  int pauses = 0;
  int born_in_pauses = 0;  ///< by the first of the session that lives then
  pid_t busy_session = 0;

  void add(pid_t pid, pid_t parent, pid_t session, int to_fork = 0) { processes[pid] = {parent, session, to_fork}; }

  std::size_t children_of(pid_t parent, pid_t* to, std::size_t room) {
    std::vector<pid_t> children;
    for (const auto& [pid, process] : processes) {
      if (process.parent == parent) children.push_back(pid);
    }
    // What was in the kernel when it was stopped is there the next time.
    if (const auto asked = processes.find(parent); asked != processes.end() && asked->second.to_fork > 0) {
      --asked->second.to_fork;
      add(next++, parent, asked->second.session);
    }
    return give(children, to, room);
  }
  std::size_t all(pid_t* to, std::size_t room) const {
    std::vector<pid_t> numbers = zombies;
    for (const auto& [pid, process] : processes) numbers.push_back(pid);
    return give(numbers, to, room);
  }
  [[nodiscard]] pid_t session_of(pid_t pid) const {
    const auto found = processes.find(pid);
    return found == processes.end() ? -1 : found->second.session;
  }
  void stop(pid_t pid) {
    ++stops;
    if (processes.at(pid).in_reach) processes.at(pid).is_stopped = true;
  }
  bool kill(pid_t pid) {
    const auto found = processes.find(pid);
    if (found == processes.end()) return std::count(zombies.begin(), zombies.end(), pid) > 0;
    if (!found->second.in_reach) return false;
    zombies.push_back(pid);
    processes.erase(found);
    return true;
  }
  void pause() {
    ++pauses;
    if (born_in_pauses-- > 0) add(next++, 1, busy_session);
  }

  static std::size_t give(const std::vector<pid_t>& numbers, pid_t* to, std::size_t room) {
    const std::size_t count = std::min(room, numbers.size());
    std::copy_n(numbers.begin(), count, to);
    return count;
  }
};

struct list_of {
  explicit list_of(std::size_t room) : memory(room), list{memory.data(), memory.size()} {}
  std::vector<pid_t> memory;
  process_list list;
};

std::set<pid_t> alive(const made_up_system& system) {
  std::set<pid_t> all;
  for (const auto& [pid, process] : system.processes) all.insert(pid);
  return all;
}

constexpr pid_t root = 1000;

TEST(Descendants, AreEndedToTheLastAndNobodyElse) {
  made_up_system system;
  system.add(root, 500, 500);
  system.add(1001, root, 500);
  system.add(1002, 1001, 1002);
  system.add(1003, 1002, 1002);
  system.add(2000, 500, 500);
  system.add(2001, 1, root);
  list_of room(64);
  end_descendants(system, root, room.list);
  EXPECT_EQ(alive(system), (std::set<pid_t>{root, 2000, 2001}));
}

// One that was making a child when it was stopped: it has none when it is asked, and one when it is asked again.
TEST(Descendants, ThatWereBeingMadeAreEndedToo) {
  made_up_system system;
  system.add(root, 500, 500, 1);
  system.add(1001, root, 500, 2);
  list_of room(64);
  end_descendants(system, root, room.list);
  EXPECT_EQ(alive(system), (std::set<pid_t>{root}));
  EXPECT_EQ(system.zombies.size(), 4u);
  EXPECT_EQ(system.stops, 4) << "each is asked again, and stopped once";
}

TEST(Descendants, AreAllStoppedBeforeTheFirstIsKilled) {
  struct watched : made_up_system {
    bool all_stood_still = true;
    bool kill(pid_t pid) {
      for (const auto& [number, process] : processes) all_stood_still &= number == root || process.is_stopped;
      return made_up_system::kill(pid);
    }
  } system;
  system.add(root, 500, 500);
  for (pid_t pid = 1001; pid < 1010; ++pid) system.add(pid, pid - 1, 500);
  list_of room(64);
  end_descendants(system, root, room.list);
  EXPECT_EQ(alive(system), (std::set<pid_t>{root}));
  EXPECT_TRUE(system.all_stood_still);
}

TEST(Descendants, OutOfReachHinderNobody) {
  made_up_system system;
  system.add(root, 500, 500);
  system.add(1001, root, 500);
  system.processes[1001].in_reach = false;
  system.add(1002, 1001, 500);
  list_of room(64);
  end_descendants(system, root, room.list);
  EXPECT_EQ(alive(system), (std::set<pid_t>{root, 1001}));
}

TEST(Descendants, AreEndedAsFarAsThereIsRoom) {
  made_up_system system;
  system.add(root, 500, 500);
  for (pid_t pid = 1001; pid <= 1020; ++pid) system.add(pid, root, 500);
  list_of room(8);
  end_descendants(system, root, room.list);
  EXPECT_EQ(system.zombies.size(), 8u);
}

TEST(Session, IsEndedButForItsLeader) {
  made_up_system system;
  system.add(root, 500, root);
  system.add(1001, 1, root);
  system.add(1002, 1, 1002);
  system.zombies = {1003};
  list_of room(64);
  end_session(system, root, room.list, 1000);
  EXPECT_EQ(alive(system), (std::set<pid_t>{root, 1002}));
  EXPECT_EQ(system.pauses, 1);
}

TEST(Session, IsLookedForUntilNobodyOfItIsLeft) {
  made_up_system system;
  system.busy_session = root;
  system.born_in_pauses = 5;
  system.add(1001, 1, root);
  list_of room(64);
  end_session(system, root, room.list, 1000);
  EXPECT_THAT(alive(system), ::testing::IsEmpty());
  EXPECT_EQ(system.pauses, 6);
}

// More than any number that was once thought to be enough.
TEST(Session, OfAMachineWithManyProcessesIsEndedWhole) {
  made_up_system system;
  for (pid_t pid = 2; pid < 20000; ++pid) system.add(pid, 1, pid % 3 == 0 ? root : 500);
  list_of room(40000);
  end_session(system, root, room.list, 1000);
  EXPECT_EQ(system.zombies.size(), 6666u);
  for (const auto& [pid, process] : system.processes) EXPECT_TRUE(process.session == 500 || pid == root);
}

TEST(Session, IsNotLookedForWithoutEnd) {
  made_up_system system;
  system.busy_session = root;
  system.born_in_pauses = 1000;
  system.add(1001, 1, root);
  list_of room(64);
  end_session(system, root, room.list, 20);
  EXPECT_EQ(system.pauses, 20);
}

// What is neither killed nor waited for: init, the kernel, and what is out of reach.
TEST(Session, SparesWhatIsNotItsOwn) {
  made_up_system system;
  system.add(0, 0, root);
  system.add(1, 0, root);
  system.add(1001, 1, root);
  system.processes[1001].in_reach = false;
  list_of room(64);
  end_session(system, root, room.list, 1000);
  EXPECT_EQ(alive(system), (std::set<pid_t>{0, 1, 1001}));
  EXPECT_EQ(system.pauses, 0);
}

}  // namespace
