#include "parsers.hpp"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <memory>
#include <new>
#include <regex>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <libxml/parser.h>
#include <libxml/tree.h>
#include <libxml/xmlerror.h>
#include <png.h>
#include <zlib.h>

#include <fmt/format.h>

#include <pynisher/format.hpp>

namespace inspector {

namespace {

std::string in_bytes(std::size_t count) { return pynisher::to_string(pynisher::memory_size(count)); }

std::string counted(std::size_t count, std::string_view noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

/// Calls `Close` where a C library wants its handle back.
template <auto Close>
struct closer {
  template <class T>
  void operator()(T* handle) const {
    Close(handle);
  }
};

std::ifstream open_file(const std::string& path) {
  if (std::filesystem::is_directory(path)) throw std::runtime_error("is a directory");
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::system_error(errno, std::generic_category(), "cannot be opened");
  return file;
}

// --- gzip ------------------------------------------------------------------------------------------------------

std::string inspect_gzip(const std::string& path) {
  const std::unique_ptr<gzFile_s, closer<gzclose>> file(gzopen(path.c_str(), "rb"));
  if (!file) throw std::bad_alloc();

  std::string content;  // All of it: how much that may be is for the memory limit to say.
  std::vector<char> piece(1 << 16);
  int got = 0;
  while ((got = gzread(file.get(), piece.data(), static_cast<unsigned>(piece.size()))) > 0) {
    content.append(piece.data(), static_cast<std::size_t>(got));
  }
  int status = Z_OK;
  const char* complaint = gzerror(file.get(), &status);
  if (status == Z_MEM_ERROR) throw std::bad_alloc();
  if (status != Z_OK) throw std::runtime_error(fmt::format("zlib: {}", complaint));

  return fmt::format("gzip: {} unpack to {} of {}", in_bytes(std::filesystem::file_size(path)),
                     in_bytes(content.size()), content.find('\0') == std::string::npos ? "text" : "binary data");
}

// --- XML -------------------------------------------------------------------------------------------------------

/// Elements and greatest depth, without recursion: a document may be nested deeper than any stack.
std::pair<std::size_t, std::size_t> measure(const xmlNode* root) {
  std::size_t elements = 1, depth = 1, deepest = 1;
  xmlNode* at = const_cast<xmlNode*>(root);
  while (at != nullptr) {
    if (xmlNode* child = xmlFirstElementChild(at)) {
      at = child;
      deepest = std::max(deepest, ++depth);
      ++elements;
      continue;
    }
    while (at != root && xmlNextElementSibling(at) == nullptr) {
      at = at->parent;
      --depth;
    }
    if (at == root) break;
    at = xmlNextElementSibling(at);
    ++elements;
  }
  return {elements, deepest};
}

/// Takes down what libxml2 complains about, which it would print otherwise, for as long as this object lives.
class xml_complaints {
 public:
  xml_complaints() { xmlSetStructuredErrorFunc(this, &note); }
  xml_complaints(const xml_complaints&) = delete;
  xml_complaints& operator=(const xml_complaints&) = delete;
  ~xml_complaints() { xmlSetStructuredErrorFunc(nullptr, nullptr); }

  void throw_if_out_of_memory() const {
    if (out_of_memory_) throw std::bad_alloc();
  }
  const std::string& first() const { return first_; }

 private:
  /// `Error` is const since libxml2 2.12.
  template <class Error>
  static void note(void* self, Error* error) {
    auto& complaints = *static_cast<xml_complaints*>(self);
    if (error->code == XML_ERR_NO_MEMORY) complaints.out_of_memory_ = true;
    if (complaints.first_.empty() && error->level >= XML_ERR_ERROR && error->message != nullptr) {
      complaints.first_ = fmt::format("line {}: {}", error->line, error->message);
    }
  }
  bool out_of_memory_ = false;
  std::string first_;
};

std::string inspect_xml(const std::string& path) {
  xml_complaints complaints;
  const std::unique_ptr<xmlParserCtxt, closer<xmlFreeParserCtxt>> parser(xmlNewParserCtxt());
  if (!parser) throw std::bad_alloc();
  // HUGE and NOENT are what people set to make "my document does not load" go away. They switch off libxml2's own
  // defences. NONET keeps it off the network.
  constexpr int flags = XML_PARSE_HUGE | XML_PARSE_NOENT | XML_PARSE_NONET;
  const std::unique_ptr<xmlDoc, closer<xmlFreeDoc>> document(
      xmlCtxtReadFile(parser.get(), path.c_str(), nullptr, flags));
  // Asked first: libxml2 may give a document from which things are missing for want of memory.
  complaints.throw_if_out_of_memory();
  if (!document) throw std::runtime_error(fmt::format("libxml2: {}", complaints.first()));

  const xmlNode* root = xmlDocGetRootElement(document.get());
  const auto [elements, deepest] = measure(root);
  return fmt::format("XML: <{}>, {}, {} deep", reinterpret_cast<const char*>(root->name), counted(elements, "element"),
                     deepest);
}

// --- PNG -------------------------------------------------------------------------------------------------------

/// libpng's handle for its simple interface, which keeps its complaints in `message` instead of printing them.
class png_file {
 public:
  explicit png_file(const std::string& path) {
    image_.version = PNG_IMAGE_VERSION;
    check(png_image_begin_read_from_file(&image_, path.c_str()));
    has_colour_ = (image_.format & PNG_FORMAT_FLAG_COLOR) != 0;
    has_alpha_ = (image_.format & PNG_FORMAT_FLAG_ALPHA) != 0;
    image_.format = PNG_FORMAT_RGBA;
  }
  png_file(const png_file&) = delete;
  png_file& operator=(const png_file&) = delete;
  ~png_file() { png_image_free(&image_); }

  std::vector<png_byte> pixels() {
    std::vector<png_byte> result(std::size_t{4} * image_.width * image_.height);
    check(png_image_finish_read(&image_, nullptr, result.data(), 0, nullptr));
    return result;
  }
  std::string kind() const {
    return fmt::format("{} x {}, {}{}", image_.width, image_.height, has_colour_ ? "colour" : "grey",
                       has_alpha_ ? " + alpha" : "");
  }

 private:
  void check(int succeeded) const {
    if (succeeded == 0) throw std::runtime_error(fmt::format("libpng: {}", image_.message));
  }
  png_image image_{};
  bool has_colour_ = false;
  bool has_alpha_ = false;
};

std::string inspect_png(const std::string& path) {
  png_file image(path);
  return fmt::format("PNG: {}, {} raw", image.kind(), in_bytes(image.pixels().size()));
}

// --- text ------------------------------------------------------------------------------------------------------

std::string inspect_text(const std::string& path) {
  // A name, '=', and a word or a quoted text with backslash escapes. It looks innocent, and it has two faults:
  // std::regex recurses for every character of a repetition, and a backslash fits both sides of the inner '|', so
  // that a quote which is never closed is tried in exponentially many ways.
  const std::regex setting(R"re(\s*[\w.-]+\s*=\s*("(\\.|[^"])*"|[^"\s]*)\s*)re");
  std::ifstream file = open_file(path);
  std::size_t lines = 0, settings = 0;
  for (std::string line; std::getline(file, line); ++lines) {
    if (std::regex_match(line, setting)) ++settings;
  }
  return fmt::format("text: {}, {} of them name=value", counted(lines, "line"), settings);
}

std::string first_bytes(const std::string& path) {
  std::string head(64, '\0');
  std::ifstream file = open_file(path);
  file.read(head.data(), static_cast<std::streamsize>(head.size()));
  head.resize(static_cast<std::size_t>(file.gcount()));
  return head;
}

bool looks_like_xml(std::string_view head) {
  if (head.starts_with("\xEF\xBB\xBF")) head.remove_prefix(3);
  head.remove_prefix(std::min(head.find_first_not_of(" \t\r\n"), head.size()));
  return head.starts_with("<");
}

}  // namespace

std::string inspect(const std::string& path) {
  const std::string head = first_bytes(path);
  if (head.starts_with("\x1f\x8b")) return inspect_gzip(path);
  if (head.starts_with("\x89PNG")) return inspect_png(path);
  if (looks_like_xml(head)) return inspect_xml(path);
  return inspect_text(path);
}

}  // namespace inspector
