// A large value, handed over while the child still sends it.

#include <cstddef>

#include <pynisher/detail/execute.hpp>
#include <pynisher/detail/wire/archive.hpp>

#include "platform/contract.hpp"
#include "platform/forced_unwind.hpp"
#include "reply_region.hpp"
#include "supervised_call.hpp"

namespace pynisher::detail {

bool supervised_call::value_arrives() const {
  const reply_region& region = region_.get();
  return region.packs_value.load(std::memory_order_relaxed) == 1 && region.written.load() >= reply_region::window_size;
}

/// The reply's bytes, for which it waits as `run` does, looking at the limits for each piece.
class supervised_call::arriving_bytes final : public byte_source {
 public:
  explicit arriving_bytes(supervised_call& call) : call_(call), reader_(call.reader_) {}

  window begin() override {
    reader_.take_at_once();
    return reader_.here();
  }
  std::size_t read(std::byte* to, std::size_t size) override {
    call_.hands_over_ = true;
    reader_.drop(reader_.here().size);
    std::size_t done = 0;
    while (done < size && more()) {
      const std::size_t piece = reader_.take_to(to + done, size - done);
      if (piece == 0) break;
      done += piece;
    }
    return done;
  }
  window rest() override {
    if (!call_.hands_over_) throw wire_error("it is read when all of it is there");
    call_.hands_over_ = false;
    if (!over_) look(woken_by::doorbell);
    while (!over_) look(call_.wait());
    if (has_ended_) reader_.take_at_once();
    return reader_.here();
  }
  [[nodiscard]] bool over() const { return over_; }

 private:
  using woken_by = platform::child_process::woken_by;

  void look(woken_by woken) {
    has_ended_ = woken == woken_by::end;
    over_ = call_.look(woken);
  }
  /// Waits until there is something to take. False: nothing will come.
  bool more() {
    if (!over_) look(woken_by::nothing);
    while (!over_) {
      const bool is_all = reader_.complete();
      if (reader_.has_some_soon()) return true;
      if (is_all || reader_.how() != reply_reader::state::fine) return false;
      look(reader_.will_be_rung() ? call_.wait() : woken_by::nothing);
    }
    // What one has left that is to be ended comes too late.
    return has_ended_ && reader_.has_some();
  }

  supervised_call& call_;
  reply_reader& reader_;
  bool over_ = false;
  bool has_ended_ = false;
};

bool supervised_call::hand_over(value_receiver& receiver) {
  arriving_bytes bytes(*this);
  try {
    receiver.receive(bytes);
  } catch (const platform::forced_unwind&) {
    throw;
  } catch (...) {
    // The receiver knows why.
  }
  hands_over_ = false;
  // What has come since: nothing else may ring for it.
  return bytes.over() || look(platform::child_process::woken_by::doorbell);
}

}  // namespace pynisher::detail
