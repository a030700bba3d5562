#include <pynisher/warnings.hpp>

#include <cstdio>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "fork_safe_mutex.hpp"
#include "warn.hpp"

namespace pynisher {

namespace {


std::shared_ptr<warning_sink>& current_sink() {
  // Never destroyed: a call may warn while statics are being destroyed.
  static auto* sink = new std::shared_ptr<warning_sink>;
  return *sink;
}

std::shared_ptr<warning_sink> exchange_sink(std::shared_ptr<warning_sink> sink) {
  const std::lock_guard lock(detail::library_mutex);
  return std::exchange(current_sink(), std::move(sink));
}

}  // namespace

warning_sink set_warning_sink(warning_sink sink) {
  const auto before = exchange_sink(sink ? std::make_shared<warning_sink>(std::move(sink)) : nullptr);
  return before ? *before : warning_sink();
}

namespace detail {

void warn(const std::string& text) {
  std::shared_ptr<warning_sink> sink;
  {
    const std::lock_guard lock(detail::library_mutex);
    sink = current_sink();
  }
  if (sink) {
    (*sink)(text);
  } else {
    std::fprintf(stderr, "pynisher: warning: %s\n", text.c_str());
  }
}

}  // namespace detail

}  // namespace pynisher
