#pragma once

// Everything that a limited call can throw on its own account.
//
//     try { model m = trainer(X, y); }
//     catch (const pynisher::TimeoutException& e)     { log(e.what(), e.measured()); }
//     catch (const pynisher::MemoryLimitException& e) { log(e.what(), e.limit()); }
//     catch (const pynisher::PynisherException& e)    { log(e.what()); }   // any of this library's
//     catch (const std::exception& e)                 { log(e.what()); }   // these too, and the function's own
//
// `PynisherException` and `ExecutionFailed` are mixins: they do not derive from `std::exception`, so that a
// class can be a `PynisherException` and a `std::bad_alloc` and is still caught by `std::exception`, which
// an ambiguous base would not be.
//
// All of these types are values: copies are independent, and distinct objects may be used from distinct threads.

#include <chrono>
#include <cstdint>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <pynisher/units.hpp>
#include <pynisher/usage.hpp>

// A header of Windows has a macro of this name, a second one for what GetExceptionInformation is.
#if defined(exception_info)
#undef exception_info
#endif

namespace pynisher {

/// The call broke a limit, or its process failed it.
class PynisherException {
 public:
  virtual ~PynisherException() = default;
  [[nodiscard]] virtual const char* what() const noexcept = 0;

 protected:
  PynisherException() = default;
  PynisherException(const PynisherException&) = default;
  PynisherException& operator=(const PynisherException&) = default;
};

/// What is known of an exception that was thrown in another process.
struct exception_info {
  std::string type_name;           ///< as written in the source: "my::NotFittedError"
  std::string message;             ///< its what(), or its value where it has none
  std::string formatted;           ///< type, message and process in one text, causes below it
  std::vector<std::string> chain;  ///< "type: message" of each nested cause, outermost first
  std::int64_t pid = 0;            ///< the process that threw it
};

/// What an exception of the function is as well, once it has arrived here.
class ExecutionFailed {
 public:
  virtual ~ExecutionFailed() = default;
  [[nodiscard]] virtual const char* what() const noexcept = 0;
  [[nodiscard]] const exception_info& excinfo() const noexcept { return info_; }

 protected:
  explicit ExecutionFailed(exception_info info) : info_(std::move(info)) {}
  ExecutionFailed(const ExecutionFailed&) = default;
  ExecutionFailed& operator=(const ExecutionFailed&) = default;

 private:
  exception_info info_;
};

/// The call as text and what it cost; part of every exception that says how a call ended.
class call_report {
 public:
  /// The call as a sentence shows it: "train(3, <matrix>)".
  [[nodiscard]] const std::string& call() const noexcept { return call_; }
  [[nodiscard]] const pynisher::usage& usage() const noexcept { return usage_; }

 protected:
  call_report() = default;
  call_report(std::string call, const pynisher::usage& usage) : call_(std::move(call)), usage_(usage) {}

 private:
  std::string call_;
  pynisher::usage usage_;
};

class TimeoutException : public PynisherException, public std::runtime_error, public call_report {
 public:
  TimeoutException(const std::string& what, std::chrono::nanoseconds limit, std::chrono::nanoseconds measured,
                   std::string call = {}, const pynisher::usage& usage = {})
      : std::runtime_error(what),
        call_report(std::move(call), usage),
        limit_(limit),
        measured_(measured) {}
  [[nodiscard]] const char* what() const noexcept override { return std::runtime_error::what(); }
  [[nodiscard]] std::chrono::nanoseconds limit() const noexcept { return limit_; }
  [[nodiscard]] std::chrono::nanoseconds measured() const noexcept { return measured_; }

 private:
  std::chrono::nanoseconds limit_;
  std::chrono::nanoseconds measured_;
};

class CpuTimeoutException : public TimeoutException {
 public:
  using TimeoutException::TimeoutException;
};

class WallTimeoutException : public TimeoutException {
 public:
  using TimeoutException::TimeoutException;
};

class MemoryLimitException : public PynisherException, public std::bad_alloc, public call_report {
 public:
  /// `measured`: the peak seen, in bytes. It is below the limit where the request that broke it was refused.
  MemoryLimitException(std::string what, memory_size limit, memory_size measured, std::string call = {},
                       const pynisher::usage& usage = {})
      : call_report(std::move(call), usage), what_(std::move(what)), limit_(limit), measured_(measured) {}
  [[nodiscard]] const char* what() const noexcept override { return what_.c_str(); }
  [[nodiscard]] memory_size limit() const noexcept { return limit_; }
  [[nodiscard]] memory_size measured() const noexcept { return measured_; }

 private:
  std::string what_;
  memory_size limit_;
  memory_size measured_;
};

/// An exception of the function that the caller asked not to get as itself: see `options::wrap_errors`.
class WrappedException : public PynisherException, public std::runtime_error {
 public:
  explicit WrappedException(exception_info original)
      : std::runtime_error("Wrapped Exception " + original.type_name + " - " + original.message),
        original_(std::move(original)) {}
  [[nodiscard]] const char* what() const noexcept override { return std::runtime_error::what(); }
  [[nodiscard]] const exception_info& excinfo() const noexcept { return original_; }
  [[nodiscard]] const std::string& type_name() const noexcept { return original_.type_name; }
  [[nodiscard]] const std::string& message() const noexcept { return original_.message; }

 private:
  exception_info original_;
};

/// The child ended without a value and without an exception.
class ChildDiedException : public PynisherException, public std::runtime_error, public call_report {
 public:
  explicit ChildDiedException(const std::string& what, std::string call = {}, const pynisher::usage& usage = {})
      : std::runtime_error(what), call_report(std::move(call), usage) {}
  [[nodiscard]] const char* what() const noexcept override { return std::runtime_error::what(); }
};

class SignalException : public ChildDiedException {
 public:
  SignalException(const std::string& what, int signal, std::string call = {}, const pynisher::usage& usage = {},
                  std::uint32_t system_code = 0)
      : ChildDiedException(what, std::move(call), usage), signal_(signal), system_code_(system_code) {}
  /// By its POSIX number, on every system.
  [[nodiscard]] int signal() const noexcept { return signal_; }
  /// What Windows calls it: the process's NTSTATUS. 0 elsewhere.
  [[nodiscard]] std::uint32_t system_code() const noexcept { return system_code_; }

 private:
  int signal_;
  std::uint32_t system_code_;
};

class ExitException : public ChildDiedException {
 public:
  ExitException(const std::string& what, int exit_code, std::string call = {}, const pynisher::usage& usage = {})
      : ChildDiedException(what, std::move(call), usage), exit_code_(exit_code) {}
  [[nodiscard]] int exit_code() const noexcept { return exit_code_; }

 private:
  int exit_code_;
};

/// Somebody asked for the call to be given up.
class CancelledException : public PynisherException, public std::runtime_error {
 public:
  explicit CancelledException(const std::string& what) : std::runtime_error(what) {}
  [[nodiscard]] const char* what() const noexcept override { return std::runtime_error::what(); }
};

/// SIGINT came while the call ran, and the application handles SIGINT itself.
class KeyboardInterrupt : public PynisherException, public std::runtime_error {
 public:
  explicit KeyboardInterrupt(const std::string& what) : std::runtime_error(what) {}
  [[nodiscard]] const char* what() const noexcept override { return std::runtime_error::what(); }
};

/// The child could not be started, or not be put under its limits. The function did not run.
class StartException : public PynisherException, public std::system_error {
 public:
  StartException(std::string stage, std::error_code code)
      : std::system_error(code, "cannot start the call: " + stage), stage_(std::move(stage)) {}
  [[nodiscard]] const char* what() const noexcept override { return std::system_error::what(); }
  /// What was being done: "fork", "set the memory limit".
  [[nodiscard]] const std::string& stage() const noexcept { return stage_; }

 private:
  std::string stage_;
};

/// A value could not cross between the processes, or what came from the child is not a value.
class SerializationException : public PynisherException, public std::runtime_error {
 public:
  explicit SerializationException(const std::string& what) : std::runtime_error(what) {}
  [[nodiscard]] const char* what() const noexcept override { return std::runtime_error::what(); }
};

/// This machine, or this version of the library, cannot enforce what was asked for.
class UnsupportedException : public PynisherException, public std::runtime_error {
 public:
  explicit UnsupportedException(const std::string& what) : std::runtime_error(what) {}
  [[nodiscard]] const char* what() const noexcept override { return std::runtime_error::what(); }
};

/// The function threw something that is neither registered nor derived from a registered type.
class UnknownException : public std::exception, public ExecutionFailed {
 public:
  explicit UnknownException(exception_info info) : ExecutionFailed(std::move(info)) {}
  [[nodiscard]] const char* what() const noexcept override { return excinfo().formatted.c_str(); }
};

}  // namespace pynisher
