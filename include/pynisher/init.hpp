#pragma once

namespace pynisher {

/// Call it as the first statement of `main`, with what main got. `spawn` and the forkserver start the program again, and
/// in that process it does not come back. `fork` does not need it. Without it, calls by the other two throw
/// `StartException`. Harmless wherever it is not needed, and when called twice.
/// Static objects are made in each child as well: their constructors must not count on being the only ones.
void init(int argc, char** argv);

}  // namespace pynisher
