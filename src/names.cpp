// Names of types and functions, as their source writes them.

#include <string>
#include <string_view>

#include <fmt/format.h>

#include <pynisher/detail/call_name.hpp>
#include <pynisher/detail/callable.hpp>
#include <pynisher/options.hpp>

#include "cxx_abi/cxx_abi.hpp"
#include "platform/contract.hpp"

namespace pynisher::detail {

namespace {

void replace_all(std::string& text, std::string_view what, std::string_view with) {
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + with.size())) {
    text.replace(at, what.size(), with);
  }
}

/// "vector<int, std::allocator<int>>" is "vector<int>".
void drop_allocators(std::string& name) {
  constexpr std::string_view argument = ", std::allocator<";
  for (std::size_t at = name.find(argument); at != std::string::npos; at = name.find(argument, at)) {
    std::size_t end = at + argument.size();
    for (int depth = 1; depth > 0 && end < name.size(); ++end) {
      depth += name[end] == '<' ? 1 : name[end] == '>' ? -1 : 0;
    }
    name.erase(at, end - at);
  }
}

/// Without what no source writes.
std::string as_written(std::string name) {
  replace_all(name, "(anonymous namespace)::", "");
  replace_all(name, "std::__cxx11::", "std::");
  replace_all(name, "[abi:cxx11]", "");
  replace_all(name, " >", ">");
  drop_allocators(name);
  replace_all(name, "std::basic_string<char, std::char_traits<char>>", "std::string");
  return name;
}

/// "ns::f(int, g())" is "ns::f".
std::string without_parameters(std::string name) {
  std::size_t at = name.rfind(')');
  if (at == std::string::npos) return name;
  for (int depth = 0;; --at) {
    if (name[at] == ')') ++depth;
    if (name[at] == '(' && --depth == 0) break;
    if (at == 0) return name;
  }
  // A name that ends in a parenthesis without having parameters: a lambda's.
  return at == 0 ? name : name.substr(0, at);
}

}  // namespace

std::string demangled_name(const std::type_info& type) { return as_written(cxx_abi::demangled(type.name())); }

std::string function_name(const void* address) {
  const std::string symbol = platform::symbol_at(address);
  if (symbol.empty()) return fmt::format("function at {}", address);
  // Without the parameters: the call shows its arguments.
  return without_parameters(as_written(cxx_abi::demangled(symbol.c_str())));
}

std::string text_in_quotes(std::string_view text) {
  constexpr std::size_t shown = 60;
  // On one line, whatever it holds.
  std::string quoted = fmt::format("{:?}", text.substr(0, shown));
  if (text.size() <= shown) return quoted;
  quoted.pop_back();
  return fmt::format("{}...\" ({} bytes)", quoted, text.size());
}

std::string call_name::text() const {
  if (function == nullptr && type == nullptr) return arguments.empty() ? "the call" : arguments;
  return fmt::format("{}({})", function != nullptr ? function_name(function) : demangled_name(*type), arguments);
}

}  // namespace pynisher::detail
