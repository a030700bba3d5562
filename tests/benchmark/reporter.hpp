#pragma once

#include <benchmark/benchmark.h>

#include <vector>

namespace pynisher_benchmark {

/// Prints what | floor | ours | ratio | bar | stretch | met?, a line as soon as it is measured.
class table_reporter final : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context& context) override;
  void ReportRuns(const std::vector<Run>& runs) override;
  [[nodiscard]] bool all_measured() const { return all_measured_; }

 private:
  bool all_measured_ = true;
};

}  // namespace pynisher_benchmark
