// The program and its shared libraries, as they are mapped: by which build an address is known in another process.

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <sys/stat.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>

#include <fmt/format.h>

#include "../../fork_safe_mutex.hpp"
#include "../contract.hpp"

namespace pynisher::platform {

namespace {

constexpr const char* own_image = "/proc/self/exe";

/// What the linker has noted (-Wl,--build-id), which stays when symbols are stripped; empty: it has not.
std::string build_note(const dl_phdr_info& module) {
  for (int i = 0; i < module.dlpi_phnum; ++i) {
    const auto& segment = module.dlpi_phdr[i];
    if (segment.p_type != PT_NOTE) continue;
    const auto* at = reinterpret_cast<const char*>(module.dlpi_addr + segment.p_vaddr);
    const char* const end = at + segment.p_memsz;
    const auto rounded = [](std::size_t size) { return (size + 3) & ~std::size_t{3}; };
    while (static_cast<std::size_t>(end - at) >= sizeof(ElfW(Nhdr))) {
      ElfW(Nhdr) note;
      std::memcpy(&note, at, sizeof note);
      const char* name = at + sizeof note;
      const std::size_t whole = sizeof note + rounded(note.n_namesz) + rounded(note.n_descsz);
      if (static_cast<std::size_t>(end - at) < whole) break;
      if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && std::memcmp(name, "GNU", 4) == 0) {
        return {name + 4, note.n_descsz};
      }
      at += whole;
    }
  }
  return {};
}

/// Where the linker has noted nothing: the file as it is on its disk.
std::string file_identity(const char* path) {
  struct stat file {};
  if (::stat(path, &file) != 0) return {};
  return fmt::format("file {}:{} of {} bytes, {}.{:09}", file.st_dev, file.st_ino, file.st_size, file.st_mtim.tv_sec,
                     file.st_mtim.tv_nsec);
}

std::string path_of(const dl_phdr_info& module) {
  if (module.dlpi_name == nullptr || module.dlpi_name[0] == '\0') return {};
  // Where it was opened by a relative name, that is relative to where the program was then.
  const std::unique_ptr<char, void (*)(void*)> whole(::realpath(module.dlpi_name, nullptr), std::free);
  return whole ? whole.get() : module.dlpi_name;
}

std::string identity_of(const dl_phdr_info& module) {
  std::string noted = build_note(module);
  if (!noted.empty()) return noted;
  const std::string path = path_of(module);
  return file_identity(path.empty() ? own_image : path.c_str());
}

/// How many bytes of one segment begin at `address`; 0: it is in none that is readable, or executable where asked.
std::size_t bytes_from(const dl_phdr_info& module, std::uintptr_t address, bool executable) {
  for (int i = 0; i < module.dlpi_phnum; ++i) {
    const auto& segment = module.dlpi_phdr[i];
    const ElfW(Word) needed = executable ? PF_X : PF_R;
    if (segment.p_type != PT_LOAD || (segment.p_flags & needed) == 0) continue;
    const std::uintptr_t begin = module.dlpi_addr + segment.p_vaddr;
    if (address >= begin && address - begin < segment.p_memsz) return segment.p_memsz - (address - begin);
  }
  return 0;
}

template <class Visit>
void for_each_module(Visit visit) {
  // The loader's lock is taken here, and a fork must not find it taken by another thread.
  const std::lock_guard lock(detail::library_mutex);
  ::dl_iterate_phdr(
      [](dl_phdr_info* module, std::size_t /*size*/, void* visitor) {
        return (*static_cast<Visit*>(visitor))(*module) ? 1 : 0;
      },
      &visit);
}

}  // namespace

code_place place_of(const void* address) {
  code_place place;
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  for_each_module([&](const dl_phdr_info& module) {
    if (bytes_from(module, wanted, false) == 0 && bytes_from(module, wanted, true) == 0) return false;
    place = {identity_of(module), path_of(module), wanted - module.dlpi_addr};
    return true;
  });
  return place;
}

place_in_this_process find_place(const code_place& place, std::size_t size, bool executable) {
  place_in_this_process found;
  bool known = false;
  const auto look = [&] {
    for_each_module([&](const dl_phdr_info& module) {
      if (identity_of(module) != place.build) return false;
      known = true;
      const std::uintptr_t address = module.dlpi_addr + place.offset;
      if (bytes_from(module, address, executable) >= size) found.address = reinterpret_cast<const void*>(address);
      return true;
    });
  };
  look();
  if (!known && !place.path.empty()) {
    // Opened later, or by the function that is called: it stays open.
    if (::dlopen(place.path.c_str(), RTLD_NOW | RTLD_LOCAL) == nullptr) {
      const char* why = ::dlerror();
      found.why_not = fmt::format("{} could not be opened: {}", place.path, why != nullptr ? why : "unknown error");
      return found;
    }
    look();
  }
  if (!known) {
    found.why_not = place.path.empty()
                        ? std::string("the program that was started is another build than the one that calls")
                        : fmt::format("{} is another build than the one that the caller has open", place.path);
  } else if (found.address == nullptr) {
    found.why_not = "there is nothing of its kind at its place";
  }
  return found;
}

}  // namespace pynisher::platform
