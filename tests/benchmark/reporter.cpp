#include "reporter.hpp"

#include <cmath>
#include <optional>
#include <string>

#include <fmt/format.h>

#include "row.hpp"

namespace pynisher_benchmark {

namespace {

constexpr const char* line_format = "{:<58} {:>19} {:>19} {:>10} {:>13} {:>9} {:>9}  {}\n";

std::string scaled(double value, const char* const* units, const double* steps, int count) {
  int i = 0;
  while (i + 1 < count && std::abs(value) < steps[i]) ++i;
  return fmt::format("{:.3g} {}", value / steps[i], units[i]);
}

std::string shown(double value, unit in) {
  static constexpr const char* times[] = {"s", "ms", "us"};
  static constexpr double time_steps[] = {1, 1e-3, 1e-6};
  static constexpr const char* sizes[] = {"MiB", "KiB", "B"};
  static constexpr double size_steps[] = {1 << 20, 1 << 10, 1};
  switch (in) {
    case unit::seconds:
      return scaled(value, times, time_steps, 3);
    case unit::calls_per_second:
      return fmt::format("{:.0f}/s", 1 / value);
    case unit::bytes:
      return scaled(value, sizes, size_steps, 3);
    case unit::count:
      return fmt::format("{:g}", value);
  }
  return {};
}

class counters {
 public:
  counters(const benchmark::BenchmarkReporter::Run& run, unit in) : run_(run), in_(in) {}
  [[nodiscard]] std::optional<double> get(const char* name) const {
    const auto found = run_.counters.find(name);
    return found == run_.counters.end() ? std::nullopt : std::optional(found->second.value);
  }
  [[nodiscard]] std::string value(const char* name) const {
    const auto v = get(name);
    return v ? shown(*v, in_) : "-";
  }
  [[nodiscard]] std::string with_minimum(const std::string& name) const {
    const auto v = get(name.c_str());
    return v ? fmt::format("{} ({})", shown(*v, in_), value((name + "_min").c_str())) : "-";
  }
  [[nodiscard]] std::string ratio() const {
    const auto v = get("ratio");
    return v ? fmt::format("{:.2f} ({:.2f})", *v, *get("ratio_min")) : "-";
  }
  [[nodiscard]] std::string bound(const char* name) const {
    const auto v = get(name);
    if (!v) return "-";
    return get("ratio") ? fmt::format("{:g} x", *v) : shown(*v, in_);
  }
  [[nodiscard]] const char* met() const {
    if (get("stretch_met") == 1) return "stretch";
    const auto bar = get("bar_met");
    return !bar ? "" : *bar == 1 ? "yes" : "NO";
  }

 private:
  const benchmark::BenchmarkReporter::Run& run_;
  unit in_;
};

}  // namespace

bool table_reporter::ReportContext(const Context& context) {
  PrintBasicContext(&GetErrorStream(), context);
  GetOutputStream()
      << "Medians, minima in parentheses; the ratio likewise. What has a ratio has its bar as a ratio.\n\n"
      << fmt::format(line_format, "what", "floor", "ours", "ours p90", "ratio", "bar", "stretch", "met?") << std::flush;
  return true;
}

void table_reporter::ReportRuns(const std::vector<Run>& runs) {
  for (const Run& run : runs) {
    const row* r = row_named(run.run_name.function_name);
    const std::string& what = r != nullptr ? r->what : run.run_name.function_name;
    if (run.error_occurred) {
      all_measured_ = false;
      GetOutputStream() << fmt::format("{:<58} NOT MEASURED: {}\n", what, run.error_message) << std::flush;
      continue;
    }
    const counters c(run, r != nullptr ? r->in : unit::seconds);
    GetOutputStream() << fmt::format(line_format, what, c.with_minimum("floor"), c.with_minimum("ours"),
                                     c.value("ours_p90"), c.ratio(), c.bound("bar"), c.bound("stretch"), c.met())
                      << std::flush;
  }
}

}  // namespace pynisher_benchmark
