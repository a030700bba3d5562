#pragma once

// What a worker is made of: its arguments, or the function that it is.

#include <concepts>
#include <cstddef>
#include <deque>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <pynisher/detail/pool/core.hpp>
#include <pynisher/detail/travel.hpp>

namespace pynisher::detail {

template <class T>
struct kept_as : std::type_identity<T> {};
template <class T>
requires is_c_string<T> || std::is_same_v<T, std::string_view>
struct kept_as<T> : std::type_identity<std::string> {
};
template <class... T>
struct kept_as<std::tuple<T...>> : std::type_identity<std::tuple<typename kept_as<T>::type...>> {};
/// An argument as the pool keeps it: characters as a string, in a tuple too; anything else as what it is.
template <class A>
using kept_argument = typename kept_as<std::decay_t<A>>::type;

/// A copy, for a worker of its own; what cannot be copied is taken, as a process has its own of everything.
template <class T>
T own_copy(T& kept) {
  if constexpr (std::copy_constructible<T>) {
    return kept;
  } else {
    return std::move(kept);
  }
}

template <class T>
struct is_tuple : std::false_type {};
template <class... T>
struct is_tuple<std::tuple<T...>> : std::true_type {};

/// A worker's own arguments as a tuple: one that is a tuple is spread.
template <class T>
auto spread(T& own) {
  if constexpr (is_tuple<T>::value) {
    return std::apply([](auto&... each) { return std::make_tuple(own_copy(each)...); }, own);
  } else {
    return std::tuple<T>(own_copy(own));
  }
}

template <class Tuple>
inline constexpr bool copies = std::copy_constructible<Tuple>;

/// Makes `W(shared..., own...)`. `Own`: void where workers have nothing of their own.
template <class W, class Shared, class Own>
class object_factory final : public worker_factory {
 public:
  using kept_own = std::conditional_t<std::is_void_v<Own>, std::tuple<>, Own>;
  static constexpr bool travels = sendable<Shared> && sendable<kept_own>;

  object_factory() = default;
  object_factory(Shared shared, std::vector<kept_own> own)
      : shared_(std::move(shared)), own_(std::make_move_iterator(own.begin()), std::make_move_iterator(own.end())) {}

  void make(unsigned number, const std::function<void(void*)>& serve) override {
    if constexpr (std::is_void_v<Own>) {
      construct(std::apply([](auto&... each) { return std::make_tuple(own_copy(each)...); }, shared_), serve);
    } else {
      construct(std::tuple_cat(std::apply([](auto&... each) { return std::make_tuple(own_copy(each)...); }, shared_),
                               spread(own_.at(is_for_one_ ? 0 : number))),
                serve);
    }
  }
  [[nodiscard]] call_name name() const override {
    call_name name;
    name.type = &typeid(W);
    return name;
  }
  [[nodiscard]] const call_entry* entry() const override;
  void pack_for([[maybe_unused]] unsigned number, [[maybe_unused]] output_archive& out) const override {
    if constexpr (travels) {
      out(shared_);
      if constexpr (!std::is_void_v<Own>) out(own_.at(number));
    }
  }
  void pack_ends_for([[maybe_unused]] unsigned number, [[maybe_unused]] output_archive& out) const override {
    if constexpr (may_hold_ends<Shared>::value && sendable<Shared>) out(shared_);
    if constexpr (may_hold_ends<kept_own>::value && sendable<kept_own>) out(own_.at(number));
  }
  static std::unique_ptr<child_task> unpack([[maybe_unused]] input_archive& in) {
    auto arrived = std::make_unique<object_factory>();
    if constexpr (travels) {
      in(arrived->shared_);
      if constexpr (!std::is_void_v<Own>) in(arrived->own_.emplace_back());
      arrived->is_for_one_ = true;
    }
    return arrived;
  }

 private:
  template <class Arguments>
  static void construct(Arguments arguments, const std::function<void(void*)>& serve) {
    std::apply(
        [&serve]<class... A>(A&... each) {
          if constexpr (std::constructible_from<W, A...>) {
            W worker(std::move(each)...);
            serve(&worker);
          } else {
            static_assert(
                requires { W{std::move(each)...}; },
                "pynisher: the worker cannot be constructed from the shared arguments followed by its own.");
            W worker{std::move(each)...};
            serve(&worker);
          }
        },
        arguments);
  }

  Shared shared_;
  std::deque<kept_own> own_;  ///< of each worker
  bool is_for_one_ = false;   ///< as it has arrived in a worker
};
template <class Factory>
inline constexpr call_entry factory_entry_of{call_entry::own_stamp, type_hash<Factory>(), &Factory::unpack};
template <class W, class Shared, class Own>
const call_entry* object_factory<W, Shared, Own>::entry() const {
  if constexpr (travels) {
    return &factory_entry_of<object_factory>;
  } else {
    return nullptr;
  }
}

/// The worker is a callable, which is copied.
template <class F>
class function_factory final : public worker_factory {
 public:
  explicit function_factory(F fn) : fn_(std::move(fn)) {}

  void make(unsigned /*number*/, const std::function<void(void*)>& serve) override {
    F worker = own_copy(fn_);
    serve(&worker);
  }
  [[nodiscard]] call_name name() const override { return name_of_call(fn_, std::tuple<>()); }
  [[nodiscard]] const call_entry* entry() const override;
  void pack_for(unsigned /*number*/, [[maybe_unused]] output_archive& out) const override {
    if constexpr (callable_travels<F>) write_callable(out, fn_);
  }
  static std::unique_ptr<child_task> unpack(input_archive& in) {
    return std::make_unique<function_factory>(read_callable<F>(in));
  }

 private:
  F fn_;
};
template <class F>
const call_entry* function_factory<F>::entry() const {
  if constexpr (callable_travels<F>) {
    return &factory_entry_of<function_factory>;
  } else {
    return nullptr;
  }
}

}  // namespace pynisher::detail
