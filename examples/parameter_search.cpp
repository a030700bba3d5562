// A search for the best parameters of a model, where some are hopeless: each trial may take a certain amount of CPU
// time, and of memory, and costs nobody else anything when it takes more. What pynisher was made for.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <map>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <pynisher/pynisher.hpp>

using namespace std::chrono_literals;
using namespace pynisher::literals;

namespace {

// --- the data: a cubic with noise
// -------------------------------------------------------------------------------------

struct sample {
  std::vector<double> x, y;
};

sample make_sample(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  sample made;
  for (std::size_t i = 0; i < size; ++i) {
    const double x = static_cast<double>(random()) / static_cast<double>(std::mt19937::max()) * 2 - 1;
    // Noise without a distribution of the library's, which differs from library to library.
    double noise = -6;
    for (int j = 0; j < 12; ++j) noise += static_cast<double>(random()) / static_cast<double>(std::mt19937::max());
    made.x.push_back(x);
    made.y.push_back(1 - 2 * x + 3 * x * x * x + 0.1 * noise);
  }
  return made;
}

// Each worker's own: made once, by the initializer, and not sent with every trial.
sample training, validation;
void prepare() {
  training = make_sample(200, 1);
  validation = make_sample(200, 2);
}

// --- the model: ridge regression
// --------------------------------------------------------------------------------------

enum class method : int { normal_equations, kernel, gradient_descent };

struct trial {
  method by = method::normal_equations;
  int size = 1;         ///< degree of the polynomial; for the kernel: how often the training data are taken
  double strength = 0;  ///< of the regularisation; for the descent: the step

  template <class Archive>
  void serialize(Archive& archive) {
    archive(by, size, strength);
  }
};

using matrix = std::vector<std::vector<double>>;

/// Solves a x = b for a symmetric, positive definite a, by Cholesky's decomposition.
std::vector<double> solve(matrix a, std::vector<double> b) {
  const std::size_t n = b.size();
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      double sum = a[i][j];
      for (std::size_t k = 0; k < j; ++k) sum -= a[i][k] * a[j][k];
      if (i != j) {
        a[i][j] = sum / a[j][j];
      } else if (sum > 0) {
        a[i][i] = std::sqrt(sum);
      } else {
        throw std::domain_error("the matrix is not positive definite");
      }
    }
  }
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t k = 0; k < i; ++k) b[i] -= a[i][k] * b[k];
    b[i] /= a[i][i];
  }
  for (std::size_t i = n; i-- > 0;) {
    for (std::size_t k = i + 1; k < n; ++k) b[i] -= a[k][i] * b[k];
    b[i] /= a[i][i];
  }
  return b;
}

std::vector<double> powers(double x, std::size_t degree) {
  std::vector<double> all(degree + 1, 1);
  for (std::size_t i = 1; i <= degree; ++i) all[i] = all[i - 1] * x;
  return all;
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

template <class Predict>
double error_of(Predict predict) {
  double sum = 0;
  for (std::size_t i = 0; i < validation.x.size(); ++i) sum += std::pow(predict(validation.x[i]) - validation.y[i], 2);
  return sum / static_cast<double>(validation.x.size());
}

double by_normal_equations(std::size_t degree, double strength) {
  matrix a(degree + 1, std::vector<double>(degree + 1));
  std::vector<double> b(degree + 1);
  for (std::size_t i = 0; i <= degree; ++i) a[i][i] = strength;
  for (std::size_t s = 0; s < training.x.size(); ++s) {
    const auto features = powers(training.x[s], degree);
    for (std::size_t i = 0; i <= degree; ++i) {
      b[i] += features[i] * training.y[s];
      for (std::size_t j = 0; j <= degree; ++j) a[i][j] += features[i] * features[j];
    }
  }
  const auto weights = solve(std::move(a), std::move(b));
  return error_of([&](double x) { return dot(weights, powers(x, degree)); });
}

/// One row and column for each training point: the more of them, the more memory, by the square.
double by_kernel(std::size_t copies, double strength) {
  const std::size_t n = copies * training.x.size();
  const auto at = [](std::size_t i) { return i % training.x.size(); };
  const auto similarity = [](double x, double y) { return std::exp(-(x - y) * (x - y)); };
  matrix a(n, std::vector<double>(n));
  std::vector<double> b(n);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) a[i][j] = similarity(training.x[at(i)], training.x[at(j)]);
    a[i][i] += strength;
    b[i] = training.y[at(i)];
  }
  const auto weights = solve(std::move(a), std::move(b));
  return error_of([&](double x) {
    double sum = 0;
    for (std::size_t i = 0; i < n; ++i) sum += weights[i] * similarity(x, training.x[at(i)]);
    return sum;
  });
}

/// Until the gradient vanishes: with too small a step, never.
double by_gradient_descent(std::size_t degree, double step) {
  std::vector<double> weights(degree + 1);
  for (double steepness = 1; steepness > 1e-4;) {
    std::vector<double> gradient(degree + 1);
    for (std::size_t s = 0; s < training.x.size(); ++s) {
      const auto features = powers(training.x[s], degree);
      const double residual = dot(weights, features) - training.y[s];
      for (std::size_t i = 0; i <= degree; ++i) gradient[i] += 2 * residual * features[i];
    }
    for (auto& slope : gradient) slope /= static_cast<double>(training.x.size());
    for (std::size_t i = 0; i <= degree; ++i) weights[i] -= step * gradient[i];
    steepness = std::sqrt(dot(gradient, gradient));
    if (!std::isfinite(steepness)) throw std::range_error("the descent diverges");
  }
  return error_of([&](double x) { return dot(weights, powers(x, degree)); });
}

/// The error on data that the model has not seen.
double evaluate(const trial& wanted) {
  const auto size = static_cast<std::size_t>(wanted.size);
  switch (wanted.by) {
    case method::normal_equations:
      return by_normal_equations(size, wanted.strength);
    case method::kernel:
      return by_kernel(size, wanted.strength);
    case method::gradient_descent:
      return by_gradient_descent(size, wanted.strength);
  }
  throw std::invalid_argument("an unknown method");
}

// --- the search
// -------------------------------------------------------------------------------------------------------

const char* name_of(method which) {
  return which == method::normal_equations ? "normal equations"
         : which == method::kernel         ? "kernel"
                                           : "gradient descent";
}

std::vector<trial> all_trials() {
  std::vector<trial> trials;
  for (int degree = 1; degree <= 6; ++degree) {
    for (const double strength : {1e-6, 1e-2, 10.0}) trials.push_back({method::normal_equations, degree, strength});
  }
  trials.push_back({method::kernel, 1, 0.1});
  if (pynisher::supports(pynisher::feature::memory)) {
    trials.push_back({method::kernel, 150, 0.1});  // 7 GB
  } else {
    std::printf("No trial that takes too much memory: %s\n", pynisher::why_not(pynisher::feature::memory).c_str());
  }
  trials.push_back({method::gradient_descent, 3, 0.2});
  trials.push_back({method::gradient_descent, 3, 1e-12});  // never there
  trials.push_back({method::gradient_descent, 3, 1e3});    // diverges
  return trials;
}

}  // namespace

int main(int argc, char** argv) {
  pynisher::init(argc, argv);
  const std::vector<trial> trials = all_trials();
  pynisher::options limits{.name = "trial", .cpu_time = 30s};
  if (pynisher::supports(pynisher::feature::memory)) limits.memory = 256_MiB;

  pynisher::progress_bar bar({.label = "trials", .total = trials.size()});
  pynisher::pool_executor pool({.workers = 2, .limits = limits, .progress = bar.callback(), .initializer = prepare});
  std::vector<pynisher::task_future<double>> scores;
  for (const trial& one : trials) {
    // A descent that has not arrived after a second of CPU time will not.
    pynisher::options own;
    if (one.by == method::gradient_descent && one.strength < 1e-6) own.cpu_time = 1s;
    scores.push_back(pool.submit(own, evaluate, one));
  }

  std::map<std::string, int> endings;
  std::size_t best = trials.size();
  pynisher::wait(scores);
  bar.finish();
  for (std::size_t i = 0; i < trials.size(); ++i) {
    const auto score = scores[i].get_outcome();
    ++endings[to_string(score.verdict())];
    std::printf("%-16s %3d %6g  ", name_of(trials[i].by), trials[i].size, trials[i].strength);
    if (score) {
      std::printf("%.4f\n", *score);
      if (best == trials.size() || *score < scores[best].get()) best = i;
    } else {
      std::printf("%s: %s\n", to_string(score.verdict()), score.explain().c_str());
    }
  }
  if (best == trials.size()) return 1;
  std::printf("best: %s, size %d, strength %g: %.4f\n", name_of(trials[best].by), trials[best].size,
              trials[best].strength, scores[best].get());

  // The noise alone makes 0.01.
  const int too_large = pynisher::supports(pynisher::feature::memory) ? 1 : 0;
  const bool as_expected = endings["returned"] == 20 && endings["cpu_timeout"] == 1 && endings["raised"] == 1 &&
                           endings["memory_limit"] == too_large && scores[best].get() < 0.02;
  return as_expected ? 0 : 1;
}
