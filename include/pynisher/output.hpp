#pragma once

// Where an isolate's standard output, or its standard error, goes.
//
//     auto iso = pynisher::isolate::create({
//         .out = pynisher::output::lines([](std::string line) { log("worker: " + line); }),
//         .err = pynisher::output::file("worker.err")});

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>

namespace pynisher {

/// For `isolate_options::out` and `err`. A value; checked when the isolate is created.
class output {
 public:
  /// What has one line of it, without its end.
  using line_callback = std::function<void(std::string line)>;

  /// The program's own.
  output() = default;
  [[nodiscard]] static output inherit() { return {}; }
  /// Nowhere.
  [[nodiscard]] static output null() { return output(kind::null); }
  /// A file, emptied when the isolate is created, and appended to from then on.
  [[nodiscard]] static output file(std::filesystem::path path) {
    output to(kind::file);
    to.path_ = std::move(path);
    return to;
  }
  /// A descriptor of the program's. It is duplicated: the program may close its own.
  [[nodiscard]] static output descriptor(int number) {
    output to(kind::descriptor);
    to.descriptor_ = number;
    return to;
  }
  /// Calls `callback` for each line, on a thread of the library's, one line of this isolate at a time. When a call is
  /// back, so are its lines. One that is longer than `longest_line` comes in pieces. An exception of the callback's
  /// costs that line, and is a warning. A slow callback makes the isolate wait.
  [[nodiscard]] static output lines(line_callback callback) {
    output to(kind::lines);
    to.callback_ = std::move(callback);
    return to;
  }
  static constexpr std::size_t longest_line = std::size_t{1} << 20;
  /// Nowhere but to a `capture_output`, while there is one.
  [[nodiscard]] static output capture() { return output(kind::capture); }

  enum class kind : std::uint8_t { inherit, null, file, descriptor, lines, capture };
  [[nodiscard]] kind where() const { return kind_; }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] int number() const { return descriptor_; }
  [[nodiscard]] const line_callback& callback() const { return callback_; }

 private:
  explicit output(kind where) : kind_(where) {}

  kind kind_ = kind::inherit;
  int descriptor_ = -1;
  std::filesystem::path path_;
  line_callback callback_;
};

}  // namespace pynisher
