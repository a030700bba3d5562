// Descriptors, doorbells and files.

#include "handles.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "../contract.hpp"

namespace pynisher::platform {

// Nothing is taken for stdin, stdout or stderr here.
unique_fd::unique_fd(int fd) : fd_(fd) {}

unique_fd& unique_fd::operator=(unique_fd&& other) noexcept {
  unique_fd old(std::move(*this));
  fd_ = std::exchange(other.fd_, -1);
  return *this;
}

unique_fd::~unique_fd() {
  if (fd_ >= 0) ::CloseHandle(to_handle(fd_));
}

// No child gets a handle that it is not given by name.
call_fd::call_fd(int fd) : unique_fd(fd) {}
call_fd& call_fd::operator=(call_fd&& other) noexcept {
  unique_fd::operator=(std::move(other));
  return *this;
}
call_fd::~call_fd() = default;

void close_descriptors_of_calls(int /*own_doorbell*/, int /*own_conversation*/) noexcept {}

void close_received(int descriptor) noexcept { ::CloseHandle(to_handle(descriptor)); }

namespace {

/// A file that grows: it is gone with its last handle.
HANDLE make_growing_file() {
  wchar_t folder[MAX_PATH + 1], name[MAX_PATH + 1];
  const DWORD length = ::GetTempPathW(MAX_PATH, folder);
  if (length == 0) return nullptr;
  if (length > MAX_PATH) {
    ::SetLastError(ERROR_FILENAME_EXCED_RANGE);
    return nullptr;
  }
  if (::GetTempFileNameW(folder, L"pyn", 0, name) == 0) return nullptr;
  const HANDLE file =
      ::CreateFileW(name, GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, nullptr,
                    CREATE_ALWAYS, FILE_ATTRIBUTE_TEMPORARY | FILE_FLAG_DELETE_ON_CLOSE, nullptr);
  if (file == INVALID_HANDLE_VALUE) {
    const DWORD error = ::GetLastError();
    ::DeleteFileW(name);
    ::SetLastError(error);
  }
  return file;
}

}  // namespace

call_fd make_memory_file(std::size_t size) {
  if (size == 0) return call_fd(to_descriptor(make_growing_file()));
  const std::uint64_t bytes = size;
  return call_fd(
      to_descriptor(::CreateFileMappingW(INVALID_HANDLE_VALUE, nullptr, PAGE_READWRITE, static_cast<DWORD>(bytes >> 32),
                                         static_cast<DWORD>(bytes), nullptr)));
}

bool write_file(int file, const std::byte* data, std::size_t size) noexcept {
  while (size > 0) {
    DWORD written = 0;
    const auto piece = static_cast<DWORD>(std::min<std::size_t>(size, 1u << 30));
    if (::WriteFile(to_handle(file), data, piece, &written, nullptr) == 0 || written == 0) {
      errno = static_cast<int>(::GetLastError());
      return false;
    }
    data += written;
    size -= written;
  }
  return true;
}

const std::byte* map_file(int file, std::size_t size) noexcept {
  const HANDLE memory = ::CreateFileMappingW(to_handle(file), nullptr, PAGE_READONLY, 0, 0, nullptr);
  if (memory == nullptr) return nullptr;
  void* const view = ::MapViewOfFile(memory, FILE_MAP_READ, 0, 0, size);
  ::CloseHandle(memory);
  return static_cast<const std::byte*>(view);
}

void unmap_file(const std::byte* data, std::size_t /*size*/) noexcept { ::UnmapViewOfFile(data); }

// --- doorbells ------------------------------------------------------------------------------------------------

doorbell::doorbell() : fd_(to_descriptor(::CreateEventW(nullptr, TRUE, FALSE, nullptr))) {}

bool doorbell::raise(int descriptor) noexcept { return ::SetEvent(to_handle(descriptor)) != 0; }

void doorbell::clear() noexcept { ::ResetEvent(to_handle(fd_.get())); }

bool doorbell::is_one(int descriptor) noexcept {
  return ::WaitForSingleObject(to_handle(descriptor), 0) != WAIT_FAILED;
}

}  // namespace pynisher::platform
