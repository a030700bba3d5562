#include "row.hpp"

#include <algorithm>
#include <cmath>
#include <exception>
#include <map>
#include <stdexcept>

namespace pynisher_benchmark {

namespace {

std::map<std::string, row>& registered_rows() {
  static std::map<std::string, row> rows;
  return rows;
}

void count_side(benchmark::State& state, const std::string& side, const samples& s) {
  if (s.empty()) return;
  state.counters[side] = s.median();
  state.counters[side + "_min"] = s.min();
  state.counters[side + "_p90"] = s.quantile(0.9);
}

void count(benchmark::State& state, const row& r, const figures& f) {
  count_side(state, "floor", f.floor);
  count_side(state, "ours", f.ours);
  double against_bar = f.ours.median();
  if (!f.floor.empty()) {
    against_bar = f.ours.median() / f.floor.median();
    state.counters["ratio"] = against_bar;
    state.counters["ratio_min"] = f.ours.min() / f.floor.min();
  }
  if (r.bar) {
    state.counters["bar"] = *r.bar;
    state.counters["bar_met"] = against_bar <= *r.bar ? 1 : 0;
  }
  if (r.stretch) {
    state.counters["stretch"] = *r.stretch;
    state.counters["stretch_met"] = against_bar <= *r.stretch ? 1 : 0;
  }
}

}  // namespace

void register_row(row r, double effort) {
  const auto rounds =
      effort > 0 ? static_cast<std::int64_t>(std::lround(effort * static_cast<double>(r.rounds))) : r.smoke_rounds;
  const row& kept = registered_rows().insert_or_assign(r.name, std::move(r)).first->second;
  benchmark::RegisterBenchmark(kept.name.c_str(),
                               [&kept](benchmark::State& state) {
                                 try {
                                   count(state, kept, kept.measure(state));
                                 } catch (const std::exception& e) {
                                   state.SkipWithError(e.what());
                                 }
                               })
      ->UseManualTime()
      ->Iterations(std::max<std::int64_t>(rounds, 1));
}

const row* row_named(const std::string& name) {
  const auto found = registered_rows().find(name);
  return found == registered_rows().end() ? nullptr : &found->second;
}

void expect(bool true_for_us, const char* what) {
  if (!true_for_us) throw std::runtime_error(what);
}

}  // namespace pynisher_benchmark
