#pragma once

// All of the library. Each topic has a header of its own as well.

#include <pynisher/call.hpp>
#include <pynisher/capture.hpp>
#include <pynisher/exception_registry.hpp>
#include <pynisher/exceptions.hpp>
#include <pynisher/forkserver.hpp>
#include <pynisher/format.hpp>
#include <pynisher/init.hpp>
#include <pynisher/isolate.hpp>
#include <pynisher/limit.hpp>
#include <pynisher/options.hpp>
#include <pynisher/outcome.hpp>
#include <pynisher/output.hpp>
#include <pynisher/pool_errors.hpp>
#include <pynisher/pool_executor.hpp>
#include <pynisher/pool_options.hpp>
#include <pynisher/progress_bar.hpp>
#include <pynisher/restricted.hpp>
#include <pynisher/supports.hpp>
#include <pynisher/task_future.hpp>
#include <pynisher/task_result.hpp>
#include <pynisher/units.hpp>
#include <pynisher/usage.hpp>
#include <pynisher/version.hpp>
#include <pynisher/warnings.hpp>
#include <pynisher/worker_pool.hpp>
