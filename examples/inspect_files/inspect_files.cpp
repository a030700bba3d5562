// A guarded inspector of foreign files: each is read by its real parser, and no file can hurt this program.
//
//     inspect_files [--memory=MIB] [--cpu=SECONDS] [--wall=SECONDS] [FILE...]
//
// Without files it takes some of this machine's, and some that it makes to cause as much harm as they can.

#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <exception>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include <pynisher/pynisher.hpp>

#include "parsers.hpp"
#include "sample_files.hpp"
#include "table.hpp"

namespace {

using namespace pynisher::literals;
using namespace std::chrono_literals;
using inspector::table_row;

constexpr const char* help =
    "inspect_files [--memory=MIB] [--cpu=SECONDS] [--wall=SECONDS] [FILE...]\n"
    "Says what is in gzip, XML, PNG and text files, each read under limits in a process of its own.\n"
    "Without files: some of this machine's, and some that it makes itself to do harm.\n";

struct command_line {
  pynisher::options limits{.memory = 128_MiB, .cpu_time = 1s, .wall_time = 4s};
  std::vector<std::string> files;
  bool wants_help = false;
};

double number_in(std::string_view argument) {
  const std::string_view text = argument.substr(argument.find('=') + 1);
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw std::invalid_argument(fmt::format("{}: a number is needed after '='", argument));
  }
  return number;
}

command_line parse(int argc, char** argv) {
  command_line wanted;
  for (const std::string& argument : std::vector<std::string>(argv + 1, argv + argc)) {
    if (argument == "--help") {
      wanted.wants_help = true;
    } else if (argument.starts_with("--memory=")) {
      wanted.limits.memory = {number_in(argument), "MiB"};
    } else if (argument.starts_with("--cpu=")) {
      wanted.limits.cpu_time = number_in(argument);
    } else if (argument.starts_with("--wall=")) {
      wanted.limits.wall_time = number_in(argument);
    } else if (argument.starts_with("--")) {
      throw std::invalid_argument(fmt::format("{}: there is no such option; see --help", argument));
    } else {
      wanted.files.push_back(argument);
    }
  }
  return wanted;
}

/// What the row's sentence says: what was found, the parser's complaint, or how the call ended.
std::string sentence_about(const pynisher::outcome<std::string>& result) {
  try {
    return result.value();
  } catch (const pynisher::ExecutionFailed& complaint) {
    return complaint.excinfo().message;
  } catch (const pynisher::call_report& broken) {
    // The row names the file already: leave out the 'inspect("/some/file")' that the sentence begins with.
    const std::string& sentence = result.explain();
    return sentence.starts_with(broken.call()) ? sentence.substr(broken.call().size() + 1) : sentence;
  } catch (...) {
    return result.explain();
  }
}

std::string in_seconds(std::chrono::nanoseconds time) {
  return fmt::format("{:.3f} s", std::chrono::duration<double>(time).count());
}

std::string in_mebibytes(std::uint64_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / 1048576);
}

table_row describe(const std::string& file, const pynisher::outcome<std::string>& result) {
  const pynisher::usage& used = result.usage();
  return {file,
          to_string(result.verdict()),
          in_seconds(used.wall_time),
          in_seconds(used.cpu_time()),
          in_mebibytes(used.peak_memory),
          sentence_about(result)};
}

volatile std::sig_atomic_t interrupted = 0;

using guarded_inspector = decltype(pynisher::limit(inspector::inspect));

/// True when every file was looked at, whatever came of it.
bool inspect_all(const std::vector<std::string>& files, const guarded_inspector& guarded_inspect) {
  std::map<std::string, int> verdicts;
  bool complete = true;
  inspector::print_heading();
  for (const std::string& file : files) {
    const auto result = guarded_inspect.try_call(file);
    if (interrupted != 0) return false;
    inspector::print_row(describe(file, result));
    ++verdicts[to_string(result.verdict())];
    complete = complete && result.verdict() != pynisher::verdict::start_failed;
  }
  std::string summary = fmt::format("\n{} files:", files.size());
  for (const auto& [verdict, count] : verdicts) summary += fmt::format(" {} {},", count, verdict);
  summary.back() = '\n';
  fmt::print("{}", summary);
  return complete;
}

int run(command_line wanted) {
  if (!pynisher::supports(pynisher::feature::memory)) {
    fmt::print("No memory limit: {}\n", pynisher::why_not(pynisher::feature::memory));
    wanted.limits.memory = {};
  }
  const auto guarded_inspect = pynisher::limit(inspector::inspect, wanted.limits);
  if (!wanted.files.empty()) return inspect_all(wanted.files, guarded_inspect) ? 0 : 1;

  const inspector::nasty_files nasty;
  std::vector<std::string> files = inspector::real_files();
  files.insert(files.end(), nasty.paths().begin(), nasty.paths().end());
  fmt::print(
      "Each file is read in a process of its own, which may take {} of memory and {} of CPU time, and last {}.\n\n",
      wanted.limits.memory, wanted.limits.cpu_time, wanted.limits.wall_time);
  return inspect_all(files, guarded_inspect) ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  pynisher::init(argc, argv);
  // With a handler in place Ctrl-C ends the call, not this program, so that the files it made are removed.
  std::signal(SIGINT, [](int) { interrupted = 1; });
  try {
    const command_line wanted = parse(argc, argv);
    if (wanted.wants_help) {
      fmt::print("{}", help);
      return 0;
    }
    const int code = run(wanted);
    if (interrupted != 0) {
      std::signal(SIGINT, SIG_DFL);
      std::raise(SIGINT);
    }
    return code;
  } catch (const std::exception& e) {
    fmt::print(stderr, "inspect_files: {}\n", e.what());
    return 2;
  }
}
