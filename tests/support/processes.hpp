#pragma once

// Looking at processes from outside, and keeping a list of those that a call has started.

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "support/system.hpp"

namespace support {

/// Waits, without a time limit of its own (each test has one), until `condition()` holds.
template <class Condition>
void await(Condition condition) {
  while (!condition()) std::this_thread::sleep_for(std::chrono::microseconds(200));
}

inline void await_gone(process_id pid) {
  await([pid] { return is_gone(pid); });
}

/// Waits until at least `count` processes are in the list.
inline void await_logged(const std::string& file, std::size_t count) {
  await([&] { return logged_processes(file).size() >= count; });
}

/// What a function waits for, and this process lets happen: a file that goes away, whose path travels to a child of any
/// start method.
class permission {
 public:
  permission() : path_(new_temporary_file()) {}
  permission(const permission&) = delete;
  permission& operator=(const permission&) = delete;
  ~permission() { give(); }

  [[nodiscard]] const std::string& path() const { return path_; }
  void give() const {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }

 private:
  std::string path_;
};

inline void await_permission(const std::string& path) {
  await([&] {
    std::error_code none;
    return !std::filesystem::exists(path, none);
  });
}

/// A list of processes in a file: its path travels to a child of any start method. What is alive when it goes
/// is killed, so that a failed test leaves nothing behind.
class process_log {
 public:
  process_log() : path_(new_temporary_file()) {}
  process_log(const process_log&) = delete;
  process_log& operator=(const process_log&) = delete;
  ~process_log() {
    kill_logged(path_);
    std::remove(path_.c_str());
  }

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::vector<process_id> pids() const { return logged_processes(path_); }
  /// Those of the list that are alive.
  [[nodiscard]] std::vector<process_id> survivors() const { return logged_survivors(path_); }
  void clear() {
    std::error_code ignored;
    std::filesystem::resize_file(path_, 0, ignored);
  }

 private:
  std::string path_;
};

}  // namespace support
