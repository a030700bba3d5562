#pragma once

// What the README's snippets take for granted.

#include <pynisher/pynisher.hpp>

#include <chrono>
#include <stop_token>
#include <string>
#include <thread>
#include <unistd.h>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <gtest/gtest.h>

using namespace std::chrono_literals;
using namespace pynisher::literals;
namespace asio = boost::asio;

struct document {
  std::string text;
  template <class Archive>
  void serialize(Archive& ar) {
    ar(text);
  }
};

inline document parse_document(const std::string& text) { return {text}; }
inline void use(const document& doc) { EXPECT_EQ(doc.text, "text"); }
inline void ping(const std::string&) {}
inline void solve() {
  for (;;) ::pause();
}
template <class... Values>
void log(const Values&...) {}
