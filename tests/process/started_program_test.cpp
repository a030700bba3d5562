// Programs that call `init` late or never, whose image has been replaced, and that call into libraries opened later.

#include <cstdio>
#include <filesystem>
#include <string>

#include <stdlib.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/suites.hpp"

namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

class temporary_folder {
 public:
  temporary_folder() {
    std::string name = fs::temp_directory_path() / "pynisher-XXXXXX";
    path_ = ::mkdtemp(name.data());
  }
  ~temporary_folder() { fs::remove_all(path_); }
  temporary_folder(const temporary_folder&) = delete;
  temporary_folder& operator=(const temporary_folder&) = delete;
  [[nodiscard]] std::string copy(const std::string& file) const {
    const fs::path to = path_ / fs::path(file).filename();
    fs::copy_file(file, to);
    return to;
  }

 private:
  fs::path path_;
};

std::string output_of(const std::string& command) {
  std::string said;
  FILE* const pipe = ::popen((command + " 2>&1").c_str(), "r");
  char line[4096];
  while (std::fgets(line, sizeof line, pipe) != nullptr) said += line;
  const int status = ::pclose(pipe);
  if (status != 0) said += "(status " + std::to_string(status) + ")";
  return said;
}

std::string run(const std::string& way) { return output_of(STARTED_PROGRAM " " + way); }

class StartedProgram : public ::testing::Test {
  void SetUp() override { SKIP_UNLESS_SUPPORTED("spawn"); }
};

TEST_F(StartedProgram, CallsByBothMethods) { EXPECT_EQ(run("plain"), "42\n42\n"); }

TEST_F(StartedProgram, ThatNeverCallsInitIsToldSo) {
  const std::string said = run("never");
  EXPECT_THAT(said, HasSubstr("StartException"));
  EXPECT_THAT(said, HasSubstr("pynisher::init"));
}

TEST_F(StartedProgram, ThatEndsBeforeInitIsToldSo) {
  const std::string said = run("late");
  EXPECT_THAT(said, HasSubstr("StartException"));
  EXPECT_THAT(said, HasSubstr("pynisher::init"));
}

TEST_F(StartedProgram, ThatCallsBeforeInitDoesNotStartItselfForEver) {
  EXPECT_THAT(run("recursive"), HasSubstr("StartException"));
}

TEST_F(StartedProgram, IsTheBuildThatRunsAndNotWhatHasTakenItsPlace) {
  const temporary_folder folder;
  EXPECT_EQ(output_of(folder.copy(STARTED_PROGRAM) + " replaced"), "42\n42\n");
}

TEST_F(StartedProgram, DoesNotTakeOrdersFromItsEnvironment) {
  for (const char* role : {"c", "s", "x", ""}) {
    EXPECT_EQ(output_of("PYNISHER_STARTED_AS=" + std::string(role) + " " STARTED_PROGRAM " never 3>&- 4>&-").find("42"),
              std::string::npos)
        << role;
  }
}

TEST_F(StartedProgram, CallsFunctionsOfLibrariesOpenedLater) {
  EXPECT_EQ(run("plugin " PLUGIN), "15\n15\n");
}

TEST_F(StartedProgram, OfWhichALibraryIsGoneSaysSo) {
  const temporary_folder folder;
  const std::string said = run("deleted " + folder.copy(PLUGIN));
  EXPECT_THAT(said, HasSubstr("SerializationException"));
  EXPECT_THAT(said, HasSubstr("could not be opened"));
}

TEST_F(StartedProgram, OfWhichALibraryWasRebuiltDoesNotJumpIntoIt) {
  const temporary_folder folder;
  const std::string said = run("rebuilt " + folder.copy(PLUGIN) + " " OTHER_PLUGIN);
  EXPECT_THAT(said, HasSubstr("SerializationException"));
  EXPECT_THAT(said, HasSubstr("another build"));
}

}  // namespace
