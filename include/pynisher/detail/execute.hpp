#pragma once

// The seam between the templates, which know the call's types, and the library, which knows processes.

#include <cstddef>
#include <exception>
#include <memory>
#include <string>

#include <pynisher/detail/call_name.hpp>
#include <pynisher/detail/wire/archive.hpp>
#include <pynisher/options.hpp>
#include <pynisher/outcome.hpp>
#include <pynisher/usage.hpp>

namespace pynisher::detail {

/// Options that have been found good; only `validate` makes them.
class settings;

/// Throws `std::invalid_argument` for values that make no sense, `UnsupportedException` for what cannot be
/// enforced here.
std::shared_ptr<const settings> validate(options wanted);
const options& options_of(const settings& checked) noexcept;

struct call_entry;

/// What the child is to do. Lives in the caller's frame for as long as the call, or in the child.
class child_task {
 public:
  /// In the child: calls the function, then writes its result into `reply`.
  virtual void run(output_archive& reply) = 0;
  /// In the parent: what is called with what, for messages.
  [[nodiscard]] virtual call_name name() const = 0;
  /// In the parent: by what another process makes this call; null: only a copy of this one can.
  [[nodiscard]] virtual const call_entry* entry() const = 0;
  /// In the parent: what the entry will unpack. Throws what the arguments' own serialisation throws.
  virtual void pack(output_archive& out) const = 0;
  /// In the parent: the arguments that may hold ends of channels or queues, by their types.
  virtual void pack_ends(output_archive& /*out*/) const {}
  virtual ~child_task() = default;
};

/// The packed result. Grows as bytes really arrive.
class reply_bytes {
 public:
  reply_bytes() = default;
  reply_bytes(reply_bytes&& other) noexcept;
  reply_bytes& operator=(reply_bytes&& other) noexcept;
  ~reply_bytes();

  /// Makes room for `size` more bytes at the end and returns it. Throws `std::bad_alloc`.
  std::byte* grow(std::size_t size);
  [[nodiscard]] std::size_t arrived() const { return gone_ + size_; }
  /// Gives up the first `size` of the bytes that are here, which somebody has read.
  void drop(std::size_t size) noexcept;
  /// Nothing is here: the next `size` bytes went straight to who read them.
  void skip(std::size_t size) noexcept { gone_ += size; }
  /// Those that are here.
  [[nodiscard]] const std::byte* here() const { return memory_; }
  [[nodiscard]] std::size_t size_here() const { return size_; }

  /// From here on, `data` and `size` speak of the bytes from `begin` to `end` of those that arrived.
  void select(std::size_t begin, std::size_t end);
  /// Some of them have been read and given up.
  [[nodiscard]] bool is_gone() const { return begin_ < gone_; }
  [[nodiscard]] const std::byte* data() const { return is_gone() ? nullptr : memory_ + (begin_ - gone_); }
  [[nodiscard]] std::size_t size() const { return end_ - begin_; }
  [[nodiscard]] std::size_t begin() const { return begin_; }

 private:
  void move_to_capacity(std::size_t wanted);
  void release() noexcept;

  std::byte* memory_ = nullptr;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
  std::size_t gone_ = 0;  ///< bytes before those that are here
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

/// An outcome whose value is still packed.
struct raw_outcome {
  pynisher::verdict verdict = verdict::start_failed;
  pynisher::usage usage;
  std::exception_ptr error;  ///< null exactly when `verdict` is `returned`
  std::string explanation;
  reply_bytes reply;
  std::shared_ptr<void> custody;  ///< of what the reply refers to, until it is unpacked; mostly null
};

/// Unpacks a large value while the child still packs it.
class value_receiver {
 public:
  /// Called at most once. What it makes of the bytes counts only if the call has returned in the end, with just these.
  virtual void receive(byte_source& bytes) = 0;

 protected:
  ~value_receiver() = default;
};

/// Runs the task in a child process under the limits, and comes back when nothing of it is left. `receiver` may be null.
/// A call that returned is explained by `explain_return` alone, where somebody asks.
/// Throws only `std::bad_alloc`.
raw_outcome execute(const settings& limits, child_task& task, value_receiver* receiver);
[[nodiscard]] std::string explain_return(const pynisher::usage& used);

/// In the child: the function has returned; from here on the reply is this thread's.
void begin_reply();

/// Turns a raw outcome whose bytes did not decode into one that says so.
void mark_undecodable(raw_outcome& raw, const std::string& why);

}  // namespace pynisher::detail
