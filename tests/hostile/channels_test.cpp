// Processes that are killed in the middle of sending and receiving, and those that say to the exchange what nobody
// should.

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "exchange_frames.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::create_channel;
using pynisher::create_queue;
using pynisher::limit;
using pynisher::queue;
using pynisher::receiver;
using pynisher::sender;

/// An item of which one part tells all others.
struct checked_item {
  std::uint32_t number = 0;
  std::vector<std::uint32_t> copies;

  explicit checked_item(std::uint32_t which = 0) : number(which), copies(which * 7919 % 6000, which) {}
  [[nodiscard]] bool is_whole() const {
    if (copies.size() != number * 7919 % 6000) return false;
    for (const std::uint32_t copy : copies) {
      if (copy != number) return false;
    }
    return true;
  }
  template <class Archive>
  void serialize(Archive& archive) {
    archive(number, copies);
  }
};

void pass_on(queue<checked_item> in, queue<checked_item> out) {
  for (;;) out.put(in.get());
}

void kill_now(std::int64_t pid) {
  if (pid > 0) ::kill(static_cast<pid_t>(pid), SIGKILL);
}

class KilledAtAnyMoment : public ::testing::TestWithParam<unsigned> {};
INSTANTIATE_TEST_SUITE_P(Seed, KilledAtAnyMoment, ::testing::Range(1u, 11u));

/// A hundred workers, one after the other, each killed at a random moment. Each item comes once, but for the one that a
/// worker had at most.
TEST_P(KilledAtAnyMoment, NothingIsHalfDoubleOrLost) {
  constexpr std::size_t kills = 75;
  std::mt19937 random(GetParam());
  auto in = create_queue<checked_item>(), out = create_queue<checked_item>();
  std::map<std::uint32_t, int> seen;
  std::uint32_t given = 0;
  const auto take_what_there_is = [&] {
    while (const auto came = out.get_for(0ms)) {
      ASSERT_TRUE(came->is_whole());
      ++seen[came->number];
    }
  };
  const auto worker = limit(pass_on, {.context = pynisher::start_method::forkserver, .warnings = false});
  for (std::size_t i = 0; i < kills; ++i) {
    for (int more = 0; more < 10; ++more) in.put(checked_item(given++));
    auto running = worker.start(in, out);
    if (i % 3 != 0) {
      // Some are killed before they have begun, others in the middle of their work.
      const auto came = out.get();
      ASSERT_TRUE(came.is_whole());
      ++seen[came.number];
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 1500));
    kill_now(running.pid());
    EXPECT_EQ(running.get_outcome().verdict(), pynisher::verdict::signalled);
    take_what_there_is();
    if (HasFatalFailure()) return;
  }
  // What the last of them have left is passed on by one that lives.
  while (const auto left = in.get_for(100ms)) {
    ASSERT_TRUE(left->is_whole());
    ++seen[left->number];
  }
  take_what_there_is();
  std::size_t lost = 0;
  for (std::uint32_t number = 0; number < given; ++number) {
    ASSERT_LE(seen[number], 1) << "item " << number << " came twice";
    lost += seen[number] == 0 ? 1 : 0;
  }
  EXPECT_LE(lost, kills) << "more is lost than the dead had in their hands";
}

void answer_on_channels(receiver<sender<checked_item>> requests) {
  for (std::uint32_t i = 0;; ++i) requests.recv().send(checked_item(i));
}

/// Isolates that are killed while ends of channels are on their way to them: whoever waits for an answer is told.
TEST_P(KilledAtAnyMoment, NobodyWaitsForTheDead) {
  constexpr int kills = 25;
  std::mt19937 random(GetParam() + 1000);
  for (int i = 0; i < kills; ++i) {
    auto iso =
        pynisher::isolate::create({.limits = {.warnings = false}, .context = pynisher::start_method::forkserver});
    auto [requests, to_isolate] = create_channel<sender<checked_item>>();
    auto running = iso.start(answer_on_channels, std::move(requests));
    requests = {};
    std::thread killer([&, wait = random() % 1500] {
      std::this_thread::sleep_for(std::chrono::microseconds(wait));
      kill_now(iso.pid());
    });
    try {
      for (;;) {
        auto [rx, tx] = create_channel<checked_item>();
        to_isolate.send(tx);
        tx = {};
        // With the isolate, the last sender is gone.
        ASSERT_TRUE(rx.recv().is_whole());
      }
    } catch (const pynisher::ChannelClosedError&) {
    } catch (const pynisher::ItemOwnerDestroyed&) {
      // It was killed while its item waited to be taken.
    }
    killer.join();
    EXPECT_THROW(running.get(), pynisher::IsolateDiedError);
  }
}

// --- what nobody should say
// ---------------------------------------------------------------------------------------------

using pynisher::detail::mail_frame;
using pynisher::detail::mail_header;
using pynisher::detail::outgoing_frame;
using pynisher::detail::request;
using pynisher::detail::verb;

/// A connection to the exchange that this process has, as a function finds it that looks for it.
int own_connection(sockaddr_un& exchange, socklen_t& length) {
  for (int fd = 3; fd < 1000; ++fd) {
    length = sizeof exchange;
    if (::getpeername(fd, reinterpret_cast<sockaddr*>(&exchange), &length) != 0 || exchange.sun_family != AF_UNIX)
      continue;
    if (length > sizeof(sa_family_t) + 9 && std::memcmp(exchange.sun_path + 1, "pynisher", 8) == 0) return fd;
  }
  return -1;
}

int connect_to(const sockaddr_un& exchange, socklen_t length) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&exchange), length) != 0) ::_exit(9);
  return fd;
}

enum class attack : int {
  garbage,
  half_a_request,
  endless_claim,
  strangers,
  descriptors,
  deaf,
  numbers_out_of_order,
  closes_everything,
  speaks_for_the_dead,
  random_requests,
};

void send_file_flood(int fd) {
  const int file = ::open("/dev/null", O_RDONLY);
  std::vector<int> many(200, file);
  for (int i = 0; i < 20; ++i) {
    char byte = 0;
    iovec part{&byte, 1};
    std::vector<char> control(CMSG_SPACE(sizeof(int) * many.size()));
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* passed = CMSG_FIRSTHDR(&message);
    passed->cmsg_level = SOL_SOCKET;
    passed->cmsg_type = SCM_RIGHTS;
    passed->cmsg_len = CMSG_LEN(sizeof(int) * many.size());
    std::memcpy(CMSG_DATA(passed), many.data(), sizeof(int) * many.size());
    if (::sendmsg(fd, &message, MSG_NOSIGNAL) < 0) return;
  }
}

/// Uses the channel, attacks, says so, and stays until it is told to go.
void attacker(sender<int> out, receiver<int> in, int which, unsigned seed) {
  out.send(1);
  sockaddr_un exchange{};
  socklen_t length = 0;
  const int fd = own_connection(exchange, length);
  if (fd < 0) ::_exit(8);
  const auto original = static_cast<std::uint64_t>(::getpid());
  std::mt19937 random(seed);
  switch (static_cast<attack>(which)) {
    case attack::garbage: {
      std::vector<unsigned char> bytes(100'000);
      for (auto& byte : bytes) byte = static_cast<unsigned char>(random());
      ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      break;
    }
    case attack::half_a_request: {
      mail_header header;
      header.operation = 1000;
      header.meta = 40;
      ::send(fd, &header, sizeof header - 3, MSG_NOSIGNAL);
      break;
    }
    case attack::endless_claim: {
      mail_header header;
      header.operation = 1000;
      header.meta = 0;
      header.content = std::uint64_t{1} << 30;
      ::send(fd, &header, sizeof header, MSG_NOSIGNAL);
      break;
    }
    case attack::strangers:
      for (int i = 0; i < 300; ++i) {
        const int stranger = connect_to(exchange, length);
        const std::uint64_t nothing[20] = {random()};
        if (i % 2 == 0) ::send(stranger, nothing, sizeof nothing, MSG_NOSIGNAL);
      }
      break;
    case attack::descriptors:
      send_file_flood(fd);
      break;
    case attack::deaf:
      for (std::uint32_t i = 1000; i < 200'000; ++i) {
        request look;
        look.what = verb::list;
        outgoing_frame frame(i, look);
        if (frame.send(fd, MSG_DONTWAIT) != outgoing_frame::progress::done) break;
      }
      break;
    case attack::numbers_out_of_order: {
      request receive;
      receive.what = verb::look;
      for (const std::uint32_t number : {2000u, 2000u, 5u}) outgoing_frame(number, receive).send(fd, MSG_DONTWAIT);
      break;
    }
    case attack::closes_everything:
      ::close_range(3, ~0u, 0);
      break;
    case attack::speaks_for_the_dead:
      // A copy that has the socket says of its original that it has ended, again and again while that ends.
      if (::fork() != 0) ::_exit(0);
      for (std::uint32_t i = 1000; i < 20'000; ++i) {
        request ended;
        ended.what = verb::process_ended;
        ended.number = original;
        outgoing_frame frame(i, ended);
        if (frame.send(fd, 0) != outgoing_frame::progress::done) break;
      }
      ::_exit(0);
    case attack::random_requests:
      for (std::uint32_t i = 1000; i < 6000; ++i) {
        request any;
        any.what = static_cast<verb>(random() % 24);
        any.end = static_cast<pynisher::detail::end_kind>(random() % 4);
        any.mode = static_cast<std::uint8_t>(random() % 5);
        // Not the channels of the test: those may be closed by anybody who has them.
        any.channel = static_cast<std::int64_t>(1'000'000 + random() % 3);
        any.number = random() % 5 == 0 ? ~std::uint64_t{0} : random() % 10;
        for (unsigned n = random() % 4; n > 0; --n)
          any.numbers.push_back(static_cast<std::int64_t>(1'000'000 + random() % 9));
        if (random() % 2 == 0) {
          any.content = std::make_shared<pynisher::detail::parcel>();
          any.content->bytes.resize(random() % 100);
          if (random() % 2 == 0)
            any.content->attached.push_back({{}, {}, static_cast<std::int64_t>(random() % 3 + 1'000'000), 0, nullptr});
        }
        outgoing_frame frame(i, any);
        if (frame.send(fd, MSG_DONTWAIT) != outgoing_frame::progress::done) break;
      }
      break;
  }
  if (static_cast<attack>(which) != attack::closes_everything) ::close(fd);
  // By the library, which finds that it has a connection less.
  try {
    out.send(2);
    in.recv();
  } catch (const pynisher::ChannelError&) {
  }
}

void echo(receiver<int> in, sender<int> out) {
  for (const int item : in) out.send(item);
}

class Attacks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Each, Attacks, ::testing::Range(0, static_cast<int>(attack::random_requests) + 1));

TEST_P(Attacks, HarmNobodyElse) {
  const auto by_fork = [](auto function) {
    return limit(function, {.context = pynisher::start_method::fork, .warnings = false});
  };
  auto [requests, ask] = create_channel<int>();
  auto [answers, reply] = create_channel<int>();
  auto innocent = by_fork(echo).start(requests, reply);
  ask.send(0);
  EXPECT_EQ(answers.recv(), 0);
  for (unsigned seed = 1; seed <= 3; ++seed) {
    auto [rx, tx] = create_channel<int>();
    auto [stays, go] = create_channel<int>();
    auto attacking = by_fork(attacker).start(tx, stays, GetParam(), seed);
    ASSERT_EQ(rx.recv(), 1);
    tx = {};
    for (int i = 0; i < 50; ++i) {
      ask.send(i);
      ASSERT_EQ(answers.recv(), i);
    }
    // It may not get through any more, which is its own affair.
    try {
      EXPECT_EQ(rx.recv(), 2);
      go.send(1);
    } catch (const pynisher::ChannelClosedError&) {
    }
    attacking.cancel();
    static_cast<void>(attacking.get_outcome());
  }
  ask.close();
  innocent.get();
}

TEST(NoDescriptors, TheExchangeRefusesAndGoesOn) {
  auto [requests, ask] = create_channel<int>();
  auto [answers, reply] = create_channel<int>();
  const auto by_fork = [](auto function) {
    return limit(function, {.context = pynisher::start_method::fork, .warnings = false});
  };
  auto innocent = by_fork(echo).start(requests, reply);
  ask.send(0);
  EXPECT_EQ(answers.recv(), 0);
  auto [gate, open] = create_channel<int>();
  auto [told, tell] = create_channel<int>({.buffer = 1});
  auto late = by_fork([gate, tell]() mutable {
    try {
      tell.send(gate.recv());
      return true;
    } catch (const pynisher::ChannelError&) {
      return false;
    }
  });
  // The call's own descriptors are there before there are none left; its way to the exchange is not.
  std::vector<int> all;
  auto running = late.start();
  for (int fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC); fd >= 0; fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC))
    all.push_back(fd);
  for (int i = 0; i < 20; ++i) {
    ask.send(i);
    ASSERT_EQ(answers.recv(), i);
  }
  for (const int fd : all) ::close(fd);
  std::thread opens([open]() mutable {
    try {
      static_cast<void>(open.send_for(1h, 1));
    } catch (const pynisher::ChannelClosedError&) {
    }
  });
  // It came in time, or was refused: it does not hang.
  static_cast<void>(running.get());
  gate.close(true);
  opens.join();
  ask.close();
  innocent.get();
}

}  // namespace
