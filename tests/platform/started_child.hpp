#pragma once

// A child started through the backend alone: no supervisor, no reply.

#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <utility>

#include <pynisher/options.hpp>

#include "platform/contract.hpp"
#include "reply_region.hpp"
#include "settings.hpp"

namespace platform_tests {

namespace platform = pynisher::platform;

class started_child {
 public:
  /// `body` runs in the child, which then leaves with what it returns.
  template <class Body>
  explicit started_child(Body body, pynisher::options limits = {})
      : limits_(pynisher::detail::settings::judge(std::move(limits))), mark_(platform::new_mark()) {
    platform::child_plan plan;
    plan.limits = &limits_;
    plan.region = &region_.get();
    plan.mark = mark_;
    plan.started = platform::clock::now();
    plan.cpu_limit = limits_.cpu_time();
    plan.memory = limits_.memory();
    plan.measures_growth = limits_.memory().has_value();
    plan.doorbell = bell_.descriptor();
    platform::flush_stdio();
    auto forked = platform::fork_child(plan);
    if (forked.where == platform::fork_result::side::child) {
      if constexpr (std::is_void_v<decltype(body())>) {
        body();
        platform::leave(0);
      } else {
        platform::leave(body());
      }
    }
    if (forked.where == platform::fork_result::side::failed) throw std::runtime_error("no child");
    child_ = std::move(forked.child);
    if (!platform::let_go(child_, plan)) throw std::runtime_error("the child cannot be measured");
  }
  started_child(const started_child&) = delete;
  started_child& operator=(const started_child&) = delete;
  ~started_child() {
    if (!ended_) end(true);
    platform::release_mark(mark_);
  }

  platform::child_process& child() { return child_; }
  platform::doorbell& bell() { return bell_; }
  pynisher::detail::reply_region& region() { return region_.get(); }
  [[nodiscard]] const platform::call_mark& mark() const { return mark_; }
  [[nodiscard]] pid_t pid() const { return static_cast<pid_t>(child_.pid()); }

  platform::exit_status end(bool whole_tree) {
    ended_ = true;
    return child_.end(whole_tree, mark_, region_.get());
  }
  /// Without a limit: until the child has ended by itself.
  void await_end() {
    while (child_.wait(bell_, nullptr, std::nullopt) != platform::child_process::woken_by::end) bell_.clear();
  }

 private:
  pynisher::detail::settings limits_;
  pynisher::detail::reply_region_owner region_{false};
  platform::doorbell bell_;
  platform::call_mark mark_;
  platform::child_process child_;
  bool ended_ = false;
};

}  // namespace platform_tests
