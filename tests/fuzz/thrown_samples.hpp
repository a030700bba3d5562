#pragma once

// Exceptions of all kinds, some of the fuzzed program's own.

#include <csignal>
#include <filesystem>
#include <functional>
#include <future>
#include <regex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include <pynisher/exception_registry.hpp>
#include <pynisher/exceptions.hpp>

namespace fuzz {

struct parse_error : std::runtime_error {
  int line = 0;
  std::vector<std::string> hints;
  explicit parse_error(const std::string& text, int at = 0) : runtime_error(text), line(at), hints{"a", "b"} {}
  template <class Archive>
  void serialize(Archive& ar) {
    ar(line, hints);
  }
};
struct from_text : std::logic_error {
  using std::logic_error::logic_error;
};

}  // namespace fuzz

PYNISHER_EXCEPTION(fuzz::parse_error);
PYNISHER_EXCEPTION(fuzz::from_text);

namespace fuzz {

/// Each throws something else.
inline std::vector<std::function<void()>> throwing_samples() {
  using namespace std::chrono_literals;
  const auto nested = [](auto inner) {
    return [inner] {
      try {
        throw inner;
      } catch (...) {
        std::throw_with_nested(std::runtime_error("outer"));
      }
    };
  };
  return {
      [] { throw std::runtime_error("why"); },
      [] { throw std::bad_alloc(); },
      [] { throw std::system_error(2, std::system_category(), "open"); },
      [] { throw std::filesystem::filesystem_error("copy", "/a", "/b", {2, std::generic_category()}); },
      [] { throw std::regex_error(std::regex_constants::error_stack); },
      [] { throw std::future_error(std::future_errc::no_state); },
      [] { throw std::ios_base::failure("stream"); },
      [] { throw 42; },
      [] { throw true; },
      [] { throw std::string("text"); },
      [] { throw "text"; },
      [] { throw std::make_error_code(std::errc::io_error); },
      [] { throw parse_error("unexpected", 7); },
      [] { throw from_text("text"); },
      [] { throw std::vector<int>{1}; },
      [] { throw pynisher::WallTimeoutException("late", 1s, 2s, "f(1)", {1s, 2s, 3s, 4, 5}); },
      [] { throw pynisher::MemoryLimitException("big", 100, 50, "f(1)", {1s, 2s, 3s, 4, 5}); },
      [] { throw pynisher::SignalException("died", SIGSEGV, "f(1)", {1s, 2s, 3s, 4, 5}); },
      [] { throw pynisher::StartException("fork", {11, std::system_category()}); },
      [] { throw pynisher::WrappedException({"a::b", "text", "a::b: text", {"cause"}, 7}); },
      nested(std::out_of_range("inner")),
      nested(parse_error("inner", 3)),
      nested(std::string("inner text")),
  };
}

}  // namespace fuzz
