#include "output_reader.hpp"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <exception>
#include <new>
#include <stdexcept>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include <pynisher/exceptions.hpp>

#include "supervised_call.hpp"
#include "warn.hpp"

namespace pynisher::detail {

// --- sinks --------------------------------------------------------------------------------------------------------

void line_sink::take(std::string_view bytes) noexcept {
  while (!bytes.empty()) {
    const std::size_t end = bytes.find('\n');
    const std::size_t room = output::longest_line - line_.size();
    const std::size_t taken = std::min({end, bytes.size(), room});
    try {
      line_.append(bytes.substr(0, taken));
    } catch (const std::exception&) {
      complain("there was no memory left for a line of an isolate's output; it is lost.");
      line_.clear();
    }
    bytes.remove_prefix(taken);
    if (!bytes.empty() && bytes.front() == '\n') {
      bytes.remove_prefix(1);
      hand_over();
    } else if (line_.size() == output::longest_line) {
      hand_over();
    }
  }
}

void line_sink::end() noexcept {
  if (!line_.empty()) hand_over();
}

void line_sink::hand_over() noexcept {
  try {
    callback_(std::exchange(line_, {}));
  } catch (const std::exception& e) {
    complain(e.what());
  } catch (...) {
    complain("something that is no std::exception");
  }
}

void line_sink::complain(const char* what) noexcept {
  if (std::exchange(has_complained_, true)) return;
  try {
    warn(fmt::format("the callback for lines of an isolate's output threw, which costs those lines: {}", what));
  } catch (...) {
  }
}

void capture_sink::take(std::string_view bytes) noexcept {
  const std::lock_guard lock(mutex_);
  if (discards_ || is_too_much_ || has_no_memory_) return;
  if (bytes.size() > most_ - text_.size()) {
    is_too_much_ = true;
    bytes = bytes.substr(0, static_cast<std::size_t>(most_ - text_.size()));
  }
  try {
    text_.append(bytes);
  } catch (const std::exception&) {
    has_no_memory_ = true;
  }
}

std::string capture_sink::text() const {
  const std::lock_guard lock(mutex_);
  if (has_no_memory_) throw std::bad_alloc();
  if (is_too_much_) {
    throw std::length_error(
        fmt::format("capture_output: more than {} bytes were written, and the rest is lost", most_));
  }
  return text_;
}

void capture_sink::clear() {
  const std::lock_guard lock(mutex_);
  text_ = {};
  is_too_much_ = has_no_memory_ = false;
}

void capture_sink::discard() {
  const std::lock_guard lock(mutex_);
  discards_ = true;
}

// --- the thread ---------------------------------------------------------------------------------------------------

struct output_reader::state {
  struct reading {
    platform::call_fd pipe;
    std::shared_ptr<output_sink> sink;
    std::uint64_t read = 0;       ///< taken out of the pipe
    std::uint64_t delivered = 0;  ///< and given to the sink
    bool at_end = false;
  };
  std::vector<reading> all;
  platform::doorbell bell;
  std::mutex mutex;
  std::condition_variable changed;
  bool stopping = false;
  bool done = false;

  [[nodiscard]] static std::uint64_t waiting_in(int pipe) {
    int bytes = 0;
    return ::ioctl(pipe, FIONREAD, &bytes) == 0 && bytes > 0 ? static_cast<std::uint64_t>(bytes) : 0;
  }

  /// False: there is nothing now.
  bool read_some(reading& from, char* buffer, std::size_t size) {
    ssize_t got = -1;
    {
      const std::lock_guard lock(mutex);
      got = ::read(from.pipe.get(), buffer, size);
      if (got > 0) from.read += static_cast<std::uint64_t>(got);
      if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) from.at_end = true;
    }
    if (got > 0) from.sink->take({buffer, static_cast<std::size_t>(got)});
    const std::lock_guard lock(mutex);
    if (got > 0) from.delivered += static_cast<std::uint64_t>(got);
    changed.notify_all();
    return got > 0;
  }

  void run() {
    std::vector<char> buffer;
    std::array<char, 4096> little;
    try {
      buffer.resize(std::size_t{64} << 10);
    } catch (const std::bad_alloc&) {
    }
    char* const to = buffer.empty() ? little.data() : buffer.data();
    const std::size_t size = buffer.empty() ? little.size() : buffer.size();
    while (!is_stopping()) {
      std::array<pollfd, 3> watched{};
      watched[0] = {bell.descriptor(), POLLIN, 0};
      for (std::size_t i = 0; i < all.size(); ++i) watched[i + 1] = {all[i].at_end ? -1 : all[i].pipe.get(), POLLIN, 0};
      if (::poll(watched.data(), static_cast<nfds_t>(all.size() + 1), -1) < 0) continue;
      for (std::size_t i = 0; i < all.size(); ++i) {
        if (watched[i + 1].revents != 0) read_some(all[i], to, size);
      }
    }
    // What is there now, and no more: whoever still writes may never end.
    for (reading& one : all) {
      const std::uint64_t until = one.read + waiting_in(one.pipe.get());
      while (one.read < until && read_some(one, to, size)) {
      }
      one.sink->end();
    }
    const std::lock_guard lock(mutex);
    done = true;
    changed.notify_all();
  }
  bool is_stopping() {
    const std::lock_guard lock(mutex);
    return stopping;
  }
};

output_reader::output_reader(std::vector<source> sources) : state_(std::make_shared<state>()) {
  if (!state_->bell) throw StartException("make a doorbell", {errno, std::system_category()});
  for (source& one : sources) state_->all.push_back({std::move(one.pipe), std::move(one.sink)});
  // No signal of the application's is handled here.
  sigset_t none, before;
  sigfillset(&none);
  pthread_sigmask(SIG_SETMASK, &none, &before);
  try {
    thread_ = std::thread([on = state_] { on->run(); });
  } catch (const std::system_error& e) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw StartException("start the thread that reads an isolate's output", e.code());
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  own_threads.fetch_add(1);
}

output_reader::~output_reader() {
  if (owner_ != platform::process_number()) {
    // A forked copy of the program has no such thread.
    static_cast<void>(new std::thread(std::move(thread_)));
    static_cast<void>(new std::shared_ptr<state>(std::move(state_)));
    return;
  }
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  platform::doorbell::raise(state_->bell.descriptor());
  if (thread_.get_id() == std::this_thread::get_id()) {
    // A callback has let go of the last handle.
    thread_.detach();
  } else {
    thread_.join();
  }
  own_threads.fetch_sub(1);
}

void output_reader::sync() {
  if (owner_ != platform::process_number() || thread_.get_id() == std::this_thread::get_id()) return;
  std::unique_lock lock(state_->mutex);
  for (auto& one : state_->all) {
    const std::uint64_t until = one.read + state::waiting_in(one.pipe.get());
    state_->changed.wait(lock, [&] { return one.delivered >= until || one.at_end || state_->done; });
  }
}

bool output_reader::is_at_end() {
  for (auto& one : state_->all) {
    pollfd end{one.pipe.get(), POLLIN, 0};
    if (::poll(&end, 1, 0) <= 0 || (end.revents & POLLHUP) == 0) return false;
  }
  return true;
}

output_pipe::output_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw StartException("make a pipe", {errno, std::system_category()});
  read = platform::call_fd(ends[0]);
  write = platform::call_fd(ends[1]);
  // Only the reader does not wait.
  if (::fcntl(read.get(), F_SETFL, O_NONBLOCK) != 0)
    throw StartException("make a pipe", {errno, std::system_category()});
}

}  // namespace pynisher::detail
