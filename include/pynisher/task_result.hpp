#pragma once

// What came of one item of a map over a pool.
//
//     for (auto&& r : pool.map(lines)) {
//       if (r.ok()) use(r.value());
//       else log(r.index(), r.what());
//     }

#include <cstddef>
#include <exception>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include <pynisher/detail/value_or_error.hpp>
#include <pynisher/exceptions.hpp>
#include <pynisher/usage.hpp>

namespace pynisher {

namespace detail {

/// The part that does not depend on the result's type.
class task_result_base {
 public:
  static constexpr unsigned no_worker = ~0u;

  /// Of the item in the input, from 0.
  [[nodiscard]] std::size_t index() const noexcept { return index_; }
  /// The slot, from 0, of the worker that ran it; `no_worker`: none did.
  [[nodiscard]] unsigned worker() const noexcept { return worker_; }
  [[nodiscard]] bool ok() const noexcept { return !error_; }
  [[nodiscard]] explicit operator bool() const noexcept { return ok(); }
  /// What `value()` throws; null where there is a value.
  [[nodiscard]] const std::exception_ptr& error() const noexcept { return error_; }
  /// One sentence on what went wrong; empty where nothing did.
  [[nodiscard]] const std::string& what() const noexcept { return what_; }
  /// The item's own: wall time always; CPU time, peak memory (of its worker so far) and page faults as its worker saw
  /// them, and zero where it took less than about 50 us.
  [[nodiscard]] const pynisher::usage& usage() const noexcept { return usage_; }

 protected:
  task_result_base(std::size_t index, unsigned worker, const pynisher::usage& used, std::exception_ptr error,
                   std::string what)
      : index_(index), worker_(worker), usage_(used), error_(std::move(error)), what_(std::move(what)) {}
  void rethrow_if_failed() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::size_t index_;
  unsigned worker_;
  pynisher::usage usage_;
  std::exception_ptr error_;
  std::string what_;
};

}  // namespace detail

/// A value, or why there is none. Moves where `R` moves, copies where `R` copies.
/// `value()`, `operator*` and `operator->` without a value throw what the worker threw, or what its end is called.
template <class R>
class [[nodiscard]] task_result : public detail::value_or_error<detail::task_result_base, R> {
 public:
  task_result(std::size_t index, unsigned worker, const pynisher::usage& used, std::exception_ptr error,
              std::string what, std::optional<R>&& value)
      : task_result::value_or_error(std::move(value), index, worker, used, std::move(error), std::move(what)) {}
};

template <>
class [[nodiscard]] task_result<void> : public detail::value_or_error<detail::task_result_base, void> {
 public:
  task_result(std::size_t index, unsigned worker, const pynisher::usage& used, std::exception_ptr error,
              std::string what)
      : value_or_error(index, worker, used, std::move(error), std::move(what)) {}
};

}  // namespace pynisher
