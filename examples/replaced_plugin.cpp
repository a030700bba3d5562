// A plug-in that crashes every third time: in an isolate that costs one request, and the program goes on with a new
// one.
//
// replaced_plugin_library.cpp is the plug-in, a shared library with one symbol. The program knows nothing else of it.

#include <chrono>
#include <cstdio>
#include <string>

#include <pynisher/pynisher.hpp>

using namespace std::chrono_literals;
using namespace pynisher::literals;

class plugin {
 public:
  explicit plugin(std::string library) : library_(std::move(library)) {}

  /// What it says, or -1 where it has crashed at that: then it is replaced.
  int run() {
    try {
      return host_.exec(library_, "plugin_run");
    } catch (const pynisher::IsolateDiedError& e) {
      std::printf("%s\n", e.what());
      host_.reset();  // a fresh process, same id, same limits
      ++replaced_;
      return -1;
    }
  }
  [[nodiscard]] int replaced() const { return replaced_; }

 private:
  std::string library_;
  pynisher::isolate host_ = pynisher::isolate::create({.name = "plug-in", .limits = {.memory = 512_MiB}});
  int replaced_ = 0;
};

int main(int argc, char** argv) {
  pynisher::init(argc, argv);
  plugin fragile(argc > 1 ? argv[1] : PLUGIN_LIBRARY);
  int answers = 0, crashes = 0;
  for (int request = 0; request < 7; ++request) {
    const int answer = fragile.run();
    std::printf("request %d: %d\n", request, answer);
    ++(answer >= 0 ? answers : crashes);
  }
  // Names of its own it has none, but a library that is not there is no crash.
  bool is_told = false;
  try {
    plugin("/no/such/plugin.so").run();
  } catch (const pynisher::LoadError& e) {
    std::printf("%s\n", e.what());
    is_told = true;
  }
  return answers == 5 && crashes == 2 && fragile.replaced() == 2 && is_told ? 0 : 1;
}
