#pragma once

// What tests ask of the system, and each system answers in its own way: tests/support/<system>/.

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace support {

#if __has_include(<unistd.h>)
using process_id = pid_t;
#else
using process_id = int;
#endif

// --- this process -----------------------------------------------------------------------------------------------

process_id own_pid() noexcept;

/// Sleeps without end and without CPU time.
[[noreturn]] void sleep_forever();

/// CPU time of the whole process so far, and that of the thread that asks.
std::chrono::nanoseconds cpu_time_used();
std::chrono::nanoseconds cpu_time_of_thread();

/// The most memory that this process has ever had, in bytes.
std::uint64_t own_peak();

/// More than a program that does nothing has resident, in bytes.
extern const std::uint64_t size_of_an_idle_program;

/// What counts as memory in address space, in bytes, before this process takes more.
std::uint64_t mapped_here();

/// Ends this process as somebody else would by force, whatever that is told as.
[[noreturn]] void be_killed();
extern const bool being_killed_is_an_exit;

/// Ends this process by what is told as this signal: by SIGTERM, or by what the system has instead.
[[noreturn]] void end_by_a_signal();
extern const int signal_of_that_end;
extern const char* const name_of_that_signal;

/// In this process and those that it starts.
void set_environment(const char* name, const std::string& value);
void unset_environment(const char* name);

// --- memory -----------------------------------------------------------------------------------------------------

/// Whether a limit on memory is the kernel's, so that who asks for more is refused. Where it is not, somebody looks now
/// and then, and ends who has more.
bool memory_is_refused();

/// Private memory from the system; null: it was refused.
void* take_pages(std::size_t bytes) noexcept;
void give_back_pages(void* pages, std::size_t bytes) noexcept;
/// Address space without memory; false: it was refused.
bool reserve_address_space(std::size_t bytes) noexcept;

// --- other processes --------------------------------------------------------------------------------------------

/// One that has ended counts as gone, though somebody may still ask how.
bool is_gone(process_id pid);

/// A new, empty file.
std::string new_temporary_file();

/// Appends the calling process to the list kept in `file`. Async-signal-safe.
void log_process(const char* file);
std::vector<process_id> logged_processes(const std::string& file);
/// Those of the list that are alive.
std::vector<process_id> logged_survivors(const std::string& file);
/// Ends those of the list that are alive.
void kill_logged(const std::string& file);

}  // namespace support
