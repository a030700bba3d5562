// A library that prints what it should return: run in an isolate, what it prints is a string.

#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include <pynisher/pynisher.hpp>

// As one finds them: a banner, a progress report on standard error, and the answer on standard output.
void noisy_solver(int size) {
  static bool has_greeted = false;
  if (!has_greeted) std::printf("*** SOLVER 3000 ***\n");
  has_greeted = true;
  for (int i = 1; i <= size; ++i) std::fprintf(stderr, "iteration %d\n", i);
  std::cout << "solution: " << size * size << std::endl;
}

int main(int argc, char** argv) {
  pynisher::init(argc, argv);
  // What is not captured goes to lines of a log.
  std::vector<std::string> log;
  auto solver = pynisher::isolate::create(
      {.name = "solver",
       .out = pynisher::output::null(),
       .err = pynisher::output::lines([&log](const std::string& line) { log.push_back(line); })});
  solver.call(noisy_solver, 1);  // the banner goes nowhere
  const std::size_t logged = log.size();

  std::string solution, report;
  {
    pynisher::capture_output cap(solver);
    solver.call(noisy_solver, 3);
    solution = cap.out();
    report = cap.err();
  }
  std::printf("captured: %s%s", solution.c_str(), report.c_str());

  solver.call(noisy_solver, 2);
  std::printf("logged: %zu and %zu lines\n", logged, log.size());
  return solution == "solution: 9\n" && report == "iteration 1\niteration 2\niteration 3\n" && logged == 1 &&
                 log.size() == 3
             ? 0
             : 1;
}
