#pragma once

// Calling a function under limits.
//
//     auto trainer = pynisher::limit(train, {.memory = 500_MiB, .wall_time = 1.5h});
//     try {
//       model m = trainer(X, y);                       // runs train(X, y) in a child process
//     } catch (const pynisher::WallTimeoutException& e) { ... }
//
//     auto quiet = pynisher::limit(parse, {.wall_time = 2min}, pynisher::no_raise);
//     if (auto doc = quiet(text); doc != pynisher::EMPTY) use(*doc);
//
// Arguments and captures are the child's copies: what the function does to them is not seen by the caller.
// The result crosses through cereal. This is no sandbox: the function may read and write the files
// and the network that the program may.

#include <concepts>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include <pynisher/call.hpp>
#include <pynisher/detail/callable.hpp>
#include <pynisher/detail/decode.hpp>
#include <pynisher/detail/execute.hpp>
#include <pynisher/detail/travel.hpp>
#include <pynisher/detail/wire/types.hpp>
#include <pynisher/exceptions.hpp>
#include <pynisher/options.hpp>
#include <pynisher/outcome.hpp>
#include <pynisher/supports.hpp>

namespace pynisher {

/// Asks `limit` for a callable that gives an empty optional (or false) where it would throw.
struct no_raise_t {
  explicit no_raise_t() = default;
};
inline constexpr no_raise_t no_raise{};

namespace detail {

template <class R>
constexpr void check_result_type() {
  static_assert(std::is_void_v<R> || can_cross<R>,
                "pynisher: the function's result cannot cross between processes. Return a value that cereal can "
                "serialise (give your type a serialize() function); raw pointers, references into the child, "
                "string_view, shared_ptr and pointers to polymorphic classes cannot cross.");
  static_assert(std::is_void_v<R> || std::default_initializable<R>,
                "pynisher: the function's result type needs a default constructor: the value is rebuilt here "
                "from what the child sent.");
}

template <class F, class... A>
using result_of = std::remove_cvref_t<std::invoke_result_t<F&, A...>>;

/// What every form of a limited callable holds. Copyable when `F` is; the callable itself is never touched in
/// the parent, so that one object may be called from many threads.
template <class F>
class limited_base {
 public:
  limited_base(F fn, std::shared_ptr<const settings> checked)
      : fn_(std::move(fn)), settings_(std::move(checked)) {}

  /// The options as they were given.
  [[nodiscard]] const options& limits() const noexcept { return options_of(*settings_); }
  [[nodiscard]] bool supports(feature what) const { return pynisher::supports(what); }

 protected:
  /// Explained only where it failed.
  template <class... A>
  outcome<result_of<F, A...>> run(A&&... arguments) const {
    return decoded<result_of<F, A...>>(false, std::forward<A>(arguments)...);
  }
  template <class... A>
  outcome<result_of<F, A...>> run_explained(A&&... arguments) const {
    return decoded<result_of<F, A...>>(true, std::forward<A>(arguments)...);
  }
  template <class... A>
  call<result_of<F, A...>> begin(A&&... arguments) const {
    using R = result_of<F, A...>;
    check_result_type<R>();
    refuse_if_moved_from();
    invocation<R, F, A...> task(fn_, std::forward<A>(arguments)...);
    return call<R>(start_in_flight(settings_, task));
  }

 private:
  template <class R, class... A>
  outcome<R> decoded(bool explained, A&&... arguments) const {
    check_result_type<R>();
    refuse_if_moved_from();
    invocation<R, F, A...> task(fn_, std::forward<A>(arguments)...);
    arriving_value<R> come;
    value_receiver* receiver = nullptr;
    if constexpr (!std::is_void_v<R>) receiver = &come;
    raw_outcome raw = execute(*settings_, task, receiver);
    if (explained && !raw.error) raw.explanation = explain_return(raw.usage);
    return decode<R>(std::move(raw), std::move(come));
  }
  void refuse_if_moved_from() const {
    if (!settings_) throw std::invalid_argument("fn: this limited callable was moved from");
  }

  mutable F fn_;
  std::shared_ptr<const settings> settings_;
};

template <class R>
R value_or_throw(outcome<R> result) {
  return std::move(result).value();
}
inline void value_or_throw(const outcome<void>& result) { result.value(); }

/// Failures become "no value"; Ctrl-C stays what it is: a wish of the user's, not a failure of the call.
template <class R>
auto value_or_empty(outcome<R> result) {
  if (result.verdict() == verdict::cancelled) {
    try {
      if (result.error()) std::rethrow_exception(result.error());
    } catch (const KeyboardInterrupt&) {
      throw;
    } catch (...) {
    }
  }
  if constexpr (std::is_void_v<R>) {
    return result.has_value();
  } else {
    return std::move(result).to_optional();
  }
}

}  // namespace detail

/// A callable whose calls run in a child process under limits: see the head of this file.
/// `operator()` returns the function's result or throws; `try_call` never throws for what the child did; `start` comes
/// back at once with a `call`. All throw `std::bad_alloc` when the caller's own process has no memory left.
template <class F, class Signature = detail::signature_of_t<F>>
class limited : public detail::limited_base<F> {
 public:
  using detail::limited_base<F>::limited_base;

  template <class... A>
    requires std::invocable<F&, A...>
  auto operator()(A&&... arguments) const {
    return detail::value_or_throw(this->run(std::forward<A>(arguments)...));
  }
  template <class... A>
    requires std::invocable<F&, A...>
  auto try_call(A&&... arguments) const {
    return this->run_explained(std::forward<A>(arguments)...);
  }
  template <class... A>
    requires std::invocable<F&, A...>
  auto start(A&&... arguments) const {
    return this->begin(std::forward<A>(arguments)...);
  }
};

/// With one signature: parameters are the function's own, so that braces and conversions work.
template <class F, class R, class... A>
class limited<F, R(A...)> : public detail::limited_base<F> {
 public:
  using detail::limited_base<F>::limited_base;
  using result_type = std::remove_cvref_t<R>;

  result_type operator()(A... arguments) const {
    return detail::value_or_throw(this->run(std::forward<A>(arguments)...));
  }
  outcome<result_type> try_call(A... arguments) const { return this->run_explained(std::forward<A>(arguments)...); }
  call<result_type> start(A... arguments) const { return this->begin(std::forward<A>(arguments)...); }

  template <class... Fewer>
    requires detail::shorter_call<F, sizeof...(A), Fewer...>
  result_type operator()(Fewer&&... arguments) const {
    return detail::value_or_throw(this->run(std::forward<Fewer>(arguments)...));
  }
  template <class... Fewer>
    requires detail::shorter_call<F, sizeof...(A), Fewer...>
  outcome<result_type> try_call(Fewer&&... arguments) const {
    return this->run_explained(std::forward<Fewer>(arguments)...);
  }
  template <class... Fewer>
    requires detail::shorter_call<F, sizeof...(A), Fewer...>
  call<result_type> start(Fewer&&... arguments) const {
    return this->begin(std::forward<Fewer>(arguments)...);
  }
};

/// As `limited`, but a call that would throw gives an empty `std::optional`, or false where the function
/// returns nothing (true: it returned). Only `KeyboardInterrupt` is still thrown.
template <class F, class Signature = detail::signature_of_t<F>>
class limited_no_raise : public detail::limited_base<F> {
 public:
  using detail::limited_base<F>::limited_base;

  template <class... A>
    requires std::invocable<F&, A...>
  auto operator()(A&&... arguments) const {
    return detail::value_or_empty(this->run(std::forward<A>(arguments)...));
  }
  template <class... A>
    requires std::invocable<F&, A...>
  auto try_call(A&&... arguments) const {
    return this->run_explained(std::forward<A>(arguments)...);
  }
  template <class... A>
    requires std::invocable<F&, A...>
  auto start(A&&... arguments) const {
    return this->begin(std::forward<A>(arguments)...);
  }
};

template <class F, class R, class... A>
class limited_no_raise<F, R(A...)> : public detail::limited_base<F> {
 public:
  using detail::limited_base<F>::limited_base;
  using result_type = std::conditional_t<std::is_void_v<R>, bool, std::optional<std::remove_cvref_t<R>>>;

  result_type operator()(A... arguments) const {
    return detail::value_or_empty(this->run(std::forward<A>(arguments)...));
  }
  outcome<std::remove_cvref_t<R>> try_call(A... arguments) const {
    return this->run_explained(std::forward<A>(arguments)...);
  }
  call<std::remove_cvref_t<R>> start(A... arguments) const { return this->begin(std::forward<A>(arguments)...); }

  template <class... Fewer>
    requires detail::shorter_call<F, sizeof...(A), Fewer...>
  result_type operator()(Fewer&&... arguments) const {
    return detail::value_or_empty(this->run(std::forward<Fewer>(arguments)...));
  }
  template <class... Fewer>
    requires detail::shorter_call<F, sizeof...(A), Fewer...>
  outcome<std::remove_cvref_t<R>> try_call(Fewer&&... arguments) const {
    return this->run_explained(std::forward<Fewer>(arguments)...);
  }
  template <class... Fewer>
    requires detail::shorter_call<F, sizeof...(A), Fewer...>
  call<std::remove_cvref_t<R>> start(Fewer&&... arguments) const {
    return this->begin(std::forward<Fewer>(arguments)...);
  }
};

namespace detail {

template <template <class, class> class Limited, class F>
auto make_limited(F&& fn, options&& wanted) {
  using Callable = std::decay_t<F>;
  static_assert(!std::is_same_v<signature_of_t<Callable>, generic_signature> || std::is_class_v<Callable> ||
                    std::is_member_pointer_v<Callable> || std::is_function_v<std::remove_pointer_t<Callable>>,
                "pynisher: limit() needs something that can be called.");
  Callable callable(std::forward<F>(fn));
  if constexpr (may_be_empty<Callable>) {
    if (callable == nullptr) throw std::invalid_argument("fn: an empty function cannot be called");
  }
  using Signature = signature_of_t<Callable>;
  if constexpr (!std::is_same_v<Signature, generic_signature>) {
    check_result_type<std::remove_cvref_t<typename std::function<Signature>::result_type>>();
  }
  auto checked = validate(std::move(wanted));
  refuse_if_it_stays(*checked, why_it_stays<Callable, Signature>());
  return Limited<Callable, Signature>(std::move(callable), std::move(checked));
}

}  // namespace detail

/// Wraps `fn` (function, lambda, functor, `std::function`, member pointer; may be move-only). `fn` is copied or
/// moved into the result, which keeps its one signature, or stays generic.
/// Throws `std::invalid_argument`, naming option and value, for options that make no sense, and
/// `UnsupportedException` for what this machine cannot enforce.
template <class F>
[[nodiscard]] auto limit(F&& fn, options wanted = {}) {
  return detail::make_limited<limited>(std::forward<F>(fn), std::move(wanted));
}

/// The same without exceptions: see `limited_no_raise`.
template <class F>
[[nodiscard]] auto limit(F&& fn, options wanted, no_raise_t) {
  return detail::make_limited<limited_no_raise>(std::forward<F>(fn), std::move(wanted));
}

}  // namespace pynisher
