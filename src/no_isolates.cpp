// Where there are no isolates: none can be made, and so nothing of what one could do is ever reached.

#include <pynisher/capture.hpp>
#include <pynisher/exceptions.hpp>
#include <pynisher/isolate.hpp>

namespace pynisher {

namespace detail {

struct isolate_lease {};
class capture_session {};

namespace {

[[noreturn]] void refuse() {
  throw UnsupportedException(
      "isolate: this system's part of the library has no isolates yet; limit() it has");
}

}  // namespace

named_value pack_named(const std::string& /*type*/, const std::function<void(output_archive&)>& /*write*/) { refuse(); }

}  // namespace detail

using detail::refuse;

isolate isolate::create(isolate_options /*wanted*/) { refuse(); }
std::vector<isolate> isolate::list_all() { return {}; }
isolate isolate::current() { refuse(); }
isolate isolate::main() { refuse(); }
std::int64_t isolate::id() const { refuse(); }
std::string isolate::name() const { refuse(); }
std::int64_t isolate::pid() const { refuse(); }
bool isolate::is_running() const { refuse(); }
bool isolate::is_alive() const { refuse(); }
void isolate::close() { refuse(); }
void isolate::kill() { refuse(); }
void isolate::detach() { refuse(); }
usage isolate::usage() const { refuse(); }
void isolate::reset() { refuse(); }
int isolate::exec(const std::string& /*library*/, const std::string& /*symbol*/) { refuse(); }
isolate isolate::clone() const { refuse(); }
int isolate::exec_source(const std::string& /*text*/, const std::vector<std::string>& /*flags*/) { refuse(); }
void isolate::set_all(std::initializer_list<binding> /*bindings*/) { refuse(); }
std::vector<std::string> isolate::names() const { refuse(); }
bool isolate::erase(const std::string& /*name*/) { refuse(); }
void isolate::reset_main() { refuse(); }
void isolate::check_type(const std::string& /*name*/, const detail::named_value& /*found*/,
                         const std::string& /*wanted*/) {
  refuse();
}
detail::raw_outcome isolate::run(const options& /*limits*/, const detail::child_task& /*task*/, bool /*measured*/) {
  refuse();
}
std::unique_ptr<detail::call_in_flight> isolate::begin(const options& /*limits*/, const detail::child_task& /*task*/) {
  refuse();
}
void isolate::set_packed(std::vector<std::pair<std::string, detail::named_value>> /*values*/) { refuse(); }
std::optional<detail::named_value> isolate::get_packed(const std::string& /*name*/) const { refuse(); }
bool isolate::wait_until(std::chrono::steady_clock::time_point /*until*/) const { refuse(); }

capture_output::capture_output(const isolate& /*from*/, const capture_options& /*wanted*/) { refuse(); }
capture_output::~capture_output() = default;
std::string capture_output::out() const { refuse(); }
std::string capture_output::err() const { refuse(); }
void capture_output::clear() { refuse(); }

}  // namespace pynisher
