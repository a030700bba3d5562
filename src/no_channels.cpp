// Where there are no channels: none can be made, and so nothing of what one could do is ever reached. What a call asks of
// the exchange it is spared: it has nothing there.

#include <pynisher/detail/mail.hpp>
#include <pynisher/exceptions.hpp>
#include <pynisher/shared_buffer.hpp>
#include <pynisher/shared_fd.hpp>

#include "mail_link.hpp"
#include "mail_packing.hpp"

namespace pynisher {

namespace detail {

namespace {

[[noreturn]] void refuse() {
  throw UnsupportedException("channel: this system's part of the library has no channels, queues and shared buffers yet");
}

}  // namespace

// --- what a user reaches

std::pair<mail_end, mail_end> mail_end::create_channel(std::uint64_t /*capacity*/, unbound /*policy*/,
                                                       std::uint64_t /*type*/) {
  refuse();
}
mail_end mail_end::create_queue(std::uint64_t /*capacity*/, unbound /*policy*/, std::uint64_t /*type*/) { refuse(); }
std::int64_t mail_end::id() const noexcept { return 0; }
bool mail_end::send(mail /*content*/, mail_deadline /*until*/) const { refuse(); }
void mail_end::send_nowait(mail /*content*/) const { refuse(); }
std::shared_ptr<receipt_state> mail_end::post(mail /*content*/) const { refuse(); }
arrival mail_end::receive(mail_deadline /*until*/) const { refuse(); }
arrival mail_end::receive_nowait() const { refuse(); }
std::shared_ptr<mail_operation> mail_end::begin_send(mail /*content*/,
                                                     std::function<void(std::exception_ptr)> /*done*/) const {
  refuse();
}
std::shared_ptr<mail_operation> mail_end::begin_receive(
    std::function<void(std::exception_ptr, arrival)> /*done*/) const {
  refuse();
}
bool mail_end::release() const { refuse(); }
void mail_end::close(bool /*force*/) const { refuse(); }
void mail_end::poison() const { refuse(); }
bool mail_end::is_closed() const { refuse(); }
std::vector<std::int64_t> mail_end::isolates() const { refuse(); }
int mail_end::native_handle() const { refuse(); }
std::pair<std::uint64_t, std::uint64_t> mail_end::fill() const { refuse(); }
void mail_end::write(output_archive& /*out*/, const mail_end& /*end*/) { refuse(); }
mail_end mail_end::read(input_archive& /*in*/, end_kind /*kind*/, std::uint64_t /*type*/) { refuse(); }

std::optional<std::size_t> select_ready(const std::vector<const mail_end*>& /*ends*/, mail_deadline /*until*/) {
  refuse();
}
std::vector<std::int64_t> open_channels() { return {}; }
bool await_receipt(receipt_state& /*of*/, mail_deadline /*until*/) { refuse(); }
bool is_taken(receipt_state& /*of*/) { refuse(); }
std::int64_t taken_by(receipt_state& /*of*/) { refuse(); }
void throw_empty_channel(std::int64_t /*id*/) { refuse(); }
void throw_owner_destroyed(std::int64_t /*id*/, bool /*of_queue*/) { refuse(); }
void throw_empty_queue(std::int64_t /*id*/) { refuse(); }
mail pack_mail(const std::function<void(output_archive&)>& /*write*/) { refuse(); }
void unpack_mail(const mail& /*came*/, const std::function<void(input_archive&)>& /*read*/) { refuse(); }
void write_descriptor(output_archive& /*out*/, int /*descriptor*/) { refuse(); }
int read_descriptor(input_archive& /*in*/) { refuse(); }

// --- what a call does

deposited::~deposited() = default;

packing_scope::packing_scope(deposit_mode mode) : outer_(nullptr), is_item_(false), mode_(mode) {}
packing_scope::~packing_scope() = default;
std::shared_ptr<deposited> packing_scope::finish() { return nullptr; }

void ends_for_fork::look_for(const child_task& /*task*/) {}
void ends_for_fork::take_over() const noexcept {}

void begin_packing_reply() {}
bool finish_packing_reply() { return false; }
std::shared_ptr<void> until_reply_is_read(std::int64_t /*pid*/) { return nullptr; }

void set_own_region(reply_region& /*region*/, int /*doorbell*/) noexcept {}
void hang_up_at_exchange() noexcept {}
void show_the_way(reply_region& region) {
  // A hostile child may ask all the same.
  if (region.exchange_wanted.load() != 0) region.exchange_told.store(2);
}
void note_process_ended(std::int64_t /*pid*/) noexcept {}

}  // namespace detail

class shared_buffer::mapping {};
shared_buffer::shared_buffer(std::size_t /*bytes*/) { detail::refuse(); }
void shared_buffer::save(detail::output_archive& /*out*/) const { detail::refuse(); }
void shared_buffer::load(detail::input_archive& /*in*/) { detail::refuse(); }

shared_fd::owned::~owned() = default;
shared_fd::shared_fd(int /*descriptor*/) { detail::refuse(); }
shared_fd shared_fd::adopt(int /*descriptor*/) { detail::refuse(); }

}  // namespace pynisher
