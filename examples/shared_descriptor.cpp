// A file that the program has opened, written by an isolate that could not open it itself; and memory that both see.

#include <pynisher/pynisher.hpp>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>

#include <unistd.h>

void write_to(pynisher::shared_fd file, const std::string& text) {
  if (::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    throw pynisher::ChannelError("write");
}

void fill(pynisher::receiver<pynisher::shared_buffer> buffers, pynisher::sender<int> filled) {
  for (pynisher::shared_buffer buffer : buffers) {
    std::ranges::fill(buffer, std::byte{7});
    filled.send(static_cast<int>(buffer.size()));
  }
}

int main(int argc, char** argv) {
  pynisher::init(argc, argv);
  auto iso = pynisher::isolate::create({.name = "writer"});

  int ends[2];
  if (::pipe(ends) != 0) return 1;
  iso.call(write_to, pynisher::shared_fd::adopt(ends[1]), "written elsewhere");
  char text[100] = {};
  const ssize_t got = ::read(ends[0], text, sizeof text - 1);
  std::printf("%s\n", text);
  const bool is_whole = got == 17 && ::read(ends[0], text, 1) == 0;  // the isolate has let go of it, and so have we
  ::close(ends[0]);

  auto [buffers, send] = pynisher::create_channel<pynisher::shared_buffer>();
  auto [filled, told] = pynisher::create_channel<int>();
  auto fills = iso.start(fill, buffers, told);
  pynisher::shared_buffer picture(64 << 20);
  send.send_buffer(picture);  // 64 MiB, and not one of them is copied
  const int size = filled.recv();
  const bool is_full = std::ranges::all_of(picture, [](std::byte one) { return one == std::byte{7}; });
  send.close();
  fills.get();
  std::printf("%d bytes filled by the isolate\n", size);
  return is_whole && is_full ? 0 : 1;
}
