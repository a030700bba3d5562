// exec_source: text that is compiled, cached, and run.

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/pynisher.hpp>

#include "support/isolates.hpp"

namespace {

namespace fs = std::filesystem;
using pynisher::isolate;
using testing::HasSubstr;
using testing::Not;

/// A cache of the test's own, and a compiler.
class IsolateSource : public support::per_isolate {
 protected:
  void SetUp() override {
    if (std::system("${CXX:-c++} --version >/dev/null 2>&1") != 0) GTEST_SKIP() << "there is no compiler here";
    char name[] = "/tmp/pynisher-cache-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    directory_ = name;
    ::setenv("XDG_CACHE_HOME", name, 1);
  }
  void TearDown() override {
    if (!directory_.empty()) fs::remove_all(directory_);
  }
  [[nodiscard]] fs::path cache() const { return directory_ / "pynisher"; }
  [[nodiscard]] std::vector<fs::path> entries() const {
    std::vector<fs::path> all;
    for (const auto& entry : fs::directory_iterator(cache())) all.push_back(entry.path());
    return all;
  }

  fs::path directory_;
};
FOR_EACH_START_METHOD(IsolateSource);

class IsolateSourceCache : public IsolateSource {};
INSTANTIATE_TEST_SUITE_P(By, IsolateSourceCache, ::testing::Values(pynisher::start_method::fork),
                         [](const auto& method) { return ::support::method_name(method.param); });

constexpr const char* counter = R"(
  #include <string>
  static std::string seen;
  extern "C" int pynisher_main() { seen += 'x'; return static_cast<int>(seen.size()); }
)";

TEST_P(IsolateSource, IsCompiledLoadedAndRun) {
  isolate iso = make();
  EXPECT_EQ(iso.exec_source(counter), 1);
  EXPECT_EQ(iso.exec_source(counter), 2) << "its globals are kept";
  EXPECT_EQ(make().exec_source(counter), 1);
  EXPECT_EQ(entries().size(), 1u);
}

TEST_P(IsolateSource, ErrorsOfTheCompilerArriveInItsOwnWords) {
  isolate iso = make();
  try {
    iso.exec_source("extern \"C\" int pynisher_main() { return undeclared_name; }\n");
    ADD_FAILURE() << "that does not compile";
  } catch (const pynisher::SourceError& e) {
    EXPECT_THAT(e.what(), AllOf(HasSubstr("source.cpp:1"), HasSubstr("undeclared_name"), Not(HasSubstr("/tmp"))));
  }
  EXPECT_TRUE(entries().empty());
  EXPECT_EQ(iso.exec_source(counter), 1);
}

TEST_P(IsolateSourceCache, WhatItDoesInTheIsolateIsTheIsolatesAffair) {
  isolate iso = make();
  EXPECT_THROW(
      iso.exec_source("#include <stdexcept>\nextern \"C\" int pynisher_main() { throw std::out_of_range(\"row 7\"); }"),
      std::out_of_range);
  EXPECT_THROW(iso.exec_source("int other_main() { return 1; }"), pynisher::LoadError);
  EXPECT_THROW(iso.exec_source("#include <cstdlib>\nextern \"C\" int pynisher_main() { std::abort(); }"),
               pynisher::IsolateDiedError);
  EXPECT_THROW(iso.exec_source(counter), pynisher::IsolateDiedError);
  iso.close();
  EXPECT_THROW(iso.exec_source(counter), pynisher::IsolateNotFoundError);
}

TEST_P(IsolateSourceCache, FlagsCountAsPartOfTheText) {
  isolate iso = make();
  const std::string text = "extern \"C\" int pynisher_main() { return ANSWER; }";
  EXPECT_EQ(iso.exec_source(text, {"-DANSWER=41"}), 41);
  EXPECT_EQ(iso.exec_source(text, {"-DANSWER=42"}), 42);
  EXPECT_THROW(iso.exec_source(text), pynisher::SourceError);
  EXPECT_EQ(entries().size(), 2u);
}

TEST_P(IsolateSourceCache, ItIsTakenFromTheCacheWhileThatIsWhole) {
  isolate iso = make();
  iso.exec_source(counter);
  const fs::path entry = entries().at(0);
  const auto written = fs::last_write_time(entry / "library.so");
  isolate second = make();
  second.exec_source(counter);
  EXPECT_EQ(fs::last_write_time(entry / "library.so"), written) << "it was compiled again";
  // An entry that is somebody else's text is not taken for this one.
  std::ofstream(entry / "identity") << "another text";
  EXPECT_EQ(make().exec_source(counter), 1);
  EXPECT_EQ(entries().size(), 2u);
}

TEST_P(IsolateSourceCache, ManyAtOncePublishOneWholeEntry) {
  std::atomic<int> good{0};
  {
    std::vector<std::jthread> all;
    for (int i = 0; i < 4; ++i) {
      all.emplace_back([&] {
        isolate iso = make();
        good += iso.exec_source(counter);
      });
    }
  }
  EXPECT_EQ(good, 4);
  EXPECT_EQ(entries().size(), 1u);
}

TEST_P(IsolateSourceCache, DoesNotGrowForEver) {
  isolate iso = make();
  iso.exec_source(counter);
  const fs::path first = entries().at(0);
  const auto long_ago = fs::file_time_type::clock::now() - std::chrono::hours(48);
  for (int i = 0; i < 100; ++i) {
    const fs::path copy = cache() / ("old" + std::to_string(i));
    fs::copy(first, copy);
    fs::last_write_time(copy, long_ago);
  }
  fs::create_directory(cache() / "unfinished.abcdef");
  fs::last_write_time(cache() / "unfinished.abcdef", long_ago);
  EXPECT_EQ(iso.exec_source("extern \"C\" int pynisher_main() { return 7; }"), 7);
  const auto left = entries();
  EXPECT_LE(left.size(), 64u);
  EXPECT_THAT(left, testing::Contains(first)) << "it was used a moment ago";
  EXPECT_FALSE(fs::exists(cache() / "unfinished.abcdef"));
}

TEST_P(IsolateSourceCache, ACacheThatOthersMayWriteToIsRefused) {
  fs::create_directory(cache());
  fs::permissions(cache(), fs::perms::all);
  isolate iso = make();
  EXPECT_THROW(iso.exec_source(counter), pynisher::IsolateError);
  fs::remove(cache());
  fs::create_directory(directory_ / "elsewhere");
  fs::create_directory_symlink(directory_ / "elsewhere", cache());
  EXPECT_THROW(iso.exec_source(counter), pynisher::IsolateError);
}

TEST_P(IsolateSourceCache, WithoutACompilerItSaysSo) {
  isolate iso = make();
  const char* const chosen = std::getenv("CXX");
  const std::string before = chosen != nullptr ? chosen : "";
  ::setenv("CXX", "no-such-compiler -std=c++20", 1);
  try {
    iso.exec_source(counter);
    ADD_FAILURE() << "there is no such compiler";
  } catch (const pynisher::UnsupportedException& e) {
    EXPECT_THAT(e.what(), HasSubstr("no-such-compiler"));
  }
  ::setenv("CXX", "/bin/false", 1);
  EXPECT_THROW(iso.exec_source(counter), pynisher::SourceError);
  if (chosen != nullptr) {
    ::setenv("CXX", before.c_str(), 1);
  } else {
    ::unsetenv("CXX");
  }
}

}  // namespace
