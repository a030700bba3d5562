#pragma once

// The isolate's side: takes a request, does what it says, answers, until it is told to stop.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include <pynisher/detail/execute.hpp>
#include <pynisher/detail/travel.hpp>
#include <pynisher/isolate.hpp>

namespace pynisher::detail {

struct served {
  std::int64_t id = 0;
  std::string name;
  std::map<std::string, named_value> names;
};

/// This process, if it is an isolate; the program's own names, if it is not.
served& here();

/// What an isolate's process is started with: comes back when it is to end.
class isolate_task final : public child_task {
 public:
  isolate_task(std::int64_t id, std::string name) : id_(id), name_(std::move(name)) {}
  explicit isolate_task(input_archive& in) { in(id_, name_); }

  void run(output_archive& reply) override;
  [[nodiscard]] call_name name() const override { return {}; }
  [[nodiscard]] const call_entry* entry() const override;
  void pack(output_archive& out) const override { out(id_, name_); }

  static std::unique_ptr<child_task> unpack(input_archive& in) { return std::make_unique<isolate_task>(in); }

 private:
  std::int64_t id_ = 0;
  std::string name_;
};

}  // namespace pynisher::detail
