#pragma once

// From an item of the input to a call of the worker: what is packed, what the worker does with it, what comes back.

#include <concepts>
#include <cstddef>
#include <functional>
#include <ranges>
#include <tuple>
#include <type_traits>
#include <utility>

#include <pynisher/detail/callable.hpp>
#include <pynisher/detail/pool/core.hpp>
#include <pynisher/detail/travel.hpp>
#include <pynisher/detail/wire/types.hpp>

namespace pynisher::detail {

// --- fields of aggregates ---------------------------------------------------------------------------------------

struct any_field {
  template <class T>
  operator T() const;
};
template <class T, std::size_t... I>
consteval bool takes_fields(std::index_sequence<I...>) {
  return requires { T{((void)I, any_field())...}; };
}
inline constexpr std::size_t most_fields = 12;
template <class T, std::size_t count = most_fields>
consteval std::size_t field_count() {
  if constexpr (count == 0 || takes_fields<T>(std::make_index_sequence<count>())) {
    return count;
  } else {
    return field_count<T, count - 1>();
  }
}

/// References to the fields, in their order.
template <class T>
auto fields_of(T& value) {
  constexpr std::size_t count = field_count<std::remove_cv_t<T>>();
  static_assert(count > 0, "pynisher: passing::named spreads the fields of an aggregate with 1 to 12 fields");
#define PYNISHER_FIELDS_(number, ...) \
  if constexpr (count == number) {    \
    auto& [__VA_ARGS__] = value;      \
    return std::tie(__VA_ARGS__);     \
  }
  PYNISHER_FIELDS_(1, a)
  PYNISHER_FIELDS_(2, a, b)
  PYNISHER_FIELDS_(3, a, b, c)
  PYNISHER_FIELDS_(4, a, b, c, d)
  PYNISHER_FIELDS_(5, a, b, c, d, e)
  PYNISHER_FIELDS_(6, a, b, c, d, e, f)
  PYNISHER_FIELDS_(7, a, b, c, d, e, f, g)
  PYNISHER_FIELDS_(8, a, b, c, d, e, f, g, h)
  PYNISHER_FIELDS_(9, a, b, c, d, e, f, g, h, i)
  PYNISHER_FIELDS_(10, a, b, c, d, e, f, g, h, i, j)
  PYNISHER_FIELDS_(11, a, b, c, d, e, f, g, h, i, j, k)
  PYNISHER_FIELDS_(12, a, b, c, d, e, f, g, h, i, j, k, l)
#undef PYNISHER_FIELDS_
}

// --- the call -----------------------------------------------------------------------------------------------------

/// An argument as it is packed: itself, or what it is on arrival.
template <class P, class A>
decltype(auto) packed_as(const A& argument) {
  using held = typename argument_on_arrival<P>::held;
  if constexpr (std::is_same_v<A, held>) {
    if constexpr (std::is_polymorphic_v<held>) {
      if (typeid(argument) != typeid(held)) throw wire_error("an object of a derived class cannot be sent as its base");
    }
    return (argument);
  } else {
    return held(argument);
  }
}

/// The worker called with parameters `P`, each sent as what it holds on arrival.
template <class W, class... P>
struct worker_call {
  using result = std::remove_cvref_t<std::invoke_result_t<W&, typename argument_on_arrival<P>::given...>>;

  static void run(void* worker, input_archive& in, output_archive& reply) {
    std::tuple<typename argument_on_arrival<P>::held...> arguments;
    std::apply([&in](auto&... argument) { (in(argument), ...); }, arguments);
    in.expect_end();
    W& object = *static_cast<W*>(worker);
    std::apply(
        [&](auto&... argument) {
          if constexpr (std::is_void_v<result>) {
            std::invoke(object, argument_on_arrival<P>::give(argument)...);
          } else {
            const result& value = std::invoke(object, argument_on_arrival<P>::give(argument)...);
            begin_task_reply();
            reply(value);
          }
        },
        arguments);
  }
  static constexpr task_entry entry{task_entry::own_stamp, type_hash<worker_call>(), &run};

  template <class... A>
  static void pack(output_archive& out, const A&... arguments) {
    (out(packed_as<P>(arguments)), ...);
  }
};

template <class P, class A>
concept packs_as = argument_on_arrival<P>::possible && std::constructible_from < typename argument_on_arrival<P>::held,
const A& > ;

/// How the worker is called with arguments of these types: as its one signature says, or as they are; void: not at all.
template <class W, class Signature, class... A>
struct call_for {
  using type = void;
};
template <class W, class R, class... P, class... A>
requires(sizeof...(P) == sizeof...(A) && (packs_as<P, A> && ...)) struct call_for<W, R(P...), A...> {
  using type = worker_call<W, P...>;
};
template <class W, class... A>
concept callable_as_is =
    (argument_on_arrival<A>::possible && ...) && std::invocable<W&, typename argument_on_arrival<A>::given...>;

template <class W, class... A>
consteval auto choose_call() {
  using by_signature = typename call_for<W, signature_of_t<W>, A...>::type;
  if constexpr (!std::is_void_v<by_signature>) {
    return std::type_identity<by_signature>();
  } else if constexpr (callable_as_is<W, A...>) {
    return std::type_identity<worker_call<W, A...>>();
  } else {
    return std::type_identity<void>();
  }
}
template <class W, class... A>
using chosen_call = typename decltype(choose_call<W, A...>())::type;

// --- the three ways ---------------------------------------------------------------------------------------------

/// `call`: void where the worker cannot be called in this way with such an item.
template <class W, class Item>
struct pass_single {
  using call = chosen_call<W, Item>;
  static void pack(output_archive& out, const Item& item) { call::pack(out, item); }
};

template <class T>
concept tuple_like = requires {
  std::tuple_size<T>::value;
};

template <class W, class Item>
struct pass_unpacked {
  using call = void;
};
template <class W, tuple_like Item>
struct pass_unpacked<W, Item> {
  template <std::size_t... I>
  static auto choose(std::index_sequence<I...>)
      -> std::type_identity<chosen_call<W, std::remove_cvref_t<std::tuple_element_t<I, Item>>...>>;
  using call = typename decltype(choose(std::make_index_sequence<std::tuple_size_v<Item>>()))::type;
  static void pack(output_archive& out, const Item& item) {
    std::apply([&out](const auto&... element) { call::pack(out, element...); }, item);
  }
};

template <class W, class Item>
struct pass_named {
  using call = void;
};
template <class W, class Item>
requires(std::is_aggregate_v<Item>&& std::is_class_v<Item> && !tuple_like<Item> &&
         field_count<Item>() > 0) struct pass_named<W, Item> {
  template <class... T>
  static auto choose(std::type_identity<std::tuple<T...>>)
      -> std::type_identity<chosen_call<W, std::remove_cvref_t<T>...>>;
  using call = typename decltype(choose(std::type_identity<decltype(fields_of(std::declval<const Item&>()))>()))::type;
  static void pack(output_archive& out, const Item& item) {
    std::apply([&out](const auto&... field) { call::pack(out, field...); }, fields_of(item));
  }
};

/// What maps over such items give.
template <class W, class Item>
consteval auto choose_result() {
  if constexpr (!std::is_void_v<typename pass_single<W, Item>::call>) {
    return std::type_identity<typename pass_single<W, Item>::call::result>();
  } else if constexpr (!std::is_void_v<typename pass_unpacked<W, Item>::call>) {
    return std::type_identity<typename pass_unpacked<W, Item>::call::result>();
  } else if constexpr (!std::is_void_v<typename pass_named<W, Item>::call>) {
    return std::type_identity<typename pass_named<W, Item>::call::result>();
  } else {
    static_assert(
        !std::is_void_v<typename pass_single<W, Item>::call>,
        "pynisher: the worker cannot be called with these items: as they are, unpacked (tuples, pairs, arrays) or "
        "by the fields of an aggregate. Items must be values that cereal can serialise and that have a default "
        "constructor.");
  }
}
template <class W, class Item>
using map_result_of = typename decltype(choose_result<W, Item>())::type;

/// Chosen when the map begins.
template <class Item>
struct item_way {
  const task_entry* entry = nullptr;  ///< null: it cannot be done
  void (*pack)(output_archive& out, const Item& item) = nullptr;
};
template <class W, class R, class Item>
item_way<Item> way_for(passing how) {
  const auto way = []<class Way>(std::type_identity<Way>) -> item_way<Item> {
    if constexpr (!std::is_void_v<typename Way::call>) {
      if constexpr (std::is_same_v<typename Way::call::result, R>) return {&Way::call::entry, &Way::pack};
    }
    return {};
  };
  switch (how) {
    case passing::single:
      return way(std::type_identity<pass_single<W, Item>>());
    case passing::unpack:
      return way(std::type_identity<pass_unpacked<W, Item>>());
    case passing::named:
      return way(std::type_identity<pass_named<W, Item>>());
  }
  return {};
}

}  // namespace pynisher::detail
