#include <pynisher/init.hpp>

namespace pynisher {

// `fork` finds its function in the memory it inherits: there is nothing to prepare.
void init(int /*argc*/, char** /*argv*/) {}

}  // namespace pynisher
