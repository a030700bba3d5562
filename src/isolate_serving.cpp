#include "isolate_serving.hpp"

#include <dlfcn.h>
#include <sys/socket.h>

#include <cerrno>
#include <exception>
#include <new>
#include <optional>
#include <span>
#include <vector>

#include <cxxabi.h>
#include <fmt/format.h>

#include "call_order.hpp"
#include "child_main.hpp"
#include "exception_frame.hpp"
#include "isolate_frames.hpp"

namespace pynisher::detail {

served& here() {
  static auto* const self = new served;
  return *self;
}

namespace {

bool read_whole(int socket, void* to, std::size_t size) {
  auto* at = static_cast<std::byte*>(to);
  while (size > 0) {
    const ssize_t got = ::recv(socket, at, size, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    at += got;
    size -= static_cast<std::size_t>(got);
  }
  return true;
}

void write_whole(int socket, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return;  // the program is gone, and so will be this process
    bytes = bytes.subspan(static_cast<std::size_t>(sent));
  }
}

std::vector<std::byte> exception_frame(const std::exception_ptr& thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const wire_error& e) {
    return make_frame(frame_kind::unsendable, std::string(e.what()));
  } catch (const cereal::Exception& e) {
    return make_frame(frame_kind::unsendable, std::string(e.what()));
  } catch (...) {
  }
  try {
    frame_sink sink;
    output_archive out(sink, sink.first());
    write_exception(out, thrown);
    return sink.take(frame_kind::exception, out);
  } catch (const std::bad_alloc&) {
    return make_frame(frame_kind::out_of_memory);
  } catch (const std::exception& e) {
    return make_frame(frame_kind::unsendable, fmt::format("its exception could not be packed: {}", e.what()));
  } catch (...) {
    return make_frame(frame_kind::unsendable, std::string("its exception could not be packed"));
  }
}

/// A result goes in pieces as it is packed, so that it is in memory only once, and the program unpacks no later.
class piece_sink final : public byte_sink {
 public:
  explicit piece_sink(int socket) : socket_(socket) {}
  [[nodiscard]] window first() { return {bytes_.data() + sizeof(frame_header), bytes_.data() + bytes_.size()}; }
  window next(std::byte* filled_to) override {
    // The first one is small, as most results are.
    send(frame_kind::piece, filled_to);
    if (bytes_.size() < large) bytes_.resize(large);
    return first();
  }
  void send(frame_kind kind, const std::byte* filled_to) {
    const auto filled = static_cast<std::size_t>(filled_to - bytes_.data());
    const frame_header header{kind, 0, filled - sizeof header};
    std::memcpy(bytes_.data(), &header, sizeof header);
    write_whole(socket_, {bytes_.data(), filled});
  }

 private:
  static constexpr std::size_t large = std::size_t{256} << 10;
  int socket_;
  std::vector<std::byte> bytes_ = std::vector<std::byte>(4096);
};

std::vector<std::byte> answer_call(input_archive& in, int conversation) {
  piece_sink sink(conversation);
  output_archive out(sink, sink.first());
  read_call(in)->run(out);
  flush_output();
  sink.send(frame_kind::value, out.filled_to());
  return {};
}

std::vector<std::byte> answer_load(const std::string& library, const std::string& symbol) {
  void* const opened = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (opened == nullptr) return make_frame(frame_kind::load_failed, std::string(::dlerror()));
  void* const found = ::dlsym(opened, symbol.c_str());
  if (found == nullptr) return make_frame(frame_kind::load_failed, fmt::format("{} has no symbol {}", library, symbol));
  const auto function = reinterpret_cast<int (*)()>(reinterpret_cast<std::uintptr_t>(found));
  return make_frame(frame_kind::value, function());
}

/// Values cross as bytes that nobody looks at here.
std::vector<std::byte> answer(frame_kind kind, input_archive& in, int conversation) {
  auto& names = here().names;
  std::string name;
  switch (kind) {
    case frame_kind::call:
      return answer_call(in, conversation);
    case frame_kind::set: {
      std::map<std::string, named_value> values;
      std::uint32_t count = 0;
      in(count);
      for (std::uint32_t i = 0; i < count; ++i) {
        named_value value;
        in(name, value.type, value.bytes);
        values.insert_or_assign(name, std::move(value));
      }
      for (auto& [key, value] : values) names.insert_or_assign(key, std::move(value));
      return make_frame(frame_kind::value);
    }
    case frame_kind::get: {
      in(name);
      const auto found = names.find(name);
      return make_frame(frame_kind::value, found == names.end() ? std::optional<named_value>() : found->second);
    }
    case frame_kind::names: {
      std::vector<std::string> all;
      for (const auto& entry : names) all.push_back(entry.first);
      return make_frame(frame_kind::value, all);
    }
    case frame_kind::erase:
      in(name);
      return make_frame(frame_kind::value, names.erase(name) > 0);
    case frame_kind::reset_names:
      names.clear();
      return make_frame(frame_kind::value);
    case frame_kind::load: {
      std::string symbol;
      in(name, symbol);
      return answer_load(name, symbol);
    }
    default:
      throw wire_error("an unknown request");
  }
}

void serve(int conversation) {
  for (;;) {
    frame_header header{};
    if (!read_whole(conversation, &header, sizeof header) || header.kind == frame_kind::close) return;
    std::vector<std::byte> answered;
    try {
      std::vector<std::byte> body(static_cast<std::size_t>(header.size));
      if (!read_whole(conversation, body.data(), body.size())) return;
      input_archive in(body.data(), body.size());
      answered = answer(header.kind, in, conversation);
    } catch (abi::__forced_unwind&) {
      throw;
    } catch (...) {
      answered = exception_frame(std::current_exception());
    }
    flush_output();
    forget_reply();
    write_whole(conversation, answered);
  }
}

constexpr call_entry isolate_entry{call_entry::own_stamp, type_hash<isolate_task>(), &isolate_task::unpack};

}  // namespace

const call_entry* isolate_task::entry() const { return &isolate_entry; }

void isolate_task::run(output_archive& /*reply*/) {
  here() = {id_, name_, {}};
  serve(own_conversation());
  begin_reply();
}

named_value pack_named(const std::string& type, const std::function<void(output_archive&)>& write) {
  frame_sink sink;
  output_archive out(sink, sink.first());
  write(out);
  std::vector<std::byte> whole = sink.take(frame_kind::value, out);
  whole.erase(whole.begin(), whole.begin() + sizeof(frame_header));
  return {type, std::move(whole)};
}

}  // namespace pynisher::detail
