#pragma once

// How a call gets into a process that does not share the caller's memory: a child of `spawn` or of the forkserver.
//
// The call's types are compiled into the program, so what travels is the place of a `call_entry` in the program's (or a
// library's) data, the callable's own value, and the arguments. The other process finds the entry again by that place,
// checks that it is one, and has the rest unpacked by it.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <variant>

#include <pynisher/detail/callable.hpp>
#include <pynisher/detail/execute.hpp>
#include <pynisher/detail/wire/types.hpp>

namespace pynisher::detail {

// --- what can travel ----------------------------------------------------------------------------------------

/// What is received is made first and then read, and so is whatever it holds.
template <class T>
struct can_be_made : std::bool_constant<std::default_initializable<T>> {};
template <class T>
  requires requires { typename T::value_type; } && (!std::is_same_v<typename T::value_type, T>)
struct can_be_made<T>
    : std::bool_constant<std::default_initializable<T> && can_be_made<std::remove_cv_t<typename T::value_type>>::value> {};
template <class T, class D>
struct can_be_made<std::unique_ptr<T, D>> : can_be_made<T> {};
template <class A, class B>
struct can_be_made<std::pair<A, B>>
    : std::bool_constant<can_be_made<std::remove_cv_t<A>>::value && can_be_made<std::remove_cv_t<B>>::value> {};
template <class... T>
struct can_be_made<std::tuple<T...>> : std::bool_constant<(can_be_made<T>::value && ...)> {};
template <class... T>
struct can_be_made<std::variant<T...>> : std::bool_constant<(can_be_made<T>::value && ...)> {};

/// Ends of channels, queues, and what of the standard library's holds them.
template <class T>
struct may_hold_ends : std::false_type {};
template <class T>
  requires requires { typename T::value_type; } && (!std::is_same_v<typename T::value_type, T>)
struct may_hold_ends<T> : may_hold_ends<std::remove_cv_t<typename T::value_type>> {};
template <class T, class D>
struct may_hold_ends<std::unique_ptr<T, D>> : may_hold_ends<T> {};
template <class A, class B>
struct may_hold_ends<std::pair<A, B>>
    : std::bool_constant<may_hold_ends<std::remove_cv_t<A>>::value || may_hold_ends<std::remove_cv_t<B>>::value> {};
template <class... T>
struct may_hold_ends<std::tuple<T...>> : std::bool_constant<(may_hold_ends<T>::value || ...)> {};
template <class... T>
struct may_hold_ends<std::variant<T...>> : std::bool_constant<(may_hold_ends<T>::value || ...)> {};

template <class T>
concept sendable = can_cross<T> && can_be_made<T>::value;

template <class A>
inline constexpr bool is_c_string = std::is_same_v<std::decay_t<A>, const char*> || std::is_same_v<std::decay_t<A>, char*>;

/// An argument as its receiver holds it, and as the function gets it.
template <class A>
struct argument_on_arrival {
  using held = std::decay_t<A>;
  using given = A&&;
  static constexpr bool possible = sendable<held>;
  static const held& packed(const held& argument) {
    if constexpr (std::is_polymorphic_v<held>) {
      if (typeid(argument) != typeid(held)) throw wire_error("an object of a derived class cannot be sent as its base");
    }
    return argument;
  }
  static given give(held& value) { return static_cast<given>(value); }
};
/// An array of characters stays one, whether there is a zero at its end or not.
template <class A>
  requires is_c_string<A> && std::is_array_v<std::remove_reference_t<A>>
struct argument_on_arrival<A> {
  using held = std::string;
  using given = A&&;
  static constexpr bool possible = true;
  static constexpr std::size_t size = std::extent_v<std::remove_reference_t<A>>;
  static held packed(const char (&argument)[size]) { return held(argument, size); }
  static given give(held& value) {
    value.resize(size);
    return static_cast<given>(*reinterpret_cast<std::remove_reference_t<A>*>(value.data()));
  }
};
template <class A>
  requires is_c_string<A> && (!std::is_array_v<std::remove_reference_t<A>>)
struct argument_on_arrival<A> {
  using held = std::string;
  using given = std::decay_t<A>;
  static constexpr bool possible = true;
  static held packed(const char* argument) {
    if (argument == nullptr) throw wire_error("a null pointer to characters cannot be sent");
    return argument;
  }
  static given give(held& value) { return value.data(); }
};
template <class A>
  requires std::is_same_v<std::decay_t<A>, std::string_view>
struct argument_on_arrival<A> {
  using held = std::string;
  using given = std::string_view;
  static constexpr bool possible = true;
  static held packed(std::string_view argument) { return held(argument); }
  static given give(held& value) { return value; }
};

template <class F>
concept function_pointer = std::is_pointer_v<F> && std::is_function_v<std::remove_pointer_t<F>>;
/// Functors and lambdas without captures.
template <class F>
concept stateless = std::is_class_v<F> && std::is_empty_v<F> && std::default_initializable<F>;

template <class F>
inline constexpr bool callable_travels =
    function_pointer<F> || std::is_member_pointer_v<F> || stateless<F> || (std::is_class_v<F> && sendable<F>);

template <class F, class... A>
inline constexpr bool call_travels = [] {
  if constexpr (callable_travels<F> && (argument_on_arrival<A>::possible && ...)) {
    return std::is_invocable_v<F&, typename argument_on_arrival<A>::given...>;
  } else {
    return false;
  }
}();

/// Why calls of `F` cannot be sent; null: they can, or that is not known before the arguments are.
template <class F, class Signature>
constexpr const char* why_it_stays() {
  if constexpr (!callable_travels<F>) {
    return "a callable with captures or other state cannot be sent to a process that is started afresh: pass what it "
           "captures as arguments, or make it a class with a default constructor that cereal can serialise, or use "
           "context = fork";
  } else if constexpr (std::is_same_v<Signature, generic_signature>) {
    return nullptr;
  } else {
    return []<class R, class... A>(std::type_identity<R(A...)>) -> const char* {
      // As `limited` hands them on.
      if constexpr (call_travels<F, A...>) {
        return nullptr;
      } else {
        return "an argument of this function cannot be sent to a process that is started afresh: take values that "
               "cereal can serialise and that have a default constructor, or use context = fork";
      }
    }(std::type_identity<Signature>());
  }
}

/// Throws `std::invalid_argument` where `limits` ask for a process that is started afresh and there is a reason against.
void refuse_if_it_stays(const settings& limits, const char* why);

// --- places in code and data ----------------------------------------------------------------------------------

/// A function by the program or library that it is in (by build) and its offset there. Reading one throws
/// `wire_error` where there is no such function in this process.
void write_function(output_archive& out, const void* function);
const void* read_function(input_archive& in);
/// A pointer to a member function, which may hold the address of one.
void write_member_function(output_archive& out, const void* pointer, std::size_t size);
void read_member_function(input_archive& in, void* pointer, std::size_t size);

template <class F>
void write_callable([[maybe_unused]] output_archive& out, [[maybe_unused]] const F& fn) {
  if constexpr (function_pointer<F>) {
    write_function(out, reinterpret_cast<const void*>(fn));
  } else if constexpr (std::is_member_function_pointer_v<F>) {
    write_member_function(out, &fn, sizeof fn);
  } else if constexpr (std::is_member_object_pointer_v<F>) {
    out.write(&fn, sizeof fn);
  } else if constexpr (!stateless<F>) {
    out(fn);
  }
}

template <class F>
F read_callable(input_archive& in) {
  if constexpr (function_pointer<F>) {
    return reinterpret_cast<F>(reinterpret_cast<std::uintptr_t>(read_function(in)));
  } else {
    F fn{};
    if constexpr (std::is_member_function_pointer_v<F>) {
      read_member_function(in, &fn, sizeof fn);
    } else if constexpr (std::is_member_object_pointer_v<F>) {
      in.read(&fn, sizeof fn);
    } else if constexpr (!stateless<F>) {
      in(fn);
    }
    return fn;
  }
}

// --- entries --------------------------------------------------------------------------------------------------

struct call_entry {
  static constexpr std::uint64_t own_stamp = 0x7265'6873'696e'7970;

  std::uint64_t stamp;
  std::uint64_t type;  ///< a hash of the call's types
  std::unique_ptr<child_task> (*unpack)(input_archive& in);
};

// The two ends are the same program: the hash need not be the same by another compiler.
#if defined(_MSC_VER)
#define PYNISHER_SIGNATURE_ __FUNCSIG__
#else
#define PYNISHER_SIGNATURE_ __PRETTY_FUNCTION__
#endif
template <class T>
consteval std::uint64_t type_hash() {
  std::uint64_t hash = 0xcbf2'9ce4'8422'2325;
  for (const char c : std::string_view(PYNISHER_SIGNATURE_)) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100'0000'01b3;
  return hash;
}
#undef PYNISHER_SIGNATURE_

/// Calls the function and writes its result, in the child.
template <class R, class F, class Arguments>
void call_and_reply(F& fn, Arguments&& arguments, output_archive& reply) {
  if constexpr (std::is_void_v<R>) {
    std::apply(fn, std::forward<Arguments>(arguments));
    begin_reply();
  } else {
    const R& result = std::apply(fn, std::forward<Arguments>(arguments));
    begin_reply();
    reply(result);
  }
}

/// A call that has arrived.
template <class R, class F, class... A>
class arrived_call final : public child_task {
 public:
  explicit arrived_call(input_archive& in) : fn_(read_callable<F>(in)) {
    std::apply([&in](auto&... argument) { (in(argument), ...); }, arguments_);
  }
  void run(output_archive& reply) override {
    std::apply(
        [&](auto&... argument) {
          call_and_reply<R>(fn_, std::tuple<typename argument_on_arrival<A>::given...>(argument_on_arrival<A>::give(argument)...),
                            reply);
        },
        arguments_);
  }
  [[nodiscard]] call_name name() const override { return name_of_call(fn_, arguments_); }
  [[nodiscard]] const call_entry* entry() const override { return nullptr; }
  void pack(output_archive& /*out*/) const override {}

  static std::unique_ptr<child_task> unpack(input_archive& in) { return std::make_unique<arrived_call>(in); }

 private:
  F fn_;
  std::tuple<typename argument_on_arrival<A>::held...> arguments_;
};

template <class R, class F, class... A>
inline constexpr call_entry entry_of{call_entry::own_stamp, type_hash<arrived_call<R, F, A...>>(),
                                     &arrived_call<R, F, A...>::unpack};

/// One call: the callable, and references to its arguments, both in the caller's frame.
template <class R, class F, class... A>
class invocation final : public child_task {
 public:
  invocation(F& fn, A&&... arguments) : fn_(fn), arguments_(std::forward<A>(arguments)...) {}

  void run(output_archive& reply) override { call_and_reply<R>(fn_, std::move(arguments_), reply); }
  [[nodiscard]] call_name name() const override { return name_of_call(fn_, arguments_); }
  [[nodiscard]] const call_entry* entry() const override {
    if constexpr (call_travels<F, A...>) {
      return &entry_of<R, F, A...>;
    } else {
      return nullptr;
    }
  }
  void pack([[maybe_unused]] output_archive& out) const override {
    if constexpr (call_travels<F, A...>) {
      write_callable(out, fn_);
      std::apply([&out](const auto&... argument) { (out(argument_on_arrival<A>::packed(argument)), ...); }, arguments_);
    }
  }
  void pack_ends(output_archive& out) const override {
    std::apply([&out](const auto&... argument) { (pack_ends_of<A>(out, argument), ...); }, arguments_);
  }

 private:
  template <class Argument>
  static void pack_ends_of([[maybe_unused]] output_archive& out, [[maybe_unused]] const std::decay_t<Argument>& value) {
    if constexpr (may_hold_ends<std::decay_t<Argument>>::value && sendable<std::decay_t<Argument>>) out(value);
  }

  F& fn_;
  std::tuple<A&&...> arguments_;
};

// --- functions of the forkserver's ----------------------------------------------------------------------------

template <class F>
class arrived_preload final : public child_task {
 public:
  explicit arrived_preload(input_archive& in) : fn_(read_callable<F>(in)) {}
  void run(output_archive& /*reply*/) override { fn_(); }
  [[nodiscard]] call_name name() const override { return name_of_call(fn_, std::tuple<>()); }
  [[nodiscard]] const call_entry* entry() const override { return nullptr; }
  void pack(output_archive& /*out*/) const override {}

  static std::unique_ptr<child_task> unpack(input_archive& in) { return std::make_unique<arrived_preload>(in); }

 private:
  F fn_;
};

template <class F>
inline constexpr call_entry preload_entry_of{call_entry::own_stamp, type_hash<arrived_preload<F>>(),
                                             &arrived_preload<F>::unpack};

}  // namespace pynisher::detail
