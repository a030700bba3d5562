#pragma once

// A process that stays: its globals are its own, and are kept from call to call.
//
//     auto iso = pynisher::isolate::create({.name = "worker", .limits = {.memory = 1_GiB}});
//     iso.call(prepare, path);                       // state stays in the isolate's own globals
//     int n = iso.call(count_words, "spam");         // the value, or the same exception, as with limit()
//     auto pending = iso.start(count_words, text);   // call<int>
//     iso.set("spam", 42);
//     iso.get<int>("spam");
//     iso.close();
//
// What is called, and with what, is sent: see "Start methods" for what can be.

#include <array>
#include <chrono>
#include <concepts>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <pynisher/call.hpp>
#include <pynisher/channel_errors.hpp>
#include <pynisher/detail/decode.hpp>
#include <pynisher/detail/in_flight.hpp>
#include <pynisher/detail/travel.hpp>
#include <pynisher/exceptions.hpp>
#include <pynisher/options.hpp>
#include <pynisher/outcome.hpp>
#include <pynisher/output.hpp>

namespace pynisher {

/// An isolate cannot do what it is asked for: it is running, closed, or not one to be closed.
class IsolateError : public PynisherException, public std::runtime_error {
 public:
  explicit IsolateError(const std::string& what) : std::runtime_error(what) {}
  [[nodiscard]] const char* what() const noexcept override { return std::runtime_error::what(); }
};
/// It was closed.
class IsolateNotFoundError : public IsolateError {
 public:
  using IsolateError::IsolateError;
};
/// Its process has ended by itself, or was ended by a limit or from outside; the text says how.
class IsolateDiedError : public IsolateError {
 public:
  using IsolateError::IsolateError;
};
/// A text could not be compiled; the compiler's own words.
class SourceError : public PynisherException, public std::runtime_error {
 public:
  explicit SourceError(const std::string& what) : std::runtime_error(what) {}
  [[nodiscard]] const char* what() const noexcept override { return std::runtime_error::what(); }
};
/// A library could not be opened in the isolate, or has no such symbol.
class LoadError : public PynisherException, public std::runtime_error {
 public:
  explicit LoadError(const std::string& what) : std::runtime_error(what) {}
  [[nodiscard]] const char* what() const noexcept override { return std::runtime_error::what(); }
};

struct isolate_options {
  /// As in `ps` and `top`, and in messages.
  std::string name{};
  /// For the isolate's whole life. `wall_time` and `cpu_time` too: what is meant for one call is given to that call.
  options limits{};
  start_method context = start_method::automatic;
  /// A second call at the same time waits for its turn, in the order in which they came, and its limits count from then
  /// on; without, it is an `IsolateError`.
  bool queued = false;
  /// Where its standard output and its standard error go; the program's own unless said otherwise.
  output out{};
  output err{};
};

namespace detail {

class isolate_core;
struct isolate_lease;
class capture_session;

/// A value on its way to a name, or kept under one.
struct named_value {
  std::string type;
  std::vector<std::byte> bytes;
  /// Of what it holds besides bytes; zeros: nothing. That stays for as long as a process that keeps the value.
  std::array<std::uint64_t, 2> key{};
  std::shared_ptr<void> custody{};

  template <class Archive>
  void serialize(Archive& archive) {
    archive(type, bytes, key[0], key[1]);
  }
};
named_value pack_named(const std::string& type, const std::function<void(output_archive&)>& write);

template <class T>
using kept_type = std::conditional_t<is_c_string<T>, std::string, std::decay_t<T>>;

template <class T>
named_value pack_value(const T& value) {
  static_assert(
      sendable<kept_type<T>>,
      "pynisher: this value cannot be kept by an isolate. Give it a type that cereal can serialise and that has "
      "a default constructor.");
  const kept_type<T>& kept = value;
  return pack_named(demangled_name(typeid(kept_type<T>)), [&kept](output_archive& out) { out(kept); });
}

}  // namespace detail

/// A handle: cheap to copy, equal by id. The last handle closes the isolate. Handles and isolates may be used from any
/// thread; one call at a time runs in each isolate.
class isolate {
 public:
  /// Starts a process. Throws what `limit` throws for options that make no sense or cannot be enforced, and
  /// `StartException`.
  [[nodiscard]] static isolate create(isolate_options wanted = {});
  /// All that this process has made and that are alive, main first.
  [[nodiscard]] static std::vector<isolate> list_all();
  /// The isolate in which this is called; main outside of one.
  [[nodiscard]] static isolate current();
  /// The program itself: id 0.
  [[nodiscard]] static isolate main();

  /// Rises with each isolate, and is never used again. The program counts 1, 2, 3 ...; isolates that are made in other
  /// processes of its tree have far larger ones.
  [[nodiscard]] std::int64_t id() const;
  [[nodiscard]] std::string name() const;
  [[nodiscard]] std::int64_t pid() const;
  /// A call is running in it.
  [[nodiscard]] bool is_running() const;
  [[nodiscard]] bool is_alive() const;
  /// Lets it end. Throws `IsolateError` while it is running, for main and from within; `IsolateNotFoundError` a second
  /// time.
  void close();
  /// Ends it at once, with all that it has started, whatever it is doing.
  void kill();
  /// It goes on when the last handle goes, until it is closed or the program ends.
  void detach();
  /// True: its process has ended.
  template <class Rep, class Period>
  bool wait_for(std::chrono::duration<Rep, Period> time) const {
    return wait_until(std::chrono::steady_clock::now() + std::chrono::ceil<std::chrono::steady_clock::duration>(time));
  }
  /// What its process has used so far, or had when it ended. While it lives, `user_time` holds all CPU time.
  [[nodiscard]] pynisher::usage usage() const;
  /// Another process, with the same id and options; names and globals begin anew.
  void reset();
  /// Another isolate, which begins with all that this one has in memory; its limits begin anew. Throws `IsolateError`
  /// while a call runs, and where it cannot be copied: more than one thread runs in it.
  [[nodiscard]] isolate clone() const;

  /// Calls `fn(args...)` there. The value, or the exception that it threw.
  /// Throws `IsolateError` while another call runs, `IsolateNotFoundError` after it was closed, `IsolateDiedError` when
  /// it has died or dies now.
  template <class F, class... A>
  requires(!std::same_as<std::decay_t<F>, options>) auto call(F fn, A&&... arguments) {
    return call(options{}, std::move(fn), std::forward<A>(arguments)...);
  }
  /// The same with limits for this one call: `wall_time`, `cpu_time`, `stop`. Reaching one ends the isolate.
  template <class F, class... A>
  auto call(const options& limits, F fn, A&&... arguments) {
    return ended_call(false, limits, std::move(fn), std::forward<A>(arguments)...).value();
  }
  /// As an outcome: does not throw for what the function or its process did.
  template <class F, class... A>
  requires(!std::same_as<std::decay_t<F>, options>) auto try_call(F fn, A&&... arguments) {
    return try_call(options{}, std::move(fn), std::forward<A>(arguments)...);
  }
  template <class F, class... A>
  auto try_call(const options& limits, F fn, A&&... arguments) {
    return ended_call(true, limits, std::move(fn), std::forward<A>(arguments)...);
  }
  /// Comes back at once. Dropping or cancelling the call while it runs ends the isolate.
  template <class F, class... A>
  requires(!std::same_as<std::decay_t<F>, options>) auto start(F fn, A&&... arguments) {
    return start(options{}, std::move(fn), std::forward<A>(arguments)...);
  }
  template <class F, class... A>
  auto start(const options& limits, F fn, A&&... arguments) {
    return with_task(
        fn, std::type_identity<detail::signature_of_t<F>>(),
        [&]<class R>(std::type_identity<R>, const detail::child_task& task) {
          return pynisher::call<R>(begin(limits, task));
        },
        std::forward<A>(arguments)...);
  }
  /// Opens a shared library there and calls its `extern "C" int symbol()`. Throws `LoadError`.
  int exec(const std::string& library, const std::string& symbol = "pynisher_main");
  /// Compiles a text of C++20 that defines `extern "C" int pynisher_main()`, opens what comes of it there, and calls
  /// it. The same text is compiled once for all programs of this user; opened again it keeps its globals. `flags`: for
  /// the compiler, after the library's own. The compiler: `$CXX`, else `c++`, `g++` or `clang++`. Throws `SourceError`
  /// with what the compiler says, `LoadError`, `UnsupportedException` where there is no compiler. For a text that uses this
  /// library, `flags` need `-I`, and the program has to be linked with `-rdynamic` (CMake: ENABLE_EXPORTS).
  int exec_source(const std::string& text, const std::vector<std::string>& flags = {});

  /// Keeps a value under a name, there. Within the isolate: `isolate::current().get<int>("spam")`.
  template <class T>
  void set(const std::string& name, const T& value) {
    set_packed({{name, detail::pack_value(value)}});
  }
  /// All or none.
  class binding {
   public:
    template <class T>
    binding(std::string name, const T& value) : name_(std::move(name)), value_(detail::pack_value(value)) {}

   private:
    friend class isolate;
    std::string name_;
    detail::named_value value_;
  };
  void set_all(std::initializer_list<binding> bindings);
  /// Throws `std::out_of_range` for a name that is not set, `NotShareableError` for a value of another type.
  template <class T>
  [[nodiscard]] T get(const std::string& name) const {
    auto found = get_packed(name);
    if (!found) throw std::out_of_range("isolate: nothing is kept under the name \"" + name + '"');
    return unpack<T>(name, *found);
  }
  template <class T>
  [[nodiscard]] T get_or(const std::string& name, T otherwise) const {
    auto found = get_packed(name);
    return found ? unpack<T>(name, *found) : std::move(otherwise);
  }
  [[nodiscard]] std::vector<std::string> names() const;
  /// True: there was one.
  bool erase(const std::string& name);
  /// Forgets all names.
  void reset_main();

  friend bool operator==(const isolate& a, const isolate& b) { return a.id() == b.id(); }

 private:
  friend struct detail::isolate_lease;
  friend class detail::capture_session;
  explicit isolate(std::shared_ptr<detail::isolate_lease> lease) : lease_(std::move(lease)) {}

  /// Calls `then` with a task for `fn(arguments...)`, the arguments being what its one signature says.
  template <class F, class R, class... P, class Then, class... A>
  static auto with_task(F& fn, std::type_identity<R(P...)> /*signature*/, Then then, A&&... arguments) {
    if constexpr (sizeof...(A) == sizeof...(P)) {
      return [&](P... converted) {
        return made_for<std::remove_cvref_t<R>, F, P...>(fn, then, std::forward<P>(converted)...);
      }(std::forward<A>(arguments)...);
    } else {
      return with_task(fn, std::type_identity<detail::generic_signature>(), then, std::forward<A>(arguments)...);
    }
  }
  template <class F, class Then, class... A>
  static auto with_task(F& fn, std::type_identity<detail::generic_signature> /*none or many*/, Then then,
                        A&&... arguments) {
    using R = std::remove_cvref_t<std::invoke_result_t<F&, A...>>;
    return made_for<R, F, A...>(fn, then, std::forward<A>(arguments)...);
  }
  template <class R, class F, class... P, class Then>
  static auto made_for(F& fn, Then& then, P&&... arguments) {
    static_assert(std::is_void_v<R> || detail::sendable<R>,
                  "pynisher: the function's result cannot cross between processes. Return a value that cereal can "
                  "serialise and that has a default constructor.");
    static_assert(
        detail::call_travels<F, P...>,
        "pynisher: an isolate does not share this process's memory: it calls functions, lambdas without captures "
        "and functors that cereal can serialise, with arguments that cereal can serialise and that have a "
        "default constructor.");
    const detail::invocation<R, F, P...> task(fn, std::forward<P>(arguments)...);
    return then(std::type_identity<R>(), task);
  }
  template <class T>
  static T unpack(const std::string& name, const detail::named_value& found) {
    check_type(name, found, detail::demangled_name(typeid(T)));
    detail::input_archive in(found.bytes.data(), found.bytes.size());
    T value{};
    try {
      in(value);
    } catch (const detail::wire_error& e) {
      throw NotShareableError("what is kept under the name \"" + name + "\" cannot be had: " + e.what());
    }
    return value;
  }
  static void check_type(const std::string& name, const detail::named_value& found, const std::string& wanted);

  /// `measured`: what has returned a value, too; it is not cheap beside a short call.
  template <class F, class... A>
  auto ended_call(bool measured, const options& limits, F fn, A&&... arguments) {
    return with_task(
        fn, std::type_identity<detail::signature_of_t<F>>(),
        [&]<class R>(std::type_identity<R>, const detail::child_task& task) {
          return detail::decode<R>(run(limits, task, measured));
        },
        std::forward<A>(arguments)...);
  }
  [[nodiscard]] detail::raw_outcome run(const options& limits, const detail::child_task& task, bool measured);
  [[nodiscard]] std::unique_ptr<detail::call_in_flight> begin(const options& limits, const detail::child_task& task);
  void set_packed(std::vector<std::pair<std::string, detail::named_value>> values);
  [[nodiscard]] std::optional<detail::named_value> get_packed(const std::string& name) const;
  bool wait_until(std::chrono::steady_clock::time_point until) const;

  std::shared_ptr<detail::isolate_lease> lease_;
};

}  // namespace pynisher

template <>
struct std::hash<pynisher::isolate> {
  std::size_t operator()(const pynisher::isolate& which) const { return std::hash<std::int64_t>()(which.id()); }
};
