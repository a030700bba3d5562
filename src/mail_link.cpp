#include "mail_link.hpp"

#include <sys/random.h>

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <new>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include <pynisher/channel_errors.hpp>

#include "child_main.hpp"
#include "exchange_client.hpp"
#include "exchange_host.hpp"
#include "fork_safe_mutex.hpp"
#include "platform/contract.hpp"

namespace pynisher::detail {

namespace {

/// What this process knows. A forked copy finds all of it, and looks whose it is. Nothing is ever destroyed.
constinit struct {
  std::atomic<exchange_host*> host{nullptr};
  std::atomic<pid_t> host_process{0};
  std::atomic<exchange_client*> client{nullptr};

  // Under the library's mutex.
  bool knows_place = false;
  exchange_place place;
  household home;

  reply_region* region = nullptr;
  int doorbell = -1;
  pid_t region_process = 0;
} way;

exchange_host* host_here() {
  exchange_host* const host = way.host.load();
  return host != nullptr && way.host_process.load() == platform::process_number() ? host : nullptr;
}

/// What this process shares with its supervisor; null: it has none.
reply_region* region_here(int& doorbell) {
  if (way.region != nullptr && way.region_process == platform::process_number()) {
    doorbell = way.doorbell;
    return way.region;
  }
  return own_region(doorbell);
}

void stop_host() {
  if (exchange_host* const host = host_here()) host->stop_serving();
}

exchange_host& become_host() {
  const std::lock_guard lock(library_mutex);
  exchange_host* const before = host_here();
  if (before != nullptr) return *before;
  // What this process has inherited is never mistaken for its own.
  const exchange_host* const inherited = way.host.load();
  way.host.store(inherited != nullptr ? new exchange_host(inherited->last_channel()) : new exchange_host);
  way.host_process.store(platform::process_number());
  std::atexit(stop_host);
  return *way.host.load();
}

request look_at_channel(std::int64_t channel) {
  request wanted;
  wanted.what = verb::look;
  wanted.channel = channel;
  return wanted;
}

/// From whoever supervises this process. Empty: there is nobody, or no way.
std::optional<exchange_place> ask_for_the_way(bool& is_child) {
  int doorbell = -1;
  reply_region* const shared = region_here(doorbell);
  is_child = shared != nullptr;
  if (!is_child) return std::nullopt;
  reply_region& region = *shared;
  while (region.exchange_told.load() == 0) {
    region.exchange_wanted.store(1);
    if (!platform::doorbell::raise(doorbell)) return std::nullopt;
    platform::wait_for_change(region.exchange_told, 0);
  }
  if (region.exchange_told.load() != 1) return std::nullopt;
  exchange_place place;
  place.name = region.exchange_place[0].load();
  place.token = {region.exchange_place[1].load(), region.exchange_place[2].load()};
  const std::lock_guard lock(library_mutex);
  way.place = place;
  way.knows_place = true;
  if (way.home.number == 0) {
    way.home.number = region.exchange_place[3].load();
    way.home.isolate = static_cast<std::int64_t>(region.exchange_place[4].load());
  }
  return place;
}

std::optional<exchange_place> known_place() {
  const std::lock_guard lock(library_mutex);
  return way.knows_place ? std::optional(way.place) : std::nullopt;
}

/// Null: the exchange is this process's own.
exchange_client* client_or_host(exchange_host*& host) {
  host = host_here();
  if (host != nullptr) return nullptr;
  exchange_client* client = way.client.load();
  if (client != nullptr && client->owner() == platform::process_number()) return client;
  auto place = known_place();
  if (!place) {
    bool is_child = false;
    place = ask_for_the_way(is_child);
    if (!place && is_child) throw ChannelError("this process cannot reach the program whose channels these are");
    if (!place) {
      host = &become_host();
      return nullptr;
    }
  }
  const std::lock_guard lock(library_mutex);
  client = way.client.load();
  if (client != nullptr && client->owner() == platform::process_number()) return client;
  // The one of the process that this was forked from, if any, stays where it is: its descriptors are not ours.
  greeting words;
  words.token = place->token;
  words.household = way.home.number;
  words.isolate = way.home.isolate;
  words.is_head = way.home.head == platform::process_number();
  int doorbell = -1;
  if (reply_region* const region = region_here(doorbell)) region->exchange_used.store(1);
  client = new exchange_client(*place, words);
  way.client.store(client);
  return client;
}

}  // namespace

std::string text_of_limit(const answer& refused) {
  const std::uint64_t most = refused.facts.empty() ? 0 : refused.facts.front();
  const bool is_known = refused.status == mail_status::too_much;
  switch (is_known ? static_cast<mail_limit>(refused.number) : mail_limit::none) {
    case mail_limit::waiting:
      return fmt::format("{} operations of this process wait already, and no more can", most);
    case mail_limit::channels:
      return fmt::format("this process has made {} channels and queues that still exist, and can make no more", most);
    case mail_limit::receipts:
      return fmt::format("this process has {} receipts, and can have no more", most);
    case mail_limit::deposits:
      return fmt::format(
          "{} values with ends, queues, buffers or descriptors are on their way from this process or kept by it, and "
          "no "
          "more can be",
          most);
    case mail_limit::files:
      return fmt::format(
          "this process has sent {} buffers and descriptors that nobody has received, or keeps them, and can send and "
          "keep no more",
          most);
    case mail_limit::bytes:
      return fmt::format("this process has sent {} bytes that nobody has received, and can send no more", most);
    case mail_limit::handles:
      return fmt::format("this process has the native handles of {} channels and queues, and can have no more", most);
    case mail_limit::size:
      return fmt::format("what is to be said of it takes more than {} bytes", most);
    default:
      return "the program has not answered as it should";
  }
}

deposit_key random_key() {
  deposit_key key{};
  std::size_t have = 0;
  while (have < sizeof key) {
    const ssize_t got = ::getrandom(reinterpret_cast<char*>(key.data()) + have, sizeof key - have, 0);
    if (got > 0) have += static_cast<std::size_t>(got);
  }
  return key;
}

answer ask_exchange(request what, mail_deadline until) {
  exchange_host* host = nullptr;
  exchange_client* const client = client_or_host(host);
  return client != nullptr ? client->ask(std::move(what), until) : host->ask(std::move(what), until);
}

void tell_exchange(request what) noexcept {
  try {
    exchange_host* host = nullptr;
    if (exchange_client* const client = client_or_host(host)) {
      client->tell(std::move(what));
    } else {
      host->post(std::move(what));
    }
  } catch (const std::exception&) {
    // Nothing of ours is where there is no way to.
  }
}

std::shared_ptr<mail_operation> begin_at_exchange(request what, std::function<void(answer)> done) {
  exchange_host* host = nullptr;
  exchange_client* const client = client_or_host(host);
  return client != nullptr ? client->begin(std::move(what), std::move(done))
                           : host->begin(std::move(what), std::move(done));
}

channel_watch watch_at_exchange(std::int64_t channel) {
  exchange_host* host = nullptr;
  exchange_client* const client = client_or_host(host);
  if (client == nullptr) {
    auto flag = host->watch(channel);
    if (!flag) {
      channel_watch none;
      none.why = host->ask(look_at_channel(channel), std::nullopt);
      if (none.why.status == mail_status::done) none.why.status = mail_status::empty;
      return none;
    }
    const int descriptor = descriptor_of(*flag->watched());
    return {std::move(flag), descriptor, {}};
  }
  request wanted;
  wanted.what = verb::watch;
  wanted.channel = channel;
  channel_watch watch;
  watch.why = client->ask(std::move(wanted), std::nullopt);
  const std::shared_ptr<parcel> came = std::exchange(watch.why.content, nullptr);
  if (watch.why.status != mail_status::item || !came || came->attached.empty()) return watch;
  const std::shared_ptr<held_file> file = came->attached.front().file;
  if (!file) return watch;
  watch.keeper = file;
  watch.descriptor = descriptor_of(*file);
  return watch;
}

exchange_name own_exchange() noexcept { return way.host_process.load(); }

void refuse_strange_exchange(exchange_name of) {
  if (of == own_exchange()) {
    const exchange_client* const client = way.client.load();
    const bool has_way = client != nullptr && client->owner() == platform::process_number();
    if (has_way || host_here() != nullptr || known_place()) return;
    bool is_child = false;
    if (ask_for_the_way(is_child) || is_child || way.host.load() == nullptr) return;
  }
  throw ChannelError(
      "this process is a copy of the program that the program does not know of: it has no way to its channels");
}

void set_own_region(reply_region& region, int doorbell) noexcept {
  way.region = &region;
  way.doorbell = doorbell;
  way.region_process = platform::process_number();
}

void note_deposited_reply() noexcept {
  int doorbell = -1;
  if (reply_region* const region = region_here(doorbell)) region->deposited.store(1);
}

void hang_up_at_exchange() noexcept {
  exchange_client* const client = way.client.load();
  if (client != nullptr && client->owner() == platform::process_number()) client->hang_up();
}

void show_the_way(reply_region& region) {
  if (region.exchange_wanted.load() == 0 || region.exchange_told.load() != 0) return;
  std::optional<exchange_place> place;
  if (exchange_host* const host = host_here()) {
    place = host->place();
  } else if (place = known_place(); !place) {
    bool is_child = false;
    place = ask_for_the_way(is_child);
    if (!place && !is_child) place = become_host().place();
  }
  if (place) {
    const std::lock_guard lock(library_mutex);
    const std::uint64_t words[] = {place->name, place->token[0], place->token[1], way.home.number,
                                   static_cast<std::uint64_t>(way.home.isolate)};
    for (std::size_t i = 0; i < std::size(words); ++i) region.exchange_place[i].store(words[i]);
  }
  region.exchange_told.store(place ? 1 : 2);
  platform::wake_waiters(region.exchange_told);
}

void enter_household(std::int64_t isolate) {
  const std::lock_guard lock(library_mutex);
  way.home = {random_key()[0] | 1, isolate, platform::process_number()};
}

void note_process_ended(std::int64_t pid) noexcept {
  try {
    exchange_host* host = nullptr;
    exchange_client* const client = client_or_host(host);
    if (client == nullptr) return host->look_at(pid);
    request ended;
    ended.what = verb::process_ended;
    ended.number = static_cast<std::uint64_t>(pid);
    client->ask(std::move(ended), std::nullopt);
  } catch (const std::exception&) {
    // The exchange sees it by itself, a moment later.
  }
}

}  // namespace pynisher::detail
