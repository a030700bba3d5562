// Memory and descriptors that several processes share, by every start method.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <string>
#include <system_error>
#include <utility>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::isolate;
using pynisher::limit;
using pynisher::shared_buffer;
using pynisher::shared_fd;

TEST(SharedBuffer, IsZeroedAndSharedByItsCopies) {
  shared_buffer a(1000);
  EXPECT_EQ(a.size(), 1000u);
  EXPECT_TRUE(std::ranges::all_of(a, [](std::byte b) { return b == std::byte{}; }));
  shared_buffer b = a;
  b[7] = std::byte{1};
  EXPECT_EQ(a[7], std::byte{1});
  EXPECT_EQ(a, b);
  EXPECT_NE(a, shared_buffer(1000));
  const std::span<std::byte> bytes = a;
  EXPECT_EQ(bytes.size(), 1000u);
}

TEST(SharedBuffer, OfNothingIsEmpty) {
  EXPECT_TRUE(shared_buffer().empty());
  EXPECT_TRUE(shared_buffer(0).empty());
}

TEST(SharedBuffer, OfMoreThanThereIsIsRefused) { EXPECT_THROW(shared_buffer(std::size_t{1} << 62), std::bad_alloc); }

TEST(SharedFd, IsADuplicate) {
  EXPECT_FALSE(shared_fd());
  EXPECT_THROW(shared_fd(-1), std::system_error);
  const shared_fd one(STDERR_FILENO);
  EXPECT_NE(one.get(), STDERR_FILENO);
  const int number = one.get();
  {
    const shared_fd copy = one;
    EXPECT_EQ(copy, one);
  }
  EXPECT_NE(::fcntl(number, F_GETFD), -1);
  EXPECT_TRUE((::fcntl(number, F_GETFD) & FD_CLOEXEC) != 0);
}

class SharedBetweenProcesses : public support::per_start_method {
 protected:
  [[nodiscard]] static isolate made() {
    return isolate::create({.limits = {.warnings = false}, .context = GetParam()});
  }
};
FOR_EACH_START_METHOD(SharedBetweenProcesses);

void fill(shared_buffer buffer) { std::ranges::fill(buffer, std::byte{7}); }
bool all_seven(const shared_buffer& buffer) {
  return std::ranges::all_of(buffer, [](std::byte b) { return b == std::byte{7}; });
}

TEST_P(SharedBetweenProcesses, MemoryIsAnArgument) {
  shared_buffer buffer(100'000);
  limit(fill, unlimited())(buffer);
  EXPECT_TRUE(all_seven(buffer));
  shared_buffer other(10);
  made().call(fill, other);
  EXPECT_TRUE(all_seven(other));
}

TEST_P(SharedBetweenProcesses, MemoryIsAResult) {
  const auto make = [] {
    shared_buffer buffer(5000);
    fill(buffer);
    return buffer;
  };
  const shared_buffer buffer = limit(make, unlimited())();
  EXPECT_EQ(buffer.size(), 5000u);
  EXPECT_TRUE(all_seven(buffer));
  auto iso = made();
  EXPECT_TRUE(all_seven(iso.call(make)));
}

TEST_P(SharedBetweenProcesses, MemoryGoesOverAChannelAndBothSidesSeeWrites) {
  auto iso = made();
  auto [rx, tx] = pynisher::create_channel<shared_buffer>();
  auto [done, told] = pynisher::create_channel<int>();
  auto pending = iso.start(
      [](pynisher::receiver<shared_buffer> from, pynisher::sender<int> to) {
        shared_buffer buffer = from.recv();
        fill(buffer);
        to.send(1);
      },
      rx, told);
  shared_buffer buffer(64 << 10);
  tx.send_buffer(buffer);
  EXPECT_EQ(done.recv(), 1);
  EXPECT_TRUE(all_seven(buffer));
  pending.get();
}

TEST_P(SharedBetweenProcesses, DescriptorsAreArgumentsAndResults) {
  // Before there is a pipe, which a forked isolate would have a copy of.
  auto iso = made();
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const shared_fd in = shared_fd::adopt(ends[0]);
  shared_fd out = shared_fd::adopt(ends[1]);
  const auto say = [](shared_fd to, const std::string& what) {
    if (::write(to.get(), what.data(), what.size()) < 0) throw std::system_error(errno, std::system_category());
    return to;
  };
  shared_fd back = limit(say, unlimited())(out, "spam");
  shared_fd again = iso.call(say, back, "eggs");
  ASSERT_EQ(::write(again.get(), "!", 1), 1);
  out = back = again = shared_fd();
  std::string got(100, ' ');
  got.resize(static_cast<std::size_t>(::read(in.get(), got.data(), got.size())));
  EXPECT_EQ(got, "spameggs!");
  EXPECT_EQ(::read(in.get(), got.data(), 1), 0) << "nobody holds the writing end any more";
}

TEST_P(SharedBetweenProcesses, ARefusedCallLeavesNoDescriptorBehind) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  auto iso = made();
  iso.close();
  shared_fd out = shared_fd::adopt(ends[1]);
  EXPECT_THROW(iso.call([](shared_fd) {}, out), pynisher::IsolateNotFoundError);
  out = shared_fd();
  char byte;
  EXPECT_EQ(::read(ends[0], &byte, 1), 0);
  ::close(ends[0]);
}

/// A pipe of which an isolate keeps the writing end under a name. Its reading end tells when nobody has it any more.
class kept_pipe {
 public:
  kept_pipe() {
    if (::pipe2(ends_, O_CLOEXEC) != 0) throw std::system_error(errno, std::system_category());
  }
  kept_pipe(const kept_pipe&) = delete;
  kept_pipe& operator=(const kept_pipe&) = delete;
  ~kept_pipe() { ::close(ends_[0]); }
  void keep(isolate& in, const std::string& name) {
    in.set(name, shared_fd::adopt(std::exchange(ends_[1], -1)));
    // Whoever has had it in between does not count.
    const auto had = in.get<shared_fd>(name);
    ASSERT_TRUE(had);
    in.call([](const std::string& which) { static_cast<void>(isolate::current().get<shared_fd>(which)); }, name);
  }
  /// Waits for that.
  [[nodiscard]] bool is_given_back() const {
    char byte;
    return ::read(ends_[0], &byte, 1) == 0;
  }

 private:
  int ends_[2];
};

TEST_P(SharedBetweenProcesses, WhatIsKeptUnderANameGoesWithTheName) {
  auto iso = made();
  kept_pipe erased, overwritten, reset, last;
  erased.keep(iso, "a");
  EXPECT_TRUE(iso.erase("a"));
  EXPECT_TRUE(erased.is_given_back());
  overwritten.keep(iso, "b");
  iso.set("b", 1);
  EXPECT_TRUE(overwritten.is_given_back());
  reset.keep(iso, "c");
  iso.reset_main();
  EXPECT_TRUE(reset.is_given_back());
  last.keep(iso, "d");
  iso.close();
  EXPECT_TRUE(last.is_given_back());
}

TEST_P(SharedBetweenProcesses, WhatIsKeptUnderANameGoesWithTheProcess) {
  auto iso = made();
  kept_pipe by_reset, by_kill;
  by_reset.keep(iso, "a");
  iso.reset();
  EXPECT_TRUE(by_reset.is_given_back());
  by_kill.keep(iso, "a");
  iso.kill();
  EXPECT_TRUE(by_kill.is_given_back());
}

TEST_P(SharedBetweenProcesses, TheProgramsOwnNamesGiveBackWhatTheyHold) {
  isolate main = isolate::main();
  auto [rx, tx] = pynisher::create_channel<int>({.buffer = 4});
  main.set("end", tx);
  tx = {};
  main.get<pynisher::sender<int>>("end").send(1);
  EXPECT_EQ(rx.recv(), 1);
  EXPECT_EQ(rx.recv_for(1ms), std::nullopt) << "it is kept";
  EXPECT_TRUE(main.erase("end"));
  EXPECT_THROW(rx.recv(), pynisher::ChannelClosedError);
}

TEST_P(SharedBetweenProcesses, WhatIsSetTwiceIsThereAsLongAsOne) {
  auto iso = made();
  auto [rx, tx] = pynisher::create_channel<int>({.buffer = 4});
  {
    const isolate::binding one("a", tx), other("b", tx);
    iso.set_all({one, other});
    iso.set_all({one});
  }
  tx = {};
  iso.get<pynisher::sender<int>>("a").send(1);
  EXPECT_EQ(rx.recv(), 1);
  iso.erase("a");
  iso.get<pynisher::sender<int>>("b").send(2);
  EXPECT_EQ(rx.recv(), 2);
  iso.erase("b");
  EXPECT_THROW(rx.recv(), pynisher::ChannelClosedError);
}

TEST_P(SharedBetweenProcesses, ACopyKeepsWhatItsOriginalKept) {
  SKIP_UNDER_SANITIZER("it may have a thread of its own in the isolate");
  auto iso = made();
  kept_pipe pipe;
  pipe.keep(iso, "a");
  auto copy = iso.clone();
  iso.close();
  EXPECT_TRUE(copy.get<shared_fd>("a"));
  copy.close();
  EXPECT_TRUE(pipe.is_given_back());
}

TEST_P(SharedBetweenProcesses, AnIsolateKeepsOnlySoMuchAndSaysSo) {
  auto iso = made();
  const shared_fd null = shared_fd::adopt(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  int kept = 0;
  try {
    for (; kept < 1000; ++kept) iso.set(std::to_string(kept), null);
    ADD_FAILURE() << "there is no end to it";
  } catch (const pynisher::NotShareableError& e) {
    EXPECT_THAT(std::string(e.what()), testing::HasSubstr("256 buffers and descriptors"));
  }
  EXPECT_EQ(kept, 256);
  iso.reset_main();
  iso.set("again", null);
  EXPECT_TRUE(iso.get<shared_fd>("again"));
}

TEST_P(SharedBetweenProcesses, MemoryThatCouldShrinkIsRefused) {
  // A buffer whose file is not sealed: what a hostile isolate could make of one. Its bytes are those of a buffer.
  struct lying {
    shared_fd file;
    void save(pynisher::detail::output_archive& out) const {
      out(std::uint64_t{4096});
      pynisher::detail::write_descriptor(out, file.get());
    }
  };
  const shared_fd file = shared_fd::adopt(::memfd_create("loose", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), 4096), 0);
  const auto packed =
      pynisher::detail::pack_mail([&](pynisher::detail::output_archive& out) { lying{file}.save(out); });
  shared_buffer buffer;
  EXPECT_THROW(pynisher::detail::unpack_mail(packed, [&](pynisher::detail::input_archive& in) { buffer.load(in); }),
               pynisher::SerializationException);
}

}  // namespace
