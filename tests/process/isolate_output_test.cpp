// Where an isolate's output goes, and capturing it.

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/pynisher.hpp>

#include "support/helper_process.hpp"
#include "support/isolates.hpp"

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::capture_output;
using pynisher::isolate;
using pynisher::output;
using support::add;
using testing::ElementsAre;
using testing::HasSubstr;

/// Before main, in a program that was started again for a call.
const struct says_so_before_main {
  says_so_before_main() {
    const char* const started_as = std::getenv("PYNISHER_STARTED_AS");
    if (started_as != nullptr && started_as[0] == 'c') {
      if (::write(STDOUT_FILENO, "before main;", 12) != 12) std::abort();
    }
  }
} a_static_object;

class IsolateOutput : public support::per_isolate {
 protected:
  /// What a program started afresh says before its first call.
  static std::string beginning() { return GetParam() == pynisher::start_method::spawn ? "before main;" : ""; }
};
FOR_EACH_START_METHOD(IsolateOutput);

class temporary_file {
 public:
  temporary_file() {
    char name[] = "/tmp/pynisher-output-XXXXXX";
    const int fd = ::mkstemp(name);
    if (fd < 0) throw std::runtime_error("no file");
    ::close(fd);
    path_ = name;
  }
  temporary_file(const temporary_file&) = delete;
  temporary_file& operator=(const temporary_file&) = delete;
  ~temporary_file() { std::filesystem::remove(path_); }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string text() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

 private:
  std::string path_;
};

void write_text(int fd, const std::string& text) {
  for (std::size_t at = 0; at < text.size();) {
    const ssize_t written = ::write(fd, text.data() + at, text.size() - at);
    if (written <= 0) ::_exit(95);
    at += static_cast<std::size_t>(written);
  }
}
void say(std::string text) { std::printf("%s", text.c_str()); }
void say_in_every_way() {
  std::printf("stdio;");
  std::fflush(stdout);
  std::cout << "iostream;" << std::flush;
  write_text(1, "write;");
  if (std::system("echo child") != 0) std::abort();
  std::printf("unflushed");
  std::cerr << "error;";
}

// --- capture ------------------------------------------------------------------------------------------------------

TEST_P(IsolateOutput, CaptureIsExactlyWhatWasWrittenMeanwhile) {
  isolate iso = make({.out = output::null(), .err = output::null()});
  iso.call(say, "before");
  {
    capture_output cap(iso);
    EXPECT_EQ(cap.out(), "");
    iso.call(say_in_every_way);
    EXPECT_EQ(cap.out(), "stdio;iostream;write;child\nunflushed");
    EXPECT_EQ(cap.err(), "error;");
    iso.call(say, "more\n");
    EXPECT_THAT(cap.out(), testing::EndsWith("unflushedmore\n"));
    cap.clear();
    iso.call(say, "again");
    EXPECT_EQ(cap.out(), "again");
    EXPECT_EQ(cap.err(), "");
  }
  iso.call(say, "after");
  capture_output cap(iso);
  EXPECT_EQ(cap.out(), "");
  iso.call(say, std::string("with\0zero", 9));
  EXPECT_EQ(cap.out(), "with");
}

TEST_P(IsolateOutput, CaptureTakesAnySizeWithoutWaiting) {
  isolate iso = make({.out = output::capture()});
  capture_output cap(iso);
  std::string expected;
  for (int i = 0; i < 600'000; ++i) expected += std::to_string(i) + '\n';
  iso.call([] {
    for (int i = 0; i < 600'000; ++i) std::printf("%d\n", i);
  });
  iso.call([](std::size_t size) { write_text(2, std::string(size, 'e')); }, 3'000'000u);
  EXPECT_TRUE(cap.out() == expected);
  EXPECT_TRUE(cap.err() == std::string(3'000'000, 'e'));
}

TEST_P(IsolateOutput, CaptureGivesBackWhatWasThereBefore) {
  const temporary_file file;
  isolate iso = make({.out = output::file(file.path())});
  iso.call(say, "one;");
  {
    capture_output cap(iso);
    iso.call(say, "captured");
    EXPECT_EQ(cap.out(), "captured");
  }
  iso.call(say, "two;");
  EXPECT_EQ(file.text(), beginning() + "one;two;");
}

TEST_P(IsolateOutput, CaptureHasWhatACrashedOneWrote) {
  isolate iso = make();
  capture_output cap(iso);
  EXPECT_THROW(iso.call([] {
    write_text(1, "last words");
    support::write_to_null();
  }),
               pynisher::IsolateDiedError);
  EXPECT_EQ(cap.out(), "last words");
  iso.reset();
  iso.call(say, ", and a new life");
  EXPECT_EQ(cap.out(), "last words, and a new life");
}

TEST_P(IsolateOutput, CaptureHasABoundBeyondWhichItSaysSo) {
  isolate iso = make({.out = output::capture()});
  capture_output cap(iso, {.most = 1000_B});
  iso.call([] { write_text(1, std::string(1000, 'x')); });
  EXPECT_EQ(cap.out(), std::string(1000, 'x'));
  iso.call([] { write_text(1, std::string(10'000'000, 'x')); });
  EXPECT_THROW((void)cap.out(), std::length_error);
  EXPECT_EQ(cap.err(), "");
  cap.clear();
  iso.call(say, "short");
  EXPECT_EQ(cap.out(), "short");
  EXPECT_THROW(capture_output(make(), {.most = 0_B}), std::invalid_argument);
}

TEST_P(IsolateOutput, CaptureWhileACallRuns) {
  isolate iso = make({.out = output::null()});
  support::process_log log;
  const std::string release = log.path() + ".release";
  {
    capture_output cap(iso);
    EXPECT_THROW(capture_output(iso, {}), pynisher::IsolateError);
    write_text(1, "");
    auto pending = iso.start(
        [](const std::string& path, const std::string& until) {
          write_text(1, "begun;");
          support::log_and_wait_for_file(path, until);
          std::printf("ended;");
        },
        log.path(), release);
    support::await_logged(log.path(), 1);
    EXPECT_EQ(cap.out(), "begun;");
    EXPECT_THROW(capture_output(iso, {}), pynisher::IsolateError);
    std::ofstream(release) << "";
    pending.get();
    EXPECT_EQ(cap.out(), "begun;ended;");
  }
  std::filesystem::remove(release);
  auto pending = iso.start(support::log_and_wait_for_file, log.path(), release);
  support::await_logged(log.path(), 2);
  EXPECT_THROW(capture_output(iso, {}), pynisher::IsolateError);
  std::ofstream(release) << "";
  pending.get();
  std::filesystem::remove(release);
}

TEST_P(IsolateOutput, CaptureThatEndsDuringACallIsOverForTheNext) {
  const temporary_file file;
  isolate iso = make({.out = output::file(file.path())});
  support::process_log log;
  const std::string release = log.path() + ".release";
  std::optional<capture_output> cap;
  cap.emplace(iso);
  auto pending = iso.start(support::log_and_wait_for_file, log.path(), release);
  support::await_logged(log.path(), 1);
  cap.reset();
  std::ofstream(release) << "";
  pending.get();
  iso.call(say, "own;");
  EXPECT_EQ(file.text(), beginning() + "own;");
  cap.emplace(iso);
  iso.call(say, "captured");
  EXPECT_EQ(cap->out(), "captured");
  std::filesystem::remove(release);
}

TEST_P(IsolateOutput, CapturesMayEndWhileTheirIsolateIsKilled) {
  for (int round = 0; round < 30; ++round) {
    isolate iso = make({.queued = true});
    std::atomic<int> captures{0};
    std::vector<std::thread> capturing;
    for (int i = 0; i < 2; ++i) {
      capturing.emplace_back([&] {
        for (;;) {
          try {
            const capture_output captured(iso, {});
            ++captures;
          } catch (const pynisher::IsolateNotFoundError&) {
            return;
          } catch (const pynisher::IsolateDiedError&) {
            return;
          } catch (const pynisher::IsolateError&) {
            // The other one captures.
          }
        }
      });
    }
    support::await([&] { return captures > 3; });
    iso.kill();
    for (std::thread& one : capturing) one.join();
  }
}

TEST_P(IsolateOutput, CaptureOutlivesItsIsolate) {
  isolate iso = make();
  capture_output cap(iso);
  iso.call(say, "said");
  iso.kill();
  EXPECT_EQ(cap.out(), "said");
  EXPECT_THROW(capture_output(iso, {}), pynisher::IsolateNotFoundError);
  EXPECT_THROW(capture_output(isolate::main(), {}), pynisher::IsolateError);
}

TEST_P(IsolateOutput, WhoWasStartedDuringACaptureMayWriteAfterwards) {
  isolate iso = make({.out = output::null()});
  support::process_log log;
  const std::string release = log.path() + ".release";
  {
    capture_output cap(iso);
    iso.call(
        [](const std::string& path, const std::string& until) {
          if (::fork() != 0) return;
          support::log_and_wait_for_file(path, until);
          // SIGPIPE would end it before it is in the list again.
          write_text(1, "after the end");
          support::log_process(path.c_str());
          ::_exit(0);
        },
        log.path(), release);
    support::await_logged(log.path(), 1);
  }
  std::ofstream(release) << "";
  support::await_logged(log.path(), 2);
  iso.close();
  std::filesystem::remove(release);
}

// --- where else ---------------------------------------------------------------------------------------------------

TEST_P(IsolateOutput, GoesToAFileThatIsEmptiedOnceAndAppendedTo) {
  const temporary_file out, err;
  std::ofstream(out.path()) << "old";
  isolate iso = make({.out = output::file(out.path()), .err = output::file(err.path())});
  iso.call(say_in_every_way);
  EXPECT_EQ(out.text(), beginning() + "stdio;iostream;write;child\nunflushed");
  EXPECT_EQ(err.text(), "error;");
  iso.reset();
  iso.call(say, ";new");
  EXPECT_EQ(out.text(), beginning() + "stdio;iostream;write;child\nunflushed" + beginning() + ";new");
  EXPECT_THROW(make({.out = output::file("/no/such/directory/file")}), pynisher::StartException);
}

TEST_P(IsolateOutput, BothStreamsMayGoToTheSameFile) {
  const temporary_file file;
  isolate iso = make({.out = output::file(file.path()), .err = output::file(file.path())});
  iso.call([] {
    write_text(1, "one;");
    write_text(2, "two;");
    write_text(1, "three;");
  });
  EXPECT_EQ(file.text(), beginning() + "one;two;three;");
}

TEST_P(IsolateOutput, GoesToADescriptorThatMayBeClosedMeanwhile) {
  const temporary_file file;
  const int fd = ::open(file.path().c_str(), O_WRONLY | O_CLOEXEC);
  isolate iso = make({.err = output::descriptor(fd)});
  ::close(fd);
  iso.call(say_in_every_way);
  EXPECT_EQ(file.text(), "error;");
  // Not the number that was closed: the library may have it by now.
  constexpr int nobodys = 1'000'000;
  EXPECT_THROW(make({.err = output::descriptor(nobodys)}), std::invalid_argument);
  EXPECT_THROW(make({.err = output::descriptor(-1)}), std::invalid_argument);
}

TEST_P(IsolateOutput, GoesNowhereOrWhereTheProgramsGoes) {
  const auto said = support::run_in_helper([] {
    isolate quiet = make({.out = output::null(), .err = output::null()});
    quiet.call(say_in_every_way);
    isolate loud = make({.err = output::inherit()});
    loud.call(say, "inherited");
    return 0;
  });
  EXPECT_EQ(said.out, beginning() + "inherited") << said;
  EXPECT_EQ(said.err, "") << said;
}

TEST_P(IsolateOutput, LinesComeToACallbackBeforeTheCallIsBack) {
  std::mutex mutex;
  std::vector<std::string> lines, errors;
  const auto into = [&mutex](std::vector<std::string>& list) {
    return [&mutex, &list](const std::string& line) {
      const std::lock_guard lock(mutex);
      list.push_back(line);
    };
  };
  const auto taken = [&mutex](std::vector<std::string>& list) {
    const std::lock_guard lock(mutex);
    return std::exchange(list, {});
  };
  isolate iso = make({.out = output::lines(into(lines)), .err = output::lines(into(errors))});
  iso.call(say, "one\ntwo\n\nbegin");
  auto first = taken(lines);
  if (!beginning().empty()) {
    ASSERT_FALSE(first.empty());
    EXPECT_EQ(first[0], "before main;one");
    first[0] = "one";
  }
  EXPECT_THAT(first, ElementsAre("one", "two", ""));
  iso.call(say, "ning\n");
  EXPECT_THAT(taken(lines), ElementsAre("beginning"));
  iso.call([] {
    std::string line((std::size_t{2} << 20) + 10, 'x');
    line.push_back('\n');
    write_text(2, line);
  });
  const auto pieces = taken(errors);
  ASSERT_EQ(pieces.size(), 3u);
  EXPECT_EQ(pieces[0].size(), output::longest_line);
  EXPECT_EQ(pieces[2].size(), 10u);
  iso.call(say, "the end");
  EXPECT_THAT(taken(lines), testing::IsEmpty());
  iso.close();
  EXPECT_THAT(taken(lines), ElementsAre("the end"));
  EXPECT_THAT(taken(errors), testing::IsEmpty());
}

TEST_P(IsolateOutput, ACallbackThatThrowsCostsItsLineAndIsAWarning) {
  std::mutex mutex;
  std::vector<std::string> warnings;
  int lines = 0;
  pynisher::set_warning_sink([&](std::string_view text) {
    const std::lock_guard lock(mutex);
    warnings.emplace_back(text);
  });
  isolate iso = make({.err = output::lines([&lines](const std::string& line) {
                        ++lines;
                        if (line == "bad") throw std::runtime_error("no such line");
                      })});
  iso.call([] { write_text(2, "good\nbad\nbad\ngood\n"); });
  iso.close();
  pynisher::set_warning_sink({});
  EXPECT_EQ(lines, 4);
  EXPECT_THAT(warnings, ElementsAre(HasSubstr("no such line")));
  EXPECT_THROW(make({.out = output::lines(nullptr)}), std::invalid_argument);
}

TEST_P(IsolateOutput, ACallbackMayEndItsIsolate) {
  isolate iso = make();
  std::atomic<isolate*> to_end{nullptr};
  {
    isolate noisy = make({.err = output::lines([&to_end](const std::string&) {
                            if (isolate* const it = to_end.load(); it != nullptr && it->is_alive()) it->kill();
                          })});
    to_end = &noisy;
    EXPECT_THROW(noisy.call([] {
      write_text(2, "end me\n");
      support::sleep_two_minutes();
    }),
                 pynisher::IsolateError);
  }
  EXPECT_EQ(iso.call(add, 1), 1);
}

TEST_P(IsolateOutput, LeavesNoDescriptorNoThreadAndNoChild) {
  const auto end = support::run_in_helper([] {
    const auto open = [] {
      return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator());
    };
    const auto threads = [] {
      return std::distance(std::filesystem::directory_iterator("/proc/self/task"),
                           std::filesystem::directory_iterator());
    };
    // Not the first thread, with which a sanitizer starts one of its own.
    make({.out = output::lines([](const std::string&) {})}).call(add, 1);
    pynisher::forkserver::stop();
    const auto before = open(), threads_before = threads();
    for (int i = 0; i < 3; ++i) {
      isolate iso = make({.out = output::lines([](const std::string&) {}), .err = output::null()});
      capture_output cap(iso);
      iso.call(say, "text");
      HELPER_CHECK(cap.out() == "text");
      (void)iso.try_call(support::write_to_null);
      iso.reset();
      iso.call(say, "more");
    }
    pynisher::forkserver::stop();
    HELPER_CHECK(open() <= before);
    // A thread that has been joined is listed for another moment.
    support::await([&] { return threads() <= threads_before; });
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

}  // namespace
