// What this machine can enforce, and why not. What cannot be enforced is refused by limit(), never ignored.

#include <cstdio>
#include <stdexcept>

#include <pynisher/pynisher.hpp>

int main(int argc, char** argv) {
  pynisher::init(argc, argv);  // where processes cannot be copied, the call starts this program again
  for (const char* feature : {"wall_time", "cpu_time", "memory", "memory_address_space", "memory_tree", "kill_tree",
                              "process_count", "parent_death", "cancel", "fork", "spawn", "forkserver"}) {
    if (pynisher::supports(feature)) {
      std::printf("%-21s yes\n", feature);
    } else {
      std::printf("%-21s no: %s\n", feature, pynisher::why_not(feature).c_str());
    }
  }

  int as_promised = pynisher::supports("wall_time") && pynisher::supports("decorator");
  try {
    pynisher::options wanted{.memory = {1, "GiB"}, .measure = pynisher::memory_measure::resident_tree};
    const auto sum = pynisher::limit([](int a, int b) { return a + b; }, wanted);
    as_promised += pynisher::supports("memory_tree") && sum(1, 1) == 2;
  } catch (const pynisher::UnsupportedException& e) {
    std::printf("\nlimit() refused resident_tree: %s\n", e.what());
    as_promised += !pynisher::supports("memory_tree");
  }
  try {
    (void)pynisher::supports("telepathy");
  } catch (const std::invalid_argument& e) {
    std::printf("%s\n", e.what());
    ++as_promised;
  }
  return as_promised == 3 ? 0 : 1;
}
