#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace inspector {

/// A few harmless files of this machine, of every kind that a parser is there for; those that it has.
std::vector<std::string> real_files();

/// Files that are out to hurt whoever reads them, in a directory that goes with this object.
class nasty_files {
 public:
  nasty_files();
  nasty_files(const nasty_files&) = delete;
  nasty_files& operator=(const nasty_files&) = delete;
  ~nasty_files();

  const std::vector<std::string>& paths() const { return paths_; }

 private:
  std::string named(const char* name);
  void write(const char* name, const std::string& content);

  std::filesystem::path directory_;
  std::vector<std::string> paths_;
};

}  // namespace inspector
