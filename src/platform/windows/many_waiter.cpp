// Any number of handles at once: the system's own waiting threads tell a completion port of each.

#include <windows.h>

#include <algorithm>
#include <map>
#include <vector>

#include "../contract.hpp"
#include "handles.hpp"
#include "timed_wait.hpp"

namespace pynisher::platform {

namespace {

constexpr ULONG_PTR is_end = 0, is_bell = 1, which = 3;

/// One handle that is waited for. Told once, and then again only when it is asked to.
struct wanted {
  HANDLE port;
  HANDLE handle;
  ULONG_PTR tag;
  DWORD serial;  ///< what is told of one that is gone is not told of the next with its tag
  HANDLE registered = nullptr;
};

void CALLBACK tell(void* of, BOOLEAN /*timed_out*/) {
  const auto* const it = static_cast<const wanted*>(of);
  // It is refused only where the system has no memory left, and would never be told again.
  while (::PostQueuedCompletionStatus(it->port, it->serial, it->tag, nullptr) == 0) ::Sleep(1);
}

bool arm(wanted& it) {
  return ::RegisterWaitForSingleObject(&it.registered, it.handle, tell, &it, INFINITE,
                                       WT_EXECUTEONLYONCE | WT_EXECUTEINWAITTHREAD) != 0;
}

/// Comes back when nobody tells any more.
void disarm(wanted& it) {
  if (it.registered != nullptr) ::UnregisterWaitEx(it.registered, INVALID_HANDLE_VALUE);
  it.registered = nullptr;
}

/// By their tags. In place, since the waiting threads hold addresses.
struct waited_for {
  std::map<ULONG_PTR, wanted> all;
  std::vector<ULONG_PTR> told;  ///< to be armed again
  DWORD serials = 0;
  ~waited_for() {
    for (auto& entry : all) disarm(entry.second);
  }
  bool add(HANDLE port, int descriptor, ULONG_PTR tag) {
    const auto [at, fresh] = all.try_emplace(tag, wanted{port, to_handle(descriptor), tag, ++serials});
    if (fresh && arm(at->second)) return true;
    remove(tag);
    return false;
  }
  void remove(ULONG_PTR tag) {
    const auto at = all.find(tag);
    if (at == all.end()) return;
    disarm(at->second);
    all.erase(at);
  }
  /// False: the system has no memory for one of them now.
  bool arm_again() {
    std::erase_if(told, [this](ULONG_PTR tag) {
      const auto at = all.find(tag);
      if (at == all.end()) return true;
      disarm(at->second);
      return arm(at->second);
    });
    return told.empty();
  }
};

waited_for& in(const std::shared_ptr<void>& more) { return *static_cast<waited_for*>(more.get()); }

}  // namespace

many_waiter::many_waiter()
    : set_(to_descriptor(::CreateIoCompletionPort(INVALID_HANDLE_VALUE, nullptr, 0, 1))),
      more_(std::make_shared<waited_for>()) {
  if (set_ && wake_ && !in(more_).add(to_handle(set_.get()), wake_.waitable(), is_bell)) set_ = call_fd();
}

bool many_waiter::add(const child_process& child, const doorbell& bell, void* whose) {
  const auto tag = reinterpret_cast<ULONG_PTR>(whose);
  waited_for& known = in(more_);
  const HANDLE port = to_handle(set_.get());
  if (known.add(port, child.pidfd_.get(), tag | is_end) && known.add(port, bell.waitable(), tag | is_bell)) return true;
  known.remove(tag | is_end);
  return false;
}

void many_waiter::remove(const child_process& /*child*/, const doorbell& bell) {
  waited_for& known = in(more_);
  const HANDLE handle = to_handle(bell.waitable());
  const auto at =
      std::find_if(known.all.begin(), known.all.end(), [handle](const auto& e) { return e.second.handle == handle; });
  if (at == known.all.end()) return;
  const ULONG_PTR whose = at->first & ~which;
  known.remove(whose | is_bell);
  known.remove(whose | is_end);
}

void many_waiter::wait(std::optional<clock::time_point> until, std::vector<event>& events) {
  events.clear();
  waited_for& known = in(more_);
  const bool all_are_armed = known.arm_again();
  const timed_wait timed(until);
  const DWORD timeout = all_are_armed ? timed.milliseconds() : std::min<DWORD>(timed.milliseconds(), 10);
  OVERLAPPED_ENTRY found[64];
  ULONG count = 0;
  if (::GetQueuedCompletionStatusEx(to_handle(set_.get()), found, 64, &count, timeout, FALSE) == 0) return;
  for (ULONG i = 0; i < count; ++i) {
    const ULONG_PTR tag = found[i].lpCompletionKey;
    // It may have been removed since it was told.
    const auto at = known.all.find(tag);
    if (at == known.all.end() || at->second.serial != found[i].dwNumberOfBytesTransferred) continue;
    known.told.push_back(tag);
    void* const whose = reinterpret_cast<void*>(tag & ~which);
    if (whose == nullptr) {
      wake_.clear();
      continue;
    }
    event::add(events, whose,
               (tag & which) == is_end ? child_process::woken_by::end : child_process::woken_by::doorbell);
  }
}

}  // namespace pynisher::platform
