// The program and its shared libraries, as they are mapped: by which build an address is known in another process.

#include <dlfcn.h>
#include <mach-o/dyld.h>
#include <mach-o/loader.h>
#include <mach/vm_prot.h>
#include <sys/stat.h>

#include <cstring>
#include <mutex>
#include <string>

#include <fmt/format.h>

#include "../../fork_safe_mutex.hpp"
#include "../contract.hpp"

namespace pynisher::platform {

namespace {

struct module {
  const mach_header_64* header;
  std::intptr_t slide;
  const char* path;
  bool is_program;
};

template <class Visit>
void for_each_command(const module& of, Visit visit) {
  const auto* at = reinterpret_cast<const char*>(of.header + 1);
  for (std::uint32_t i = 0; i < of.header->ncmds; ++i) {
    load_command command{};
    std::memcpy(&command, at, sizeof command);
    visit(command, at);
    at += command.cmdsize;
  }
}

/// What the linker has noted; where it has noted nothing, the file as it is on its disk.
std::string identity_of(const module& of) {
  std::string identity;
  for_each_command(of, [&](const load_command& command, const char* at) {
    if (command.cmd != LC_UUID) return;
    uuid_command noted{};
    std::memcpy(&noted, at, sizeof noted);
    identity.assign(reinterpret_cast<const char*>(noted.uuid), sizeof noted.uuid);
  });
  struct stat file {};
  if (identity.empty() && ::stat(of.path, &file) == 0) {
    identity = fmt::format("file {}:{} of {} bytes, {}.{:09}", file.st_dev, file.st_ino, file.st_size,
                           file.st_mtimespec.tv_sec, file.st_mtimespec.tv_nsec);
  }
  return identity;
}

/// How many bytes of one segment begin at `address`; 0: it is in none that is readable, or executable where asked.
std::size_t bytes_from(const module& of, std::uintptr_t address, bool executable) {
  std::size_t bytes = 0;
  for_each_command(of, [&](const load_command& command, const char* at) {
    if (command.cmd != LC_SEGMENT_64) return;
    segment_command_64 segment{};
    std::memcpy(&segment, at, sizeof segment);
    if ((segment.initprot & (executable ? VM_PROT_EXECUTE : VM_PROT_READ)) == 0) return;
    const std::uintptr_t begin = segment.vmaddr + static_cast<std::uintptr_t>(of.slide);
    if (address >= begin && address - begin < segment.vmsize) bytes = segment.vmsize - (address - begin);
  });
  return bytes;
}

template <class Visit>
void for_each_module(Visit visit) {
  // The loader's lock is taken here, and a fork must not find it taken by another thread.
  const std::lock_guard lock(detail::library_mutex);
  for (std::uint32_t i = 0; i < ::_dyld_image_count(); ++i) {
    const mach_header* const header = ::_dyld_get_image_header(i);
    const char* const path = ::_dyld_get_image_name(i);
    if (header == nullptr || path == nullptr || header->magic != MH_MAGIC_64) continue;
    const module found{reinterpret_cast<const mach_header_64*>(header), ::_dyld_get_image_vmaddr_slide(i), path,
                       header->filetype == MH_EXECUTE};
    if (visit(found)) return;
  }
}

}  // namespace

code_place place_of(const void* address) {
  code_place place;
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  for_each_module([&](const module& found) {
    if (bytes_from(found, wanted, false) == 0 && bytes_from(found, wanted, true) == 0) return false;
    place = {identity_of(found), found.is_program ? std::string() : found.path,
             wanted - static_cast<std::uintptr_t>(found.slide)};
    return true;
  });
  return place;
}

place_in_this_process find_place(const code_place& place, std::size_t size, bool executable) {
  place_in_this_process result;
  bool known = false;
  const auto look = [&] {
    for_each_module([&](const module& found) {
      if (identity_of(found) != place.build) return false;
      known = true;
      const std::uintptr_t address = static_cast<std::uintptr_t>(found.slide) + place.offset;
      if (bytes_from(found, address, executable) >= size) result.address = reinterpret_cast<const void*>(address);
      return true;
    });
  };
  look();
  if (!known && !place.path.empty()) {
    // Opened later, or by the function that is called: it stays open.
    if (::dlopen(place.path.c_str(), RTLD_NOW | RTLD_LOCAL) == nullptr) {
      const char* why = ::dlerror();
      result.why_not = fmt::format("{} could not be opened: {}", place.path, why != nullptr ? why : "unknown error");
      return result;
    }
    look();
  }
  if (!known) {
    result.why_not = place.path.empty()
                         ? std::string("the program that was started is another build than the one that calls")
                         : fmt::format("{} is another build than the one that the caller has open", place.path);
  } else if (result.address == nullptr) {
    result.why_not = "there is nothing of its kind at its place";
  }
  return result;
}

}  // namespace pynisher::platform
