// The name of a function that the dynamic linker does not know: most functions of a program are not exported, but an
// unstripped file still lists them.

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "../contract.hpp"

namespace pynisher::platform {

namespace {

/// A file's bytes, read only; empty when it cannot be mapped.
class mapped_file {
 public:
  explicit mapped_file(const char* path) {
    const unique_fd file(::open(path, O_RDONLY | O_CLOEXEC));
    struct stat about {};
    if (!file || ::fstat(file.get(), &about) != 0 || about.st_size <= 0) return;
    const auto size = static_cast<std::size_t>(about.st_size);
    void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
    if (data != MAP_FAILED) bytes_ = {static_cast<const std::byte*>(data), size};
  }
  mapped_file(const mapped_file&) = delete;
  mapped_file& operator=(const mapped_file&) = delete;
  ~mapped_file() {
    if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }

  /// `count` objects at `offset`; empty when the file is too short for them.
  template <class T>
  [[nodiscard]] std::span<const T> at(std::uint64_t offset, std::uint64_t count) const {
    if (offset > bytes_.size() || offset % alignof(T) != 0 || count > (bytes_.size() - offset) / sizeof(T)) return {};
    return {reinterpret_cast<const T*>(bytes_.data() + offset), static_cast<std::size_t>(count)};
  }

 private:
  std::span<const std::byte> bytes_;
};

/// The name of the function at `address` (relative to where the file was loaded) in one symbol table.
std::string find_in(const mapped_file& file, const ElfW(Shdr) & table, const ElfW(Shdr) & names, std::uintptr_t address) {
  const auto texts = file.at<char>(names.sh_offset, names.sh_size);
  for (const auto& symbol : file.at<ElfW(Sym)>(table.sh_offset, table.sh_size / sizeof(ElfW(Sym)))) {
    if ((symbol.st_info & 0xf) != STT_FUNC || symbol.st_value != address || symbol.st_name >= texts.size()) continue;
    const char* name = texts.data() + symbol.st_name;
    return {name, ::strnlen(name, texts.size() - symbol.st_name)};
  }
  return {};
}

std::string find_in_file(const char* path, std::uintptr_t address) {
  const mapped_file file(path);
  const auto headers = file.at<ElfW(Ehdr)>(0, 1);
  if (headers.empty() || std::memcmp(headers[0].e_ident, ELFMAG, SELFMAG) != 0) return {};
  const auto sections = file.at<ElfW(Shdr)>(headers[0].e_shoff, headers[0].e_shnum);
  for (const auto& section : sections) {
    if (section.sh_type != SHT_SYMTAB || section.sh_link >= sections.size()) continue;
    if (std::string name = find_in(file, section, sections[section.sh_link], address); !name.empty()) return name;
  }
  return {};
}

}  // namespace

std::string symbol_at(const void* address) {
  Dl_info info{};
  link_map* module = nullptr;
  if (::dladdr1(address, &info, reinterpret_cast<void**>(&module), RTLD_DL_LINKMAP) == 0) return {};
  if (info.dli_sname != nullptr && info.dli_saddr == address) return info.dli_sname;
  const bool main_program = module == nullptr || module->l_name == nullptr || *module->l_name == '\0';
  return find_in_file(main_program ? "/proc/self/exe" : module->l_name,
                      reinterpret_cast<std::uintptr_t>(address) - (module == nullptr ? 0 : module->l_addr));
}

}  // namespace pynisher::platform
