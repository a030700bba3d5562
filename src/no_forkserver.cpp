// Where there is no forkserver: `supports` says why, and `limit` refuses it by name before anything here is reached.

#include <functional>

#include <pynisher/exceptions.hpp>
#include <pynisher/forkserver.hpp>
#include <pynisher/supports.hpp>

#include "forkserver.hpp"
#include "platform/contract.hpp"

namespace pynisher::detail {

namespace {

[[noreturn]] void refuse() { throw UnsupportedException("forkserver: " + why_not(feature::forkserver)); }

}  // namespace

void have_forkserver() {}

void serve_forks(int /*socket*/, int /*ledger*/) { platform::leave(1); }
void relay_forks(int /*socket*/) { platform::leave(1); }
bool forks_are_relayed() noexcept { return false; }
void relay_forks_always() noexcept {}

program_started call_by_server(std::span<const int> /*descriptors*/, const started_output& /*output*/,
                               const tree_to_end& /*tree*/, const std::function<void()>& /*note_start*/) {
  refuse();
}

void preload_in_forkserver(const call_entry& /*entry*/, const std::function<void(output_archive&)>& /*write*/) {
  refuse();
}

}  // namespace pynisher::detail

namespace pynisher::forkserver {

void start() { detail::refuse(); }

void stop() noexcept {}

}  // namespace pynisher::forkserver
