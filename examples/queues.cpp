// Queues between isolates: work out, results back, a queue in a queue, and what becomes of the items of an isolate that
// ends.

#include <pynisher/pynisher.hpp>

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

using job = std::pair<int, pynisher::queue<std::string>>;

/// Each task brings the queue for its answer along.
void worker(pynisher::queue<job> tasks) {
  for (;;) {
    auto [number, answers] = tasks.get();
    if (number < 0) return;
    answers.put(std::to_string(number) + " squared is " + std::to_string(number * number));
  }
}

int main(int argc, char** argv) {
  pynisher::init(argc, argv);
  auto tasks = pynisher::create_queue<job>(4);  // put waits while there are four
  auto answers = pynisher::create_queue<std::string>();

  std::vector<pynisher::isolate> isolates;
  std::vector<pynisher::call<void>> running;
  for (int i = 0; i < 2; ++i) {
    isolates.push_back(pynisher::isolate::create());
    running.push_back(isolates.back().start(worker, tasks));
  }
  for (int i = 0; i < 10; ++i) tasks.put({i, answers});
  for (int i = 0; i < 10; ++i) std::puts(answers.get().c_str());
  for (int i = 0; i < 2; ++i) tasks.put({-1, answers});
  for (auto& one : running) one.get();

  // As in Python: without waiting, and what is thrown then.
  auto small = pynisher::create_queue<int>(1);
  small.put_nowait(1);
  bool was_full = false, was_empty = false;
  try {
    small.put_nowait(2);
  } catch (const pynisher::QueueFull& e) {
    was_full = true;
    std::printf("%s\n", e.what());
  }
  small.get();
  try {
    small.get_nowait();
  } catch (const pynisher::QueueEmpty& e) {
    was_empty = true;
    std::printf("%s\n", e.what());
  }

  // An isolate's items are its own until somebody has taken them. With its end they are gone; their places stay.
  auto results = pynisher::create_queue<int>();
  {
    auto iso = pynisher::isolate::create();
    iso.call([](pynisher::queue<int> to) { to.put(42); }, results);
    iso.close();
  }
  const bool is_gone = !results.take().has_value();
  std::printf("the item of an isolate that was closed: %s\n", is_gone ? "gone" : "still there");
  return was_full && was_empty && is_gone ? 0 : 1;
}
