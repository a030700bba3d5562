// Large results.

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <string>
#include <vector>

#include <pynisher/detail/wire/archive.hpp>
#include <pynisher/detail/wire/types.hpp>
#include <pynisher/pynisher.hpp>

#include "floors.hpp"
#include "row.hpp"

namespace pynisher_benchmark {

namespace {

using doubles = std::vector<double>;
using strings = std::vector<std::string>;

constexpr std::size_t string_count = 1'000'000;

doubles make_doubles(std::size_t count) {
  doubles made(count);
  std::iota(made.begin(), made.end(), 0.0);
  return made;
}

strings make_strings() {
  strings made;
  made.reserve(string_count);
  for (std::size_t i = 0; i < string_count; ++i) made.push_back("s" + std::to_string(i));
  return made;
}

void expect_right(const doubles& got, std::size_t count) {
  expect(got.size() == count && got.front() == 0 && got[count / 3] == static_cast<double>(count / 3) &&
             got.back() == static_cast<double>(count - 1),
         "the doubles arrived wrong");
}

void expect_right(const strings& got) {
  expect(got.size() == string_count && got[string_count / 3] == "s" + std::to_string(string_count / 3) &&
             got.back() == "s" + std::to_string(string_count - 1),
         "the strings arrived wrong");
}

/// Against computing it here. What is checked, and destroyed, is neither's time.
figures doubles_returned(benchmark::State& state, std::size_t count) {
  const auto limited = pynisher::limit(make_doubles, {.warnings = false});
  const auto checked = [count](auto make) {
    doubles got;
    const double taken = timed([&] { got = make(count); });
    expect_right(got, count);
    return taken;
  };
  return interleaved(state, [&] { return checked(make_doubles); }, [&] { return checked(limited); });
}

// --- the codec alone ----------------------------------------------------------------------------------------------

/// Memory that is warm and large enough.
class block_sink final : public pynisher::detail::byte_sink {
 public:
  explicit block_sink(std::size_t size) : bytes_(size) {}
  [[nodiscard]] window whole() { return {bytes_.data(), bytes_.data() + bytes_.size()}; }
  window next(std::byte* /*filled_to*/) override { throw pynisher::detail::wire_error("the block is full"); }

 private:
  std::vector<std::byte> bytes_;
};

/// Encode or decode time alone, whichever is more: what the slower end cannot do without.
double slower_end_of_codec(const strings& value, block_sink& sink) {
  const auto block = sink.whole();
  std::size_t size = 0;
  const double encode = timed([&] {
    pynisher::detail::output_archive out(sink, block);
    out(value);
    size = static_cast<std::size_t>(out.position());
  });
  strings decoded;
  const double decode = timed([&] {
    pynisher::detail::input_archive in(block.begin, size);
    in(decoded);
    in.expect_end();
  });
  expect_right(decoded);
  return std::max(encode, decode);
}

/// The child finds the strings ready, so that nothing but their crossing is measured. The child comes on top in either
/// case: a bare one costs some milliseconds here, since this process holds the strings several times.
figures strings_returned(benchmark::State& state, bool bare_child_is_floor) {
  const strings ready = make_strings();
  block_sink sink(std::size_t{64} << 20);
  const auto limited = pynisher::limit([&ready]() -> const strings& { return ready; }, {.warnings = false});
  return interleaved(
      state,
      [&] {
        const double child = bare_child_is_floor ? timed(bare_fork_call) : 0;
        return child + slower_end_of_codec(ready, sink);
      },
      [&] {
        strings got;
        const double taken = timed([&] { got = limited(); });
        expect_right(got);
        return taken;
      });
}

/// The child makes them, as the caller would have.
figures strings_made_and_returned(benchmark::State& state) {
  const strings ready = make_strings();
  block_sink sink(std::size_t{64} << 20);
  const auto limited = pynisher::limit(make_strings, {.warnings = false});
  return interleaved(
      state,
      [&] {
        strings made;
        const double making = timed([&] { made = make_strings(); });
        return making + slower_end_of_codec(made, sink);
      },
      [&] {
        strings got;
        const double taken = timed([&] { got = limited(); });
        expect_right(got);
        return taken;
      });
}

}  // namespace

std::vector<row> result_rows() {
  constexpr std::size_t mebibyte = (std::size_t{1} << 20) / sizeof(double);
  return {
      {.name = "result/64_MiB",
       .what = "64 MiB vector<double> returned, against computing it",
       .bar = 1.7,
       .stretch = 1.1,
       .rounds = 40,
       .smoke_rounds = 2,
       .measure = [](benchmark::State& state) { return doubles_returned(state, 64 * mebibyte); }},
      {.name = "result/1_MiB",
       .what = "1 MiB vector<double> returned, against computing it",
       .rounds = 300,
       .smoke_rounds = 5,
       .measure = [](benchmark::State& state) { return doubles_returned(state, mebibyte); }},
      {.name = "result/strings",
       .what = "10^6 short strings returned, against max(S, D)",
       .bar = 1.4,
       .stretch = 1.1,
       .rounds = 40,
       .smoke_rounds = 2,
       .measure = [](benchmark::State& state) { return strings_returned(state, false); }},
      {.name = "result/strings_and_child",
       .what = "the same, against F + max(S, D)",
       .rounds = 40,
       .smoke_rounds = 2,
       .measure = [](benchmark::State& state) { return strings_returned(state, true); }},
      {.name = "result/strings_made",
       .what = "10^6 short strings made there, against making + max(S, D)",
       .rounds = 25,
       .measure = strings_made_and_returned},
  };
}

}  // namespace pynisher_benchmark
