#include "exception_frame.hpp"

#include <cstdint>
#include <new>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <pynisher/options.hpp>

#include "cxx_abi/cxx_abi.hpp"
#include "exception_registry.hpp"
#include "platform/contract.hpp"

namespace pynisher::detail {

namespace {

/// A `what()` may give nothing.
const char* text_of(const char* what) { return what == nullptr ? "" : what; }

/// A chain of causes longer than this is cut.
constexpr int max_causes = 32;

/// Bytes in memory, for a part whose size is needed before it is sent.
class memory_sink final : public byte_sink {
 public:
  memory_sink() : bytes_(256) {}
  [[nodiscard]] window first() { return {bytes_.data(), bytes_.data() + bytes_.size()}; }
  window next(std::byte* filled_to) override {
    const auto used = static_cast<std::size_t>(filled_to - bytes_.data());
    bytes_.resize(2 * bytes_.size());
    return {bytes_.data() + used, bytes_.data() + bytes_.size()};
  }
  [[nodiscard]] std::string_view upto(const std::byte* filled_to) const {
    return {reinterpret_cast<const char*>(bytes_.data()), static_cast<std::size_t>(filled_to - bytes_.data())};
  }

 private:
  std::vector<std::byte> bytes_;
};

/// What can be said of any exception, whatever its type.
struct description {
  std::vector<const std::type_info*> types;  ///< its own and its bases, nearest first; none: not told
  std::string type_name;
  std::string message;
  std::int64_t pid = 0;
  std::error_code code;
  bool allocation_failed = false;
  std::exception_ptr cause;
};

// std::throw_with_nested throws a class of the library's own making, derived from the one that was meant.
std::string meant_type_name(const std::vector<const std::type_info*>& types) {
  std::string name = demangled_name(*types.front());
  const auto is_made_by = [&name](const char* maker) { return name.find(maker) != std::string::npos; };
  if (!is_made_by("_Nested_exception<") && !is_made_by("__nested<") && !is_made_by("_With_nested_v2<")) return name;
  for (std::size_t i = 1; i < types.size(); ++i) {
    if (*types[i] != typeid(std::nested_exception)) return demangled_name(*types[i]);
  }
  return name;
}

/// Shows it to `look` where `catch (const E&)` would catch it.
template <class E, class Look>
void look_as(const std::exception_ptr& thrown, const Look& look) {
  try {
    std::rethrow_exception(thrown);
  } catch (const E& e) {
    look(e);
  } catch (...) {
  }
}

/// Of a class that is no `std::exception`, or is it by several ways, what its nearest known base says.
std::string text_of_a_base(const std::exception_ptr& thrown, const std::vector<const std::type_info*>& types) {
  std::string text;
  for (const auto* codec : codecs_nearest_first(types)) {
    if (codec->text(thrown, text)) break;
  }
  return text;
}

template <class T>
void take_message(const T& value, description& about) {
  about.message = fmt::format("{}", value);
}

void take_message(char value, description& about) {
  const auto code = static_cast<unsigned char>(value);
  const bool is_shown = code > ' ' && code < 0x7f;
  about.message = is_shown ? fmt::format("'{}'", value) : fmt::format("character {}", code);
}

description describe(const std::exception_ptr& thrown) {
  description about;
  about.pid = platform::process_number();
  about.types = cxx_abi::types_of(thrown);
  if (!about.types.empty()) about.type_name = meant_type_name(about.types);
  // Each property has its own catch: one exception may have several of them.
  try {
    std::rethrow_exception(thrown);
  } catch (const std::exception& e) {
    about.message = text_of(e.what());
    if (const auto* remote = dynamic_cast<const ExecutionFailed*>(&e)) {
      about.type_name = remote->excinfo().type_name;
      about.pid = remote->excinfo().pid;
    }
  } catch (const ExecutionFailed& e) {
    about.message = text_of(e.what());
    about.type_name = e.excinfo().type_name;
    about.pid = e.excinfo().pid;
  } catch (const std::string& text) {
    about.message = text;
  } catch (const char* text) {
    about.message = text == nullptr ? "" : text;
  } catch (int value) {
    take_message(value, about);
  } catch (unsigned value) {
    take_message(value, about);
  } catch (long value) {
    take_message(value, about);
  } catch (unsigned long value) {
    take_message(value, about);
  } catch (long long value) {
    take_message(value, about);
  } catch (unsigned long long value) {
    take_message(value, about);
  } catch (short value) {
    take_message(value, about);
  } catch (unsigned short value) {
    take_message(value, about);
  } catch (char value) {
    take_message(value, about);
  } catch (signed char value) {
    take_message(static_cast<int>(value), about);
  } catch (unsigned char value) {
    take_message(static_cast<int>(value), about);
  } catch (bool value) {
    take_message(value, about);
  } catch (float value) {
    take_message(value, about);
  } catch (double value) {
    take_message(value, about);
  } catch (long double value) {
    take_message(value, about);
  } catch (const std::error_code& code) {
    about.message = code.message();
    about.code = code;
  } catch (...) {
    about.message = text_of_a_base(thrown, about.types);
  }
  look_as<std::system_error>(thrown, [&](const std::system_error& e) { about.code = e.code(); });
  look_as<std::bad_alloc>(thrown, [&](const std::bad_alloc& e) {
    about.allocation_failed = dynamic_cast<const PynisherException*>(&e) == nullptr &&
                              dynamic_cast<const std::bad_array_new_length*>(&e) == nullptr;
  });
  look_as<std::nested_exception>(thrown, [&](const std::nested_exception& e) { about.cause = e.nested_ptr(); });
  return about;
}

void write_one(output_archive& ar, const std::exception_ptr& thrown, int causes_left) {
  const description about = describe(thrown);
  ar(about.type_name, about.message, about.pid, about.code.value(), std::string(about.code.category().name()),
     about.allocation_failed);

  std::string codec_name;
  memory_sink fields;
  output_archive fields_ar(fields, fields.first());
  for (const auto* codec : codecs_nearest_first(about.types)) {
    if (codec->encode(thrown, fields_ar)) {
      codec_name = codec->type->name();
      break;
    }
  }
  ar(codec_name, std::string(fields.upto(fields_ar.filled_to())));

  const bool has_cause = about.cause && causes_left > 0;
  ar(has_cause);
  if (has_cause) write_one(ar, about.cause, causes_left - 1);
}

/// Long texts are told whole once, in `message`, and not again at every level above.
std::string cut(const std::string& text) {
  constexpr std::size_t shown = 4096;
  return text.size() <= shown ? text : text.substr(0, shown) + "...";
}

std::string formatted(const exception_info& info) {
  std::string text = fmt::format("{}: {} [process {}]", info.type_name, cut(info.message), info.pid);
  for (const auto& cause : info.chain) text += "\n  caused by " + cause;
  return text;
}

received_exception read_one(input_archive& ar, int causes_left) {
  received_exception received;
  exception_info& info = received.info;
  int code = 0;
  std::string category, codec_name, fields;
  bool has_cause = false;
  ar(info.type_name, info.message, info.pid, code, category, received.allocation_failed, codec_name, fields,
     has_cause);
  received.code = {code, category_named(category)};

  std::exception_ptr cause;
  if (has_cause) {
    if (causes_left == 0) throw wire_error("an exception has more nested causes than are sent");
    received_exception inner = read_one(ar, causes_left - 1);
    info.chain.push_back(fmt::format("{}: {}", inner.info.type_name, cut(inner.info.message)));
    info.chain.insert(info.chain.end(), inner.info.chain.begin(), inner.info.chain.end());
    cause = std::move(inner.error);
  }
  info.formatted = formatted(info);

  if (const auto* codec = codec_name.empty() ? nullptr : codec_named(codec_name)) {
    input_archive fields_ar(reinterpret_cast<const std::byte*>(fields.data()), fields.size());
    received.error = codec->decode(fields_ar, info, cause);
    fields_ar.expect_end();
  } else {
    received.error = make_arrived<UnknownException>(UnknownException(info), info, cause);
  }
  return received;
}

}  // namespace

void write_exception(output_archive& ar, const std::exception_ptr& thrown) { write_one(ar, thrown, max_causes); }

received_exception read_exception(input_archive& ar) {
  try {
    received_exception received = read_one(ar, max_causes);
    ar.expect_end();
    return received;
  } catch (const wire_error&) {
    throw;
  } catch (const std::exception& e) {
    throw wire_error(fmt::format("the exception that arrived cannot be rebuilt: {}", e.what()));
  } catch (...) {
    throw wire_error("the exception that arrived cannot be rebuilt");
  }
}

}  // namespace pynisher::detail
