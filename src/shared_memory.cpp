// The only file that knows Boost.Interprocess.

#include <boost/interprocess/anonymous_shared_memory.hpp>
#include <boost/interprocess/mapped_region.hpp>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <new>
#include <system_error>
#include <type_traits>

#include <pynisher/exceptions.hpp>

#include "fork_safe_mutex.hpp"
#include "platform/contract.hpp"
#include "platform/forked_page.hpp"
#include "pool/lane.hpp"
#include "reply_region.hpp"

namespace pynisher::detail {

namespace {

/// What Boost.Interprocess asks of something that can be mapped.
struct memory_file {
  int descriptor;
  [[nodiscard]] boost::interprocess::mapping_handle_t get_mapping_handle() const {
    return handle_for(boost::interprocess::mapping_handle_t{});
  }
  /// On some systems it is a pointer, and says that it is memory already.
  template <class Handle>
  [[nodiscard]] Handle handle_for(Handle wanted) const {
    if constexpr (std::is_pointer_v<decltype(wanted.handle)>) {
      wanted.handle = reinterpret_cast<decltype(wanted.handle)>(static_cast<std::intptr_t>(descriptor));
      wanted.is_shm = true;
    } else {
      wanted.handle = descriptor;
    }
    return wanted;
  }
  [[nodiscard]] boost::interprocess::mode_t get_mode() const { return boost::interprocess::read_write; }
};

boost::interprocess::mapped_region mapped(int file, std::size_t size = reply_region::size) {
  return {memory_file{file}, boost::interprocess::read_write, 0, size};
}

}  // namespace

reply_region* map_received_region(int file) {
  try {
    // For as long as the process, or until a copy of it gets its own: the copy has not got this memory. Not even known by a
    // static, whose page would be one more to copy.
    auto* const memory = new boost::interprocess::mapped_region(mapped(file));
    if (platform::keep_from_children(memory->get_address(), reply_region::size) < 0) return nullptr;
    return static_cast<reply_region*>(memory->get_address());
  } catch (const boost::interprocess::interprocess_exception&) {
    return nullptr;
  }
}

void throw_refused(const char* stage) {
  const std::error_code why(errno, std::system_category());
  if (why == std::errc::not_enough_memory) throw std::bad_alloc();
  throw StartException(stage, why);
}

namespace {

platform::call_fd new_memory_file(std::size_t size) {
  platform::call_fd file = platform::make_memory_file(size);
  if (!file) throw_refused("make shared memory");
  return file;
}

}  // namespace

struct mapped_file::region {
  boost::interprocess::mapped_region memory;
};

mapped_file::mapped_file(int file, std::size_t size) try : region_(new region{mapped(file, size)}) {
} catch (const boost::interprocess::interprocess_exception&) {
  throw std::bad_alloc();
}

mapped_file::~mapped_file() = default;

std::byte* mapped_file::data() const { return static_cast<std::byte*>(region_->memory.get_address()); }

struct reply_region_owner::mapping {
  boost::interprocess::mapped_region memory;
  platform::call_fd file;
  std::int64_t made_by = 0;  ///< process_identity
  mapping* older = nullptr;  ///< inherited before it

  [[nodiscard]] reply_region* region() const { return static_cast<reply_region*>(memory.get_address()); }

  static std::unique_ptr<mapping> make(bool sent) {
    try {
      auto fresh = std::make_unique<mapping>();
      if (sent) fresh->file = new_memory_file(reply_region::size);
      // No fork may take it along before it is kept from children.
      const std::lock_guard lock(fork_mutex);
      // Fresh pages are zero, and zero is where every counter and note begins.
      fresh->memory = sent ? mapped(fresh->file.get()) : boost::interprocess::anonymous_shared_memory(reply_region::size);
      fresh->made_by = platform::process_identity();
      if (const long failed = platform::keep_from_children(fresh->region(), reply_region::size); failed < 0) {
        throw StartException(to_string(start_stage::keep_region), {static_cast<int>(-failed), std::system_category()});
      }
      return fresh;
    } catch (const boost::interprocess::interprocess_exception&) {
      throw std::bad_alloc();
    }
  }
};

/// There is always one for the next call, and no more.
struct reply_region_owner::between_calls {
  static std::atomic<void*>& next(bool sent) noexcept {
    auto& kept = platform::on_forked_page.regions;
    return sent ? kept.next_sent : kept.next;
  }
  static std::atomic<bool>& next_is_needed() noexcept { return platform::on_forked_page.regions.next_is_needed; }

  static std::unique_ptr<mapping> take(std::atomic<void*>& place) noexcept {
    if (place.load() == nullptr) return nullptr;
    std::unique_ptr<mapping> found(static_cast<mapping*>(place.exchange(nullptr)));
    if (!found || found->made_by == platform::process_identity()) return found;
    // A forked copy of the program has not got the memory, and may have something else there, and in the descriptor's
    // place: neither is given back.
    static std::atomic<mapping*> inherited{nullptr};
    mapping* const kept = found.release();
    kept->older = inherited.exchange(kept);
    return nullptr;
  }
  /// Takes it if the place is empty.
  static void put(std::atomic<void*>& place, std::unique_ptr<mapping>& given) noexcept {
    void* nothing = nullptr;
    if (place.compare_exchange_strong(nothing, given.get())) static_cast<void>(given.release());
  }
  static void make_next(bool sent) noexcept {
    if (next(sent).load() != nullptr) return;
    try {
      auto fresh = mapping::make(sent);
      // The first touch makes the page.
      fresh->region()->go.store(0);
      if (sent) *fresh->region()->ring() = std::byte{};
      put(next(sent), fresh);
    } catch (const std::bad_alloc&) {
    } catch (const StartException&) {
    }
  }
};

reply_region_owner::reply_region_owner(bool sent) : mapping_(between_calls::take(between_calls::next(sent))) {
  if (!mapping_) mapping_ = mapping::make(sent);
  region_ = mapping_->region();
}

int reply_region_owner::descriptor() const { return mapping_->file.get(); }

reply_region_owner::~reply_region_owner() {
  const bool sent = static_cast<bool>(mapping_->file);
  between_calls::next_is_needed().store(!nobody_has_it_, std::memory_order_relaxed);
  // What holds much is not kept.
  if (nobody_has_it_ && region_->written.load() < reply_region::window_size) {
    std::memset(static_cast<void*>(region_), 0, reply_region::header_size);
    between_calls::put(between_calls::next(sent), mapping_);
  } else {
    between_calls::make_next(sent);
  }
}

void reply_region_owner::prepare_next(bool sent) noexcept {
  if (between_calls::next_is_needed().load(std::memory_order_relaxed)) between_calls::make_next(sent);
}

// --- lanes of pools -----------------------------------------------------------------------------------------

struct lane_memory::mapping {
  platform::call_fd file;
  boost::interprocess::mapped_region memory;
};

lane_memory::lane_memory() : mapping_(std::make_unique<mapping>()) {
  mapping_->file = new_memory_file(lane::size);
  try {
    // No fork may take it along before it is kept from children.
    const std::lock_guard lock(fork_mutex);
    mapping_->memory = mapped(mapping_->file.get(), lane::size);
    platform::keep_from_children(mapping_->memory.get_address(), lane::size);
  } catch (const boost::interprocess::interprocess_exception&) {
    throw std::bad_alloc();
  }
  lane_ = static_cast<lane*>(mapping_->memory.get_address());
}

lane_memory::~lane_memory() = default;
int lane_memory::descriptor() const { return mapping_->file.get(); }

lane* map_received_lane(int file) {
  try {
    // For as long as the process. What stands here already is another's: of the worker that has forked this one.
    static boost::interprocess::mapped_region* memory = nullptr;
    memory = new boost::interprocess::mapped_region(mapped(file, lane::size));
    platform::keep_from_children(memory->get_address(), lane::size);
    return static_cast<lane*>(memory->get_address());
  } catch (const boost::interprocess::interprocess_exception&) {
    return nullptr;
  }
}

struct received_file::mapping {
  boost::interprocess::mapped_region memory;
};

received_file::received_file(int file, std::size_t size) {
  try {
    mapping_ = std::make_unique<mapping>(mapping{mapped(file, size)});
  } catch (const boost::interprocess::interprocess_exception&) {
  }
}
received_file::~received_file() = default;
const std::byte* received_file::data() const {
  return mapping_ ? static_cast<const std::byte*>(mapping_->memory.get_address()) : nullptr;
}

}  // namespace pynisher::detail
