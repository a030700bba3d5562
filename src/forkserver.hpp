#pragma once

#include <functional>
#include <span>

#include "program_start.hpp"

namespace pynisher::detail {

inline constexpr int forkserver_descriptor = 3;

/// In the started program: forks children for the program that started it, and ends with it.
[[noreturn]] void serve_forks(int socket);

/// Has this process's server, which is started if need be, fork a child that gets `descriptors` and becomes this
/// process's own. `note_start` is called just before. `ends_with_program`: the server is to see to that, since nobody
/// else will. Throws `std::bad_alloc`.
program_started fork_by_server(std::span<const int> descriptors, bool ends_with_program,
                               const std::function<void()>& note_start);

}  // namespace pynisher::detail
