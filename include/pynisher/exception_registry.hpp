#pragma once

// Teaching the library an exception type, so that it arrives as itself.
//
//     struct NotFitted : std::runtime_error {
//       using std::runtime_error::runtime_error;      // constructible from what(): enough
//     };
//     PYNISHER_EXCEPTION(NotFitted);                  // at namespace scope, in a header or a source
//
//     struct ParseError : std::runtime_error {        // with fields: cereal carries them
//       int line = 0;
//       explicit ParseError(const std::string& text, int at = 0) : runtime_error(text), line(at) {}
//       template <class Archive> void serialize(Archive& ar) { ar(line); }
//     };
//     PYNISHER_EXCEPTION(ParseError);
//
// The standard's own exceptions, this library's, and `int`, `std::string`, `const char*` thrown raw are known
// from the start. What is not known arrives as its nearest known base.

#include <atomic>
#include <concepts>
#include <exception>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <utility>

#include <pynisher/detail/wire/types.hpp>
#include <pynisher/exceptions.hpp>

namespace pynisher {

namespace detail {

/// How one exception type crosses. Entries are never removed, so a child finds them without a lock.
struct exception_codec {
  const std::type_info* type;
  /// Writes the fields of the exception in flight; false if it is no (unambiguous, public) `type`.
  bool (*encode)(const std::exception_ptr& thrown, output_archive& ar);
  /// Reads the fields and gives the exception as it is thrown here, with `cause` (may be null) nested in it.
  std::exception_ptr (*decode)(input_archive& ar, exception_info info, const std::exception_ptr& cause);
  /// Its what(), as this type tells it; false if it is no such `type`, or the type has none.
  bool (*text)(const std::exception_ptr& thrown, std::string& what);
  exception_codec* next = nullptr;
};

/// Thread-safe; a type that is there already stays as it is.
void add_exception_codec(exception_codec& codec) noexcept;

/// Nests `cause`, which may be null, whatever exception is being handled here.
std::nested_exception nesting(const std::exception_ptr& cause);

/// An exception of the function: what it was there, and that it comes from there.
template <class Exception>
class arrived : public Exception, public ExecutionFailed {
 public:
  arrived(Exception&& original, exception_info info)
      : Exception(std::move(original)), ExecutionFailed(std::move(info)) {}
  [[nodiscard]] const char* what() const noexcept override { return excinfo().message.c_str(); }
};

/// The same, thrown there by `std::throw_with_nested`.
template <class Exception>
class arrived_nested : public arrived<Exception>, public std::nested_exception {
 public:
  arrived_nested(Exception&& original, exception_info info, const std::nested_exception& cause)
      : arrived<Exception>(std::move(original), std::move(info)), std::nested_exception(cause) {}
};

template <class Exception>
std::exception_ptr make_arrived(Exception&& original, exception_info info, const std::exception_ptr& cause) {
  if constexpr (std::is_convertible_v<Exception*, std::nested_exception*>) {
    static_cast<std::nested_exception&>(original) = nesting(cause);
  }
  if constexpr (!std::is_class_v<Exception> || std::is_final_v<Exception> ||
                std::is_base_of_v<ExecutionFailed, Exception>) {
    return std::make_exception_ptr(std::move(original));
  } else if constexpr (std::is_base_of_v<std::nested_exception, Exception>) {
    return std::make_exception_ptr(arrived<Exception>(std::move(original), std::move(info)));
  } else {
    if (!cause) return std::make_exception_ptr(arrived<Exception>(std::move(original), std::move(info)));
    return std::make_exception_ptr(arrived_nested<Exception>(std::move(original), std::move(info), nesting(cause)));
  }
}

template <class Exception>
struct exception_fields {
  static constexpr bool by_cereal = can_cross<Exception>;
  static constexpr bool from_text = std::constructible_from<Exception, const std::string&>;
  static constexpr bool from_nothing = std::default_initializable<Exception>;

  static void write(output_archive& ar, const Exception& e) {
    if constexpr (by_cereal) ar(e);
  }
  static Exception read(input_archive& ar, const exception_info& info) {
    if constexpr (by_cereal) {
      Exception e = make(info);
      ar(e);
      return e;
    } else {
      return make(info);
    }
  }

 private:
  static Exception make(const exception_info& info) {
    if constexpr (from_text) {
      return Exception(info.message);
    } else {
      return Exception();
    }
  }
};

template <class Exception, class Fields = exception_fields<Exception>>
struct exception_codec_of {
  /// Pointers are caught by value: compilers do not agree on what a reference to a thrown pointer refers to.
  using caught = std::conditional_t<std::is_pointer_v<Exception>, Exception, const Exception&>;

  static bool encode(const std::exception_ptr& thrown, output_archive& ar) {
    try {
      std::rethrow_exception(thrown);
    } catch (caught e) {
      Fields::write(ar, e);
      return true;
    } catch (...) {
      return false;
    }
  }
  static bool text(const std::exception_ptr& thrown, std::string& what) {
    if constexpr (requires(const Exception& e) { what = e.what(); }) {
      try {
        std::rethrow_exception(thrown);
      } catch (const Exception& e) {
        what = e.what();
        return true;
      } catch (...) {
      }
    }
    return false;
  }
  static std::exception_ptr decode(input_archive& ar, exception_info info, const std::exception_ptr& cause) {
    Exception e = Fields::read(ar, info);
    return make_arrived<Exception>(std::move(e), std::move(info), cause);
  }
  static void add() {
    static constinit exception_codec codec{&typeid(Exception), &encode, &decode, &text};
    add_exception_codec(codec);
  }
};

}  // namespace detail

/// Makes `Exception` arrive as itself from calls that start afterwards. Idempotent and thread-safe.
template <class Exception>
void register_exception() {
  using fields = detail::exception_fields<Exception>;
  static_assert(
      fields::from_text || (fields::by_cereal && fields::from_nothing) ||
          (std::is_class_v<Exception> && std::is_empty_v<Exception> && fields::from_nothing) ||
          std::is_arithmetic_v<Exception>,
      "pynisher: this exception type cannot be rebuilt here. Give it a constructor that takes its what() as "
      "a std::string, or a default constructor and a cereal serialize() function.");
  detail::exception_codec_of<Exception>::add();
}

}  // namespace pynisher

/// `register_exception` as a declaration at namespace scope.
#define PYNISHER_EXCEPTION(...)                                                              \
  namespace {                                                                                \
  [[maybe_unused]] const bool PYNISHER_EXCEPTION_NAME_(__COUNTER__) =                        \
      (::pynisher::register_exception<__VA_ARGS__>(), true);                                 \
  }                                                                                          \
  static_assert(true, "PYNISHER_EXCEPTION ends with a semicolon")
#define PYNISHER_EXCEPTION_NAME_(n) PYNISHER_EXCEPTION_NAME_2_(n)
#define PYNISHER_EXCEPTION_NAME_2_(n) pynisher_exception_registered_##n
