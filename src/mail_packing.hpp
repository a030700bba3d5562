#pragma once

// Values that hold ends, queues or descriptors, being packed: the bytes name what is attached, which goes to the
// exchange.
//
// What is attached to an item goes with the item. What is attached to an argument, a result or a name is deposited
// there under a key that stands in the bytes, until the other process fetches it, or it is clear that none will.

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <pynisher/detail/execute.hpp>
#include <pynisher/detail/wire/archive.hpp>

#include "exchange.hpp"
#include "platform/contract.hpp"

namespace pynisher::detail {

/// A deposit: what nobody has fetched is given back when this goes.
class deposited {
 public:
  explicit deposited(const deposit_key& key) : key_(key) {}
  deposited(const deposited&) = delete;
  deposited& operator=(const deposited&) = delete;
  ~deposited();
  [[nodiscard]] const deposit_key& key() const { return key_; }
  /// When this comes back, a child's result is this process's, as if deposited by it; `mode`: argument or kept.
  void adopt(deposit_mode mode) const noexcept;
  /// Somebody else gives it back.
  void leave() noexcept { is_left_ = true; }

 private:
  const deposit_key key_;
  const pid_t owner_ = platform::process_number();  ///< a forked copy has not got it
  bool is_left_ = false;
};
/// What another process has deposited to be kept is kept by this one too, for as long as what this returns is there.
/// Throws `wire_error`.
std::shared_ptr<deposited> keep_deposited(const deposit_key& key);

/// While one exists, what this thread packs may have attachments. Scopes nest.
class packing_scope {
 public:
  /// Into an item.
  packing_scope();
  /// Into something that goes another way.
  explicit packing_scope(deposit_mode mode);
  packing_scope(const packing_scope&) = delete;
  packing_scope& operator=(const packing_scope&) = delete;
  ~packing_scope();

  /// Returns where in the value it is. `keeper` stays until the scope has finished: the value may be gone by then.
  std::uint32_t attach(const attachment& what, std::shared_ptr<void> keeper);
  void write_place(output_archive& out, std::uint32_t index) const;
  /// Everything is packed: deposits what was attached. Null: nothing was, or it is a result, which its receiver gives
  /// back. Throws `wire_error` where it cannot be.
  std::shared_ptr<deposited> finish();
  /// The same, by the key. Empty: nothing was attached.
  std::optional<deposit_key> deposit(deposit_mode mode);
  [[nodiscard]] const std::shared_ptr<parcel>& content() const { return content_; }
  /// One for each attachment, or null.
  [[nodiscard]] const std::vector<std::shared_ptr<void>>& keepers() const { return keepers_; }

  static packing_scope& current();

 private:
  packing_scope* const outer_;
  const bool is_item_;
  const deposit_mode mode_ = deposit_mode::argument;
  deposit_key key_{};
  std::shared_ptr<parcel> content_;
  std::vector<std::shared_ptr<void>> keepers_;
};

/// The ends among the arguments of a call for which a child is forked, on their way to it: it has them from its start
/// on, whatever its maker does with its own.
class ends_for_fork {
 public:
  ends_for_fork() = default;
  ends_for_fork(const ends_for_fork&) = delete;
  ends_for_fork& operator=(const ends_for_fork&) = delete;
  void look_for(const child_task& task);
  /// There are some.
  [[nodiscard]] explicit operator bool() const { return deposit_ != nullptr; }
  /// In the child.
  void take_over() const noexcept;
  /// The child is made.
  void has_started() { ends_.clear(); }
  /// What it has not taken over.
  void give_back() { deposit_.reset(); }

 private:
  std::shared_ptr<deposited> deposit_;
  std::vector<std::shared_ptr<void>> ends_;  ///< by their places in the deposit
};

/// In the child: this thread packs its reply from here on. `finish` deposits what the reply holds; false: nothing.
void begin_packing_reply();
bool finish_packing_reply();
/// In a worker, whose results are told apart by the key: the same, as such a deposit.
std::optional<deposit_key> finish_packing_result(deposit_mode mode);
/// It will not be sent.
void drop_packed_reply() noexcept;
/// The reply of a limited call or an isolate, in the process `pid`, is unpacked, or never will be, when what this
/// returns goes.
std::shared_ptr<void> until_reply_is_read(std::int64_t pid);

}  // namespace pynisher::detail
