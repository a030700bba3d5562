// Isolates that attack the program through what they say, or do not say.

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/pynisher.hpp>

#include "hostile/attack.hpp"
#include "isolate_frames.hpp"
#include "support/isolates.hpp"
#include "support/outcomes.hpp"

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::isolate;
using pynisher::verdict;
using pynisher::detail::frame_header;
using pynisher::detail::frame_kind;
using support::add;
using support::EndedAs;

class HostileIsolate : public support::per_isolate {};
FOR_EACH_START_METHOD(HostileIsolate);

/// In an isolate: what it speaks to the program by.
std::vector<int> conversations() {
  std::vector<int> found;
  for (const int fd : hostile::open_descriptors()) {
    if (hostile::link_of(fd).starts_with("socket:")) found.push_back(fd);
  }
  if (found.empty()) ::_exit(97);
  return found;
}
void hang_up() {
  for (const int fd : conversations()) ::close(fd);
}
void hang_up_and_sleep() {
  hang_up();
  support::sleep_two_minutes();
}
void shut_down_and_sleep() {
  for (const int fd : conversations()) ::shutdown(fd, SHUT_RDWR);
  support::sleep_two_minutes();
}
void say(frame_kind kind, std::uint64_t size, std::string_view body = {}) {
  const frame_header header{kind, 0, size};
  char frame[sizeof header + 4096];
  std::memcpy(frame, &header, sizeof header);
  body.copy(frame + sizeof header, body.size());
  for (const int fd : conversations()) {
    if (::send(fd, frame, sizeof header + body.size(), MSG_NOSIGNAL) < 0) ::_exit(96);
  }
}
void flood() {
  const std::string piece(4000, 'x');
  for (;;) say(frame_kind::piece, piece.size(), piece);
}
void trickle() {
  say(frame_kind::piece, 1'000'000);
  for (;;) {
    for (const int fd : conversations()) ::send(fd, "x", 1, MSG_NOSIGNAL);
    const timespec moment{0, 1'000'000};
    ::nanosleep(&moment, nullptr);
  }
}

TEST_P(HostileIsolate, ThatHangsUpDoesNotKeepItsCallerWaiting) {
  for (const auto attack : {hang_up_and_sleep, shut_down_and_sleep}) {
    isolate iso = make();
    EXPECT_THAT(iso.try_call({.wall_time = 50ms}, attack), EndedAs(verdict::wall_timeout));
    EXPECT_FALSE(iso.is_alive());
    iso.reset();
    EXPECT_THAT(iso.try_call(attack), EndedAs(verdict::protocol_error));
    EXPECT_FALSE(iso.is_alive());
    iso.reset();
    EXPECT_EQ(iso.call(add, 1), 1);
  }
}

TEST_P(HostileIsolate, ThatHangsUpAndGoesOnServing) {
  isolate iso = make();
  EXPECT_FALSE(iso.try_call(hang_up));
  EXPECT_FALSE(iso.is_alive());
  iso.reset();
  EXPECT_EQ(iso.call(add, 1), 1);
}

TEST_P(HostileIsolate, WhoseDeathComesAfterItsSilenceIsOneThatDied) {
  isolate iso = make();
  const auto ended = iso.try_call([] {
    hang_up();
    support::write_to_null();
  });
  EXPECT_THROW(ended.value(), pynisher::IsolateDiedError);
}

TEST_P(HostileIsolate, ThatFloodsOrTricklesDoesNotOutlastItsLimits) {
  isolate iso = make();
  for (const auto attack : {flood, trickle}) {
    EXPECT_THAT(iso.try_call({.wall_time = 50ms}, attack), EndedAs(verdict::wall_timeout));
    iso.reset();
    EXPECT_THAT(iso.try_call({.cpu_time = 50ms}, attack), EndedAs(verdict::cpu_timeout));
    iso.reset();
  }
  auto pending = iso.start(flood);
  pending.cancel();
  EXPECT_THAT(pending.get_outcome(), EndedAs(verdict::cancelled));
}

TEST_P(HostileIsolate, ThatFloodsCostsNoMoreThanItsMemoryLimitAllows) {
  SKIP_UNLESS_SUPPORTED("memory");
  isolate iso = make({.limits = {.memory = 16_MiB}});
  const auto ended = iso.try_call(flood);
  EXPECT_FALSE(ended);
  EXPECT_FALSE(iso.is_alive());
}

TEST_P(HostileIsolate, ThatLiesIsEnded) {
  const auto lie = [](int kind, std::uint64_t size) {
    say(static_cast<frame_kind>(kind), size);
    support::sleep_two_minutes();
  };
  isolate iso = make();
  for (const auto& [kind, size] :
       std::vector<std::pair<int, std::uint64_t>>{{0, 0},
                                                  {99, 10},
                                                  {-1, 10},
                                                  {static_cast<int>(frame_kind::value), ~std::uint64_t{0}},
                                                  {static_cast<int>(frame_kind::piece), 0}}) {
    EXPECT_FALSE(iso.try_call(lie, kind, size)) << kind;
    EXPECT_FALSE(iso.is_alive()) << kind;
    iso.reset();
  }
  EXPECT_THAT(iso.try_call([] {
    say(frame_kind::exception, 3, "abc");
    support::sleep_two_minutes();
  }),
              EndedAs(verdict::protocol_error));
}

/// Answers requests in place of the library: first the call that it is in, then each with `then`.
template <class Then>
void serve_instead(Then then) {
  const int conversation = conversations().at(0);
  say(frame_kind::value, 0);
  for (;;) {
    frame_header header{};
    char body[65536];
    char control[CMSG_SPACE(64)] = {};
    iovec one{&header, sizeof header};
    msghdr message{};
    message.msg_iov = &one;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    if (::recvmsg(conversation, &message, MSG_WAITALL) != sizeof header) ::_exit(0);
    if (header.size > 0 && ::recv(conversation, body, header.size, MSG_WAITALL) < 0) ::_exit(0);
    int passed = -1;
    if (const cmsghdr* const c = CMSG_FIRSTHDR(&message); c != nullptr && c->cmsg_type == SCM_RIGHTS) {
      std::memcpy(&passed, CMSG_DATA(c), sizeof passed);
    }
    const frame_header answer{frame_kind::value, 0, 0};
    then(passed);
    if (::send(conversation, &answer, sizeof answer, MSG_NOSIGNAL) < 0) ::_exit(0);
  }
}

TEST_P(HostileIsolate, MakesNobodyElseItsCopy) {
  const auto drops_it = [] { serve_instead([](int socket) { ::close(socket); }); };
  const auto says_it_itself = [] { serve_instead([](int socket) { ::send(socket, "c", 1, 0); }); };
  const auto has_a_child_say_it = [] {
    serve_instead([](int socket) {
      if (::fork() != 0) return;
      ::send(socket, "c", 1, 0);
      support::sleep_two_minutes();
    });
  };
  const auto try_to_clone = [](auto attack) {
    isolate iso = make();
    iso.call(attack);
    EXPECT_THROW((void)iso.clone(), pynisher::IsolateError);
    iso.kill();
  };
  try_to_clone(drops_it);
  try_to_clone(says_it_itself);
  try_to_clone(has_a_child_say_it);
}

TEST_P(HostileIsolate, ThatPrintsWithoutEndIsCapturedUpToTheBound) {
  isolate iso = make();
  {
    pynisher::capture_output cap(iso, {.most = 100_KiB});
    EXPECT_THAT(iso.try_call({.wall_time = 100ms},
                             [] {
                               const std::string text(4096, 'x');
                               while (::write(1, text.data(), text.size()) > 0) {
                               }
                               support::sleep_two_minutes();
                             }),
                EndedAs(verdict::wall_timeout));
    try {
      EXPECT_LE(cap.out().size(), 100u << 10);
    } catch (const std::length_error&) {
    }
  }
  // One that does not let itself be redirected.
  iso.reset();
  iso.call([] { serve_instead([](int) {}); });
  pynisher::capture_output cap(iso);
  EXPECT_EQ(cap.out(), "");
}

}  // namespace
