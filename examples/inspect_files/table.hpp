#pragma once

#include <string>

namespace inspector {

struct table_row {
  std::string file;
  std::string verdict;
  std::string wall_time;
  std::string cpu_time;
  std::string peak_memory;
  std::string sentence;
};

/// Prints one row of a table that is 120 columns wide. What is too long for its column is shortened (the file, from
/// the left) or wrapped (the sentence); whatever could upset a terminal is replaced.
void print_row(const table_row& row);
void print_heading();

}  // namespace inspector
