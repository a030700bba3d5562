#pragma once

// What a pool throws on its own account.
//
//     try {
//       for (auto&& r : pool.map(lines)) use(r.value());      // with .on_error = on_error::collect
//     } catch (const pynisher::PoolErrors& e) {
//       for (const auto& failure : e.failures()) log(failure.index, failure.what);
//     }

#include <cstddef>
#include <exception>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <pynisher/exceptions.hpp>

namespace pynisher {

/// No worker will run this: a worker could not be made again, or one has died and `on_death::break_pool` holds, or the
/// pool is closed.
class BrokenPoolError : public PynisherException, public std::runtime_error {
 public:
  explicit BrokenPoolError(const std::string& what, std::exception_ptr cause = nullptr)
      : std::runtime_error(what), cause_(std::move(cause)) {}
  [[nodiscard]] const char* what() const noexcept override { return std::runtime_error::what(); }
  /// What broke the pool; null where it was closed.
  [[nodiscard]] const std::exception_ptr& cause() const noexcept { return cause_; }

 private:
  std::exception_ptr cause_;
};

/// An item that has failed.
struct pool_failure {
  std::size_t index = 0;  ///< of the item in the input
  std::string what;
  std::exception_ptr error;
};

/// All failures of one map whose other items were run to their end: `on_error::collect`.
class PoolErrors : public PynisherException, public std::runtime_error {
 public:
  /// `failures`: at least one.
  explicit PoolErrors(std::vector<pool_failure> failures);
  [[nodiscard]] const char* what() const noexcept override { return std::runtime_error::what(); }
  /// In the order of the input.
  [[nodiscard]] const std::vector<pool_failure>& failures() const noexcept { return failures_; }

 private:
  std::vector<pool_failure> failures_;
};

}  // namespace pynisher
