#include "isolate_output.hpp"

#include <fcntl.h>

#include <cerrno>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include <pynisher/exceptions.hpp>
#include <pynisher/isolate.hpp>

namespace pynisher::detail {

namespace {

using platform::call_fd;

call_fd opened(const std::filesystem::path& path, int flags, const char* option) {
  call_fd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY | flags, 0666));
  if (!file) {
    throw StartException(fmt::format("open {} for an isolate's output ({})", path.string(), option),
                         {errno, std::system_category()});
  }
  return file;
}

call_fd duplicate(int descriptor, const char* option) {
  call_fd copy(::fcntl(descriptor, F_DUPFD_CLOEXEC, 3));
  if (!copy && errno == EBADF) {
    throw std::invalid_argument(fmt::format("{}: {} is not an open descriptor", option, descriptor));
  }
  if (!copy) throw StartException("duplicate a descriptor", {errno, std::system_category()});
  return copy;
}

call_fd stream(const output& to, const call_fd* original, const char* option,
               std::vector<output_reader::source>& sources) {
  switch (to.where()) {
    case output::kind::inherit:
      break;
    case output::kind::null:
    case output::kind::capture:
      return opened("/dev/null", 0, option);
    case output::kind::file:
      if (original != nullptr) return duplicate(original->get(), option);
      return opened(to.path(), O_CREAT | O_TRUNC | O_APPEND, option);
    case output::kind::descriptor:
      return duplicate(original != nullptr ? original->get() : to.number(), option);
    case output::kind::lines: {
      if (!to.callback()) throw std::invalid_argument(fmt::format("{}: lines() needs a callback", option));
      output_pipe pipe;
      sources.push_back({std::move(pipe.read), std::make_shared<line_sink>(to.callback())});
      return std::move(pipe.write);
    }
  }
  return {};
}

}  // namespace

isolate_streams::isolate_streams(const isolate_options& wanted, const isolate_streams* original) {
  std::vector<output_reader::source> sources;
  out = stream(wanted.out, original != nullptr ? &original->out : nullptr, "out", sources);
  err = stream(wanted.err, original != nullptr ? &original->err : nullptr, "err", sources);
  if (!sources.empty()) reader = std::make_shared<output_reader>(std::move(sources));
}

output_capture::output_capture(std::uint64_t most)
    : out(std::make_shared<capture_sink>(most)), err(std::make_shared<capture_sink>(most)) {
  output_pipe out_pipe, err_pipe;
  write_out = std::move(out_pipe.write);
  write_err = std::move(err_pipe.write);
  std::vector<output_reader::source> sources;
  sources.push_back({std::move(out_pipe.read), out});
  sources.push_back({std::move(err_pipe.read), err});
  reader = std::make_shared<output_reader>(std::move(sources));
}

}  // namespace pynisher::detail
