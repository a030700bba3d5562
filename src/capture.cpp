#include <pynisher/capture.hpp>

#include <memory>
#include <utility>

#include <pynisher/format.hpp>

#include "isolate_core.hpp"
#include "isolate_output.hpp"
#include "isolate_registry.hpp"
#include "platform/contract.hpp"
#include "settings.hpp"

namespace pynisher {

namespace detail {

namespace {

std::uint64_t bound_of(const capture_options& wanted) {
  if (!wanted.most.has_value()) return platform::physical_memory() / 4;
  refuse_faulty("capture_options::most", wanted.most);
  return wanted.most.bytes();
}

}  // namespace

class capture_session {
 public:
  capture_session(const isolate& from, const capture_options& wanted) : core_(core_of(*from.lease_, "capture_output")) {
    const std::uint64_t most = bound_of(wanted);
    isolate_core::turn turn(core_);
    turn.await();
    capture_ = std::make_shared<output_capture>(most);
    core_->begin_capture(capture_);
  }
  capture_session(const capture_session&) = delete;
  capture_session& operator=(const capture_session&) = delete;
  ~capture_session() {
    if (core_->owner() == platform::process_number()) {
      core_->end_capture(core_, capture_);
      return;
    }
    // A forked copy of the program has handles, but not the isolate.
    static_cast<void>(new std::shared_ptr<isolate_core>(std::move(core_)));
    static_cast<void>(new std::shared_ptr<output_capture>(std::move(capture_)));
  }
  [[nodiscard]] std::string text_of(std::shared_ptr<capture_sink> output_capture::*stream) const {
    capture_->reader->sync();
    return ((*capture_).*stream)->text();
  }
  void clear() {
    capture_->reader->sync();
    capture_->out->clear();
    capture_->err->clear();
  }

 private:
  std::shared_ptr<isolate_core> core_;
  std::shared_ptr<output_capture> capture_;
};

}  // namespace detail

capture_output::capture_output(const isolate& from, const capture_options& wanted)
    : session_(std::make_unique<detail::capture_session>(from, wanted)) {}

capture_output::~capture_output() = default;

std::string capture_output::out() const { return session_->text_of(&detail::output_capture::out); }
std::string capture_output::err() const { return session_->text_of(&detail::output_capture::err); }
void capture_output::clear() { session_->clear(); }

}  // namespace pynisher
