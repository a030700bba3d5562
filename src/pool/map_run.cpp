// One map: its window, its order, what it does about failures. In its consumer's thread.

#include <algorithm>
#include <deque>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>

#include <pynisher/detail/pool/map.hpp>
#include <pynisher/exceptions.hpp>
#include <pynisher/pool_errors.hpp>

#include "machine.hpp"

namespace pynisher::detail {

namespace {

using namespace std::chrono_literals;

/// A consumer that takes longer than this between two results is not held up by sending one more item each time.
constexpr auto leisure = 20us;

/// Results in the order in which they may be given out.
class result_queue {
 public:
  struct entry {
    finished_item item;
    std::shared_ptr<reply_bytes> bytes;
    bool is_there = false;
  };

  explicit result_queue(order wanted) : in_order_(wanted == order::input) {}

  void put(finished_item&& item, std::shared_ptr<reply_bytes> bytes) {
    if (!in_order_) {
      entries_.push_back({std::move(item), std::move(bytes), true});
      return;
    }
    const auto at = static_cast<std::size_t>(item.index - next_);
    if (at >= entries_.size()) entries_.resize(at + 1);
    entries_[at] = {std::move(item), std::move(bytes), true};
  }
  [[nodiscard]] bool has_next() const { return !entries_.empty() && entries_.front().is_there; }
  entry take() {
    entry first = std::move(entries_.front());
    entries_.pop_front();
    ++next_;
    return first;
  }

 private:
  bool in_order_;
  std::uint64_t next_ = 0;  ///< the index of the first entry, in order
  std::deque<entry> entries_;
};

class pool_map_run final : public map_run {
 public:
  pool_map_run(std::shared_ptr<pool_core> core, order wanted, std::optional<std::uint64_t> total)
      : core_(std::move(core)),
        machine_(static_cast<pool_machine&>(*core_)),
        total_(total),
        ready_(wanted),
        owner_(machine_.attach(sink_)) {}
  pool_map_run(const pool_map_run&) = delete;
  pool_map_run& operator=(const pool_map_run&) = delete;
  ~pool_map_run() override {
    if (machine_.owner() == platform::process_number()) machine_.detach(owner_, sink_);
  }

  std::size_t room() override {
    if (input_ended_) return 0;
    const auto free = static_cast<std::size_t>(machine_.plan().window - (read_ - given_out_));
    const std::size_t worth_a_message = least_message();
    if (free < worth_a_message) return 0;
    if (!ready_.has_next()) look_for_results();
    if (!ready_.has_next()) return free;
    // There is something to give out. It waits for what is worth it; and for one more message where time is no matter.
    if (free >= std::max<std::size_t>(machine_.plan().chunk, machine_.plan().window / 2) && !source_is_slow_)
      return free;
    return at_leisure_ && !added_ ? free : 0;
  }
  void add(const task_entry& entry, std::vector<std::byte> packed, std::uint32_t items,
           std::vector<attached_to_item> attached, const call_name& name) override {
    auto message = std::make_unique<batch>();
    message->owner = owner_;
    message->items = items;
    message->entry = &entry;
    message->limits = machine_.plan().task_limits;
    message->name = name;
    message->first = read_;
    message->packed = std::move(packed);
    message->attached = std::move(attached);
    name_ = name;
    read_ += items;
    added_ = true;
    machine_.submit(std::move(message));
  }
  void add_failed(raw_outcome why) override {
    finished_item item{
        read_++, pool_core::no_worker, lane_frame::value, 0, 0, {}, std::make_shared<raw_outcome>(std::move(why)),
        nullptr};
    arrived(std::move(item), nullptr);
  }
  void end_of_input() override { input_ended_ = true; }

  std::optional<map_result> next() override {
    if (is_over_) return std::nullopt;
    try {
      return next_or_error();
    } catch (...) {
      // Of the input that is left nothing is read.
      if (!is_over_) stop();
      throw;
    }
  }
  [[nodiscard]] bool is_over() const override { return is_over_; }

 private:
  std::optional<map_result> next_or_error() {
    for (;;) {
      report_progress();
      if (first_error_) stop_for_error();
      while (ready_.has_next()) {
        result_queue::entry entry = ready_.take();
        ++given_out_;
        if (auto result = give_out(std::move(entry))) {
          looked_ = given_out_at_ = platform::clock::now();
          added_ = source_is_slow_ = false;
          return result;
        }
      }
      if (read_ == given_out_) break;
      for (delivery& one : machine_.collect(sink_, true)) take(std::move(one));
    }
    if (input_ended_ && !failures_.empty()) throw PoolErrors(std::exchange(failures_, {}));
    return std::nullopt;
  }
  void stop() {
    is_over_ = input_ended_ = true;
    given_out_ = read_;
    if (machine_.owner() == platform::process_number()) machine_.drop_waiting(owner_);
    ready_ = result_queue(order::completion);
  }
  void take(delivery&& one) {
    one.bytes.select(0, one.bytes.arrived());
    auto bytes = std::make_shared<reply_bytes>(std::move(one.bytes));
    for (finished_item& item : one.items) arrived(std::move(item), bytes);
  }
  void arrived(finished_item&& item, std::shared_ptr<reply_bytes> bytes) {
    ++done_;
    const bool failed = item.outcome || item.kind != lane_frame::value;
    if (failed) {
      ++failed_;
      static const reply_bytes none;
      item.outcome =
          std::make_shared<raw_outcome>(machine_.outcome_of(item, bytes ? *bytes : none, name_of(item.index)));
      const on_error policy = machine_.plan().given.on_error;
      if (policy == on_error::immediate || policy == on_error::immediate_wait_others) {
        if (!first_error_) first_error_ = item.outcome->error;
      }
    }
    ready_.put(std::move(item), std::move(bytes));
  }
  /// Between two items of a slow input something may have come.
  void look_for_results() {
    const auto now = platform::clock::now();
    at_leisure_ = now - given_out_at_ > leisure;
    if (now - looked_ < leisure) return;
    looked_ = now;
    source_is_slow_ = added_;
    for (delivery& one : machine_.collect(sink_, false)) take(std::move(one));
  }
  /// Results come one by one; what they make room for goes out in whole messages, or messages get ever smaller.
  [[nodiscard]] std::size_t least_message() const {
    const pool_plan& plan = machine_.plan();
    return std::min(plan.chunk, std::max<std::size_t>(1, plan.window / (2 * std::size_t{plan.workers})));
  }
  [[nodiscard]] call_name name_of(std::uint64_t index) const {
    call_name name = name_;
    name.arguments = fmt::format("item {}", index);
    return name;
  }
  /// Empty: it is kept for the end.
  std::optional<map_result> give_out(result_queue::entry&& entry) {
    bytes_ = std::move(entry.bytes);
    attached_ = std::move(entry.item.attached);
    const finished_item& item = entry.item;
    if (item.outcome && machine_.plan().given.on_error == on_error::collect) {
      failures_.push_back({static_cast<std::size_t>(item.index), item.outcome->explanation, item.outcome->error});
      return std::nullopt;
    }
    map_result result{item.index, item.worker, nullptr, item.size, item.usage, item.outcome};
    if (item.outcome) {
      result.usage = item.outcome->usage;
    } else {
      result.data = bytes_->data() + item.begin;
    }
    return result;
  }
  void report_progress() {
    const auto& progress = machine_.plan().given.progress;
    if (!begun_) begun_ = platform::clock::now();
    if (!progress) {
      reported_ = done_;
      return;
    }
    while (reported_ < done_) {
      ++reported_;
      progress({reported_, total_, std::min(failed_, reported_), platform::clock::now() - *begun_});
    }
  }
  [[noreturn]] void stop_for_error() {
    stop();
    if (machine_.plan().given.on_error == on_error::immediate_wait_others) {
      // What has begun ends by itself.
      for (;;) {
        const auto more = machine_.collect(sink_, true);
        if (more.empty()) break;
      }
    }
    std::rethrow_exception(std::exchange(first_error_, nullptr));
  }

  const std::shared_ptr<pool_core> core_;
  pool_machine& machine_;
  const std::optional<std::uint64_t> total_;
  map_sink sink_;
  result_queue ready_;
  const std::uint64_t owner_;
  call_name name_;

  std::uint64_t read_ = 0, given_out_ = 0;
  std::uint64_t done_ = 0, failed_ = 0, reported_ = 0;
  bool input_ended_ = false, is_over_ = false;
  bool at_leisure_ = false, added_ = false, source_is_slow_ = false;  ///< since the last result was given out
  std::optional<platform::clock::time_point> begun_;
  platform::clock::time_point given_out_at_, looked_;
  std::exception_ptr first_error_;
  std::vector<pool_failure> failures_;
  // Of the result that was given out last.
  std::shared_ptr<reply_bytes> bytes_;
  std::shared_ptr<deposited> attached_;
};

}  // namespace

std::unique_ptr<map_run> map_run::begin(std::shared_ptr<pool_core> core, order wanted,
                                        std::optional<std::uint64_t> total) {
  return std::make_unique<pool_map_run>(std::move(core), wanted, total);
}

}  // namespace pynisher::detail
