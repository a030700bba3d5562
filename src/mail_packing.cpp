#include "mail_packing.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include <pynisher/channel_errors.hpp>
#include <pynisher/detail/mail.hpp>

#include "exchange_frames.hpp"
#include "mail_end_state.hpp"
#include "mail_link.hpp"

namespace pynisher::detail {

namespace {

constinit thread_local packing_scope* innermost = nullptr;
/// The reply has no frame on the stack to stay in, and mostly needs none.
constinit thread_local bool packs_reply = false;
constinit thread_local packing_scope* of_reply = nullptr;

enum class place_kind : std::uint8_t { item, deposit };
constexpr std::size_t most_attached = 200;

/// What came with an item, while it is unpacked.
struct unpacking {
  parcel* from = nullptr;
  std::vector<bool> used;
};
constinit thread_local unpacking* arriving = nullptr;

attachment take_of_item(std::uint32_t index) {
  if (arriving == nullptr)
    throw_wire_error("an end of a channel, a queue or a descriptor came without what belongs to it");
  if (index >= arriving->used.size() || arriving->used[index])
    throw_wire_error("what is attached to a value is not there");
  arriving->used[index] = true;
  return arriving->from->attached[index];
}

attachment take_of_deposit(const deposit_key& key, std::uint32_t index) {
  request wanted;
  wanted.what = verb::redeem;
  wanted.key = key;
  wanted.number = index;
  answer came;
  try {
    came = ask_exchange(std::move(wanted));
  } catch (const ChannelError& e) {
    throw wire_error(e.what());
  }
  if (came.status != mail_status::item || !came.content || came.content->attached.size() != 1) {
    throw_wire_error("what is attached to a value is not there any more");
  }
  return came.content->attached.front();
}

attachment take_attachment(input_archive& in) {
  std::uint8_t kind = 0;
  deposit_key key{};
  std::uint32_t index = 0;
  in(kind);
  if (kind > static_cast<std::uint8_t>(place_kind::deposit)) throw_wire_error("a place of no kind");
  if (kind == static_cast<std::uint8_t>(place_kind::deposit)) in(key[0], key[1]);
  in(index);
  return kind == static_cast<std::uint8_t>(place_kind::item) ? take_of_item(index) : take_of_deposit(key, index);
}

/// For a request that is done or not. Throws `wire_error`.
void ask_done(request what) {
  answer came;
  try {
    came = ask_exchange(std::move(what));
  } catch (const ChannelError& e) {
    throw wire_error(e.what());
  }
  if (came.status == mail_status::done) return;
  if (came.status == mail_status::not_found) throw_wire_error("a channel or queue in a value is there no more");
  throw wire_error(text_of_limit(came));
}

/// This process has got a hold that nothing here has a handle for.
void let_go(const attachment& unused) noexcept {
  if (unused.what == attachment::kind::end) drop_holds(unused.channel, unused.end, 1);
}

/// For what is packed only to be looked at.
class forgetful_sink final : public byte_sink {
 public:
  [[nodiscard]] window first() { return {bytes_.data(), bytes_.data() + bytes_.size()}; }
  window next(std::byte* /*filled_to*/) override { return first(); }

 private:
  std::array<std::byte, 512> bytes_{};
};

class growing_sink final : public byte_sink {
 public:
  explicit growing_sink(std::vector<std::byte>& bytes) : bytes_(bytes) { bytes_.resize(512); }
  [[nodiscard]] window first() { return {bytes_.data(), bytes_.data() + bytes_.size()}; }
  window next(std::byte* filled_to) override {
    const auto filled = static_cast<std::size_t>(filled_to - bytes_.data());
    bytes_.resize(2 * bytes_.size());
    return {bytes_.data() + filled, bytes_.data() + bytes_.size()};
  }

 private:
  std::vector<std::byte>& bytes_;
};

}  // namespace

// --- packing --------------------------------------------------------------------------------------------------------

void deposited::adopt(deposit_mode mode) const noexcept {
  request own;
  own.what = verb::adopt;
  own.mode = static_cast<std::uint8_t>(mode);
  own.key = key_;
  try {
    ask_exchange(std::move(own));
  } catch (const std::exception&) {
    // Whoever reads it will hear of it.
  }
}

deposited::~deposited() {
  if (is_left_ || owner_ != platform::process_number()) return;
  request back;
  back.what = verb::revoke;
  back.key = key_;
  tell_exchange(std::move(back));
}

packing_scope::packing_scope() : outer_(std::exchange(innermost, this)), is_item_(true) {}

packing_scope::packing_scope(deposit_mode mode)
    : outer_(std::exchange(innermost, this)), is_item_(false), mode_(mode) {}

packing_scope::~packing_scope() { innermost = outer_; }

packing_scope& packing_scope::current() {
  if (innermost == nullptr && packs_reply) of_reply = new packing_scope(deposit_mode::result);
  if (innermost == nullptr)
    throw_wire_error("an end of a channel, a queue, a buffer or a descriptor cannot be sent this way");
  return *innermost;
}

std::uint32_t packing_scope::attach(const attachment& what, std::shared_ptr<void> keeper) {
  if (!content_) {
    content_ = std::make_shared<parcel>();
    if (!is_item_) key_ = random_key();
  }
  if (content_->attached.size() == most_attached) {
    throw_wire_error("a value holds more than 200 ends of channels, queues, buffers and descriptors");
  }
  content_->attached.push_back(what);
  keepers_.push_back(std::move(keeper));
  return static_cast<std::uint32_t>(content_->attached.size() - 1);
}

void packing_scope::write_place(output_archive& out, std::uint32_t index) const {
  out(static_cast<std::uint8_t>(is_item_ ? place_kind::item : place_kind::deposit));
  if (!is_item_) out(key_[0], key_[1]);
  out(index);
}

std::shared_ptr<deposited> packing_scope::finish() {
  if (is_item_) return nullptr;
  const auto key = deposit(mode_);
  return key && mode_ != deposit_mode::result ? std::make_shared<deposited>(*key) : nullptr;
}

std::optional<deposit_key> packing_scope::deposit(deposit_mode mode) {
  if (!content_) return std::nullopt;
  request wanted;
  wanted.what = verb::deposit;
  wanted.mode = static_cast<std::uint8_t>(mode);
  wanted.key = key_;
  wanted.content = std::exchange(content_, nullptr);
  if (mode == deposit_mode::result) note_deposited_reply();
  ask_done(std::move(wanted));
  return key_;
}

std::shared_ptr<deposited> keep_deposited(const deposit_key& key) {
  request wanted;
  wanted.what = verb::keep;
  wanted.key = key;
  ask_done(std::move(wanted));
  return std::make_shared<deposited>(key);
}

void ends_for_fork::look_for(const child_task& task) {
  forgetful_sink sink;
  output_archive out(sink, sink.first());
  packing_scope packing(deposit_mode::argument);
  try {
    task.pack_ends(out);
    auto ends = packing.keepers();
    deposit_ = packing.finish();
    if (deposit_) ends_ = std::move(ends);
  } catch (const wire_error&) {
    // By fork nothing has to be sent: the call is made all the same.
  } catch (const ChannelError&) {
  }
}

void ends_for_fork::take_over() const noexcept {
  for (std::size_t i = 0; i < ends_.size(); ++i) {
    try {
      static_cast<void>(take_of_deposit(deposit_->key(), static_cast<std::uint32_t>(i)));
      static_cast<end_state*>(ends_[i].get())->take_over();
    } catch (const std::exception&) {
      // Whoever uses it is told.
    }
  }
}

[[gnu::hot]] void begin_packing_reply() {
  // Another may have been left, by an exception in the middle of it.
  drop_packed_reply();
  packs_reply = true;
}
[[gnu::hot]] void drop_packed_reply() noexcept {
  packs_reply = false;
  if (of_reply != nullptr) delete std::exchange(of_reply, nullptr);
}

[[gnu::hot]] bool finish_packing_reply() {
  packs_reply = false;
  if (of_reply == nullptr) return false;
  const std::unique_ptr<packing_scope> scope(std::exchange(of_reply, nullptr));
  scope->finish();
  return true;
}
std::optional<deposit_key> finish_packing_result(deposit_mode mode) {
  packs_reply = false;
  if (of_reply == nullptr) return std::nullopt;
  const std::unique_ptr<packing_scope> scope(std::exchange(of_reply, nullptr));
  return scope->deposit(mode);
}

std::shared_ptr<void> until_reply_is_read(std::int64_t pid) {
  struct reader {
    std::int64_t pid;
    explicit reader(std::int64_t of) : pid(of) {}
    reader(const reader&) = delete;
    reader& operator=(const reader&) = delete;
    ~reader() {
      request done;
      done.what = verb::revoke_results;
      done.number = static_cast<std::uint64_t>(pid);
      tell_exchange(std::move(done));
    }
  };
  return std::make_shared<reader>(pid);
}

mail pack_mail(const std::function<void(output_archive&)>& write) {
  packing_scope scope;
  std::vector<std::byte> bytes;
  growing_sink sink(bytes);
  output_archive out(sink, sink.first());
  try {
    write(out);
  } catch (const wire_error& e) {
    throw NotShareableError(e.what());
  } catch (const cereal::Exception& e) {
    throw NotShareableError(e.what());
  }
  bytes.resize(static_cast<std::size_t>(out.position()));
  mail packed = scope.content() ? scope.content() : std::make_shared<parcel>();
  packed->bytes = std::move(bytes);
  return packed;
}

void unpack_mail(const mail& came, const std::function<void(input_archive&)>& read) {
  if (!came) throw SerializationException("no item came");
  unpacking here{came.get(), std::vector<bool>(came->attached.size())};
  unpacking* const outer = std::exchange(arriving, &here);
  const auto finish = [&] {
    arriving = outer;
    for (std::size_t i = 0; i < here.used.size(); ++i) {
      if (!here.used[i]) let_go(came->attached[i]);
    }
  };
  try {
    input_archive in(came->bytes.data(), came->bytes.size());
    read(in);
    in.expect_end();
  } catch (const std::bad_alloc&) {
    finish();
    throw;
  } catch (const std::exception& e) {
    finish();
    throw SerializationException(fmt::format("an item that came is no value of its type: {}", e.what()));
  } catch (...) {
    finish();
    throw;
  }
  finish();
}

// --- ends and descriptors as parts of values
// --------------------------------------------------------------------------

void mail_end::write(output_archive& out, const mail_end& end) {
  out(end.id());
  if (!end) return;
  attachment one;
  one.channel = end.id();
  one.end = end.state_->kind;
  end.state_->use();
  packing_scope& scope = packing_scope::current();
  scope.write_place(out, scope.attach(one, end.state_));
}

mail_end mail_end::read(input_archive& in, end_kind kind, std::uint64_t type) {
  std::int64_t id = -1;
  in(id);
  if (id < 0) return mail_end(kind);
  const attachment one = take_attachment(in);
  const bool fits = one.what == attachment::kind::end && one.end == kind && one.channel == id && one.type == type;
  if (!fits) {
    let_go(one);
    throw_wire_error("an end of a channel, or a queue, is of another type here");
  }
  return mail_end(std::make_shared<end_state>(id, kind, 1));
}

void write_descriptor(output_archive& out, int descriptor) {
  out(descriptor >= 0);
  if (descriptor < 0) return;
  attachment one;
  one.what = attachment::kind::file;
  one.file = duplicate_of(descriptor);
  if (!one.file) {
    throw wire_error(
        fmt::format("descriptor {} cannot be sent: {}", descriptor, std::system_category().message(errno)));
  }
  packing_scope& scope = packing_scope::current();
  scope.write_place(out, scope.attach(one, nullptr));
}

int read_descriptor(input_archive& in) {
  if (!in.read_bool()) return -1;
  const attachment one = take_attachment(in);
  if (one.what != attachment::kind::file || !one.file) {
    let_go(one);
    throw_wire_error("a descriptor is something else here");
  }
  const int own = ::fcntl(descriptor_of(*one.file), F_DUPFD_CLOEXEC, 3);
  if (own < 0)
    throw wire_error(fmt::format("no descriptor left for one that came: {}", std::system_category().message(errno)));
  return own;
}

}  // namespace pynisher::detail
