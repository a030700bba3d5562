#pragma once

// Workers with state, and lazy maps over them.
//
//     struct embedder {
//       explicit embedder(int device);
//       std::vector<float> operator()(std::string text);
//     };
//
//     pynisher::worker_pool<embedder> pool({.workers = 2, .limits = {.memory = 4_GiB, .wall_time = 30s}},
//                                          pynisher::per_worker(0, 1));
//     for (auto&& r : pool.map(lines)) {                     // lazy in, lazy out, input order
//       if (r.ok()) use(r.value());
//       else log(r.index(), r.what());
//     }
//
// A worker is constructed in the process (or thread) in which it stays. One that dies, hangs or breaks a limit costs
// the item that it was working on, and is made again.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <ranges>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <pynisher/detail/pool/core.hpp>
#include <pynisher/detail/pool/factory.hpp>
#include <pynisher/detail/pool/item_call.hpp>
#include <pynisher/detail/pool/map_range.hpp>
#include <pynisher/pool_errors.hpp>
#include <pynisher/pool_options.hpp>
#include <pynisher/task_result.hpp>

namespace pynisher {

/// Arguments that every worker's constructor gets first. Made by `shared`.
template <class... A>
struct shared_arguments {
  std::tuple<A...> values;
};
template <class... A>
[[nodiscard]] shared_arguments<detail::kept_argument<A>...> shared(A&&... arguments) {
  return {std::tuple<detail::kept_argument<A>...>(std::forward<A>(arguments)...)};
}

/// One value for each worker's constructor, after the shared ones; a tuple is spread. Made by `per_worker`.
template <class T>
struct per_worker_arguments {
  std::vector<T> values;
};
/// Values of one type, or of types with a common one.
template <class First, class... More>
[[nodiscard]] auto per_worker(First&& first, More&&... more) {
  using value = std::common_type_t<detail::kept_argument<First>, detail::kept_argument<More>...>;
  per_worker_arguments<value> made;
  made.values.reserve(1 + sizeof...(more));
  made.values.emplace_back(std::forward<First>(first));
  (made.values.emplace_back(std::forward<More>(more)), ...);
  return made;
}
/// The same for as many as a range has.
template <std::ranges::input_range Range>
[[nodiscard]] auto per_worker_from(Range&& values) {
  per_worker_arguments<detail::kept_argument<std::ranges::range_reference_t<Range>>> made;
  for (auto&& value : values) made.values.emplace_back(std::forward<decltype(value)>(value));
  return made;
}

/// Workers of one type. Move-only; all of it may be used from many threads, and many maps at once. Its end waits for
/// the workers, for as long as `join_timeout` says, and then ends them. A moved-from one has no workers, and throws
/// `std::logic_error` otherwise; in a forked copy of the program all that needs workers throws `BrokenPoolError`.
///
/// The constructor waits until every worker is made. It throws what a worker's constructor (or initializer) throws,
/// what the end of one is called, `std::invalid_argument` and `UnsupportedException` for options, `StartException`; no
/// process is left then.
template <class Worker>
class worker_pool {
 public:
  explicit worker_pool(pool_options wanted = {}) : worker_pool(std::move(wanted), shared()) {}
  template <class... S>
  worker_pool(pool_options wanted, shared_arguments<S...> common)
      : worker_pool(std::move(wanted),
                    std::make_unique<detail::object_factory<Worker, std::tuple<S...>, void>>(
                        std::move(common.values), std::vector<std::tuple<>>()),
                    detail::copies<std::tuple<S...>>, why_it_stays<std::tuple<S...>, std::tuple<>>()) {}
  template <class T>
  worker_pool(pool_options wanted, per_worker_arguments<T> own)
      : worker_pool(std::move(wanted), shared(), std::move(own)) {}
  template <class... S, class T>
  worker_pool(pool_options wanted, shared_arguments<S...> common, per_worker_arguments<T> own)
      : worker_pool(std::move(wanted), checked_factory(wanted, std::move(common), std::move(own)),
                    detail::copies<std::tuple<S...>> && detail::copies<T>, why_it_stays<std::tuple<S...>, T>()) {}

  /// The results for all items of `input`, which must outlive them where it is an lvalue. Nothing is read yet. Throws
  /// `std::invalid_argument` where such items cannot be passed as the pool's options say.
  template <std::ranges::viewable_range Range>
  requires std::ranges::input_range<Range>
  auto map(Range&& input, order wanted = order::input) {
    using view = std::views::all_t<Range>;
    using item = std::remove_cvref_t<std::ranges::range_reference_t<view>>;
    using result = detail::map_result_of<Worker, item>;
    static_assert(
        std::is_void_v<result> || detail::sendable<result>,
        "pynisher: the worker's result cannot cross between processes. Return a value that cereal can serialise "
        "and that has a default constructor.");
    const auto way = detail::way_for<Worker, result, item>(core().plan().given.passing);
    if (way.entry == nullptr) {
      throw std::invalid_argument("passing: the worker cannot be called in this way with items of type " +
                                  detail::demangled_name(typeid(item)));
    }
    return map_range<result, view>(core_, std::views::all(std::forward<Range>(input)), wanted, way, name_);
  }
  template <class T>
  auto map(std::initializer_list<T> input, order wanted = order::input) {
    return map(std::vector<T>(input), wanted);
  }

  [[nodiscard]] std::size_t workers() const noexcept { return core_ ? core_->plan().workers : 0; }
  /// Process numbers of the workers; -1 for a thread, and for one that is being replaced.
  [[nodiscard]] std::vector<std::int64_t> pids() const { return core().pids(); }
  /// Ends the pool before its time. Maps that are not over fail by `BrokenPoolError`.
  void close() { core().close(); }

 private:
  [[nodiscard]] detail::pool_core& core() const {
    if (!core_) throw std::logic_error("pynisher: this pool was moved from");
    return *core_;
  }

  template <class F>
  friend auto make_pool(pool_options wanted, F&& fn);

  // By reference: nothing is moved before all arguments are there.
  worker_pool(pool_options&& wanted, std::unique_ptr<detail::worker_factory> factory, bool can_be_copied,
              const char* why_it_stays)
      : name_(factory->name()) {
    if (wanted.backend == backend::threads && !can_be_copied) {
      throw std::invalid_argument(
          "backend: threads need arguments that can be copied, so that each worker has its own");
    }
    core_ = detail::pool_core::open(detail::plan_pool(std::move(wanted), why_it_stays), std::move(factory));
  }

  template <class... S, class T>
  static std::unique_ptr<detail::worker_factory> checked_factory(const pool_options& wanted,
                                                                 shared_arguments<S...>&& common,
                                                                 per_worker_arguments<T>&& own) {
    const std::size_t values = own.values.size(), workers = detail::worker_count(wanted);
    if (values != workers) {
      throw std::invalid_argument("per_worker: " + std::to_string(values) + " values for " + std::to_string(workers) +
                                  " workers");
    }
    return std::make_unique<detail::object_factory<Worker, std::tuple<S...>, T>>(std::move(common.values),
                                                                                 std::move(own.values));
  }
  template <class Shared, class Own>
  static constexpr const char* why_it_stays() {
    if constexpr (detail::sendable<Shared> && detail::sendable<Own>) {
      return nullptr;
    } else {
      return "an argument of the worker's constructor cannot be sent to a process that is started afresh: take values "
             "that "
             "cereal can serialise and that have a default constructor, or use context = fork";
    }
  }

  detail::call_name name_;
  std::shared_ptr<detail::pool_core> core_;
};

/// A pool whose workers call a function, lambda or functor, each a copy of its own.
template <class F>
[[nodiscard]] auto make_pool(pool_options wanted, F&& fn) {
  using callable = std::decay_t<F>;
  callable worker(std::forward<F>(fn));
  if constexpr (detail::may_be_empty<callable>) {
    if (worker == nullptr) throw std::invalid_argument("fn: an empty function cannot be called");
  }
  constexpr const char* why = detail::why_it_stays<callable, detail::generic_signature>();
  return worker_pool<callable>(std::move(wanted),
                               std::make_unique<detail::function_factory<callable>>(std::move(worker)),
                               std::copy_constructible<callable>, why);
}

}  // namespace pynisher
