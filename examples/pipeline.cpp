// Three isolates in a row, joined by channels: one makes lines, one measures them, one adds up.
//
// Each channel is closed by whoever sends into it, and so the end of the input goes through the whole pipeline.

#include <pynisher/pynisher.hpp>

#include <cstdio>
#include <string>

void make_lines(int count, pynisher::sender<std::string> out) {
  for (int i = 1; i <= count; ++i) out.send(std::string(static_cast<std::size_t>(i), '*'));
  out.close();
}

void measure(pynisher::receiver<std::string> in, pynisher::sender<std::size_t> out) {
  for (const std::string& line : in) out.send(line.size());
  out.close();
}

std::size_t add_up(pynisher::receiver<std::size_t> in) {
  std::size_t sum = 0;
  for (const std::size_t size : in) sum += size;
  return sum;
}

int main(int argc, char** argv) {
  pynisher::init(argc, argv);
  auto maker = pynisher::isolate::create({.name = "maker"});
  auto meter = pynisher::isolate::create({.name = "meter"});
  auto adder = pynisher::isolate::create({.name = "adder"});
  auto [lines, into_lines] = pynisher::create_channel<std::string>();                // each line is handed over
  auto [sizes, into_sizes] = pynisher::create_channel<std::size_t>({.buffer = 16});  // sizes may wait

  auto makes = maker.start(make_lines, 100, into_lines);
  auto measures = meter.start(measure, lines, into_sizes);
  const std::size_t sum = adder.call(add_up, sizes);
  makes.get();
  measures.get();
  std::printf("100 lines have %zu characters\n", sum);
  return sum == 5050 ? 0 : 1;
}
