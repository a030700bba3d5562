#include <pynisher/progress_bar.hpp>

#include <cstdlib>
#include <string_view>

#include "progress_display.hpp"
#include "progress_line.hpp"

namespace pynisher::detail {

namespace {

bool is_set(const char* variable) {
  const char* const value = std::getenv(variable);
  return value != nullptr && *value != '\0';
}

bool understands(int descriptor) {
  const char* const terminal = std::getenv("TERM");
  return platform::is_terminal(descriptor) && is_set("TERM") && std::string_view(terminal) != "dumb";
}

}  // namespace

progress_display::progress_display(const progress_options& wanted, now_function now)
    : label_(wanted.label),
      descriptor_(wanted.descriptor),
      interval_(wanted.interval),
      now_(now),
      owner_(platform::process_number()),
      colours_(!is_set("NO_COLOR")),
      begun_(now_()),
      total_(wanted.total.value_or(unknown)),
      next_draw_(begun_.time_since_epoch().count()),
      silent_(!understands(wanted.descriptor)) {
  draw_if_due();
}

void progress_display::add(std::uint64_t done, std::uint64_t failed) {
  done_.fetch_add(done, std::memory_order_relaxed);
  if (failed > 0) failed_.fetch_add(failed, std::memory_order_relaxed);
  note_completion();
  draw_if_due();
}

void progress_display::set(std::uint64_t done, std::optional<std::uint64_t> total, std::uint64_t failed) {
  done_.store(done, std::memory_order_relaxed);
  failed_.store(failed, std::memory_order_relaxed);
  if (total) total_.store(*total, std::memory_order_relaxed);
  note_completion();
  draw_if_due();
}

void progress_display::note_completion() {
  const bool is_complete = done_.load(std::memory_order_relaxed) >= total_.load(std::memory_order_relaxed);
  const bool was_complete = completed_.load(std::memory_order_relaxed) != 0;
  if (is_complete == was_complete) return;
  completed_.store(is_complete ? now_().time_since_epoch().count() : 0, std::memory_order_relaxed);
}

void progress_display::draw_if_due() {
  if (silent_.load(std::memory_order_relaxed)) return;
  if (now_().time_since_epoch().count() < next_draw_.load(std::memory_order_relaxed)) return;
  // A child has a copy of the bar, perhaps with the mutex locked.
  if (owner_ != platform::process_number()) return;
  const std::unique_lock lock(drawing_, std::try_to_lock);
  if (lock && !silent_) draw(false);
}

void progress_display::finish() noexcept {
  if (silent_ || owner_ != platform::process_number()) return;
  const std::lock_guard lock(drawing_);
  if (silent_) return;
  try {
    draw(true);
  } catch (...) {
    // No memory for a line that nobody needs.
  }
  silent_ = true;
}

void progress_display::draw(bool last) {
  const auto now = now_();
  next_draw_ = (now + std::chrono::duration_cast<platform::clock::duration>(interval_)).time_since_epoch().count();
  if (!platform::is_in_foreground(descriptor_)) return;
  const std::uint64_t total = total_;
  const auto completed = completed_.load(std::memory_order_relaxed);
  const auto until = completed != 0 ? platform::clock::time_point(platform::clock::duration(completed)) : now;
  progress_facts facts{label_, done_, std::nullopt, failed_, until - begun_, last};
  if (total != unknown) facts.total = total;
  // The line is cleared behind the text, not before it, so that it does not flicker.
  const std::string line =
      '\r' + progress_line(facts, platform::terminal_width(descriptor_), colours_) + "\x1b[K" + (last ? "\n" : "");
  if (!platform::write_to_terminal(descriptor_, line)) silent_ = true;
}

progress_handle::progress_handle(const progress_options& wanted)
    : progress_handle(std::make_shared<progress_display>(wanted)) {}
progress_handle::progress_handle(std::shared_ptr<progress_display> display) : display_(std::move(display)) {}
progress_handle& progress_handle::operator=(progress_handle&& other) noexcept {
  if (this != &other) {
    if (display_) display_->finish();
    display_ = std::move(other.display_);
  }
  return *this;
}
progress_handle::~progress_handle() {
  if (display_) display_->finish();
}

void progress_handle::add(std::uint64_t done, std::uint64_t failed) const { display_->add(done, failed); }
void progress_handle::set(std::uint64_t done, std::optional<std::uint64_t> total, std::uint64_t failed) const {
  display_->set(done, total, failed);
}
void progress_handle::finish() const noexcept { display_->finish(); }

void set_progress(progress_display& display, std::uint64_t done, std::optional<std::uint64_t> total,
                  std::uint64_t failed) {
  display.set(done, total, failed);
}

}  // namespace pynisher::detail
