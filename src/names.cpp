// Names of types and functions, as their source writes them.

#include <cxxabi.h>

#include <cstdlib>
#include <memory>
#include <string>

#include <fmt/format.h>

#include <pynisher/detail/callable.hpp>
#include <pynisher/options.hpp>

#include "platform/contract.hpp"

namespace pynisher::detail {

namespace {

std::string demangled(const char* mangled) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> name(
      abi::__cxa_demangle(mangled, nullptr, nullptr, &status), &std::free);
  return status == 0 ? name.get() : mangled;
}

/// "ns::(anonymous namespace)::f(int, g())" is "ns::(anonymous namespace)::f".
std::string without_parameters(std::string name) {
  std::size_t at = name.rfind(')');
  if (at == std::string::npos) return name;
  for (int depth = 0;; --at) {
    if (name[at] == ')') ++depth;
    if (name[at] == '(' && --depth == 0) break;
    if (at == 0) return name;
  }
  // A name that ends in a parenthesis without having parameters: a lambda's.
  if (at == 0 || name.compare(at, 21, "(anonymous namespace)") == 0) return name;
  return name.substr(0, at);
}

}  // namespace

std::string demangled_name(const std::type_info& type) { return demangled(type.name()); }

std::string function_name(const void* address) {
  const std::string symbol = platform::symbol_at(address);
  if (symbol.empty()) return fmt::format("function at {}", address);
  // Without the parameters: the call shows its arguments.
  return without_parameters(demangled(symbol.c_str()));
}

std::string text_in_quotes(std::string_view text) {
  constexpr std::size_t shown = 60;
  return text.size() <= shown ? fmt::format("\"{}\"", text)
                              : fmt::format("\"{}...\" ({} bytes)", text.substr(0, shown), text.size());
}

}  // namespace pynisher::detail
