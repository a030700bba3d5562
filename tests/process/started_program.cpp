// A program that is started again, in ways that the test programs are not: started_program <way> [library]

#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include <pynisher/pynisher.hpp>

namespace {

int twice(int x) { return 2 * x; }

void report(const pynisher::outcome<int>& ended) {
  if (ended) {
    std::printf("%d\n", *ended);
    return;
  }
  try {
    std::rethrow_exception(ended.error());
  } catch (const pynisher::StartException& e) {
    std::printf("StartException: %s\n", e.what());
  } catch (const pynisher::SerializationException& e) {
    std::printf("SerializationException: %s\n", e.what());
  } catch (const std::exception& e) {
    std::printf("%s\n", e.what());
  }
}

/// The image gives way to something else while it runs.
void replace_image() {
  const auto image = std::filesystem::read_symlink("/proc/self/exe");
  std::filesystem::remove(image);
  std::ofstream(image) << "#!/bin/sh\nexit 3\n";
  std::filesystem::permissions(image, std::filesystem::perms::owner_all);
}

using plugin_function = int (*)(int);
plugin_function from_library(const char* path) {
  void* library = ::dlopen(path, RTLD_NOW);
  if (library == nullptr) {
    std::printf("%s\n", ::dlerror());
    std::exit(1);
  }
  return reinterpret_cast<plugin_function>(::dlsym(library, "plugin_function"));
}

}  // namespace

int main(int argc, char** argv) {
  const std::string way = argc > 1 ? argv[1] : "";
  if (way == "late" && std::getenv("PYNISHER_STARTED_AS") != nullptr) return 0;
  if (way == "recursive" && std::getenv("PYNISHER_STARTED_AS") != nullptr) {
    const auto inner = pynisher::limit(twice, {.context = pynisher::start_method::spawn}).try_call(1);
    return inner.verdict() == pynisher::verdict::start_failed ? 7 : 8;
  }
  if (way != "never") pynisher::init(argc, argv);

  for (const auto method : {pynisher::start_method::spawn, pynisher::start_method::forkserver}) {
    const pynisher::options by{.context = method};
    if (argc > 2) {
      const plugin_function function = from_library(argv[2]);
      if (way == "deleted") std::filesystem::remove(argv[2]);
      if (way == "rebuilt") {
        // As an installation does it: what is open stays what it was.
        std::filesystem::remove(argv[2]);
        std::filesystem::copy_file(argv[3], argv[2]);
      }
      report(pynisher::limit(function, by).try_call(5));
      if (way != "plugin") return 0;
      continue;
    }
    if (way == "replaced" && method == pynisher::start_method::spawn) replace_image();
    report(pynisher::limit(twice, by).try_call(21));
  }
  return 0;
}
