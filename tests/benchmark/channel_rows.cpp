// Channels, queues and buffers between the program and an isolate.

#include <cstdint>
#include <vector>

#include <pynisher/pynisher.hpp>

#include "floors.hpp"
#include "row.hpp"

namespace pynisher_benchmark {

namespace {

void echo_channel(pynisher::receiver<std::uint64_t> in, pynisher::sender<std::uint64_t> out) {
  for (const std::uint64_t value : in) out.send(value);
}

void echo_queue(pynisher::queue<std::uint64_t> in, pynisher::queue<std::uint64_t> out) {
  for (std::uint64_t value = in.get(); value != 0; value = in.get()) out.put(value);
}

void touch(pynisher::receiver<pynisher::shared_buffer> in, pynisher::sender<int> out) {
  for (pynisher::shared_buffer buffer : in) {
    buffer[0] = std::byte{7};
    out.send(1);
  }
}

pynisher::isolate fresh_isolate() { return pynisher::isolate::create({.limits = {.warnings = false}}); }

row channel_round_trip() {
  return {.name = "channel/round_trip",
          .what = "8 bytes through two unbuffered channels, there and back; floor: a round trip through pipes",
          .rounds = 5000,
          .smoke_rounds = 10,
          .measure = [](benchmark::State& state) {
            const pipe_echo echo;
            auto isolate = fresh_isolate();
            auto [there, send] = pynisher::create_channel<std::uint64_t>();
            auto [back, reply] = pynisher::create_channel<std::uint64_t>();
            auto running = isolate.start(echo_channel, there, reply);
            figures f = interleaved(
                state, [&] { return timed([&] { expect(echo.round_trip(42) == 42, "a wrong answer"); }); },
                [&, send = send, back = back]() mutable {
                  return timed([&] {
                    send.send(42);
                    expect(back.recv() == 42, "a wrong answer");
                  });
                });
            send.close();
            running.get();
            return f;
          }};
}

row queue_round_trip() {
  return {.name = "queue/round_trip",
          .what = "8 bytes through two queues, there and back; floor: a round trip through pipes",
          .rounds = 5000,
          .smoke_rounds = 10,
          .measure = [](benchmark::State& state) {
            const pipe_echo echo;
            auto isolate = fresh_isolate();
            auto there = pynisher::create_queue<std::uint64_t>(), back = pynisher::create_queue<std::uint64_t>();
            auto running = isolate.start(echo_queue, there, back);
            figures f = interleaved(
                state, [&] { return timed([&] { expect(echo.round_trip(42) == 42, "a wrong answer"); }); },
                [&] {
                  return timed([&] {
                    there.put(42);
                    expect(back.get() == 42, "a wrong answer");
                  });
                });
            there.put(0);
            running.get();
            return f;
          }};
}

row handed_over_buffer() {
  return {.name = "shared_buffer/64_MiB",
          .what = "64 MiB handed to an isolate over a channel, written there, and an answer; bar: 0.5 ms",
          .bar = 0.5e-3,
          .stretch = 0.05e-3,
          .rounds = 500,
          .smoke_rounds = 3,
          .measure = [](benchmark::State& state) {
            auto isolate = fresh_isolate();
            auto [there, send] = pynisher::create_channel<pynisher::shared_buffer>();
            auto [back, reply] = pynisher::create_channel<int>();
            auto running = isolate.start(touch, there, reply);
            const pynisher::shared_buffer buffer(std::size_t{64} << 20);
            figures f = alone(state, [&, send = send, back = back]() mutable {
              return timed([&] {
                send.send_buffer(buffer);
                expect(back.recv() == 1, "a wrong answer");
              });
            });
            expect(buffer[0] == std::byte{7}, "nothing was written there");
            send.close();
            running.get();
            return f;
          }};
}

}  // namespace

std::vector<row> channel_rows() { return {channel_round_trip(), queue_round_trip(), handed_over_buffer()}; }

}  // namespace pynisher_benchmark
