#pragma once

namespace pynisher {

/// Call it as the first statement of `main`. Start methods that start the program again find their way into
/// the child here; `fork` does not need it. Harmless wherever it is not needed, and when called twice.
void init(int argc, char** argv);

}  // namespace pynisher
