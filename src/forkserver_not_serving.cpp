// Where no process can make children of its parent's there is only the forkserver that relays.

#include "forkserver.hpp"
#include "platform/contract.hpp"

namespace pynisher::detail {

void serve_forks(int /*socket*/, int /*ledger*/) { platform::leave(1); }

}  // namespace pynisher::detail
