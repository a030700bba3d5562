#include <pynisher/supports.hpp>

#include <algorithm>
#include <cctype>
#include <iterator>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "platform/contract.hpp"

namespace pynisher {

namespace {

constexpr std::pair<const char*, feature> names[] = {
    {"wall_time", feature::wall_time},
    {"cpu_time", feature::cpu_time},
    {"memory", feature::memory},
    {"decorator", feature::decorator},
    {"memory_growth", feature::memory_growth},
    {"memory_address_space", feature::memory_address_space},
    {"memory_tree", feature::memory_tree},
    {"fork", feature::fork},
    {"spawn", feature::spawn},
    {"forkserver", feature::forkserver},
    {"kill_tree", feature::kill_tree},
    {"process_count", feature::process_count},
    {"parent_death", feature::parent_death},
    {"cancel", feature::cancel},
};

feature feature_named(std::string_view name) {
  const auto same = [name](const auto& entry) {
    return std::ranges::equal(name, std::string_view(entry.first), {}, [](unsigned char c) { return std::tolower(c); });
  };
  const auto found = std::ranges::find_if(names, same);
  if (found == std::end(names)) {
    std::vector<const char*> known;
    std::ranges::transform(names, std::back_inserter(known), [](const auto& entry) { return entry.first; });
    throw std::invalid_argument(
        fmt::format("supports: there is no feature \"{}\"; there are {}", name, fmt::join(known, ", ")));
  }
  return found->second;
}

}  // namespace

bool supports(feature what) { return why_not(what).empty(); }

bool supports(std::string_view name) { return supports(feature_named(name)); }

std::string why_not(feature what) { return platform::why_not(what); }

std::string why_not(std::string_view name) { return why_not(feature_named(name)); }

std::vector<start_method> start_methods() {
  std::vector<start_method> available;
  if (supports(feature::fork)) available.push_back(start_method::fork);
  if (supports(feature::spawn)) available.push_back(start_method::spawn);
  if (supports(feature::forkserver)) available.push_back(start_method::forkserver);
  return available;
}

}  // namespace pynisher
