#pragma once

// What an isolate writes, as a string.
//
//     pynisher::capture_output cap(iso);
//     iso.call(noisy);
//     std::string text = cap.out();      // all that was written meanwhile: stdio, iostreams, write(2), its children
//
// While it exists, standard output and standard error of the isolate come here, wherever they go otherwise.

#include <cstdint>
#include <memory>
#include <string>

#include <pynisher/isolate.hpp>
#include <pynisher/units.hpp>

namespace pynisher {

struct capture_options {
  /// The most that is kept, of each stream; unset: a quarter of the machine's memory. What comes after that is read and
  /// forgotten, so that the isolate goes on, and asking for the text is an error.
  memory_size most{};
};

/// Captures until it is destroyed. For one thread at a time. A process that the isolate started meanwhile, and that
/// goes on writing afterwards, writes to nobody.
class capture_output {
 public:
  /// Throws `IsolateError` while a call runs in the isolate, or where it is being captured already; what
  /// `isolate::call` throws for one that was closed or has died; `std::invalid_argument` for a bound that makes no
  /// sense.
  explicit capture_output(const isolate& from, const capture_options& wanted = {});
  capture_output(const capture_output&) = delete;
  capture_output& operator=(const capture_output&) = delete;
  /// Does not wait for a call that still runs.
  ~capture_output();

  /// Everything so far; also what an isolate wrote that has died since. Throws `std::length_error` where it was more
  /// than the bound, `std::bad_alloc` where there was no memory for it.
  [[nodiscard]] std::string out() const;
  [[nodiscard]] std::string err() const;
  /// Forgets what there is.
  void clear();

 private:
  std::unique_ptr<detail::capture_session> session_;
};

}  // namespace pynisher
