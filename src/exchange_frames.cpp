#include "exchange_frames.hpp"

#include <fcntl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <type_traits>
#include <utility>

#include "descriptor_passing.hpp"

namespace pynisher::detail {

namespace {

/// Numbers one after the other.
class number_writer {
 public:
  // With room for most frames; without it g++ 14 believes that there is none behind what is there already.
  explicit number_writer(std::vector<std::byte>& to) : to_(to) { to_.reserve(256); }
  template <class T>
  number_writer& operator()(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    to_.resize(to_.size() + sizeof value);
    std::memcpy(to_.data() + to_.size() - sizeof value, &value, sizeof value);
    return *this;
  }
  template <class T>
  number_writer& operator()(const std::vector<T>& values) {
    (*this)(static_cast<std::uint32_t>(values.size()));
    for (const T& value : values) (*this)(value);
    return *this;
  }

 private:
  std::vector<std::byte>& to_;
};

class number_reader {
 public:
  explicit number_reader(std::span<const std::byte> from) : left_(from) {}
  template <class T>
  number_reader& operator()(T& value) {
    static_assert(std::is_trivially_copyable_v<T> && !std::is_same_v<T, bool>);
    if (left_.size() < sizeof value) {
      fine_ = false;
      return *this;
    }
    std::memcpy(&value, left_.data(), sizeof value);
    left_ = left_.subspan(sizeof value);
    return *this;
  }
  template <class T>
  number_reader& operator()(std::vector<T>& values) {
    std::uint32_t count = 0;
    (*this)(count);
    if (count > left_.size() / sizeof(T)) fine_ = false;
    for (std::uint32_t i = 0; fine_ && i < count; ++i) (*this)(values.emplace_back());
    return *this;
  }
  [[nodiscard]] bool is_fine() const { return fine_; }
  [[nodiscard]] bool is_complete() const { return fine_ && left_.empty(); }

 private:
  std::span<const std::byte> left_;
  bool fine_ = true;
};

template <class Enum>
bool is_one_of(std::uint8_t number, Enum last) {
  return number <= static_cast<std::uint8_t>(last);
}

void write_attached(number_writer& out, const std::shared_ptr<parcel>& content) {
  out(static_cast<std::uint8_t>(content != nullptr));
  if (!content) return;
  out(static_cast<std::uint32_t>(content->attached.size()));
  for (const attachment& one : content->attached) {
    out(static_cast<std::uint8_t>(one.what))(static_cast<std::uint8_t>(one.end))(one.channel)(one.type);
  }
}

/// Null: none, or (`fine` is false) nonsense.
std::shared_ptr<parcel> read_attached(number_reader& in, incoming_frames::frame& from, bool& fine) {
  std::uint8_t has_content = 0;
  in(has_content);
  fine = in.is_fine() && has_content <= 1 && (has_content == 1 || (from.content.empty() && from.files.empty()));
  if (!fine || has_content == 0) return nullptr;
  auto content = std::make_shared<parcel>();
  content->bytes = std::move(from.content);
  std::uint32_t count = 0;
  in(count);
  std::size_t file = 0;
  for (std::uint32_t i = 0; i < count && in.is_fine(); ++i) {
    std::uint8_t what = 0, end = 0;
    attachment one;
    in(what)(end)(one.channel)(one.type);
    if (!is_one_of(what, attachment::kind::file) || !is_one_of(end, end_kind::queue)) fine = false;
    one.what = static_cast<attachment::kind>(what);
    one.end = static_cast<end_kind>(end);
    if (fine && one.what == attachment::kind::file) {
      if (file == from.files.size()) {
        fine = false;
      } else {
        one.file = std::move(from.files[file++]);
      }
    }
    if (!fine) return nullptr;
    content->attached.push_back(std::move(one));
  }
  fine = in.is_fine() && file == from.files.size();
  return content;
}

}  // namespace

std::shared_ptr<held_file> duplicate_of(int descriptor) {
  platform::call_fd copy(::fcntl(descriptor, F_DUPFD_CLOEXEC, 3));
  if (!copy) return nullptr;
  return std::make_shared<passed_file>(std::move(copy));
}

socklen_t write_address(const exchange_place& of, sockaddr_un& to) {
  to.sun_family = AF_UNIX;
  // A zero in front: a name of the kernel's, and not of a file.
  const int length = std::snprintf(to.sun_path + 1, sizeof to.sun_path - 1, "pynisher-%016llx",
                                   static_cast<unsigned long long>(of.name));
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + static_cast<std::size_t>(length));
}

int descriptor_of(const held_file& file) { return static_cast<const passed_file&>(file).get(); }

// --- sending --------------------------------------------------------------------------------------------------------

outgoing_frame::outgoing_frame(mail_frame kind, std::uint32_t operation, const greeting& hello)
    : head_(sizeof(mail_header)) {
  number_writer out(head_);
  out(hello.token)(hello.household)(hello.isolate)(static_cast<std::uint8_t>(hello.is_head));
  finish(kind, operation);
}

outgoing_frame::outgoing_frame(std::uint32_t operation, const request& what) : head_(sizeof(mail_header)) {
  number_writer out(head_);
  out(static_cast<std::uint8_t>(what.what))(static_cast<std::uint8_t>(what.end))(what.mode)(what.channel)(what.number);
  out(what.key)(what.numbers);
  write_attached(out, what.content);
  add_content(what.content);
  finish(mail_frame::request, operation);
}

outgoing_frame::outgoing_frame(std::uint32_t operation, const answer& what) : head_(sizeof(mail_header)) {
  number_writer out(head_);
  out(static_cast<std::uint8_t>(what.status))(static_cast<std::uint8_t>(what.is_in_hand))(what.number);
  out(what.numbers)(what.facts);
  write_attached(out, what.content);
  add_content(what.content);
  finish(mail_frame::answer, operation);
}

void outgoing_frame::add_content(const std::shared_ptr<parcel>& content) {
  content_ = content;
  if (!content) return;
  for (const attachment& one : content->attached) {
    if (one.what == attachment::kind::file) files_.push_back(descriptor_of(*one.file));
  }
}

void outgoing_frame::finish(mail_frame kind, std::uint32_t operation) {
  const mail_header header{kind, operation, static_cast<std::uint32_t>(head_.size() - sizeof(mail_header)),
                           static_cast<std::uint32_t>(files_.size()), content_ ? content_->bytes.size() : 0};
  std::memcpy(head_.data(), &header, sizeof header);
}

outgoing_frame::progress outgoing_frame::send(int socket, int flags) {
  const std::size_t content_size = content_ ? content_->bytes.size() : 0;
  while (sent_ < head_.size() + content_size) {
    iovec parts[2];
    std::size_t count = 0;
    if (sent_ < head_.size()) parts[count++] = {head_.data() + sent_, head_.size() - sent_};
    const std::size_t content_sent = sent_ > head_.size() ? sent_ - head_.size() : 0;
    if (content_size > 0) parts[count++] = {content_->bytes.data() + content_sent, content_size - content_sent};
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = count;
    const descriptor_room<most_files> room(message, sent_ == 0 ? std::span<const int>(files_) : std::span<const int>());
    const ssize_t sent = ::sendmsg(socket, &message, flags | MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return progress::blocked;
    if (sent < 0) return progress::broken;
    sent_ += static_cast<std::size_t>(sent);
  }
  return progress::done;
}

// --- receiving ------------------------------------------------------------------------------------------------------

incoming_frames::progress incoming_frames::read(int socket, int flags) {
  constexpr std::size_t large_piece = std::size_t{1} << 20;
  std::array<std::byte, std::size_t{16} << 10> piece;
  iovec part{piece.data(), piece.size()};
  const std::size_t before = current_ ? current_->content.size() : 0;
  if (current_) {
    // Content goes where it will stay; no memory runs ahead of what comes by more than a piece.
    const std::uint64_t left = current_->header.content - before;
    current_->content.resize(before + static_cast<std::size_t>(std::min<std::uint64_t>(left, large_piece)));
    part = {current_->content.data() + before, current_->content.size() - before};
  }
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  const descriptor_room<most_files + 3> room(message);
  ssize_t got = 0;
  do {
    got = ::recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  const int error = errno;
  const auto size = static_cast<std::size_t>(std::max<ssize_t>(got, 0));
  if (current_) {
    current_->content.resize(before + size);
  } else {
    bytes_.insert(bytes_.end(), piece.begin(), piece.begin() + static_cast<std::ptrdiff_t>(size));
  }
  if (got < 0) return error == EAGAIN || error == EWOULDBLOCK ? progress::nothing : progress::ended;
  room.for_each_received(
      [this](int number) { files_.push_back(std::make_shared<passed_file>(platform::call_fd(number))); });
  if (got == 0) return progress::ended;
  // More than frames may have; or fewer have come than were sent, since there was no room for them here.
  if (files_.size() > 4 * most_files || (message.msg_flags & MSG_CTRUNC) != 0) lies_ = true;
  return lies_ ? progress::lies : progress::some;
}

bool incoming_frames::begin_frame() {
  if (current_) return true;
  const std::size_t have = bytes_.size() - at_;
  mail_header header;
  if (have < sizeof header) return false;
  std::memcpy(&header, bytes_.data() + at_, sizeof header);
  const bool is_known = header.kind >= mail_frame::hello && header.kind <= mail_frame::answer;
  if (!is_known || header.meta > largest_meta || header.files > most_files ||
      header.content > platform::physical_memory() / 2) {
    lies_ = true;
    return false;
  }
  if (have < sizeof header + header.meta) return false;
  const std::byte* const meta = bytes_.data() + at_ + sizeof header;
  current_.emplace();
  current_->header = header;
  current_->meta.assign(meta, meta + header.meta);
  at_ += sizeof header + header.meta;
  const std::size_t content = static_cast<std::size_t>(std::min<std::uint64_t>(bytes_.size() - at_, header.content));
  if (header.content > 0) {
    const std::byte* const first = bytes_.data() + at_;
    current_->content.assign(first, first + content);
    at_ += content;
  }
  if (at_ == bytes_.size()) {
    bytes_.clear();
    at_ = 0;
  }
  return true;
}

std::optional<incoming_frames::frame> incoming_frames::next() {
  if (lies_ || !begin_frame() || current_->content.size() < current_->header.content) {
    if (at_ > 0 && !current_) {
      bytes_.erase(bytes_.begin(), bytes_.begin() + static_cast<std::ptrdiff_t>(at_));
      at_ = 0;
    }
    return std::nullopt;
  }
  std::optional<frame> complete = std::exchange(current_, std::nullopt);
  // Should there be fewer than it says, what needs one finds none.
  for (std::uint32_t i = 0; i < complete->header.files && !files_.empty(); ++i) {
    complete->files.push_back(std::move(files_.front()));
    files_.pop_front();
  }
  return complete;
}

std::optional<greeting> read_greeting(const incoming_frames::frame& from) {
  greeting hello;
  std::uint8_t is_head = 0;
  number_reader in(from.meta);
  in(hello.token)(hello.household)(hello.isolate)(is_head);
  if (!in.is_complete() || is_head > 1 || from.header.kind != mail_frame::hello || !from.content.empty())
    return std::nullopt;
  hello.is_head = is_head == 1;
  return hello;
}

std::optional<request> read_request(incoming_frames::frame&& from) {
  if (from.header.kind != mail_frame::request) return std::nullopt;
  request made;
  std::uint8_t what = 0, end = 0;
  number_reader in(from.meta);
  in(what)(end)(made.mode)(made.channel)(made.number)(made.key)(made.numbers);
  bool fine = false;
  made.content = read_attached(in, from, fine);
  if (!fine || !in.is_complete() || !is_one_of(what, verb::process_ended) || !is_one_of(end, end_kind::queue)) {
    return std::nullopt;
  }
  made.what = static_cast<verb>(what);
  made.end = static_cast<end_kind>(end);
  return made;
}

std::optional<answer> read_answer(incoming_frames::frame&& from) {
  if (from.header.kind != mail_frame::answer) return std::nullopt;
  answer made;
  std::uint8_t status = 0, in_hand = 0;
  number_reader in(from.meta);
  in(status)(in_hand)(made.number)(made.numbers)(made.facts);
  made.operation = from.header.operation;
  bool fine = false;
  made.content = read_attached(in, from, fine);
  if (!fine || !in.is_complete() || !is_one_of(status, mail_status::wrong) || in_hand > 1) return std::nullopt;
  made.status = static_cast<mail_status>(status);
  made.is_in_hand = in_hand == 1;
  return made;
}

}  // namespace pynisher::detail
