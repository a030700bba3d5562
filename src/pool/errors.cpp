#include <algorithm>

#include <fmt/format.h>

#include <pynisher/pool_errors.hpp>

namespace pynisher {

namespace {

std::string text_of(const std::vector<pool_failure>& failures) {
  if (failures.empty()) return "no item has failed";
  const pool_failure& first = failures.front();
  if (failures.size() == 1) return fmt::format("item {} has failed: {}", first.index, first.what);
  return fmt::format("{} items have failed, first item {}: {}", failures.size(), first.index, first.what);
}

std::vector<pool_failure> in_order(std::vector<pool_failure> failures) {
  std::ranges::sort(failures, {}, &pool_failure::index);
  return failures;
}

}  // namespace

PoolErrors::PoolErrors(std::vector<pool_failure> failures)
    : runtime_error(text_of(failures = in_order(std::move(failures)))), failures_(std::move(failures)) {}

}  // namespace pynisher
