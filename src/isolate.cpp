// Isolates, on both sides.
//
// An isolate is a limited call that does not end: its process is started, watched and ended as that of any other call in
// flight, and the function that it calls answers requests on a socket until it is told to stop.
//
//   program: one request at a time, then waits for the answer, the process's end, the call's limits, or a cancellation
//   isolate: takes a request, does what it says, answers
//
// A frame is a header and a body. What an isolate sends is believed no more than any child's reply.

#include <dlfcn.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include <cxxabi.h>
#include <fmt/format.h>

#include <pynisher/format.hpp>
#include <pynisher/isolate.hpp>

#include "call_order.hpp"
#include "child_main.hpp"
#include "exception_frame.hpp"
#include "fork_safe_mutex.hpp"
#include "platform/contract.hpp"
#include "settings.hpp"
#include "supervised_call.hpp"
#include "verdict.hpp"

namespace pynisher {

namespace detail {

namespace {

using platform::clock;
using platform::unique_fd;
using namespace std::chrono_literals;

// --- frames -----------------------------------------------------------------------------------------------------

enum class frame_kind : std::uint32_t {
  // To the isolate.
  call,
  set,
  get,
  names,
  erase,
  reset_names,
  load,
  close,
  // From it.
  piece,  ///< the beginning of a value of which more comes; forgotten if another kind than `value` ends it
  value,
  exception,
  unsendable,
  out_of_memory,
  load_failed,
};

struct frame_header {
  frame_kind kind;
  std::uint32_t unused = 0;
  std::uint64_t size = 0;
};

/// A frame in the making: the header's place, then what is packed.
class frame_sink final : public byte_sink {
 public:
  frame_sink() : bytes_(sizeof(frame_header) + 1024) {}
  [[nodiscard]] window first() { return {bytes_.data() + sizeof(frame_header), bytes_.data() + bytes_.size()}; }
  window next(std::byte* filled_to) override {
    const auto filled = static_cast<std::size_t>(filled_to - bytes_.data());
    bytes_.resize(2 * bytes_.size());
    return {bytes_.data() + filled, bytes_.data() + bytes_.size()};
  }
  /// The whole frame.
  std::span<const std::byte> finish(frame_kind kind, const output_archive& out) {
    const frame_header header{kind, 0, out.position()};
    std::memcpy(bytes_.data(), &header, sizeof header);
    return {bytes_.data(), sizeof header + static_cast<std::size_t>(out.position())};
  }
  std::vector<std::byte> take(frame_kind kind, const output_archive& out) {
    bytes_.resize(finish(kind, out).size());
    return std::move(bytes_);
  }

 private:
  std::vector<std::byte> bytes_;
};

template <class... Values>
std::vector<std::byte> make_frame(frame_kind kind, const Values&... values) {
  frame_sink sink;
  output_archive out(sink, sink.first());
  (out(values), ...);
  return sink.take(kind, out);
}

// --- the isolate's side -----------------------------------------------------------------------------------------

struct served {
  std::int64_t id = 0;
  std::string name;
  std::map<std::string, named_value> names;
};

/// This process, if it is an isolate; the program's own names, if it is not.
served& here() {
  static auto* const self = new served;
  return *self;
}

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

class isolate_task final : public child_task {
 public:
  isolate_task(std::int64_t id, std::string name) : id_(id), name_(std::move(name)) {}
  explicit isolate_task(input_archive& in) { in(id_, name_); }

  void run(output_archive& /*reply*/) override {
    here() = {id_, name_, {}};
    serve(own_conversation());
    begin_reply();
  }
  [[nodiscard]] call_name name() const override { return {}; }
  [[nodiscard]] const call_entry* entry() const override;
  void pack(output_archive& out) const override { out(id_, name_); }

  static std::unique_ptr<child_task> unpack(input_archive& in) { return std::make_unique<isolate_task>(in); }

 private:
  std::int64_t id_ = 0;
  std::string name_;
};

constexpr call_entry isolate_entry{call_entry::own_stamp, type_hash<isolate_task>(), &isolate_task::unpack};
const call_entry* isolate_task::entry() const { return &isolate_entry; }

}  // namespace

named_value pack_named(const std::string& type, const std::function<void(output_archive&)>& write) {
  frame_sink sink;
  output_archive out(sink, sink.first());
  write(out);
  std::vector<std::byte> whole = sink.take(frame_kind::value, out);
  whole.erase(whole.begin(), whole.begin() + sizeof(frame_header));
  return {type, std::move(whole)};
}

// --- the program's side -----------------------------------------------------------------------------------------

class isolate_core {
 public:
  isolate_core(std::int64_t id, isolate_options wanted)
      : id_(id), options_(std::move(wanted)), limits_(validate(limits_of(options_))) {
    start_process();
  }
  isolate_core(const isolate_core&) = delete;
  isolate_core& operator=(const isolate_core&) = delete;

  [[nodiscard]] std::int64_t id() const { return id_; }
  [[nodiscard]] const std::string& name() const { return options_.name; }
  [[nodiscard]] pid_t owner() const { return owner_; }
  [[nodiscard]] bool is_queued() const { return options_.queued; }
  [[nodiscard]] const settings& limits() const { return *limits_; }
  /// "isolate 3 (worker)".
  [[nodiscard]] std::string text() const {
    return options_.name.empty() ? fmt::format("isolate {}", id_) : fmt::format("isolate {} ({})", id_, options_.name);
  }
  [[nodiscard]] std::shared_ptr<call_in_flight> process() {
    const std::lock_guard lock(mutex_);
    return process_;
  }
  [[nodiscard]] bool is_running() {
    const std::lock_guard lock(mutex_);
    return busy_;
  }
  [[nodiscard]] bool is_alive() {
    const std::lock_guard lock(mutex_);
    return !closed_ && !process_->wait(clock::time_point::min());
  }

  /// The right to ask something: one at a time has it.
  class turn {
   public:
    explicit turn(std::shared_ptr<isolate_core> core) : core_(std::move(core)) {
      std::unique_lock lock(core_->mutex_);
      core_->throw_if_closed();
      if (core_->busy_ && !core_->options_.queued) {
        throw IsolateError(core_->text() + " is already running");
      }
      core_->changed_.wait(lock, [&] { return !core_->busy_ || core_->closed_; });
      core_->throw_if_closed();
      core_->busy_ = true;
    }
    ~turn() {
      const std::lock_guard lock(core_->mutex_);
      core_->busy_ = false;
      core_->changed_.notify_all();
    }
    turn(const turn&) = delete;
    turn& operator=(const turn&) = delete;

   private:
    std::shared_ptr<isolate_core> core_;
  };

  /// What became of a request.
  struct reply {
    enum class state : std::uint8_t { came, died, lies, wall_time, cpu_time, cancelled } how = state::died;
    frame_kind kind = frame_kind::value;
    reply_bytes bytes;
    pynisher::usage usage;
  };
  /// By whoever has the turn. Ends the process where a limit is reached, or where it lies.
  reply ask(std::span<const std::byte> request, const settings* limits);

  /// What its process's end was; waits for it.
  raw_outcome end_of_process() {
    process()->wait(std::nullopt);
    const std::lock_guard lock(mutex_);
    if (!end_) end_ = process_->conclude();
    raw_outcome copy;
    copy.verdict = end_->verdict;
    copy.usage = end_->usage;
    copy.explanation = end_->explanation;
    return copy;
  }
  [[nodiscard]] IsolateDiedError died() {
    const raw_outcome end = end_of_process();
    const std::lock_guard lock(mutex_);
    if (closed_) return IsolateDiedError(text() + " was ended while it ran");
    return IsolateDiedError(fmt::format("{} has died: {}", text(), end.explanation));
  }

  void close() {
    {
      const std::lock_guard lock(mutex_);
      throw_if_closed();
      if (busy_) throw IsolateError(text() + " is running: close() waits for nobody, kill() ends it");
      closed_ = true;
    }
    const auto request = make_frame(frame_kind::close);
    static_cast<void>(::send(socket_.get(), request.data(), request.size(), MSG_NOSIGNAL | MSG_DONTWAIT));
    // It has nothing left to do. One that does not go all the same is made to.
    process()->wait(clock::now() + 2s);
    end_process();
  }
  void kill() {
    {
      const std::lock_guard lock(mutex_);
      throw_if_closed();
      closed_ = true;
    }
    end_process();
    changed_.notify_all();
  }
  /// Whatever state it is in; does not throw.
  void drop() {
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
    }
    end_process();
  }
  void end_process() {
    const auto ending = process();
    ending->cancel();
    ending->wait(std::nullopt);
  }
  void restart() {
    end_process();
    const std::lock_guard lock(mutex_);
    end_.reset();
    start_process();
  }

 private:
  static options limits_of(const isolate_options& wanted) {
    options limits = wanted.limits;
    if (wanted.context != start_method::automatic) limits.context = wanted.context;
    if (limits.name.empty()) limits.name = wanted.name;
    return limits;
  }
  void throw_if_closed() const {
    if (closed_) throw IsolateNotFoundError(text() + " was closed");
  }
  void start_process() {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
      throw StartException("make a socket", {errno, std::system_category()});
    }
    platform::call_fd own(ends[0]);
    const platform::call_fd isolates(ends[1]);
    auto bell = std::make_shared<platform::doorbell>();
    if (!*bell) throw StartException("make a doorbell", {errno, std::system_category()});
    isolate_task task(id_, options_.name);
    std::shared_ptr<call_in_flight> process = start_in_flight(limits_, task, isolates.get());
    if (process->pid() < 0) std::rethrow_exception(process->conclude().error);
    process->when_done([bell] { platform::doorbell::raise(bell->descriptor()); });
    socket_ = std::move(own);
    ended_bell_ = std::move(bell);
    process_ = std::move(process);
  }

  const std::int64_t id_;
  const pid_t owner_ = platform::process_number();
  const isolate_options options_;
  const std::shared_ptr<const settings> limits_;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool busy_ = false;
  bool closed_ = false;
  std::optional<raw_outcome> end_;
  std::shared_ptr<call_in_flight> process_;
  // Of whoever has the turn.
  platform::call_fd socket_;
  std::shared_ptr<platform::doorbell> ended_bell_;  ///< rung when the process has ended
};

namespace {

/// One request: what is waited for while its bytes go and its answer's come.
class conversation {
 public:
  conversation(int socket, const platform::doorbell& ended, std::int64_t pid, const settings* limits)
      : socket_(socket), ended_(ended), pid_(static_cast<pid_t>(pid)), limits_(limits) {
    if (limits_ == nullptr) return;
    if (limits_->wall_time()) deadline_ = begun_ + std::min(*limits_->wall_time(), platform::longest_wait);
    if (limits_->cpu_time()) {
      used_before_ = platform::cpu_time_of(pid_).value_or(0ns);
      next_look_ = begun_ + least_interval;
    }
    if (limits_->given().stop.stop_possible()) {
      stop_bell_.emplace();
      on_stop_.emplace(limits_->given().stop, ring{&*stop_bell_});
    }
  }
  conversation(const conversation&) = delete;
  conversation& operator=(const conversation&) = delete;

  using state = isolate_core::reply::state;

  state send(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent > 0) {
        bytes = bytes.subspan(static_cast<std::size_t>(sent));
      } else if (sent < 0 && errno != EAGAIN && errno != EINTR) {
        return state::died;
      } else if (const state now = wait(POLLOUT); now != state::came) {
        return now;
      }
    }
    return state::came;
  }
  state receive(void* to, std::size_t size) {
    auto* at = static_cast<std::byte*>(to);
    while (size > 0) {
      const ssize_t got = ::recv(socket_, at, size, MSG_DONTWAIT);
      if (got > 0) {
        at += got;
        size -= static_cast<std::size_t>(got);
      } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        return state::died;
      } else if (has_ended_) {
        // All that it has sent has been read.
        return state::died;
      } else if (const state now = wait(POLLIN); now != state::came) {
        return now;
      }
    }
    return state::came;
  }
  [[nodiscard]] pynisher::usage usage() const {
    pynisher::usage used;
    used.wall_time = clock::now() - begun_;
    used.peak_memory = platform::peak_of(pid_);
    return used;
  }
  [[nodiscard]] std::chrono::nanoseconds cpu_used() const {
    return platform::cpu_time_of(pid_).value_or(used_before_) - used_before_;
  }

 private:
  struct ring {
    platform::doorbell* bell;
    void operator()() const noexcept { platform::doorbell::raise(bell->descriptor()); }
  };
  static constexpr std::chrono::nanoseconds least_interval = 500us;

  state wait(short events) {
    pollfd watched[] = {{socket_, events, 0},
                        {ended_.descriptor(), POLLIN, 0},
                        {stop_bell_ ? stop_bell_->descriptor() : -1, POLLIN, 0}};
    std::optional<clock::time_point> until = deadline_;
    if (next_look_ && (!until || *next_look_ < *until)) until = next_look_;
    timespec timeout{};
    if (until) {
      const auto left = std::max(std::chrono::nanoseconds(0), std::chrono::nanoseconds(*until - clock::now()));
      timeout = {static_cast<time_t>(left.count() / 1'000'000'000), static_cast<long>(left.count() % 1'000'000'000)};
    }
    ::ppoll(watched, std::size(watched), until ? &timeout : nullptr, nullptr);
    if (watched[0].revents != 0) return state::came;
    if (watched[1].revents != 0) {
      has_ended_ = true;
      return events == POLLIN ? state::came : state::died;
    }
    if (watched[2].revents != 0) return state::cancelled;
    const auto now = clock::now();
    if (deadline_ && now >= *deadline_) return state::wall_time;
    if (next_look_ && now >= *next_look_) {
      const auto left = *limits_->cpu_time() - cpu_used();
      if (left <= 0ns) return state::cpu_time;
      next_look_ = now + std::max(least_interval, std::chrono::nanoseconds(left / platform::processors()));
    }
    return state::came;
  }

  const int socket_;
  const platform::doorbell& ended_;
  const pid_t pid_;
  const settings* const limits_;
  const clock::time_point begun_ = clock::now();
  std::optional<clock::time_point> deadline_, next_look_;
  std::chrono::nanoseconds used_before_{0};
  bool has_ended_ = false;
  std::optional<platform::doorbell> stop_bell_;
  std::optional<std::stop_callback<ring>> on_stop_;
};

}  // namespace

isolate_core::reply isolate_core::ask(std::span<const std::byte> request, const settings* limits) {
  using state = reply::state;
  reply answered;
  conversation with(socket_.get(), *ended_bell_, process()->pid(), limits);
  frame_header header{};
  answered.how = with.send(request);
  const std::uint64_t largest = platform::physical_memory() / 2;
  do {
    if (answered.how == state::came) answered.how = with.receive(&header, sizeof header);
    if (answered.how != state::came) break;
    if (header.kind < frame_kind::piece || header.kind > frame_kind::load_failed ||
        header.size > largest - answered.bytes.arrived() || (header.kind == frame_kind::piece && header.size == 0)) {
      answered.how = state::lies;
      break;
    }
    // What had come of a value is worth nothing when something else ends it.
    if (header.kind > frame_kind::value) answered.bytes = reply_bytes();
    // No memory runs ahead of the bytes that have come.
    for (std::uint64_t left = header.size; left > 0 && answered.how == state::came;) {
      const std::uint64_t next = std::min(left, std::uint64_t{256} << 10);
      answered.how = with.receive(answered.bytes.grow(static_cast<std::size_t>(next)), static_cast<std::size_t>(next));
      left -= next;
    }
  } while (answered.how == state::came && header.kind == frame_kind::piece);
  answered.kind = header.kind;
  answered.bytes.select(0, answered.bytes.arrived());
  answered.usage = with.usage();
  if (answered.how != state::came && answered.how != state::died) {
    answered.usage.user_time = with.cpu_used();
    end_process();
  }
  return answered;
}

namespace {

raw_outcome outcome_of(isolate_core& core, isolate_core::reply answered, const settings* limits, const call_name& name) {
  using state = isolate_core::reply::state;
  call_record record;
  evidence& seen = record.seen;
  seen.usage = answered.usage;
  seen.memory_limit = core.limits().memory();
  if (limits != nullptr) {
    seen.wall_limit = limits->wall_time();
    seen.cpu_limit = limits->cpu_time();
  }
  seen.how = platform::exit_status::kind::exited;
  switch (answered.how) {
    case state::came:
      break;
    case state::died: {
      raw_outcome out = core.end_of_process();
      const IsolateDiedError error = core.died();
      out.explanation = fmt::format("{}: {}", name.text(), error.what());
      if (out.verdict == verdict::returned) out.verdict = verdict::exited;
      out.error = std::make_exception_ptr(error);
      return out;
    }
    case state::lies:
      seen.cause = ended_for::lying;
      break;
    case state::wall_time:
      seen.cause = ended_for::wall_time;
      break;
    case state::cpu_time:
      seen.cause = ended_for::cpu_time;
      break;
    case state::cancelled:
      seen.cause = ended_for::cancelled;
      break;
  }
  if (answered.how == state::came) {
    switch (answered.kind) {
      case frame_kind::value:
        seen.reply = reply_kind::value;
        break;
      case frame_kind::exception:
        seen.reply = reply_kind::exception;
        break;
      case frame_kind::out_of_memory:
        seen.reply = reply_kind::out_of_memory;
        break;
      default:
        seen.reply = reply_kind::unsendable;
    }
    record.bytes = std::move(answered.bytes);
  } else {
    seen.how = platform::exit_status::kind::signalled;
    seen.status = SIGKILL;
  }
  return conclude(core.limits(), std::move(record), name);
}

/// Limits of one call; null: there are none. Throws what `limit` throws.
std::shared_ptr<const settings> limits_of_call(const options& given) {
  if (given.memory.has_value() || given.processes != 0 || !given.name.empty() ||
      given.context != start_method::automatic) {
    throw std::invalid_argument(
        "memory, processes, name and context are the isolate's, from its creation; one call has wall_time, cpu_time and "
        "stop");
  }
  if (!given.wall_time.has_value() && !given.cpu_time.has_value() && !given.stop.stop_possible()) return nullptr;
  return validate(given);
}

/// The call as a frame. Throws `SerializationException`.
std::vector<std::byte> call_frame(const child_task& task) {
  frame_sink sink;
  output_archive out(sink, sink.first());
  try {
    write_call(out, task);
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& e) {
    throw SerializationException(fmt::format("{} could not be sent: {}", task.name().text(), e.what()));
  }
  return sink.take(frame_kind::call, out);
}

/// A call that was started: a thread asks and waits.
class isolate_flight final : public call_in_flight {
 public:
  isolate_flight(std::shared_ptr<isolate_core> core, const options& given, std::vector<std::byte> request, call_name name)
      : shared_(std::make_shared<shared>()) {
    shared_->core = std::move(core);
    shared_->name = std::move(name);
    shared_->request = std::move(request);
    options limits = given;
    if (given.stop.stop_possible()) shared_->on_stop.emplace(given.stop, forward{&shared_->stop});
    limits.stop = shared_->stop.get_token();
    shared_->limits = limits_of_call(limits);
    // Where no turn is waited for, whoever comes second is told at once.
    if (!shared_->core->is_queued()) shared_->turn = std::make_unique<isolate_core::turn>(shared_->core);
    own_threads.fetch_add(1);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      thread_ = std::thread([on = shared_] { on->work(); });
    } catch (...) {
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
      own_threads.fetch_sub(1);
      throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  isolate_flight(const isolate_flight&) = delete;
  isolate_flight& operator=(const isolate_flight&) = delete;
  ~isolate_flight() override {
    if (owner_ != platform::process_number()) {
      static_cast<void>(new std::thread(std::move(thread_)));
      static_cast<void>(new std::shared_ptr<shared>(std::move(shared_)));
      return;
    }
    cancel();
    if (thread_.get_id() == std::this_thread::get_id()) {
      thread_.detach();
    } else {
      thread_.join();
    }
    own_threads.fetch_sub(1);
  }

  bool wait(std::optional<clock::time_point> until) override {
    std::unique_lock lock(shared_->mutex);
    const auto done = [this] { return shared_->done; };
    if (until) return shared_->changed.wait_until(lock, *until, done);
    shared_->changed.wait(lock, done);
    return true;
  }
  void cancel() override { shared_->stop.request_stop(); }
  std::int64_t pid() override { return shared_->core->process()->pid(); }
  void when_done(std::function<void()> tell) override {
    {
      const std::lock_guard lock(shared_->mutex);
      if (!shared_->done) {
        shared_->when_done = std::move(tell);
        return;
      }
    }
    tell();
  }
  raw_outcome conclude() override {
    wait(std::nullopt);
    const std::lock_guard lock(shared_->mutex);
    if (!shared_->outcome) throw std::logic_error("pynisher: the result of this call has been taken already");
    raw_outcome out = std::move(*shared_->outcome);
    shared_->outcome.reset();
    return out;
  }

 private:
  struct forward {
    std::stop_source* to;
    void operator()() const noexcept { to->request_stop(); }
  };
  struct shared {
    std::shared_ptr<isolate_core> core;
    std::unique_ptr<isolate_core::turn> turn;
    call_name name;
    std::vector<std::byte> request;
    std::shared_ptr<const settings> limits;
    std::stop_source stop;
    std::optional<std::stop_callback<forward>> on_stop;
    std::mutex mutex;
    std::condition_variable changed;
    std::optional<raw_outcome> outcome;
    std::function<void()> when_done;
    bool done = false;

    void work() {
      raw_outcome out;
      try {
        if (!turn) turn = std::make_unique<isolate_core::turn>(core);
        out = outcome_of(*core, core->ask(request, limits.get()), limits.get(), name);
      } catch (const std::exception& e) {
        out.verdict = verdict::start_failed;
        out.explanation = e.what();
        out.error = std::current_exception();
      }
      turn.reset();
      std::function<void()> tell;
      {
        const std::lock_guard lock(mutex);
        outcome = std::move(out);
        done = true;
        tell = std::exchange(when_done, nullptr);
        changed.notify_all();
      }
      if (tell) tell();
    }
  };

  const pid_t owner_ = platform::process_number();
  std::shared_ptr<shared> shared_;
  std::thread thread_;
};

}  // namespace

// --- handles ------------------------------------------------------------------------------------------------------

/// What the handles of one isolate share. Without a core: this process itself.
struct isolate_lease {
  explicit isolate_lease(std::shared_ptr<isolate_core> of, bool owner) : core(std::move(of)), owns(owner) {}
  isolate_lease(const isolate_lease&) = delete;
  isolate_lease& operator=(const isolate_lease&) = delete;
  ~isolate_lease();

  std::shared_ptr<isolate_core> core;
  std::atomic<bool> owns;

  static isolate handle(std::shared_ptr<isolate_lease> lease) { return isolate(std::move(lease)); }
};

namespace {

struct registered {
  std::weak_ptr<isolate_lease> lease;
  std::shared_ptr<isolate_core> detached;
};

/// Under the library's mutex. Never destroyed.
auto& registry() {
  static auto* const all = new std::map<std::int64_t, registered>;
  return *all;
}
std::atomic<std::int64_t> last_id{0};

void unregister(std::int64_t id) {
  const std::lock_guard lock(library_mutex);
  registry().erase(id);
}

std::shared_ptr<isolate_core> core_of(const isolate_lease& lease, const char* what) {
  if (!lease.core) {
    throw IsolateError(fmt::format("{}: this is the process itself, not one that it has made", what));
  }
  if (lease.core->owner() != platform::process_number()) {
    throw IsolateNotFoundError(lease.core->text() + " is another process's");
  }
  return lease.core;
}

/// Asks for what always has an answer.
template <class... Values>
void ask_for(const std::shared_ptr<isolate_core>& core, const std::vector<std::byte>& request, Values&... values) {
  const isolate_core::turn turn(core);
  const auto answered = core->ask(request, nullptr);
  if (answered.how != isolate_core::reply::state::came) throw core->died();
  input_archive in(answered.bytes.data(), answered.bytes.size());
  try {
    if (answered.kind == frame_kind::load_failed) {
      std::string why;
      in(why);
      throw LoadError(why);
    }
    if (answered.kind == frame_kind::exception) std::rethrow_exception(read_exception(in).error);
    if (answered.kind != frame_kind::value) throw wire_error("no value");
    (in(values), ...);
    in.expect_end();
  } catch (const wire_error& e) {
    throw SerializationException(fmt::format("{} has not answered as it should: {}", core->text(), e.what()));
  }
}

}  // namespace

isolate_lease::~isolate_lease() {
  if (!core) return;
  if (core->owner() != platform::process_number()) {
    // A forked copy of the program has handles, but not the isolate.
    static_cast<void>(new std::shared_ptr<isolate_core>(std::move(core)));
    return;
  }
  if (!owns.load()) return;
  unregister(core->id());
  core->drop();
}

}  // namespace detail

using detail::frame_kind;
using detail::make_frame;

isolate isolate::create(isolate_options wanted) {
  const std::int64_t id = detail::last_id.fetch_add(1) + 1;
  auto core = std::make_shared<detail::isolate_core>(id, std::move(wanted));
  auto lease = std::make_shared<detail::isolate_lease>(std::move(core), true);
  const std::lock_guard lock(detail::library_mutex);
  detail::registry()[id] = {lease, nullptr};
  return isolate(std::move(lease));
}

std::vector<isolate> isolate::list_all() {
  std::vector<std::shared_ptr<detail::isolate_lease>> leases;
  {
    const std::lock_guard lock(detail::library_mutex);
    for (const auto& [id, known] : detail::registry()) {
      auto lease = known.lease.lock();
      if (!lease && known.detached) lease = std::make_shared<detail::isolate_lease>(known.detached, false);
      if (lease && lease->core->owner() == platform::process_number()) leases.push_back(std::move(lease));
    }
  }
  std::vector<isolate> all{current()};
  for (auto& lease : leases) {
    if (lease->core->is_alive()) all.push_back(isolate(std::move(lease)));
  }
  return all;
}

isolate isolate::current() { return isolate(std::make_shared<detail::isolate_lease>(nullptr, false)); }

isolate isolate::main() {
  if (detail::here().id != 0) throw IsolateError("main() is not to be had within an isolate: it is another process");
  return current();
}

std::int64_t isolate::id() const { return lease_->core ? lease_->core->id() : detail::here().id; }

std::string isolate::name() const {
  if (lease_->core) return lease_->core->name();
  return detail::here().id == 0 ? "main" : detail::here().name;
}

std::int64_t isolate::pid() const {
  return lease_->core ? lease_->core->process()->pid() : static_cast<std::int64_t>(platform::process_number());
}

bool isolate::is_running() const { return lease_->core ? lease_->core->is_running() : true; }
bool isolate::is_alive() const { return lease_->core ? lease_->core->is_alive() : true; }

void isolate::close() {
  const auto core = detail::core_of(*lease_, "close");
  core->close();
  detail::unregister(core->id());
}

void isolate::kill() {
  const auto core = detail::core_of(*lease_, "kill");
  core->kill();
  detail::unregister(core->id());
}

void isolate::detach() {
  const auto core = detail::core_of(*lease_, "detach");
  if (!lease_->owns.exchange(false)) return;
  const std::lock_guard lock(detail::library_mutex);
  detail::registry()[core->id()].detached = core;
}

bool isolate::wait_until(std::chrono::steady_clock::time_point until) const {
  return detail::core_of(*lease_, "wait_for")->process()->wait(until);
}

usage isolate::usage() const {
  pynisher::usage used;
  const auto process = static_cast<pid_t>(pid());
  used.user_time = platform::cpu_time_of(process).value_or(std::chrono::nanoseconds(0));
  used.peak_memory = platform::peak_of(process);
  return used;
}

void isolate::reset() {
  const auto core = detail::core_of(*lease_, "reset");
  const detail::isolate_core::turn turn(core);
  core->restart();
}

int isolate::exec(const std::string& library, const std::string& symbol) {
  int result = 0;
  detail::ask_for(detail::core_of(*lease_, "exec"), make_frame(frame_kind::load, library, symbol), result);
  return result;
}

void isolate::set_all(std::initializer_list<binding> bindings) {
  std::vector<std::pair<std::string, detail::named_value>> values;
  for (const binding& one : bindings) values.emplace_back(one.name_, one.value_);
  set_packed(std::move(values));
}

void isolate::set_packed(std::vector<std::pair<std::string, detail::named_value>> values) {
  for (const auto& value : values) {
    if (value.first.empty()) throw std::invalid_argument("isolate: a name cannot be empty");
  }
  if (!lease_->core) {
    for (auto& [name, value] : values) detail::here().names.insert_or_assign(name, std::move(value));
    return;
  }
  detail::frame_sink sink;
  detail::output_archive out(sink, sink.first());
  out(static_cast<std::uint32_t>(values.size()));
  for (const auto& [name, value] : values) out(name, value.type, value.bytes);
  detail::ask_for(detail::core_of(*lease_, "set"), sink.take(frame_kind::set, out));
}

std::optional<detail::named_value> isolate::get_packed(const std::string& name) const {
  if (!lease_->core) {
    const auto& names = detail::here().names;
    const auto found = names.find(name);
    return found == names.end() ? std::nullopt : std::optional(found->second);
  }
  std::optional<detail::named_value> found;
  detail::ask_for(detail::core_of(*lease_, "get"), make_frame(frame_kind::get, name), found);
  return found;
}

void isolate::check_type(const std::string& name, const detail::named_value& found, const std::string& wanted) {
  if (found.type == wanted) return;
  throw NotShareableError(fmt::format("\"{}\" is kept as {}, not as {}", name, found.type, wanted));
}

std::vector<std::string> isolate::names() const {
  std::vector<std::string> all;
  if (lease_->core) {
    detail::ask_for(detail::core_of(*lease_, "names"), make_frame(frame_kind::names), all);
  } else {
    for (const auto& entry : detail::here().names) all.push_back(entry.first);
  }
  return all;
}

bool isolate::erase(const std::string& name) {
  if (!lease_->core) return detail::here().names.erase(name) > 0;
  bool erased = false;
  detail::ask_for(detail::core_of(*lease_, "erase"), make_frame(frame_kind::erase, name), erased);
  return erased;
}

void isolate::reset_main() {
  if (lease_->core) {
    detail::ask_for(detail::core_of(*lease_, "reset_main"), make_frame(frame_kind::reset_names));
  } else {
    detail::here().names.clear();
  }
}

detail::raw_outcome isolate::run(const options& limits, const detail::child_task& task) {
  const auto core = detail::core_of(*lease_, "call");
  const auto checked = detail::limits_of_call(limits);
  const auto request = detail::call_frame(task);
  const detail::isolate_core::turn turn(core);
  return detail::outcome_of(*core, core->ask(request, checked.get()), checked.get(), task.name());
}

std::unique_ptr<detail::call_in_flight> isolate::begin(const options& limits, const detail::child_task& task) {
  return std::make_unique<detail::isolate_flight>(detail::core_of(*lease_, "start"), limits, detail::call_frame(task),
                                                  task.name());
}

}  // namespace pynisher
