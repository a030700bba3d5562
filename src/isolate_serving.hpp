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

/// `names`: under the library's mutex.
struct served {
  std::int64_t id = 0;
  std::string name;
  std::map<std::string, named_value> names;
};

/// This process, if it is an isolate; the program's own names, if it is not.
served& here();

/// Of this process. False: there was none.
bool erase_name(const std::string& name);
void erase_names();

/// What an isolate's process is started with: comes back when it is to end.
class isolate_task final : public child_task {
 public:
  /// Whether its names and all else begin anew.
  enum class state : std::uint8_t { fresh, inherited };
  isolate_task(std::int64_t id, std::string name, state begun) : id_(id), name_(std::move(name)), begun_(begun) {}
  explicit isolate_task(input_archive& in) {
    bool inherits = false;
    in(id_, name_, inherits);
    begun_ = inherits ? state::inherited : state::fresh;
  }

  void run(output_archive& reply) override;
  [[nodiscard]] call_name name() const override { return {}; }
  [[nodiscard]] const call_entry* entry() const override;
  void pack(output_archive& out) const override { out(id_, name_, begun_ == state::inherited); }

  static std::unique_ptr<child_task> unpack(input_archive& in) { return std::make_unique<isolate_task>(in); }

 private:
  std::int64_t id_ = 0;
  std::string name_;
  state begun_ = state::fresh;
};

/// In an isolate: its output goes where it went before it was redirected.
void give_back_output_here() noexcept;

}  // namespace pynisher::detail
