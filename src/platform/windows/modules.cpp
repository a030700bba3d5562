// The program and its DLLs, as they are mapped: by which build an address is known in another process.

#include <windows.h>

#include <string>

#include <fmt/format.h>

#include "../contract.hpp"

namespace pynisher::platform {

namespace {

const IMAGE_NT_HEADERS* headers_of(HMODULE module) {
  const auto* const base = reinterpret_cast<const std::byte*>(module);
  const auto* const dos = reinterpret_cast<const IMAGE_DOS_HEADER*>(base);
  if (dos->e_magic != IMAGE_DOS_SIGNATURE) return nullptr;
  const auto* const nt = reinterpret_cast<const IMAGE_NT_HEADERS*>(base + dos->e_lfanew);
  return nt->Signature == IMAGE_NT_SIGNATURE ? nt : nullptr;
}

/// What symbol servers know a build by, and the linker's sum of its bytes.
std::string identity_of(HMODULE module) {
  const auto* const nt = headers_of(module);
  if (nt == nullptr) return {};
  return fmt::format("pe {:08x} {:x} {:08x} {:x}", nt->FileHeader.TimeDateStamp, nt->OptionalHeader.SizeOfImage,
                     nt->OptionalHeader.CheckSum, nt->OptionalHeader.AddressOfEntryPoint);
}

std::string to_utf8(const std::wstring& wide) {
  std::string narrow(wide.size() * 3, '\0');
  const int size = ::WideCharToMultiByte(CP_UTF8, 0, wide.data(), static_cast<int>(wide.size()), narrow.data(),
                                         static_cast<int>(narrow.size()), nullptr, nullptr);
  narrow.resize(static_cast<std::size_t>(size));
  return narrow;
}

std::wstring to_wide(const std::string& narrow) {
  std::wstring wide(narrow.size(), L'\0');
  const int size = ::MultiByteToWideChar(CP_UTF8, 0, narrow.data(), static_cast<int>(narrow.size()), wide.data(),
                                         static_cast<int>(wide.size()));
  wide.resize(static_cast<std::size_t>(size));
  return wide;
}

std::string path_of(HMODULE module) {
  if (module == ::GetModuleHandleW(nullptr)) return {};
  std::wstring path(MAX_PATH, L'\0');
  for (;;) {
    const DWORD size = ::GetModuleFileNameW(module, path.data(), static_cast<DWORD>(path.size()));
    if (size < path.size()) {
      path.resize(size);
      return to_utf8(path);
    }
    path.resize(2 * path.size());
  }
}

/// How many bytes of one section begin at that offset; 0: it is in none that is readable, or executable where asked.
std::size_t bytes_from(HMODULE module, std::uint64_t offset, bool executable) {
  const auto* const nt = headers_of(module);
  if (nt == nullptr) return 0;
  // Behind the optional header, whose size is told.
  const auto* const optional = reinterpret_cast<const std::byte*>(&nt->OptionalHeader);
  const auto* section = reinterpret_cast<const IMAGE_SECTION_HEADER*>(optional + nt->FileHeader.SizeOfOptionalHeader);
  for (WORD i = 0; i < nt->FileHeader.NumberOfSections; ++i, ++section) {
    const DWORD needed = executable ? IMAGE_SCN_MEM_EXECUTE : IMAGE_SCN_MEM_READ;
    if ((section->Characteristics & needed) == 0 || offset < section->VirtualAddress) continue;
    const std::uint64_t into = offset - section->VirtualAddress;
    if (into < section->Misc.VirtualSize) return static_cast<std::size_t>(section->Misc.VirtualSize - into);
  }
  return 0;
}

}  // namespace

code_place place_of(const void* address) {
  HMODULE module = nullptr;
  constexpr DWORD flags = GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT;
  if (::GetModuleHandleExW(flags, static_cast<LPCWSTR>(address), &module) == 0) return {};
  const auto offset = reinterpret_cast<std::uintptr_t>(address) - reinterpret_cast<std::uintptr_t>(module);
  if (bytes_from(module, offset, false) == 0 && bytes_from(module, offset, true) == 0) return {};
  return {identity_of(module), path_of(module), offset};
}

place_in_this_process find_place(const code_place& place, std::size_t size, bool executable) {
  place_in_this_process found;
  HMODULE module = place.path.empty() ? ::GetModuleHandleW(nullptr) : ::GetModuleHandleW(to_wide(place.path).c_str());
  // Opened later, or by the function that is called: it stays open.
  if (module == nullptr) {
    // With what stands beside it.
    module = ::LoadLibraryExW(to_wide(place.path).c_str(), nullptr, LOAD_WITH_ALTERED_SEARCH_PATH);
  }
  if (module == nullptr) {
    found.why_not = fmt::format("{} could not be opened: error {}", place.path, ::GetLastError());
  } else if (identity_of(module) != place.build) {
    found.why_not = place.path.empty()
                        ? std::string("the program that was started is another build than the one that calls")
                        : fmt::format("{} is another build than the one that the caller has open", place.path);
  } else if (bytes_from(module, place.offset, executable) < size) {
    found.why_not = "there is nothing of its kind at its place";
  } else {
    found.address = reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(module) + place.offset);
  }
  return found;
}

}  // namespace pynisher::platform
