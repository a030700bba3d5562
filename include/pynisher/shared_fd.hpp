#pragma once

// A file descriptor that travels: over channels and queues, as an argument, as a result.
//
//     int ends[2];
//     pipe(ends);
//     iso.call([](pynisher::shared_fd out) { write(out.get(), "spam", 4); }, pynisher::shared_fd(ends[1]));
//
// Wherever it arrives it is another number for the same open file.

#include <memory>

#include <pynisher/detail/mail.hpp>

namespace pynisher {

/// A share in a descriptor. Copies in one process are one descriptor, closed with the last of them. Copies may be used
/// from different threads.
class shared_fd {
 public:
  /// None: -1.
  shared_fd() = default;
  /// A duplicate: `descriptor` itself stays the caller's. Throws `std::system_error` where it is none, or there is no
  /// room.
  explicit shared_fd(int descriptor);
  /// Takes over `descriptor`, to be closed with the last copy.
  [[nodiscard]] static shared_fd adopt(int descriptor);

  [[nodiscard]] int get() const noexcept { return owned_ ? owned_->descriptor : -1; }
  [[nodiscard]] explicit operator bool() const noexcept { return get() >= 0; }

  /// The same descriptor of this process.
  friend bool operator==(const shared_fd& a, const shared_fd& b) noexcept { return a.get() == b.get(); }

  void save(detail::output_archive& out) const { detail::write_descriptor(out, get()); }
  void load(detail::input_archive& in) { *this = adopt(detail::read_descriptor(in)); }

 private:
  struct owned {
    explicit owned(int which) noexcept : descriptor(which) {}
    owned(const owned&) = delete;
    owned& operator=(const owned&) = delete;
    ~owned();
    int descriptor;
  };
  std::shared_ptr<const owned> owned_;
};

}  // namespace pynisher
