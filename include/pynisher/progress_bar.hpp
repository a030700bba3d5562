#pragma once

// A progress bar for terminals, which any range can drive, any pool, or anybody who counts.
//
//     for (auto&& file : pynisher::progress_bar(files, {.label = "files"})) inspect(file);
//
//     pynisher::progress_bar bar({.label = "trials", .total = 100});
//     pynisher::pool_executor pool({.workers = 2, .progress = bar.callback()});
//
//     files  45% [#########>           ] 450/1000, 123/s, 0:04 left, 3 failed
//
// It draws one line, over and over, on stderr; where that is no terminal that understands (a file, a pipe,
// `TERM=dumb`), or the program is in the background, it writes nothing at all. `NO_COLOR` is heeded.

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <ranges>
#include <string>
#include <type_traits>
#include <utility>

namespace pynisher {

struct progress_options {
  /// What stands before the bar.
  std::string label{};
  /// How many items there are to be; a range that knows its size tells it itself.
  std::optional<std::uint64_t> total{};
  /// It draws no more often than this; what has happened last is always shown at the end.
  std::chrono::milliseconds interval{100};
  /// Where it draws: stderr. Not closed.
  int descriptor = 2;
};

namespace detail {

class progress_display;

/// What all forms of a bar share. Draws first when it is made, last when it is finished.
class progress_handle {
 public:
  explicit progress_handle(const progress_options& wanted);
  explicit progress_handle(std::shared_ptr<progress_display> display);
  progress_handle(progress_handle&&) noexcept = default;
  progress_handle& operator=(progress_handle&& other) noexcept;
  ~progress_handle();

  void add(std::uint64_t done, std::uint64_t failed) const;
  void set(std::uint64_t done, std::optional<std::uint64_t> total, std::uint64_t failed) const;
  void finish() const noexcept;
  [[nodiscard]] const std::shared_ptr<progress_display>& display() const { return display_; }

 private:
  std::shared_ptr<progress_display> display_;
};

void set_progress(progress_display& display, std::uint64_t done, std::optional<std::uint64_t> total,
                  std::uint64_t failed);

/// Results that say themselves whether they are any.
template <class T>
concept says_ok = requires(const T& item) {
  { item.ok() } -> std::convertible_to<bool>;
};

}  // namespace detail

/// Takes what a pool reports to a bar. Copyable; may outlive its bar, and does nothing then. Thread-safe.
class progress_callback {
 public:
  explicit progress_callback(std::shared_ptr<detail::progress_display> display) : display_(std::move(display)) {}
  /// Anything with `done`, `total` (may be empty) and `failed`.
  template <class Progress>
  void operator()(const Progress& now) const {
    detail::set_progress(*display_, now.done, now.total, now.failed);
  }

 private:
  std::shared_ptr<detail::progress_display> display_;
};

/// The bar by itself: `progress_bar bar({.label = "trials", .total = 100})`. All members but the moves may be called
/// from any thread. Its destructor draws the last state and ends the line, after an exception too.
template <class Range = void>
class progress_bar;

template <>
class progress_bar<void> {
 public:
  explicit progress_bar(const progress_options& wanted = {}) : handle_(wanted) {}

  /// So many more are done, of which so many failed.
  void add(std::uint64_t done = 1, std::uint64_t failed = 0) { handle_.add(done, failed); }
  /// What has become of it all so far.
  void set(std::uint64_t done, std::uint64_t failed = 0) { handle_.set(done, std::nullopt, failed); }
  /// For `pool_options::progress`. The bar ends the line, so it must live as long as something is to be seen.
  [[nodiscard]] progress_callback callback() const { return progress_callback(handle_.display()); }
  /// Draws the last state and ends the line; what comes later is not drawn.
  void finish() { handle_.finish(); }

 private:
  detail::progress_handle handle_;
};

/// A range (a reference where it was an lvalue) that shows how far it has been read: an item is done when the next one is asked for. Items that have an
/// `ok()`, as the results of a pool, and say no there, are counted as failed. Reading it is for one thread, once.
template <class Range>
class progress_bar {
  static_assert(std::ranges::input_range<Range>, "pynisher: progress_bar shows the reading of an input range.");
  using inner_range = std::remove_reference_t<Range>;
  using inner_iterator = std::ranges::iterator_t<inner_range>;
  using inner_sentinel = std::ranges::sentinel_t<inner_range>;

 public:
  template <class R>
    requires std::same_as<std::remove_cvref_t<R>, std::remove_cvref_t<Range>>
  explicit progress_bar(R&& range, const progress_options& wanted = {})
      : range_(std::forward<R>(range)), handle_(with_total(wanted, range_)) {}

  class iterator {
   public:
    using value_type = std::ranges::range_value_t<inner_range>;
    using difference_type = std::ranges::range_difference_t<inner_range>;
    using iterator_concept = std::input_iterator_tag;

    iterator(inner_iterator at, const detail::progress_handle* bar) : at_(std::move(at)), bar_(bar) {}

    decltype(auto) operator*() const {
      if constexpr (detail::says_ok<value_type>) {
        decltype(auto) item = *at_;
        failed_ = !static_cast<bool>(item.ok());
        return static_cast<decltype(item)>(item);
      } else {
        return *at_;
      }
    }
    iterator& operator++() {
      // Counted first: the next item may be long in coming.
      bar_->add(1, failed_ ? 1 : 0);
      failed_ = false;
      ++at_;
      return *this;
    }
    void operator++(int) { ++*this; }
    /// Comparing with the end is how a loop finds out that it is over.
    friend bool operator==(const iterator& a, const inner_sentinel& end) {
      const bool over = a.at_ == end;
      if (over) a.bar_->finish();
      return over;
    }

   private:
    inner_iterator at_;
    const detail::progress_handle* bar_;
    mutable bool failed_ = false;
  };

  iterator begin() { return iterator(std::ranges::begin(range_), &handle_); }
  inner_sentinel end() { return std::ranges::end(range_); }
  auto size() requires std::ranges::sized_range<inner_range> { return std::ranges::size(range_); }

 private:
  static progress_options with_total(progress_options wanted, inner_range& range) {
    if constexpr (std::ranges::sized_range<inner_range>) {
      if (!wanted.total) wanted.total = static_cast<std::uint64_t>(std::ranges::size(range));
    }
    return wanted;
  }

  Range range_;
  detail::progress_handle handle_;
};

template <std::ranges::input_range R>
progress_bar(R&&, const progress_options& = {}) -> progress_bar<R>;
progress_bar(const progress_options&)->progress_bar<void>;
progress_bar()->progress_bar<void>;

}  // namespace pynisher
