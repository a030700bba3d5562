// An exception type of your own arrives as itself once the library knows it; cereal carries its fields.

#include <cstdio>
#include <stdexcept>
#include <string>

#include <pynisher/pynisher.hpp>

struct syntax_error : std::runtime_error {
  int line = 0;
  explicit syntax_error(const std::string& text, int at = 0) : std::runtime_error(text), line(at) {}
  template <class Archive>
  void serialize(Archive& ar) {
    ar(line);
  }
};
PYNISHER_EXCEPTION(syntax_error);

struct unregistered_error : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

void parse(bool known) {
  if (known) throw syntax_error("a comma is missing", 12);
  throw unregistered_error("no input");
}

int main(int argc, char** argv) {
  pynisher::init(argc, argv);  // for `spawn`, the way of systems that cannot copy a process
  const auto guarded_parse = pynisher::limit(parse);
  int seen = 0;
  try {
    guarded_parse(true);
  } catch (const syntax_error& e) {
    std::printf("syntax_error: line %d: %s\n", e.line, e.what());
    seen += e.line == 12;
  }
  try {
    guarded_parse(false);
  } catch (const std::invalid_argument& e) {  // as its nearest known base, and with its own name
    const auto& origin = dynamic_cast<const pynisher::ExecutionFailed&>(e).excinfo();
    std::printf("std::invalid_argument: %s, thrown as %s\n", e.what(), origin.type_name.c_str());
    seen += origin.type_name == "unregistered_error";
  }
  return seen == 2 ? 0 : 1;
}
