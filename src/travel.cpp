#include <pynisher/detail/travel.hpp>

#include <stdexcept>

#include <fmt/format.h>

#include <pynisher/options.hpp>

#include "call_order.hpp"
#include "cxx_abi/cxx_abi.hpp"
#include "platform/contract.hpp"
#include "settings.hpp"

namespace pynisher::detail {

namespace {

void write_place(output_archive& out, const void* address) {
  const platform::code_place place = platform::place_of(address);
  if (place.build.empty()) {
    throw wire_error("a function that is in no program or library (made while the program runs) cannot be sent");
  }
  out(place.build, place.path, place.offset);
}

const void* read_place(input_archive& in, std::size_t size, bool executable) {
  platform::code_place place;
  in(place.build, place.path, place.offset);
  const auto found = platform::find_place(place, size, executable);
  if (found.address == nullptr) {
    throw wire_error(fmt::format("the function cannot be found in the process that was started: {}", found.why_not));
  }
  return found.address;
}

constexpr const char* unknown_member_function = "a pointer to a member function of this kind cannot be sent";

}  // namespace

void refuse_if_it_stays(const settings& limits, const char* why) {
  if (why == nullptr || limits.method() == start_method::fork) return;
  throw std::invalid_argument(fmt::format("context: {}", why));
}

void write_constant(output_archive& out, const void* constant) { write_place(out, constant); }

const void* read_constant(input_archive& in, std::size_t size) { return read_place(in, size, false); }

void write_function(output_archive& out, const void* function) { write_place(out, function); }

const void* read_function(input_archive& in) { return read_place(in, 1, true); }

void write_member_function(output_archive& out, const void* pointer, std::size_t size) {
  cxx_abi::member_function parts;
  if (!cxx_abi::take_apart(pointer, size, parts)) throw wire_error(unknown_member_function);
  out(parts.code.has_value());
  if (parts.code) write_place(out, *parts.code);
  out(parts.rest[0], parts.rest[1]);
}

void read_member_function(input_archive& in, void* pointer, std::size_t size) {
  cxx_abi::member_function parts;
  if (in.read_bool()) parts.code = read_place(in, 1, true);
  in(parts.rest[0], parts.rest[1]);
  if (!cxx_abi::put_together(parts, pointer, size)) throw wire_error(unknown_member_function);
}

void write_call(output_archive& out, const child_task& task) {
  const call_entry* entry = task.entry();
  if (entry == nullptr) {
    throw wire_error("an argument or the callable cannot be sent to a process that is started afresh; context = fork, "
                     "where the system has it, sends nothing");
  }
  write_entry(out, *entry);
  task.pack(out);
}

void write_entry(output_archive& out, const call_entry& entry) {
  write_place(out, &entry);
  out(entry.type);
}

std::unique_ptr<child_task> read_call(input_archive& in) {
  const auto* entry = static_cast<const call_entry*>(read_place(in, sizeof(call_entry), false));
  std::uint64_t type = 0;
  in(type);
  if (reinterpret_cast<std::uintptr_t>(entry) % alignof(call_entry) != 0 || entry->stamp != call_entry::own_stamp ||
      entry->type != type) {
    throw wire_error("the function cannot be found in the process that was started: its types are others there");
  }
  std::unique_ptr<child_task> task = entry->unpack(in);
  in.expect_end();
  return task;
}

}  // namespace pynisher::detail
