# Each file includes only from its own layer and those above it in this list:  cmake -DROOT=<source tree> -P layers.cmake
#
# A new file needs a line here. An implementation may stand in a later layer than its header: that is where what it uses is.

function(layer name)
  set(layers ${layers} ${name} PARENT_SCOPE)
  set(layer_${name} "${ARGN}" PARENT_SCOPE)
endfunction()

# The words that everything is said in: sizes, spans, the version.
layer(words
  include/pynisher/fwd.hpp
  include/pynisher/units.hpp
  include/pynisher/version.hpp
  src/cxx_abi/*
  src/fork_safe_mutex.hpp
  src/platform/this_thread.hpp)
# What is asked for, what came of it, what can go wrong.
layer(facts
  include/pynisher/channel_errors.hpp
  include/pynisher/detail/value_or_error.hpp
  include/pynisher/exceptions.hpp
  include/pynisher/format.hpp
  include/pynisher/options.hpp
  include/pynisher/outcome.hpp
  include/pynisher/output.hpp
  include/pynisher/supports.hpp
  include/pynisher/usage.hpp
  include/pynisher/warnings.hpp
  src/units.cpp
  src/warn.hpp
  src/warnings.cpp)
# Values and exceptions as bytes; the seam between the templates and the library.
layer(wire
  include/pynisher/detail/call_name.hpp
  include/pynisher/detail/callable.hpp
  include/pynisher/detail/decode.hpp
  include/pynisher/detail/execute.hpp
  include/pynisher/detail/in_flight.hpp
  include/pynisher/detail/mail.hpp
  include/pynisher/detail/travel.hpp
  include/pynisher/detail/wire/*
  include/pynisher/exception_registry.hpp
  src/exception_codecs.cpp
  src/exception_frame.hpp
  src/exception_registry.*)
# Options that were found good.
layer(plan
  src/settings.*
  src/parent_death_watch.hpp)
# What the operating system does for us, and the memory that two processes share.
layer(platform
  src/archive.cpp
  src/exception_frame.cpp
  src/fork_safe_mutex.cpp
  src/platform/*
  src/pool/lane.hpp
  src/reply_bytes.cpp
  src/reply_region.*
  src/shared_memory.cpp
  src/without_signals.hpp)
# Facts of a call in, verdict out.
layer(decisions
  src/supports.cpp
  src/verdict.*
  src/wrapping.*)
# Both sides of a running call.
layer(process
  include/pynisher/forkserver.hpp
  src/arriving_bytes.cpp
  src/boost_process.cpp
  src/boost_process_launch.hpp
  src/boost_process_macos.cpp
  src/boost_process_windows.cpp
  src/call_order.*
  src/conclusion.cpp
  src/descriptor_passing.*
  src/calls_in_flight.cpp
  src/child_main.*
  src/exchange*
  src/forkserver*
  src/mail*
  src/no_forkserver.cpp
  src/program_start.hpp
  src/supervised_call.hpp
  src/supervisor.*
  src/warn_before.cpp
  src/travel.cpp)
# What a program writes.
layer(front
  include/pynisher/channel.hpp
  include/pynisher/detail/async_mail.hpp
  include/pynisher/queue.hpp
  include/pynisher/call.hpp
  include/pynisher/init.hpp
  include/pynisher/limit.hpp
  include/pynisher/shared_buffer.hpp
  include/pynisher/shared_fd.hpp
  include/pynisher/restricted.hpp
  src/init.cpp
  src/shared_buffer.cpp
  src/shared_fd.cpp
  src/names.cpp)
# What stays between calls.
layer(many
  include/pynisher/asio.hpp
  include/pynisher/pynisher.hpp
  include/pynisher/capture.hpp
  include/pynisher/isolate.hpp
  include/pynisher/detail/pool/*
  include/pynisher/pool_errors.hpp
  include/pynisher/pool_executor.hpp
  include/pynisher/pool_options.hpp
  include/pynisher/progress_bar.hpp
  include/pynisher/task_future.hpp
  include/pynisher/task_result.hpp
  include/pynisher/worker_pool.hpp
  src/no_channels.cpp
  src/no_isolates.cpp
  src/no_pools.cpp
  src/isolate.cpp
  src/isolate_*
  src/capture.cpp
  src/output_reader.*
  src/source_library.*
  src/pool/*
  src/progress_bar.cpp
  src/progress_display.hpp
  src/progress_line.*)

# Who may know a library or a system header at all.
set(only_in_boost_interprocess "^src/shared_memory\\.cpp$")
set(only_in_boost_process "^src/boost_process(_macos|_windows)?\\.cpp$|^src/boost_process_launch\\.hpp$")
set(only_in_boost_asio "^(include/pynisher/(asio|detail/async_mail)\\.hpp|src/boost_process(_macos|_windows)?\\.cpp|src/boost_process_launch\\.hpp)$")
set(system_headers "^(sys|linux|mach|asm)/|^(unistd|fcntl|poll|pthread|sched|signal|spawn|termios|windows|Windows|dlfcn)\\.h$")

# --- the check ----------------------------------------------------------------------------------------------

cmake_policy(VERSION 3.25)

file(GLOB_RECURSE files RELATIVE "${ROOT}" "${ROOT}/include/*.hpp" "${ROOT}/src/*.hpp" "${ROOT}/src/*.cpp")
if(NOT files)
  message(FATAL_ERROR "no sources in ${ROOT}")
endif()

function(height_of file result)
  set(height 0)
  foreach(name IN LISTS layers)
    foreach(pattern IN LISTS layer_${name})
      string(REPLACE "." "\\." regex "${pattern}")
      string(REPLACE "*" ".*" regex "${regex}")
      if(file MATCHES "^${regex}$")
        set(${result} ${height} PARENT_SCOPE)
        return()
      endif()
    endforeach()
    math(EXPR height "${height} + 1")
  endforeach()
  set(${result} "" PARENT_SCOPE)
endfunction()

set(checked 0)
foreach(file IN LISTS files)
  height_of("${file}" height)
  if(height STREQUAL "")
    message(SEND_ERROR "${file} has no layer: give it a line in tests/package/layers.cmake")
    continue()
  endif()
  list(GET layers ${height} layer)
  cmake_path(GET file PARENT_PATH folder)

  file(STRINGS "${ROOT}/${file}" lines REGEX "^[ \t]*#[ \t]*include[ \t]*[<\"]")
  foreach(line IN LISTS lines)
    string(REGEX REPLACE "^[ \t]*#[ \t]*include[ \t]*[<\"]([^>\"]*)[>\"].*$" "\\1" included "${line}")
    if(line MATCHES "\"")
      set(target "${folder}/${included}")
      cmake_path(NORMAL_PATH target)
      if(NOT EXISTS "${ROOT}/${target}")
        set(target "src/${included}")
      endif()
    elseif(included MATCHES "^pynisher/")
      set(target "include/${included}")
    else()
      if(included MATCHES "^boost/interprocess/" AND NOT file MATCHES "${only_in_boost_interprocess}"
          OR included MATCHES "^boost/process" AND NOT file MATCHES "${only_in_boost_process}"
          OR included MATCHES "^boost/asio/" AND NOT file MATCHES "${only_in_boost_asio}"
          OR included MATCHES "^boost/" AND file MATCHES "^include/" AND NOT file MATCHES "${only_in_boost_asio}")
        message(SEND_ERROR "${file} must not know ${included}")
      elseif(included MATCHES "${system_headers}" AND file MATCHES "^include/")
        message(SEND_ERROR "${file} is public and must not know the system's ${included}")
      endif()
      continue()
    endif()

    height_of("${target}" target_height)
    if(NOT EXISTS "${ROOT}/${target}")
      message(SEND_ERROR "${file} includes ${included}, which is not there")
    elseif(target_height STREQUAL "")
      continue()  # reported as a file of its own
    elseif(target_height GREATER height)
      list(GET layers ${target_height} target_layer)
      message(SEND_ERROR "${file} (${layer}) includes upwards: ${included} (${target_layer})")
    endif()
    if(file MATCHES "^include/" AND NOT target MATCHES "^include/")
      message(SEND_ERROR "${file} is public and includes the private ${included}")
    endif()
    math(EXPR checked "${checked} + 1")
  endforeach()
endforeach()

foreach(name IN LISTS layers)
  foreach(pattern IN LISTS layer_${name})
    file(GLOB_RECURSE matches "${ROOT}/${pattern}")
    if(NOT matches)
      list(APPEND stale "${pattern}")
    endif()
  endforeach()
endforeach()
if(stale)
  message(SEND_ERROR "no file for these lines of tests/package/layers.cmake: ${stale}")
endif()
message(STATUS "${checked} includes respect the layers")
