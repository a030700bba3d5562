#pragma once

// What a death watch has been told of: the logic alone, without a process.

#include <sys/types.h>

#include <cstddef>
#include <cstdint>

namespace pynisher::platform {

/// What is said to it, over a socket.
struct watch_message {
  enum class kind : std::int32_t { child, tree, gone, stop } what = kind::stop;
  pid_t pid = 0;
  /// When that process began, as the system writes it down: a number is another's some time after it is free.
  /// 0: that cannot be told.
  std::int64_t began = 0;
};

struct watched_child {
  pid_t pid = 0;
  bool whole_tree = false;
  std::int64_t began = 0;

  /// Whether its number is another's by now, who has begun `then`; 0: nobody has, or that cannot be told.
  [[nodiscard]] bool is_replaced_by(std::int64_t then) const { return began != 0 && then != 0 && began != then; }
};

/// No memory but its own: it is filled after a fork.
class watched_children {
 public:
  void take(const watch_message& told) noexcept {
    std::size_t at = 0;
    while (at < count_ && children_[at].pid != told.pid) ++at;
    if (told.what == watch_message::kind::gone) {
      if (at < count_) children_[at] = children_[--count_];
      return;
    }
    const bool is_known = at < count_ && !children_[at].is_replaced_by(told.began);
    if (at == most) return;
    if (at == count_) ++count_;
    // Once for its tree is for good, however often it is told of.
    const bool whole_tree = told.what == watch_message::kind::tree || (is_known && children_[at].whole_tree);
    children_[at] = {told.pid, whole_tree, is_known && told.began == 0 ? children_[at].began : told.began};
  }

  [[nodiscard]] const watched_child* begin() const { return children_; }
  [[nodiscard]] const watched_child* end() const { return children_ + count_; }

  static constexpr std::size_t most = 16384;

 private:
  watched_child children_[most] = {};
  std::size_t count_ = 0;
};

}  // namespace pynisher::platform
