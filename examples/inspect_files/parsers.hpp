#pragma once

#include <string>

namespace inspector {

/// Reads a file with the parser that its first bytes ask for (zlib, libpng, libxml2, else std::regex line by line)
/// and says in a few words what is in it. Throws what the parser has to say against the file.
///
/// It is written the way such code is commonly written, and trusts the file: on a hostile one it takes all memory,
/// never ends, or crashes. Only call it under limits.
std::string inspect(const std::string& path);

}  // namespace inspector
