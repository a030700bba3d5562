#pragma once

// The forkserver: a small process of this program, of which `context = forkserver` forks the children of calls.
//
//     int main(int argc, char** argv) {
//       pynisher::init(argc, argv);
//       pynisher::forkserver::preload([] { load_tables(); });   // once, for all calls to come
//       pynisher::forkserver::start();                          // early; else the first call starts it
//
// It is this program, started again, with one thread and next to nothing open. A call costs a fork of it, however much
// memory and however many threads the caller has. It ends with the program; when it is killed, the next call starts
// another, and the preloaded functions run again in that. One child waits beside it for the next call. On Linux calls in
// flight do not mind its death; on macOS they are its children and end with it.

#include <functional>
#include <type_traits>

#include <pynisher/detail/travel.hpp>

namespace pynisher {

namespace detail {

/// Keeps what is to be run, and has a server that runs do it at once. `write`: the function as `entry` will unpack it.
void preload_in_forkserver(const call_entry& entry, const std::function<void(output_archive&)>& write);

}  // namespace detail

namespace forkserver {

/// Starts this process's server if it does not run; comes back when it is ready, preloaded functions included.
/// Thread-safe. Throws `StartException`, also where `pynisher::init` was not called or a preloaded function failed.
void start();

/// Ends the server if it runs; calls in flight go on. For programs that wait for all of their children, of which the
/// server is one. The next call starts another. Thread-safe.
void stop() noexcept;

/// Has `fn` run once in the server, when it is started; where it runs already, it is started anew at once. Functions run in
/// the order given; what they leave in globals and on the heap is there in each call. They must not start threads.
/// Thread-safe. Throws `StartException` where the server runs already and `fn` fails in the new one.
template <class F>
void preload(F fn) {
  static_assert(std::is_invocable_v<F&>, "pynisher: preload() needs something that can be called without arguments.");
  static_assert(detail::call_travels<F>,
                "pynisher: the server does not share this process's memory: preload() takes functions, lambdas without "
                "captures, and functors that cereal can serialise.");
  detail::preload_in_forkserver(detail::preload_entry_of<F>,
                                [&fn](detail::output_archive& out) { detail::write_callable(out, fn); });
}

}  // namespace forkserver

}  // namespace pynisher
