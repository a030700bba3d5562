#include "isolate_serving.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <exception>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <vector>

#include <cxxabi.h>
#include <fmt/format.h>

#include "call_order.hpp"
#include "child_main.hpp"
#include "descriptor_passing.hpp"
#include "exception_frame.hpp"
#include "fork_safe_mutex.hpp"
#include "isolate_copy.hpp"
#include "isolate_frames.hpp"
#include "mail_link.hpp"
#include "mail_packing.hpp"

namespace pynisher::detail {

served& here() {
  static auto* const self = new served;
  return *self;
}

namespace {

using descriptors = std::vector<platform::call_fd>;

bool read_whole(int socket, void* to, std::size_t size, descriptors& passed) {
  auto* at = static_cast<std::byte*>(to);
  while (size > 0) {
    const ssize_t got = receive_bytes(socket, at, size, passed, 0);
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

/// A request for which there was no memory.
bool skip(int socket, std::uint64_t size, descriptors& passed) {
  std::array<std::byte, 4096> ignored;
  while (size > 0) {
    const auto next = static_cast<std::size_t>(std::min<std::uint64_t>(size, ignored.size()));
    if (!read_whole(socket, ignored.data(), next, passed)) return false;
    size -= next;
  }
  return true;
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
  void send(frame_kind kind, const std::byte* filled_to, bool has_attached = false) {
    const auto filled = static_cast<std::size_t>(filled_to - bytes_.data());
    const frame_header header{kind, has_attached ? 1u : 0u, filled - sizeof header};
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
  const bool has_attached = finish_packing_reply();
  flush_output();
  sink.send(frame_kind::value, out.filled_to(), has_attached);
  return {};
}

std::vector<std::byte> answer_load(const std::string& library, const std::string& symbol) {
  void* const opened = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (opened == nullptr) return make_frame(frame_kind::load_failed, std::string(::dlerror()));
  void* const found = ::dlsym(opened, symbol.c_str());
  if (found == nullptr) return make_frame(frame_kind::load_failed, fmt::format("{0} has no symbol {1}: it has to define extern \"C\" int {1}()", library, symbol));
  const auto function = reinterpret_cast<int (*)()>(reinterpret_cast<std::uintptr_t>(found));
  return make_frame(frame_kind::value, function());
}

/// What standard output and error were before they were redirected; -1: nothing.
std::array<int, 2> own_output{-1, -1};
bool is_redirected = false;

std::vector<std::byte> answer_redirect(const descriptors& passed) {
  if (passed.size() != 2) throw IsolateError("this process has no descriptor left to redirect its output");
  if (is_redirected) give_back_output_here();
  flush_output();
  is_redirected = true;
  for (const int stream : {0, 1}) {
    own_output[static_cast<std::size_t>(stream)] = ::fcntl(STDOUT_FILENO + stream, F_DUPFD_CLOEXEC, 3);
    ::dup2(passed[static_cast<std::size_t>(stream)].get(), STDOUT_FILENO + stream);
  }
  return make_frame(frame_kind::value);
}

/// Throws `wire_error` where it cannot be kept.
void keep_custody(named_value& of) {
  if (of.key != deposit_key{}) of.custody = keep_deposited(of.key);
}

/// All or none.
std::vector<std::byte> answer_set(input_archive& in) {
  std::map<std::string, named_value> values;
  std::uint32_t count = 0;
  in(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    std::string name;
    named_value value;
    in(name, value);
    keep_custody(value);
    values.insert_or_assign(std::move(name), std::move(value));
  }
  auto done = make_frame(frame_kind::value);
  const std::lock_guard lock(library_mutex);
  values.merge(here().names);
  here().names.swap(values);
  return done;
}

/// Values cross as bytes that nobody looks at here.
std::vector<std::byte> answer_to(frame_kind kind, input_archive& in, int conversation, descriptors& passed) {
  auto& names = here().names;
  std::string name;
  switch (kind) {
    case frame_kind::call:
      return answer_call(in, conversation);
    case frame_kind::set:
      return answer_set(in);
    case frame_kind::get: {
      in(name);
      const std::lock_guard lock(library_mutex);
      const auto found = names.find(name);
      return make_frame(frame_kind::value, found == names.end() ? std::optional<named_value>() : found->second);
    }
    case frame_kind::names: {
      std::vector<std::string> all;
      const std::lock_guard lock(library_mutex);
      for (const auto& entry : names) all.push_back(entry.first);
      return make_frame(frame_kind::value, all);
    }
    case frame_kind::erase:
      in(name);
      return make_frame(frame_kind::value, erase_name(name));
    case frame_kind::reset_names:
      erase_names();
      return make_frame(frame_kind::value);
    case frame_kind::load: {
      std::string symbol;
      in(name, symbol);
      return answer_load(name, symbol);
    }
    case frame_kind::redirect:
      return answer_redirect(passed);
    case frame_kind::give_back:
      give_back_output_here();
      return make_frame(frame_kind::value);
    case frame_kind::copy:
      answer_copy(passed);
      return make_frame(frame_kind::value);
    default:
      throw wire_error("an unknown request");
  }
}

void serve(int conversation) {
  for (;;) {
    frame_header header{};
    descriptors passed;
    if (!read_whole(conversation, &header, sizeof header, passed) || header.kind == frame_kind::close) return;
    std::vector<std::byte> answered;
    try {
      std::vector<std::byte> body;
      try {
        body.resize(static_cast<std::size_t>(header.size));
      } catch (const std::exception&) {
        if (!skip(conversation, header.size, passed)) return;
        throw;
      }
      if (!read_whole(conversation, body.data(), body.size(), passed)) return;
      input_archive in(body.data(), body.size());
      answered = answer_to(header.kind, in, conversation, passed);
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

bool erase_name(const std::string& name) {
  std::map<std::string, named_value>::node_type gone;  // goes without the mutex: what it holds is given back
  const std::lock_guard lock(library_mutex);
  gone = here().names.extract(name);
  return !gone.empty();
}

void erase_names() {
  std::map<std::string, named_value> gone;
  const std::lock_guard lock(library_mutex);
  gone.swap(here().names);
}

void give_back_output_here() noexcept {
  if (!std::exchange(is_redirected, false)) return;
  try {
    flush_output();
  } catch (...) {
  }
  for (const int stream : {0, 1}) {
    const int own = std::exchange(own_output[static_cast<std::size_t>(stream)], -1);
    if (own >= 0) {
      ::dup2(own, STDOUT_FILENO + stream);
      ::close(own);
    } else {
      ::close(STDOUT_FILENO + stream);
    }
  }
}

const call_entry* isolate_task::entry() const { return &isolate_entry; }

void isolate_task::run(output_archive& /*reply*/) {
  if (begun_ == state::fresh) here().names.clear();
  here().id = id_;
  here().name = name_;
  enter_household(id_);
  // A copy of an isolate keeps what its original keeps.
  for (auto& [name, value] : here().names) {
    try {
      keep_custody(value);
    } catch (const wire_error&) {
      // It has gone with the original. Whoever asks for it is told.
    }
  }
  serve(own_conversation());
  begin_reply();
}

named_value pack_named(const std::string& type, const std::function<void(output_archive&)>& write) {
  frame_sink sink;
  output_archive out(sink, sink.first());
  packing_scope packing(deposit_mode::kept);
  std::shared_ptr<deposited> attached;
  try {
    write(out);
    attached = packing.finish();
  } catch (const wire_error& e) {
    throw NotShareableError(e.what());
  }
  std::vector<std::byte> whole = sink.take(frame_kind::value, out);
  whole.erase(whole.begin(), whole.begin() + sizeof(frame_header));
  return {type, std::move(whole), attached ? attached->key() : deposit_key{}, attached};
}

}  // namespace pynisher::detail
