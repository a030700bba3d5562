#pragma once

// The results of a map, as an input range.

#include <concepts>
#include <cstddef>
#include <exception>
#include <iterator>
#include <memory>
#include <optional>
#include <ranges>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include <pynisher/detail/decode.hpp>
#include <pynisher/detail/pool/item_call.hpp>
#include <pynisher/detail/pool/map.hpp>
#include <pynisher/task_result.hpp>

namespace pynisher {

/// Results as they come, one at a time. Move-only; for one thread at a time. Nothing is read from the input before
/// `begin()`, and never more than the window beyond what was given out. When it goes, items that have not begun are
/// dropped, and those that run have a tenth of a second to end before their workers are replaced (threads are left to
/// themselves). An exception of the input's ends it, and is thrown behind the results of what was read before.
template <class R, class V>
class [[nodiscard]] map_range {
  using item = std::remove_cvref_t<std::ranges::range_reference_t<V>>;
  struct state;

 public:
  /// For `worker_pool`.
  map_range(std::shared_ptr<detail::pool_core> core, V input, order wanted, detail::item_way<item> way,
            detail::call_name name)
      : state_(std::make_unique<state>(std::move(core), std::move(input), wanted, way, std::move(name))) {}

  class iterator {
   public:
    using iterator_concept = std::input_iterator_tag;
    using iterator_category = std::input_iterator_tag;
    using value_type = task_result<R>;
    using difference_type = std::ptrdiff_t;
    using pointer = task_result<R>*;
    using reference = task_result<R>&;

    iterator() = default;
    reference operator*() const { return *of_->current; }
    pointer operator->() const { return &*of_->current; }
    iterator& operator++() {
      of_->advance();
      return *this;
    }
    void operator++(int) { ++*this; }
    friend bool operator==(const iterator& at, std::default_sentinel_t /*end*/) { return at.is_at_end(); }

   private:
    friend class map_range;
    explicit iterator(state* of) : of_(of) {}
    [[nodiscard]] bool is_at_end() const { return of_ == nullptr || !of_->current; }
    state* of_ = nullptr;
  };

  /// Asks for the first result. Once: a second time goes on where the first one was.
  iterator begin() {
    if (!state_->begun) state_->advance();
    return iterator(state_.get());
  }
  [[nodiscard]] std::default_sentinel_t end() const { return {}; }
  /// How many results there will be.
  [[nodiscard]] std::size_t size() const requires std::ranges::sized_range<V> { return state_->total.value(); }

 private:
  struct state {
    state(std::shared_ptr<detail::pool_core> core, V input, order wanted, detail::item_way<item> way,
          detail::call_name name)
        : view(std::move(input)),
          way_(way),
          name_(std::move(name)),
          chunk_(core->plan().chunk),
          packer_(core->plan().given.retries > 0) {
      std::optional<std::uint64_t> expected;
      if constexpr (std::ranges::sized_range<V>) {
        total = static_cast<std::size_t>(std::ranges::size(view));
        expected = *total;
      }
      run_ = detail::map_run::begin(std::move(core), wanted, expected);
    }

    void advance() {
      begun = true;
      current.reset();
      for (;;) {
        fill();
        if (auto next = run_->next()) {
          current.emplace(decode(*next));
          return;
        }
        if (input_failed_) {
          run_->end_of_input();
          std::rethrow_exception(std::exchange(input_failed_, nullptr));
        }
        if (input_ended_ || run_->is_over()) return;
      }
    }

    /// Reads as much as may be read now.
    void fill() {
      while (!input_ended_) {
        const std::size_t room = (std::min)(run_->room(), chunk_);
        if (room == 0) return;
        try {
          for (std::size_t i = 0; i < room && read_next(); ++i) pack(**at_);
        } catch (...) {
          // What was read before comes first.
          input_ended_ = true;
          input_failed_ = std::current_exception();
        }
        send();
        if (input_ended_ && !input_failed_) run_->end_of_input();
      }
    }
    /// The input is moved on only when its next item is wanted: that may take its time.
    bool read_next() {
      if (!at_) {
        at_.emplace(std::ranges::begin(view));
      } else {
        ++*at_;
      }
      input_ended_ = *at_ == std::ranges::end(view);
      return !input_ended_;
    }
    template <class Item>
    void pack(Item&& one) {
      try {
        packer_.pack([&](detail::output_archive& out) { way_.pack(out, one); });
      } catch (const std::bad_alloc&) {
        throw;
      } catch (const std::exception& e) {
        refuse(e.what());
      } catch (...) {
        refuse("packing it threw something that is no std::exception");
      }
    }
    void refuse(const std::string& why) {
      send();
      detail::raw_outcome failed;
      failed.verdict = verdict::start_failed;
      failed.explanation = "the item could not be sent: " + why;
      failed.error = std::make_exception_ptr(SerializationException(failed.explanation));
      run_->add_failed(std::move(failed));
    }
    void send() {
      if (packer_.items() == 0) return;
      const std::uint32_t items = packer_.items();
      auto attached = packer_.take_attached();
      run_->add(*way_.entry, packer_.take(), items, std::move(attached), name_);
    }

    static task_result<R> decode(const detail::map_result& from) {
      std::exception_ptr error;
      std::string what;
      if (from.failed) {
        error = from.failed->error;
        what = from.failed->explanation;
      }
      const auto undecodable = [&](const std::string& why) {
        detail::raw_outcome raw;
        detail::mark_undecodable(raw, why);
        error = raw.error;
        what = raw.explanation;
      };
      const auto index = static_cast<std::size_t>(from.index);
      if constexpr (std::is_void_v<R>) {
        if (!error && from.size != 0) undecodable("bytes are left over after no value");
        return {index, from.worker, from.usage, std::move(error), std::move(what)};
      } else {
        std::optional<R> value;
        if (!error) {
          try {
            detail::input_archive in(from.data, from.size);
            in(value.emplace());
            in.expect_end();
          } catch (const std::exception& e) {
            undecodable(e.what());
          } catch (...) {
            undecodable("reading it threw something that is no std::exception");
          }
          if (error) value.reset();
        }
        return {index, from.worker, from.usage, std::move(error), std::move(what), std::move(value)};
      }
    }

    V view;
    std::optional<std::size_t> total;
    std::optional<task_result<R>> current;
    bool begun = false;

   private:
    std::optional<std::ranges::iterator_t<V>> at_;
    bool input_ended_ = false;
    std::exception_ptr input_failed_;
    const detail::item_way<item> way_;
    const detail::call_name name_;
    const std::size_t chunk_;
    detail::item_packer packer_;
    std::unique_ptr<detail::map_run> run_;
  };

  std::unique_ptr<state> state_;
};

}  // namespace pynisher
