#pragma once

// What tests of isolates share: one suite over all start methods, and functions that show what an isolate keeps.

#include <filesystem>
#include <string>
#include <utility>

#include <pynisher/pynisher.hpp>

#include "support/functions.hpp"
#include "support/posix_functions.hpp"
#include "support/processes.hpp"
#include "support/suites.hpp"

namespace support {

class per_isolate : public per_start_method {
 protected:
  static pynisher::isolate make(pynisher::isolate_options wanted = {}) {
    wanted.context = GetParam();
    wanted.limits.warnings = false;
    return pynisher::isolate::create(std::move(wanted));
  }
};

/// A global of whichever process runs it.
inline int total = 0;
inline int add(int what) { return total += what; }

inline void log_and_sleep(const std::string& path) {
  log_process(path.c_str());
  sleep_two_minutes();
}
inline void log_and_wait_for_file(const std::string& path, const std::string& release) {
  log_process(path.c_str());
  await([&] { return std::filesystem::exists(release); });
}
/// Leaves a process behind that is in the list, has left its session, and has lost its parent.
inline void start_daemon(const std::string& path) {
  if (::fork() != 0) return;
  ::setsid();
  if (::fork() != 0) ::_exit(0);
  log_process(path.c_str());
  sleep_two_minutes();
}

}  // namespace support
