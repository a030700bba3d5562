#include "source_library.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include <pynisher/detail/execute.hpp>
#include <pynisher/detail/wire/types.hpp>
#include <pynisher/exceptions.hpp>
#include <pynisher/isolate.hpp>

#include "program_start.hpp"
#include "settings.hpp"

namespace pynisher::detail {

namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

constexpr std::size_t most_entries = 64;
constexpr std::uintmax_t most_bytes = std::uintmax_t{256} << 20;
constexpr std::size_t longest_text = std::size_t{64} << 10;
constexpr const char* unfinished = "unfinished.";

// --- the compiler -------------------------------------------------------------------------------------------------

/// The program of that name, as a shell would find it; empty: there is none.
fs::path found_in_path(const std::string& name) {
  const auto is_program = [](const fs::path& path) {
    std::error_code ignored;
    return ::access(path.c_str(), X_OK) == 0 && fs::is_regular_file(path, ignored);
  };
  if (name.find('/') != std::string::npos) return is_program(name) ? fs::path(name) : fs::path();
  const char* const path = std::getenv("PATH");
  std::istringstream directories(path != nullptr ? path : "/usr/local/bin:/usr/bin:/bin");
  for (std::string directory; std::getline(directories, directory, ':');) {
    const fs::path candidate = fs::path(directory.empty() ? "." : directory) / name;
    if (is_program(candidate)) return candidate;
  }
  return {};
}

/// The command's first words.
std::vector<std::string> compiler() {
  if (const char* const chosen = ::secure_getenv("CXX"); chosen != nullptr && chosen[0] != '\0') {
    std::istringstream text(chosen);
    std::vector<std::string> words{std::istream_iterator<std::string>(text), {}};
    const fs::path program = words.empty() ? fs::path() : found_in_path(words[0]);
    if (program.empty())
      throw UnsupportedException(fmt::format("exec_source: there is no compiler \"{}\" ($CXX)", chosen));
    words[0] = program.string();
    return words;
  }
  for (const char* name : {"c++", "g++", "clang++"}) {
    if (const fs::path program = found_in_path(name); !program.empty()) return {program.string()};
  }
  throw UnsupportedException("exec_source: there is no compiler: neither $CXX nor c++, g++ or clang++ in $PATH");
}

/// Compiles in a child of its own, with which its helpers end, and whoever it may be that dies first.
class compilation final : public child_task {
 public:
  compilation(std::vector<std::string> command, const fs::path& messages)
      : command_(std::move(command)), messages_(messages) {}
  void run(output_archive& reply) override {
    const int output = ::open(messages_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (output < 0) throw std::system_error(errno, std::system_category(), messages_.string());
    const program_ended ended = run_program(command_, output);
    begin_reply();
    reply(ended.status, std::string(ended.failed != nullptr ? ended.failed : ""), ended.error);
  }
  [[nodiscard]] call_name name() const override { return {}; }
  [[nodiscard]] const call_entry* entry() const override { return nullptr; }
  void pack(output_archive& /*out*/) const override {}

 private:
  const std::vector<std::string> command_;
  const fs::path messages_;
};

std::string beginning_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text(longest_text, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(file.gcount()));
  return text;
}

/// What the compiler says, without the directory that nobody has chosen.
std::string words_of_compiler(const fs::path& directory) {
  std::string text = beginning_of(directory / "messages");
  const std::string prefix = directory.string() + "/";
  for (std::size_t at = 0; (at = text.find(prefix, at)) != std::string::npos;) text.erase(at, prefix.size());
  return text;
}

void compile(const std::vector<std::string>& command, const fs::path& directory) {
  options limits;
  limits.context = start_method::fork;
  limits.warnings = false;
  limits.name = "pynisher-compile";
  compilation task(command, directory / "messages");
  raw_outcome ended = execute(*validate(limits), task, nullptr);
  if (ended.error) std::rethrow_exception(ended.error);
  int status = 0, error = 0;
  std::string failed;
  input_archive in(ended.reply.data(), ended.reply.size(), ended.reply.begin());
  in(status, failed, error);
  if (!failed.empty()) throw StartException(failed, {error, std::system_category()});
  if (status != 0) throw SourceError(words_of_compiler(directory));
}

// --- the cache ----------------------------------------------------------------------------------------------------

/// This user's, and nobody else may write there.
fs::path cache() {
  const char* const chosen = ::secure_getenv("XDG_CACHE_HOME");
  const char* const home = ::secure_getenv("HOME");
  fs::path directory;
  if (chosen != nullptr && chosen[0] == '/') {
    directory = fs::path(chosen) / "pynisher";
  } else if (home != nullptr && home[0] == '/') {
    directory = fs::path(home) / ".cache" / "pynisher";
  }
  const auto made = [](const fs::path& path) {
    std::error_code ignored;
    fs::create_directories(path.parent_path(), ignored);
    return ::mkdir(path.c_str(), 0700) == 0 || errno == EEXIST;
  };
  if (directory.empty() || !made(directory) || ::access(directory.c_str(), W_OK) != 0) {
    directory = fs::temp_directory_path() / fmt::format("pynisher-{}", ::geteuid());
    made(directory);
  }
  struct stat found {};
  if (::lstat(directory.c_str(), &found) != 0) {
    throw IsolateError(
        fmt::format("exec_source: {} cannot be made: {}", directory.string(), std::system_category().message(errno)));
  }
  if (!S_ISDIR(found.st_mode) || found.st_uid != ::geteuid() || (found.st_mode & 022) != 0) {
    throw IsolateError(
        fmt::format("exec_source: {} is no directory in which only this user may write", directory.string()));
  }
  return directory;
}

/// Everything that decides what comes out.
std::string identity_of(const std::vector<std::string>& command, const std::string& text) {
  struct stat compiler {};
  ::stat(command[0].c_str(), &compiler);
  std::string identity = fmt::format("{} {}.{}\n", compiler.st_size, compiler.st_mtim.tv_sec, compiler.st_mtim.tv_nsec);
  for (const std::string& word : command) identity += word + '\n';
  return identity + '\n' + text;
}

/// A name for it; the identity itself is compared as well.
std::string name_of(const std::string& identity, int attempt) {
  std::uint64_t first = 0xcbf29ce484222325u, second = 0x9e3779b97f4a7c15u + static_cast<std::uint64_t>(attempt);
  for (const char c : identity) {
    first = (first ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    second = (second ^ static_cast<unsigned char>(c)) * 0xff51afd7ed558ccdu;
    second ^= second >> 29;
  }
  return fmt::format("{:016x}{:016x}", first, second);
}

enum class entry_state : std::uint8_t { none, ours, anothers };
entry_state look_at(const fs::path& entry, const std::string& identity) {
  std::ifstream file(entry / "identity", std::ios::binary);
  if (!file) return entry_state::none;
  const std::string found{std::istreambuf_iterator<char>(file), {}};
  return found == identity ? entry_state::ours : entry_state::anothers;
}

void write_file(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) throw IsolateError(fmt::format("exec_source: {} cannot be written", path.string()));
}

/// In the cache, for as long as it lives; removed unless it was published.
class unfinished_entry {
 public:
  explicit unfinished_entry(const fs::path& directory) : path_((directory / unfinished).string() + "XXXXXX") {
    if (::mkdtemp(path_.data()) == nullptr) {
      throw IsolateError(fmt::format("exec_source: nothing can be written in {}: {}", directory.string(),
                                     std::system_category().message(errno)));
    }
  }
  unfinished_entry(const unfinished_entry&) = delete;
  unfinished_entry& operator=(const unfinished_entry&) = delete;
  ~unfinished_entry() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  [[nodiscard]] fs::path path() const { return path_; }
  /// One that is there already stays.
  void publish(const fs::path& as) {
    if (::rename(path_.c_str(), as.c_str()) == 0) path_.clear();
  }

 private:
  std::string path_;
};

struct old_entry {
  fs::path path;
  fs::file_time_type used;
  std::uintmax_t bytes = 0;
};

/// At once for whoever looks, however long it takes.
void remove_entry(const fs::path& cache, const fs::path& entry) {
  std::error_code ignored;
  const fs::path aside = cache / (std::string(unfinished) + entry.filename().string());
  fs::remove_all(aside, ignored);
  fs::rename(entry, aside, ignored);
  fs::remove_all(aside, ignored);
}

/// The longest unused go first. Whatever cannot be removed stays.
void trim(const fs::path& cache, const fs::path& newest) {
  std::error_code ignored;
  std::vector<old_entry> all;
  std::uintmax_t bytes = 0;
  for (const auto& found : fs::directory_iterator(cache, ignored)) {
    const fs::path& path = found.path();
    const auto used = fs::last_write_time(path, ignored);
    if (path.filename().string().starts_with(unfinished)) {
      // Of a process that was killed: no compilation takes that long.
      if (fs::file_time_type::clock::now() - used > 24h) fs::remove_all(path, ignored);
      continue;
    }
    std::uintmax_t size = 0;
    for (const auto& file : fs::directory_iterator(path, ignored)) size += file.file_size(ignored);
    bytes += size;
    if (path != newest) all.push_back({path, used, size});
  }
  std::sort(all.begin(), all.end(), [](const old_entry& a, const old_entry& b) { return a.used < b.used; });
  std::size_t count = all.size() + 1;
  for (const old_entry& entry : all) {
    if (count <= most_entries && bytes <= most_bytes) break;
    remove_entry(cache, entry.path);
    --count;
    bytes -= std::min(bytes, entry.bytes);
  }
}

}  // namespace

fs::path library_of_source(const std::string& text, const std::vector<std::string>& flags) {
  std::vector<std::string> command = compiler();
  command.insert(command.end(), {"-std=c++20", "-O1", "-fPIC", "-shared"});
  std::vector<std::string> told = command;
  told.insert(told.end(), flags.begin(), flags.end());
  const std::string identity = identity_of(told, text);
  const fs::path directory = cache();
  for (int attempt = 0;; ++attempt) {
    const fs::path entry = directory / name_of(identity, attempt);
    const entry_state state = look_at(entry, identity);
    if (state == entry_state::anothers) continue;
    if (state == entry_state::none) {
      unfinished_entry fresh(directory);
      write_file(fresh.path() / "source.cpp", text);
      command.insert(command.end(),
                     {"-o", (fresh.path() / "library.so").string(), (fresh.path() / "source.cpp").string()});
      command.insert(command.end(), flags.begin(), flags.end());
      compile(command, fresh.path());
      write_file(fresh.path() / "identity", identity);
      fresh.publish(entry);
      if (look_at(entry, identity) != entry_state::ours) {
        throw IsolateError(fmt::format("exec_source: {} cannot be written", entry.string()));
      }
      trim(directory, entry);
    }
    std::error_code ignored;
    fs::last_write_time(entry, fs::file_time_type::clock::now(), ignored);
    return entry / "library.so";
  }
}

}  // namespace pynisher::detail
