// The exceptions that are known from the start: the standard's, this library's own, and values thrown raw.

#include <algorithm>
#include <any>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <future>
#include <ios>
#include <iterator>
#include <map>
#include <memory>
#include <atomic>
#include <mutex>
#include <new>
#include <optional>
#include <regex>
#include <set>
#include <stdexcept>
#include <string>
#include <system_error>
#include <typeinfo>
#include <variant>

#include <pynisher/channel_errors.hpp>

#include "exception_frame.hpp"
#include "exception_registry.hpp"
#include "fork_safe_mutex.hpp"

namespace pynisher::detail {

namespace {

/// The category of a code whose category is not known here: the number and the name are kept.
class foreign_category final : public std::error_category {
 public:
  explicit foreign_category(std::string name) : name_(std::move(name)) {}
  [[nodiscard]] const char* name() const noexcept override { return name_.c_str(); }
  [[nodiscard]] std::string message(int value) const override { return name_ + " error " + std::to_string(value); }

 private:
  std::string name_;
};

void write_code(output_archive& ar, const std::error_code& code) {
  ar(code.value(), std::string(code.category().name()));
}

std::error_code read_code(input_archive& ar) {
  int value = 0;
  std::string category;
  ar(value, category);
  return {value, category_named(category)};
}

// Texts thrown as `const char*` have to outlive whoever catches them, so each distinct one is kept for good.
// A child that throws new ones without end does not fill the parent.
constexpr std::size_t most_kept = std::size_t{16} << 20;

const char* kept_for_good(const std::string& text) {
  const std::lock_guard lock(library_mutex);
  static auto* texts = new std::set<std::string>;
  static std::size_t kept = 0;
  if (const auto found = texts->find(text); found != texts->end()) return found->c_str();
  if (text.size() > most_kept - kept) return "(a text that is not kept: too many different ones were thrown)";
  kept += text.size();
  return texts->insert(text).first->c_str();
}

template <class Exception>
struct no_fields {
  static void write(output_archive&, const Exception&) {}
};

/// `E(what)`.
template <class E>
struct from_message : no_fields<E> {
  static E read(input_archive&, const exception_info& info) { return E(info.message); }
};

/// `E()`; its own text is what arrives.
template <class E>
struct from_nothing : no_fields<E> {
  static E read(input_archive&, const exception_info&) { return E(); }
};

template <class E>
struct from_value {
  static void write(output_archive& ar, const E& value) { ar(value); }
  static E read(input_archive& ar, const exception_info&) {
    E value{};
    ar(value);
    return value;
  }
};

struct char_pointer {
  static void write(output_archive& ar, const char* text) { ar(std::string(text == nullptr ? "" : text)); }
  static const char* read(input_archive& ar, const exception_info&) {
    std::string text;
    ar(text);
    return kept_for_good(text);
  }
};

template <class E>
struct from_code {
  static void write(output_archive& ar, const E& e) { write_code(ar, e.code()); }
  static E read(input_archive& ar, const exception_info& info) {
    const std::error_code code = read_code(ar);
    if constexpr (std::is_constructible_v<E, std::error_code, const std::string&>) {
      return E(code, info.message);
    } else if constexpr (std::is_constructible_v<E, const std::string&, std::error_code>) {
      return E(info.message, code);
    } else {
      return E(code);
    }
  }
};

struct error_code_fields {
  static void write(output_archive& ar, const std::error_code& code) { write_code(ar, code); }
  static std::error_code read(input_archive& ar, const exception_info&) { return read_code(ar); }
};

struct filesystem_fields {
  using E = std::filesystem::filesystem_error;
  static void write(output_archive& ar, const E& e) {
    write_code(ar, e.code());
    ar(e.path1(), e.path2());
  }
  static E read(input_archive& ar, const exception_info& info) {
    const std::error_code code = read_code(ar);
    std::filesystem::path first, second;
    ar(first, second);
    return {info.message, first, second, code};
  }
};

/// Only the standard's own codes cross: what a `std::regex_error` of another number is, is undefined. Here those arrive
/// as the `std::runtime_error` that they are as well.
struct regex_codec {
  using by_code = exception_codec_of<std::regex_error, regex_codec>;
  static constexpr std::regex_constants::error_type codes[] = {
      std::regex_constants::error_collate,   std::regex_constants::error_ctype,
      std::regex_constants::error_escape,    std::regex_constants::error_backref,
      std::regex_constants::error_brack,     std::regex_constants::error_paren,
      std::regex_constants::error_brace,     std::regex_constants::error_badbrace,
      std::regex_constants::error_range,     std::regex_constants::error_space,
      std::regex_constants::error_badrepeat, std::regex_constants::error_complexity,
      std::regex_constants::error_stack};

  static bool encode(const std::exception_ptr& thrown, output_archive& ar) {
    try {
      std::rethrow_exception(thrown);
    } catch (const std::regex_error& e) {
      const auto* const known = std::ranges::find(codes, e.code());
      if (known == std::end(codes)) return false;
      ar(static_cast<std::uint8_t>(known - codes));
      return true;
    } catch (...) {
      return false;
    }
  }
  static std::regex_error read(input_archive& ar, const exception_info&) {
    std::uint8_t number = 0;
    ar(number);
    if (number >= std::size(codes)) throw wire_error("a std::regex_error has a code that is not known");
    return std::regex_error(codes[number]);
  }
  static void add() {
    static exception_codec codec{&typeid(std::regex_error), &encode, &by_code::decode, &by_code::text};
    add_exception_codec(codec);
  }
};

struct future_fields {
  static void write(output_archive& ar, const std::future_error& e) { ar(e.code().value()); }
  static std::future_error read(input_archive& ar, const exception_info&) {
    int code = 0;
    ar(code);
    return std::future_error(static_cast<std::future_errc>(code));
  }
};

// --- this library's own, as an inner call throws them -----------------------------------------------------

void write_report(output_archive& ar, const call_report& report) {
  const usage& u = report.usage();
  ar(report.call(), u.wall_time, u.user_time, u.system_time, u.peak_memory, u.page_faults);
}
std::pair<std::string, usage> read_report(input_archive& ar) {
  std::string call;
  usage u;
  ar(call, u.wall_time, u.user_time, u.system_time, u.peak_memory, u.page_faults);
  return {std::move(call), u};
}

template <class E>
struct timeout_fields {
  static void write(output_archive& ar, const E& e) {
    ar(e.limit(), e.measured());
    write_report(ar, e);
  }
  static E read(input_archive& ar, const exception_info& info) {
    std::chrono::nanoseconds limit{}, measured{};
    ar(limit, measured);
    auto [call, use] = read_report(ar);
    return E(info.message, limit, measured, std::move(call), use);
  }
};

struct memory_fields {
  using E = MemoryLimitException;
  static void write(output_archive& ar, const E& e) {
    ar(e.limit().bytes(), e.measured().bytes());
    write_report(ar, e);
  }
  static E read(input_archive& ar, const exception_info& info) {
    std::uint64_t limit = 0, measured = 0;
    ar(limit, measured);
    auto [call, use] = read_report(ar);
    return {info.message, limit, measured, std::move(call), use};
  }
};

struct died_fields {
  static void write(output_archive& ar, const ChildDiedException& e) { write_report(ar, e); }
  static ChildDiedException read(input_archive& ar, const exception_info& info) {
    auto [call, use] = read_report(ar);
    return ChildDiedException(info.message, std::move(call), use);
  }
};

struct signal_fields {
  static void write(output_archive& ar, const SignalException& e) {
    ar(e.signal(), e.system_code());
    write_report(ar, e);
  }
  static SignalException read(input_archive& ar, const exception_info& info) {
    int signal = 0;
    std::uint32_t system_code = 0;
    ar(signal, system_code);
    auto [call, use] = read_report(ar);
    return SignalException(info.message, signal, std::move(call), use, system_code);
  }
};

struct exit_fields {
  static void write(output_archive& ar, const ExitException& e) {
    ar(e.exit_code());
    write_report(ar, e);
  }
  static ExitException read(input_archive& ar, const exception_info& info) {
    int exit_code = 0;
    ar(exit_code);
    auto [call, use] = read_report(ar);
    return ExitException(info.message, exit_code, std::move(call), use);
  }
};

struct start_fields {
  static void write(output_archive& ar, const StartException& e) {
    ar(e.stage());
    write_code(ar, e.code());
  }
  static StartException read(input_archive& ar, const exception_info&) {
    std::string stage;
    ar(stage);
    return {stage, read_code(ar)};
  }
};

struct wrapped_fields {
  static void write(output_archive& ar, const WrappedException& e) {
    const exception_info& o = e.excinfo();
    ar(o.type_name, o.message, o.formatted, o.chain, o.pid);
  }
  static WrappedException read(input_archive& ar, const exception_info&) {
    exception_info o;
    ar(o.type_name, o.message, o.formatted, o.chain, o.pid);
    return WrappedException(std::move(o));
  }
};

struct unknown_fields : no_fields<UnknownException> {
  static UnknownException read(input_archive&, const exception_info& info) { return UnknownException(info); }
};

template <template <class> class Fields, class... E>
void add() {
  (exception_codec_of<E, Fields<E>>::add(), ...);
}
template <class E, class Fields>
void add_with() {
  exception_codec_of<E, Fields>::add();
}

bool add_all() {
  add<from_nothing, std::exception, std::bad_exception, std::bad_alloc, std::bad_array_new_length, std::bad_cast,
      std::bad_typeid, std::bad_function_call, std::bad_weak_ptr, std::bad_optional_access,
      std::bad_variant_access, std::bad_any_cast>();
  add<from_message, std::logic_error, std::invalid_argument, std::domain_error, std::length_error,
      std::out_of_range, std::runtime_error, std::range_error, std::overflow_error, std::underflow_error>();
  add<from_code, std::system_error, std::ios_base::failure>();
  add_with<std::filesystem::filesystem_error, filesystem_fields>();
  regex_codec::add();
  add_with<std::future_error, future_fields>();

  add<from_value, int, unsigned, long, unsigned long, long long, unsigned long long, char, bool, float, double>();
  add<from_value, std::string>();
  add_with<const char*, char_pointer>();
  add_with<std::error_code, error_code_fields>();

  add<timeout_fields, TimeoutException, CpuTimeoutException, WallTimeoutException>();
  add_with<MemoryLimitException, memory_fields>();
  add_with<ChildDiedException, died_fields>();
  add_with<SignalException, signal_fields>();
  add_with<ExitException, exit_fields>();
  add<from_message, CancelledException, KeyboardInterrupt, SerializationException, UnsupportedException>();
  add<from_message, NotShareableError, ChannelError, ChannelNotFoundError, ChannelEmptyError, ChannelNotEmptyError,
      ChannelClosedError, ChannelReleasedError, NotReceivedError, ChannelPoisonedError, QueueError, QueueEmpty, QueueFull,
      QueueNotFoundError, ItemOwnerDestroyed>();
  add_with<StartException, start_fields>();
  add_with<WrappedException, wrapped_fields>();
  add_with<UnknownException, unknown_fields>();
  return true;
}

}  // namespace

void add_standard_codecs() {
  static std::atomic<bool> done{false};
  if (done.load(std::memory_order_acquire)) return;
  const std::lock_guard lock(library_mutex);
  if (!done.load()) done.store(add_all());
}

const std::error_category& category_named(const std::string& name) {
  for (const std::error_category* known : {&std::generic_category(), &std::system_category(),
                                           &std::iostream_category(), &std::future_category()}) {
    if (name == known->name()) return *known;
  }
  // Codes keep a reference to their category, so these live for good as well.
  constexpr std::size_t most_categories = 1000, longest_name = 200;
  const std::lock_guard lock(library_mutex);
  static auto* foreign = new std::map<std::string, std::unique_ptr<foreign_category>>;
  const auto found = foreign->find(name);
  if (found != foreign->end()) return *found->second;
  if (foreign->size() >= most_categories || name.size() > longest_name) return std::generic_category();
  return *foreign->emplace(name, std::make_unique<foreign_category>(name)).first->second;
}

}  // namespace pynisher::detail
