#pragma once

namespace pynisher::platform {

/// As `close` does, async-signal-safe and without being a cancellation point where there are such.
void close_descriptor(int fd) noexcept;
/// The same in a child that was just forked.
void close_descriptor_in_child(int fd) noexcept;

}  // namespace pynisher::platform
