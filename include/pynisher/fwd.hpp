#pragma once

// The names of the library without what they need: for headers that only mention them.

#include <cstdint>

namespace pynisher {

class memory_size;
class time_span;
struct options;
struct usage;
enum class verdict : std::uint8_t;
enum class feature : std::uint8_t;
enum class start_method : std::uint8_t;
enum class memory_measure : std::uint8_t;
template <class R>
class outcome;
struct pool_options;
struct pool_progress;
enum class backend : std::uint8_t;
enum class passing : std::uint8_t;
enum class on_error : std::uint8_t;
enum class on_death : std::uint8_t;
enum class order : std::uint8_t;
template <class R>
class task_result;
template <class Worker>
class worker_pool;
class BrokenPoolError;
class PoolErrors;
class PynisherException;
class ExecutionFailed;
class isolate;
struct isolate_options;
class output;
class capture_output;
struct capture_options;
struct exception_info;
struct progress_options;
class progress_callback;
class pool_executor;
template <class R>
class task_future;

}  // namespace pynisher
