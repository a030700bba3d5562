#include "sample_files.hpp"

#include <glob.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <new>
#include <stdexcept>
#include <system_error>
#include <utility>

#include <png.h>
#include <zlib.h>

#include <fmt/format.h>

namespace inspector {

namespace {

/// The first `most` files, in alphabetical order, that match a shell pattern.
std::vector<std::string> matching(const char* pattern, std::size_t most) {
  glob_t found{};
  std::vector<std::string> paths;
  if (::glob(pattern, 0, nullptr, &found) == 0) {
    paths.assign(found.gl_pathv, found.gl_pathv + std::min(found.gl_pathc, most));
  }
  ::globfree(&found);
  return paths;
}

/// 10 GiB of zeros in 10 MiB. A gzip file may be several in a row, so that one of 10 MiB is packed and repeated.
std::string gzip_bomb() {
  const std::string zeros(10 << 20, '\0');
  z_stream packer{};
  constexpr int gzip_format = 15 + 16;
  if (deflateInit2(&packer, Z_BEST_COMPRESSION, Z_DEFLATED, gzip_format, MAX_MEM_LEVEL, Z_DEFAULT_STRATEGY) != Z_OK) {
    throw std::bad_alloc();
  }
  std::string packed(deflateBound(&packer, static_cast<uLong>(zeros.size())), '\0');
  packer.next_in = reinterpret_cast<z_const Bytef*>(const_cast<char*>(zeros.data()));
  packer.avail_in = static_cast<uInt>(zeros.size());
  packer.next_out = reinterpret_cast<Bytef*>(packed.data());
  packer.avail_out = static_cast<uInt>(packed.size());
  deflate(&packer, Z_FINISH);
  packed.resize(packer.total_out);
  deflateEnd(&packer);

  std::string bomb;
  for (int i = 0; i < 1024; ++i) bomb += packed;
  return bomb;
}

/// Each entity is ten times the one before it: a billion "lol"s from less than a kilobyte.
std::string billion_laughs() {
  std::string entities = "  <!ENTITY lol0 \"lol\">\n";
  for (int i = 1; i < 10; ++i) {
    std::string ten;
    for (int j = 0; j < 10; ++j) ten += fmt::format("&lol{};", i - 1);
    entities += fmt::format("  <!ENTITY lol{} \"{}\">\n", i, ten);
  }
  return fmt::format("<?xml version=\"1.0\"?>\n<!DOCTYPE joke [\n{}]>\n<joke>&lol9;</joke>\n", entities);
}

/// A good picture of 64 x 64 pixels.
std::string small_png() {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = image.height = 64;
  image.format = PNG_FORMAT_RGBA;
  std::vector<png_byte> pixels(std::size_t{4} * image.width * image.height);
  for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<png_byte>(i * i >> 7);
  png_alloc_size_t size = 0;
  if (png_image_write_to_memory(&image, nullptr, &size, 0, pixels.data(), 0, nullptr) == 0) {
    throw std::runtime_error(image.message);
  }
  std::string file(size, '\0');
  png_image_write_to_memory(&image, file.data(), &size, 0, pixels.data(), 0, nullptr);
  file.resize(size);
  return file;
}

void put_big_endian(std::string& bytes, std::size_t at, unsigned long number) {
  for (int shift = 24; shift >= 0; shift -= 8) bytes[at++] = static_cast<char>(number >> shift & 0xff);
}

/// The header claims 30000 x 30000 pixels, which is 3.4 GiB once unpacked, and has a good checksum.
std::string lying_png() {
  constexpr std::size_t header = 12, width = 16, height = 20, checksum = 29;
  std::string file = small_png();
  put_big_endian(file, width, 30000);
  put_big_endian(file, height, 30000);
  put_big_endian(file, checksum, crc32(0, reinterpret_cast<const Bytef*>(file.data()) + header, checksum - header));
  return file;
}

std::string truncated(std::string file) {
  file.resize(file.size() / 2);
  return file;
}

std::string unclosed_quote() {
  std::string line = "PROMPT=\"";
  for (int i = 0; i < 100; ++i) line += R"(\n)";
  return line + "\n";
}

std::filesystem::path new_directory() {
  std::string name = (std::filesystem::temp_directory_path() / "inspect_files.XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) throw std::system_error(errno, std::generic_category(), name);
  return name;
}

}  // namespace

std::vector<std::string> real_files() {
  const std::pair<const char*, std::size_t> wanted[] = {
      {"/etc/os-release", 1},
      {"/etc/mke2fs.conf", 1},
      {"/etc/default/useradd", 1},
      {"/usr/share/doc/*/changelog.gz", 1},
      {"/usr/share/doc/*/NEWS*.gz", 1},
      {"/usr/share/man/man1/*.gz", 1},
      {"/usr/share/mime/packages/*.xml", 1},
      {"/usr/share/xml/*/*.xml", 1},
      {"/usr/share/gdb/syscalls/amd64-linux.xml", 1},
      {"/usr/share/pixmaps/*.png", 1},
      {"/usr/share/icons/*/48x48/apps/*.png", 1},
      {"/usr/share/cmake-*/Templates/Windows/*.png", 2},
  };
  std::vector<std::string> files;
  for (const auto& [pattern, most] : wanted) {
    for (auto& path : matching(pattern, most)) files.push_back(std::move(path));
  }
  return files;
}

nasty_files::nasty_files() : directory_(new_directory()) {
  try {
    write("gzip_bomb.gz", gzip_bomb());
    write("billion_laughs.xml", billion_laughs());
    write("lying.png", lying_png());
    write("truncated.png", truncated(small_png()));
    write("one_long_line.conf", "NAME=" + std::string(1 << 20, 'x') + "\n");
    write("unclosed_quote.conf", unclosed_quote());
    // A named pipe that nobody writes to: whoever opens it waits for ever.
    if (::mkfifo(named("silent_pipe.conf").c_str(), 0600) != 0) {
      throw std::system_error(errno, std::generic_category(), "mkfifo");
    }
  } catch (...) {
    std::filesystem::remove_all(directory_);
    throw;
  }
}

nasty_files::~nasty_files() {
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

std::string nasty_files::named(const char* name) { return paths_.emplace_back((directory_ / name).string()); }

void nasty_files::write(const char* name, const std::string& content) {
  std::ofstream file(named(name), std::ios::binary);
  if (!(file << content << std::flush)) throw std::runtime_error("cannot write " + paths_.back());
}

}  // namespace inspector
