#include "call_order.hpp"

#include <cerrno>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include <pynisher/detail/wire/types.hpp>
#include <pynisher/exceptions.hpp>

#include "child_main.hpp"
#include "mail_link.hpp"

namespace pynisher::detail {

// --- the program's side -------------------------------------------------------------------------------------

byte_sink::window order_sink::first() { return {region_.ring(), region_.ring() + reply_region::ring_size}; }

byte_sink::window order_sink::next(std::byte* filled_to) {
  if (!file_) file_ = platform::make_memory_file(0);
  if (!file_) throw_refused(stage);
  write_out(filled_to);
  return first();
}

void order_sink::finish(const output_archive& archive) {
  if (file_) write_out(archive.filled_to());
  region_.order_size.store(archive.position());
}

void order_sink::write_out(const std::byte* filled_to) {
  const auto size = static_cast<std::size_t>(filled_to - region_.ring());
  if (!platform::write_file(file_.get(), region_.ring(), size)) throw_refused(stage);
}

void write_order(output_archive& out, const settings& limits, const platform::child_plan& plan, const platform::signal_mask& mask) {
  // The server has the environment of the time when it was started.
  std::string environment;
  if (platform::is_by_server(plan.parentage)) environment = platform::environment();
  limits.send(out);
  out(static_cast<std::int64_t>(platform::process_number()), plan.mark.value, plan.mark.span, plan.cpu_limit, plan.memory,
      plan.measures_growth, platform::is_within_memory_limit(), plan.conversation >= 0);
  out.write(&mask, sizeof mask);
  const auto text = [](const char* entry) { return std::string(entry != nullptr ? entry : ""); };
  out(platform::shown_name(), text(plan.process_bound), text(plan.memory_bound));
  out(environment);
}

// --- the child's --------------------------------------------------------------------------------------------

namespace {

/// Throws again what went wrong before there was a call to make.
class failed_order final : public child_task {
 public:
  explicit failed_order(std::exception_ptr why) : why_(std::move(why)) {}
  void run(output_archive& /*reply*/) override { std::rethrow_exception(why_); }
  [[nodiscard]] call_name name() const override { return {}; }
  [[nodiscard]] const call_entry* entry() const override { return nullptr; }
  void pack(output_archive& /*out*/) const override {}

 private:
  std::exception_ptr why_;
};

/// The order's bytes; the file's are mapped for as long as this lives.
class order_bytes {
 public:
  order_bytes(reply_region& region, int file) : size_(static_cast<std::size_t>(region.order_size.load())) {
    if (size_ <= reply_region::ring_size) {
      data_ = region.ring();
      return;
    }
    mapped_ = platform::map_file(file, size_);
    data_ = mapped_;
  }
  ~order_bytes() {
    if (mapped_ != nullptr) platform::unmap_file(mapped_, size_);
  }
  order_bytes(const order_bytes&) = delete;
  order_bytes& operator=(const order_bytes&) = delete;
  [[nodiscard]] const std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return data_ == nullptr ? 0 : size_; }

 private:
  std::size_t size_;
  const std::byte* data_ = nullptr;
  const std::byte* mapped_ = nullptr;
};

}  // namespace

[[gnu::hot]] void follow_order(int region_file, int doorbell, int order_file, int conversation, platform::parentage parentage) {
  auto* region = map_received_region(region_file);
  if (region == nullptr) platform::leave(1);
  platform::close_received(region_file);
  // Arguments may have to be fetched from elsewhere.
  set_own_region(*region, doorbell);

  std::optional<settings> limits;
  platform::child_plan plan;
  std::unique_ptr<child_task> task;
  std::int64_t program = 0;
  std::string process_bound, memory_bound;
  platform::signal_mask mask{};
  try {
    const order_bytes order(*region, order_file);
    input_archive in(order.data(), order.size());
    limits.emplace(settings::received(in));
    bool within_memory_limit = false;
    bool has_conversation = false;
    in(program, plan.mark.value, plan.mark.span, plan.cpu_limit, plan.memory, plan.measures_growth,
       within_memory_limit, has_conversation);
    if (has_conversation) plan.conversation = conversation;
    in.read(&mask, sizeof mask);
    std::string name;
    in(name, process_bound, memory_bound);
    if (parentage != platform::parentage::cloned) platform::show_as_thread(name);
    std::string environment;
    in(environment);
    if (platform::is_by_server(parentage)) platform::take_environment(std::move(environment));
    platform::note_outer_limits(within_memory_limit);
    platform::tie_to_program(static_cast<pid_t>(program), parentage);
    try {
      task = read_call(in);
    } catch (...) {
      task = std::make_unique<failed_order>(std::current_exception());
    }
    hang_up_at_exchange();
  } catch (const std::exception&) {
    // Not even the limits: another version of the library's wrote them.
    platform::leave(1);
  }
  if (region->order_size.load() > reply_region::ring_size || plan.conversation >= 0) {
    platform::close_received(order_file);
  }

  // Never closed; listed, so that what this process calls has not got them.
  static_cast<void>(new platform::call_fd(doorbell));
  if (plan.conversation >= 0) static_cast<void>(new platform::call_fd(plan.conversation));
  // What was read stays in the file; here it would count as memory of the function's.
  platform::forget_pages(region->ring(), reply_region::ring_size);
  prepare_for_children();
  plan.limits = &*limits;
  plan.region = region;
  plan.doorbell = doorbell;
  plan.started = platform::clock::time_point(std::chrono::nanoseconds(region->started.load()));
  plan.parentage = parentage;
  if (!process_bound.empty()) plan.process_bound = process_bound.c_str();
  if (!memory_bound.empty()) plan.memory_bound = memory_bound.c_str();
  platform::set_up_child(plan, static_cast<pid_t>(program));
  platform::block_signals(mask);
  errno = 0;
  reply_tools reply(*region, doorbell);
  run_in_child(*task, reply, plan);
}

}  // namespace pynisher::detail
