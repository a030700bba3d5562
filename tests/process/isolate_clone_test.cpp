// Copies of isolates: what they begin with, what they share no more, and how they end.

#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/pynisher.hpp>

#include "support/helper_process.hpp"
#include "support/isolates.hpp"
#include "support/outcomes.hpp"

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::isolate;
using pynisher::output;
using pynisher::verdict;
using support::add;
using support::EndedAs;
using testing::ElementsAre;
using testing::HasSubstr;

class IsolateClone : public support::per_isolate {
 protected:
  void SetUp() override { SKIP_UNDER_SANITIZER("it may have a thread of its own in the isolate"); }
};
FOR_EACH_START_METHOD(IsolateClone);

int pid_here() { return ::getpid(); }

TEST_P(IsolateClone, BeginsWithTheStateOfTheOriginal) {
  isolate iso = make({.name = "dolly"});
  iso.call(add, 5);
  iso.set("spam", 42);
  iso.call([] { ::setenv("PYNISHER_TEST_SET_IN_ISOLATE", "there", 1); });
  iso.call([] { std::filesystem::current_path("/"); });
  isolate copy = iso.clone();
  EXPECT_GT(copy.id(), iso.id());
  EXPECT_EQ(copy.name(), "dolly");
  EXPECT_NE(copy.pid(), iso.pid());
  EXPECT_EQ(copy.call(pid_here), copy.pid());
  EXPECT_EQ(copy.call([] { return isolate::current().id(); }), copy.id());
  EXPECT_EQ(copy.call(add, 1), 6);
  EXPECT_EQ(copy.get<int>("spam"), 42);
  EXPECT_EQ(copy.call([] { return std::string(std::getenv("PYNISHER_TEST_SET_IN_ISOLATE")); }), "there");
  EXPECT_EQ(copy.call([] { return std::filesystem::current_path().string(); }), "/");
  EXPECT_EQ(isolate::list_all().size(), 3u);
}

TEST_P(IsolateClone, SharesNothingWithTheOriginalAfterwards) {
  isolate iso = make();
  iso.call(add, 5);
  isolate copy = iso.clone();
  copy.call(add, 10);
  copy.set("only", 1);
  EXPECT_EQ(iso.call(add, 1), 6);
  EXPECT_THAT(iso.names(), testing::IsEmpty());
  EXPECT_THROW(copy.call(support::write_to_null), pynisher::IsolateDiedError);
  EXPECT_EQ(iso.call(add, 1), 7);
  copy.reset();
  EXPECT_EQ(copy.call(add, 1), 1) << "a new process begins anew";
  isolate second = iso.clone();
  iso.close();
  EXPECT_EQ(second.call(add, 0), 7);
}

TEST_P(IsolateClone, OfAClone) {
  isolate iso = make();
  std::vector<isolate> line{iso};
  for (int i = 1; i <= 5; ++i) {
    line.push_back(line.back().clone());
    EXPECT_EQ(line.back().call(add, 1), i);
  }
  line.erase(line.begin() + 1, line.begin() + 4);
  EXPECT_EQ(line.back().call(add, 0), 5);
  EXPECT_EQ(iso.call(add, 0), 0);
}

TEST_P(IsolateClone, LargeValuesAndExceptionsCrossAsBefore) {
  isolate copy = make().clone();
  EXPECT_EQ(copy.call([](std::string text) { return text + text; }, std::string(3'000'000, 'x')).size(), 6'000'000u);
  EXPECT_THROW(copy.call([] { throw std::out_of_range("row"); }), std::out_of_range);
  EXPECT_THAT(copy.try_call([] { std::exit(3); }).explain(), HasSubstr("exited with code 3"));
}

TEST_P(IsolateClone, IsRefusedWhereTheIsolateIsNotIdle) {
  isolate iso = make();
  support::process_log log;
  const std::string release = log.path() + ".release";
  auto pending = iso.start(support::log_and_wait_for_file, log.path(), release);
  support::await_logged(log.path(), 1);
  EXPECT_THROW((void)iso.clone(), pynisher::IsolateError);
  std::ofstream(release) << "";
  pending.get();
  std::filesystem::remove(release);
  iso.call([] { std::thread(support::sleep_forever).detach(); });
  try {
    (void)iso.clone();
    ADD_FAILURE() << "a copy has not got the other thread";
  } catch (const pynisher::IsolateError& e) {
    EXPECT_THAT(e.what(), HasSubstr("2 threads"));
  }
  EXPECT_EQ(iso.call(add, 1), 1);
  iso.close();
  EXPECT_THROW((void)iso.clone(), pynisher::IsolateNotFoundError);
  EXPECT_THROW((void)isolate::main().clone(), pynisher::IsolateError);
}

TEST_P(IsolateClone, HasItsOwnLimits) {
  SKIP_UNLESS_SUPPORTED("memory");
  isolate iso = make({.limits = {.memory = 64_MiB, .cpu_time = 1min}});
  isolate copy = iso.clone();
  EXPECT_THAT(copy.try_call({.wall_time = 50ms}, support::sleep_forever), EndedAs(verdict::wall_timeout));
  EXPECT_EQ(iso.call(add, 1), 1);
  copy = iso.clone();
  EXPECT_THAT(copy.try_call(support::touch_memory_forever), EndedAs(verdict::memory_limit));
  EXPECT_EQ(copy.call(add, 1), 2);
  EXPECT_THAT(copy.try_call({.cpu_time = 20ms}, support::spin_forever), EndedAs(verdict::cpu_timeout));
}

TEST_P(IsolateClone, BelongsToATreeOfItsOwn) {
  SKIP_UNLESS_SUPPORTED("kill_tree");
  support::process_log of_original, of_copy;
  isolate iso = make();
  isolate copy = iso.clone();
  copy.call(support::start_daemon, of_copy.path());
  support::await_logged(of_copy.path(), 1);
  iso.call(support::start_daemon, of_original.path());
  support::await_logged(of_original.path(), 1);
  // By its mark, all that the original has left is looked for.
  EXPECT_THROW(iso.call(support::write_to_null), pynisher::IsolateDiedError);
  EXPECT_THAT(of_original.survivors(), testing::IsEmpty());
  EXPECT_EQ(of_copy.survivors().size(), 1u);
  EXPECT_EQ(copy.call(add, 1), 1);
  copy.kill();
  EXPECT_THAT(of_copy.survivors(), testing::IsEmpty());
}

TEST_P(IsolateClone, DiesWithTheProgram) {
  support::process_log log;
  support::helper_process program([&] {
    isolate iso = make();
    isolate copy = iso.clone();
    iso.close();
    copy.call(support::log_and_sleep, log.path());
    return 0;
  });
  support::await_logged(log.path(), 1);
  program.send(SIGKILL);
  support::await_gone(log.pids().at(0));
}

TEST_P(IsolateClone, WritesWhereTheOriginalDoes) {
  const auto said = support::run_in_helper([] {
    isolate iso = make({.err = output::lines([](const std::string& line) { std::printf("%s;", line.c_str()); })});
    {
      pynisher::capture_output cap(iso);
      isolate copy = iso.clone();
      copy.call([] { std::fprintf(stderr, "of the copy\n"); });
      copy.call([] { std::printf("inherited;"); });
      copy.close();
      HELPER_CHECK(cap.err().empty() && cap.out().empty());
    }
    iso.call([] { std::fprintf(stderr, "of the original\n"); });
    iso.close();
    return 0;
  });
  EXPECT_EQ(said.code, 0) << said;
  // The program's own stdio is flushed at its end.
  EXPECT_THAT(said.out, AllOf(HasSubstr("inherited;"), HasSubstr("of the copy;of the original;"))) << said;
}

TEST_P(IsolateClone, LeavesNoDescriptorAndNoChild) {
  const auto end = support::run_in_helper([] {
    const auto open = [] {
      return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator());
    };
    make().clone().call(add, 1);
    pynisher::forkserver::stop();
    const auto before = open();
    for (int i = 0; i < 3; ++i) {
      isolate iso = make();
      const auto open_there = [] {
        return std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                             std::filesystem::directory_iterator());
      };
      const auto there = iso.call(open_there);
      isolate copy = iso.clone();
      HELPER_CHECK(iso.call(open_there) == there);
      HELPER_CHECK(copy.call(open_there) <= there);
      (void)copy.try_call(support::write_to_null);
      isolate another = iso.clone();
    }
    pynisher::forkserver::stop();
    HELPER_CHECK(open() <= before);
    HELPER_CHECK(::waitpid(-1, nullptr, WNOHANG | __WALL) == -1);
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

}  // namespace
