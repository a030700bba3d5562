#pragma once

// Names of types as Microsoft's C++ library tells them, in the words in which the others do.

#include <algorithm>
#include <cctype>
#include <string>
#include <string_view>

namespace pynisher::detail::cxx_abi {

inline bool is_part_of_a_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

/// `what` where it is no part of a longer word.
inline void replace_word(std::string& text, std::string_view what, std::string_view with) {
  std::size_t at = text.find(what);
  while (at != std::string::npos) {
    const std::size_t end = at + what.size();
    const bool begins = at == 0 || !is_part_of_a_word(what.front()) || !is_part_of_a_word(text[at - 1]);
    const bool ends = end == text.size() || !is_part_of_a_word(what.back()) || !is_part_of_a_word(text[end]);
    if (begins && ends) text.replace(at, what.size(), with);
    at = text.find(what, begins && ends ? at + with.size() : at + 1);
  }
}

/// "class std::map<int,struct a::b *>" is "std::map<int, a::b*>".
inline std::string in_words_of_others(std::string name) {
  for (const char* const kind : {"class ", "struct ", "union ", "enum "}) replace_word(name, kind, "");
  for (const char* const nobody : {"`anonymous namespace'::", "`anonymous-namespace'::", " __ptr64", "__cdecl"}) {
    replace_word(name, nobody, "");
  }
  replace_word(name, "__int64", "long long");
  replace_word(name, " *", "*");
  replace_word(name, " &", "&");
  std::string spaced;
  for (std::size_t i = 0; i < name.size(); ++i) {
    spaced += name[i];
    if (name[i] == ',' && i + 1 < name.size() && name[i + 1] != ' ') spaced += ' ';
  }
  return spaced;
}

}  // namespace pynisher::detail::cxx_abi
