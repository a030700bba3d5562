#pragma once

// One map over a pool, without the types of items and results: what `map_range` is made of.
//
// It lives in its consumer's thread: nothing of it happens while nobody asks for a result. What it may have read ahead
// is bounded by the window; what arrives out of order waits in it.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <pynisher/detail/pool/core.hpp>

namespace pynisher::detail {

/// What a map gives out.
struct map_result {
  std::uint64_t index = 0;
  unsigned worker = pool_core::no_worker;
  const std::byte* data = nullptr;  ///< of the packed value; valid until the next call of `next`
  std::size_t size = 0;
  pynisher::usage usage;
  std::shared_ptr<raw_outcome> failed;  ///< null: there is a value
};

/// What an item holds that is no bytes: see `pack_attached`.
struct attached_to_item {
  std::uint32_t item;  ///< of the message
  std::shared_ptr<void> what;
};

class map_run {
 public:
  /// `total`: of the input, where it has a size.
  static std::unique_ptr<map_run> begin(std::shared_ptr<pool_core> core, order wanted,
                                        std::optional<std::uint64_t> total);
  /// Drops what has not begun, and waits until nothing of it runs: what does not end within a moment is ended, and its
  /// worker replaced. A thread that does not end is left alone.
  virtual ~map_run() = default;

  /// How many items may be read now; 0: `next` comes first.
  [[nodiscard]] virtual std::size_t room() = 0;
  /// Packed items, from an `item_packer`, are on their way from here on. Throws `BrokenPoolError`.
  virtual void add(const task_entry& entry, std::vector<std::byte> packed, std::uint32_t items,
                   std::vector<attached_to_item> attached, const call_name& name) = 0;
  /// An item that could not be packed: it has failed, and nothing else is hurt by it.
  virtual void add_failed(raw_outcome why) = 0;
  /// The next result; waits for it. Empty: there are none on their way. Calls the progress callback; throws what that
  /// throws, and what `on_error` asks for; the map is over then.
  virtual std::optional<map_result> next() = 0;
  /// By an exception: nothing comes any more, however much of the input is left.
  [[nodiscard]] virtual bool is_over() const = 0;
  /// The input has ended.
  virtual void end_of_input() = 0;
};

/// Makes room for the header of an item and writes it once the item is packed; items begin at multiples of 16 bytes.
class item_packer final : public byte_sink {
 public:
  /// `again`: items may be run more than once.
  explicit item_packer(bool again) : again_(again) {}
  /// Packs one more item by `write`. What `write` throws is thrown, and nothing was packed then.
  template <class Write>
  void pack(Write&& write) {
    const std::size_t begin = bytes_.size();
    bytes_.resize(begin + header_size + 48);
    base_ = begin + header_size;
    try {
      std::size_t end = begin;
      auto attached = pack_attached(again_, [&] {
        output_archive out(*this, {bytes_.data() + base_, bytes_.data() + bytes_.size()});
        write(out);
        end = static_cast<std::size_t>(out.filled_to() - bytes_.data());
      });
      if (attached) attached_.push_back({items_, std::move(attached)});
      finish(begin, end);
    } catch (...) {
      bytes_.resize(begin);
      throw;
    }
  }
  [[nodiscard]] std::uint32_t items() const { return items_; }
  [[nodiscard]] std::size_t size() const { return bytes_.size(); }
  std::vector<std::byte> take() {
    items_ = 0;
    return std::exchange(bytes_, {});
  }
  std::vector<attached_to_item> take_attached() { return std::exchange(attached_, {}); }
  window next(std::byte* filled_to) override {
    const auto filled = static_cast<std::size_t>(filled_to - bytes_.data());
    bytes_.resize(2 * bytes_.size());
    return {bytes_.data() + filled, bytes_.data() + bytes_.size()};
  }
  void reserve(std::size_t size) { bytes_.reserve(size); }

 private:
  static constexpr std::size_t header_size = 16;
  void finish(std::size_t begin, std::size_t end) {
    const std::uint64_t header[2] = {end - begin - header_size, 0};
    bytes_.resize((end + 15) / 16 * 16);
    std::memcpy(bytes_.data() + begin, header, sizeof header);
    ++items_;
  }

  const bool again_;
  std::vector<std::byte> bytes_;
  std::vector<attached_to_item> attached_;
  std::size_t base_ = 0;
  std::uint32_t items_ = 0;
};

}  // namespace pynisher::detail
