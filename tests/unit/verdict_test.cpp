// The table of deaths, tested as a table: evidence in, verdict out, and no process anywhere.

#include "verdict.hpp"

#include <csignal>
#include <functional>
#include <ostream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/exceptions.hpp>

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::verdict;
using namespace pynisher::detail;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using how = pynisher::platform::exit_status::kind;

// Evidence is put together from facts, each of which reads as a clause of a sentence.
using fact = std::function<void(evidence&)>;

evidence seen(std::initializer_list<fact> facts) {
  evidence e;
  e.how = how::exited;
  e.status = 0;
  e.usage.wall_time = 20ms;
  e.usage.peak_memory = 5 << 20;
  for (const auto& f : facts) f(e);
  return e;
}

void limits_set(evidence& e) {
  e.memory_limit = 100 << 20;
  e.cpu_limit = 1s;
  e.wall_limit = 2s;
}
void memory_set(evidence& e) { e.memory_limit = 100 << 20; }
void cpu_set(evidence& e) { e.cpu_limit = 1s; }

fact replied(reply_kind kind) {
  return [=](evidence& e) { e.reply = kind; };
}
void sent_garbage(evidence& e) { e.reply_well_formed = false; }
void threw_bad_alloc(evidence& e) {
  e.reply = reply_kind::exception;
  e.bad_alloc = true;
}
fact killed_by(int signal) {
  return [=](evidence& e) {
    e.how = how::signalled;
    e.status = signal;
  };
}
fact exited_with(int code) {
  return [=](evidence& e) {
    e.how = how::exited;
    e.status = code;
  };
}
void vanished(evidence& e) { e.how = how::unknown; }
fact ended_by_parent_for(ended_for cause) {
  return [=](evidence& e) {
    e.cause = cause;
    e.how = how::signalled;
    e.status = SIGKILL;
    e.memory_seen = cause == ended_for::memory ? 101 << 20 : 0;
  };
}
fact used_cpu(std::chrono::nanoseconds user, std::chrono::nanoseconds system) {
  return [=](evidence& e) {
    e.usage.user_time = user;
    e.usage.system_time = system;
  };
}
void refused_allocation(evidence& e) { e.allocation_refused = true; }
void overflowed_stack(evidence& e) { e.stack_overflow = true; }
void got_our_interrupt(evidence& e) { e.interrupt_forwarded = true; }
fact failed_at(start_stage stage, std::errc error) {
  return [=](evidence& e) {
    e.failed_stage = stage;
    e.start_error = std::make_error_code(error);
  };
}

struct row {
  const char* title;
  evidence given;
  verdict expected;
};
void PrintTo(const row& r, std::ostream* out) { *out << r.title; }

class Verdict : public testing::TestWithParam<row> {};

TEST_P(Verdict, FollowsFromTheEvidence) {
  const row& r = GetParam();
  EXPECT_STREQ(to_string(judge(r.given)), to_string(r.expected));
}

/// The exception has to be the one that the documentation promises for the verdict.
bool is_exception_of(verdict v, const std::exception_ptr& error) {
  try {
    if (!error) return v == verdict::returned;
    std::rethrow_exception(error);
  } catch (const pynisher::WallTimeoutException&) {
    return v == verdict::wall_timeout;
  } catch (const pynisher::CpuTimeoutException&) {
    return v == verdict::cpu_timeout;
  } catch (const pynisher::MemoryLimitException&) {
    return v == verdict::memory_limit;
  } catch (const pynisher::SignalException&) {
    return v == verdict::signalled;
  } catch (const pynisher::ChildDiedException&) {
    return v == verdict::exited;
  } catch (const pynisher::CancelledException&) {
    return v == verdict::cancelled;
  } catch (const pynisher::KeyboardInterrupt&) {
    return v == verdict::cancelled;
  } catch (const pynisher::StartException&) {
    return v == verdict::start_failed;
  } catch (const pynisher::SerializationException&) {
    return v == verdict::protocol_error;
  }
  return false;
}

TEST_P(Verdict, HasASentenceAndItsException) {
  const row& r = GetParam();
  const std::string text = explain(r.expected, r.given, "train(3)", "std::runtime_error: it broke");
  EXPECT_THAT(text, HasSubstr("train(3)"));
  if (r.expected == verdict::raised) return;  // the exception is the one that arrived
  const auto error = exception_for(r.expected, r.given, "train(3)", text);
  EXPECT_TRUE(is_exception_of(r.expected, error));
  if (error && r.expected != verdict::start_failed) {
    try {
      std::rethrow_exception(error);
    } catch (const std::exception& e) {
      EXPECT_EQ(e.what(), text);
    }
  }
}

const row death_table[] = {
    // The child returns: the value, even if the limit was reached a moment later.
    {"Returns", seen({replied(reply_kind::value)}), verdict::returned},
    {"ReturnsUnderLimits", seen({limits_set, replied(reply_kind::value)}), verdict::returned},
    {"ReturnsAndReachesTheWallLimit",
     seen({limits_set, replied(reply_kind::value), ended_by_parent_for(ended_for::wall_time)}), verdict::returned},
    {"ReturnsAndReachesTheCpuLimit",
     seen({limits_set, replied(reply_kind::value), ended_by_parent_for(ended_for::cpu_time), used_cpu(2s, 0s)}),
     verdict::returned},
    {"ReturnsAndReachesTheMemoryLimit",
     seen({limits_set, replied(reply_kind::value), ended_by_parent_for(ended_for::memory)}), verdict::returned},
    {"ReturnsAndIsThenKilled", seen({limits_set, replied(reply_kind::value), killed_by(SIGKILL)}), verdict::returned},
    {"ReturnsAndCrashesOnTheWayOut", seen({replied(reply_kind::value), killed_by(SIGSEGV)}), verdict::returned},
    {"ReturnsAndItsStatusIsTakenByOthers", seen({replied(reply_kind::value), vanished}), verdict::returned},

    // The child throws: that exception.
    {"Throws", seen({replied(reply_kind::exception), exited_with(1)}), verdict::raised},
    {"ThrowsUnderLimits", seen({limits_set, replied(reply_kind::exception)}), verdict::raised},
    {"ThrowsAndReachesTheWallLimit",
     seen({limits_set, replied(reply_kind::exception), ended_by_parent_for(ended_for::wall_time)}), verdict::raised},

    // std::bad_alloc leaves the function.
    {"BadAllocWithoutLimits", seen({threw_bad_alloc}), verdict::raised},
    {"BadAllocWithOtherLimits", seen({cpu_set, threw_bad_alloc}), verdict::raised},
    {"BadAllocUnderAMemoryLimit", seen({memory_set, threw_bad_alloc}), verdict::memory_limit},
    {"OutOfMemoryReplyWithoutLimits", seen({replied(reply_kind::out_of_memory)}), verdict::raised},
    {"OutOfMemoryReplyUnderAMemoryLimit", seen({memory_set, replied(reply_kind::out_of_memory)}),
     verdict::memory_limit},

    // Dies because an allocation was refused.
    {"SegfaultAfterARefusalWithoutLimits", seen({killed_by(SIGSEGV), refused_allocation}), verdict::signalled},
    {"SegfaultAfterARefusal", seen({memory_set, killed_by(SIGSEGV), refused_allocation}), verdict::memory_limit},
    {"BusErrorAfterARefusal", seen({memory_set, killed_by(SIGBUS), refused_allocation}), verdict::memory_limit},
    {"AbortAfterARefusal", seen({memory_set, killed_by(SIGABRT), refused_allocation}), verdict::memory_limit},
    {"KilledAfterARefusal", seen({memory_set, killed_by(SIGKILL), refused_allocation}), verdict::signalled},
    {"FpeAfterARefusal", seen({memory_set, killed_by(SIGFPE), refused_allocation}), verdict::signalled},
    {"ExitAfterARefusal", seen({memory_set, exited_with(1), refused_allocation}), verdict::exited},

    // A crash is never called a memory limit without evidence.
    {"Segfault", seen({killed_by(SIGSEGV)}), verdict::signalled},
    {"SegfaultUnderAMemoryLimit", seen({limits_set, killed_by(SIGSEGV)}), verdict::signalled},
    {"AbortUnderAMemoryLimit", seen({limits_set, killed_by(SIGABRT)}), verdict::signalled},
    {"FpeUnderLimits", seen({limits_set, killed_by(SIGFPE)}), verdict::signalled},
    {"StackOverflowUnderAMemoryLimit", seen({memory_set, killed_by(SIGSEGV), overflowed_stack}), verdict::signalled},
    {"StackOverflowAndARefusal", seen({memory_set, killed_by(SIGSEGV), overflowed_stack, refused_allocation}),
     verdict::signalled},
    {"KilledByOthers", seen({killed_by(SIGKILL)}), verdict::signalled},
    {"KilledByOthersUnderLimits", seen({limits_set, killed_by(SIGKILL), used_cpu(10ms, 0s)}), verdict::signalled},

    // CPU limit.
    {"CpuLimitSeenByTheParent", seen({cpu_set, ended_by_parent_for(ended_for::cpu_time)}), verdict::cpu_timeout},
    {"CpuLimitByTheKernelsSigkill", seen({cpu_set, killed_by(SIGKILL), used_cpu(600ms, 400ms)}), verdict::cpu_timeout},
    {"CpuLimitByTheKernelsSigxcpu", seen({cpu_set, killed_by(SIGXCPU), used_cpu(1s, 1ms)}), verdict::cpu_timeout},
    {"SigxcpuWithTimeLeft", seen({cpu_set, killed_by(SIGXCPU), used_cpu(999ms, 0s)}), verdict::signalled},
    {"SigxcpuWithoutACpuLimit", seen({killed_by(SIGXCPU), used_cpu(10s, 0s)}), verdict::signalled},
    {"SegfaultWithTheTimeUsedUp", seen({cpu_set, killed_by(SIGSEGV), used_cpu(2s, 0s)}), verdict::signalled},
    {"ExitWithTheTimeUsedUp", seen({cpu_set, exited_with(0), used_cpu(2s, 0s)}), verdict::exited},

    // Wall limit, whatever the child does with SIGTERM.
    {"WallLimit", seen({limits_set, ended_by_parent_for(ended_for::wall_time)}), verdict::wall_timeout},
    {"WallLimitAndExitAtTheSameMoment", seen({limits_set, ended_by_parent_for(ended_for::wall_time), exited_with(0)}),
     verdict::wall_timeout},
    {"WallLimitWithCpuUsedUp", seen({limits_set, ended_by_parent_for(ended_for::wall_time), used_cpu(2s, 0s)}),
     verdict::wall_timeout},
    {"WallLimitAfterARefusal", seen({limits_set, ended_by_parent_for(ended_for::wall_time), refused_allocation}),
     verdict::wall_timeout},

    // Memory seen by the parent.
    {"SharedMemorySeenByTheParent", seen({memory_set, ended_by_parent_for(ended_for::memory)}), verdict::memory_limit},

    // exit(n), 0 too.
    {"ExitZero", seen({exited_with(0)}), verdict::exited},
    {"ExitThree", seen({limits_set, exited_with(3)}), verdict::exited},
    {"StatusTakenByOthers", seen({vanished}), verdict::exited},

    // Killed or frozen half-way through sending: nothing was committed.
    {"KilledHalfWay", seen({limits_set, killed_by(SIGKILL)}), verdict::signalled},
    {"FrozenHalfWay", seen({limits_set, ended_by_parent_for(ended_for::wall_time)}), verdict::wall_timeout},

    // Bytes that do not decode.
    {"Garbage", seen({sent_garbage}), verdict::protocol_error},
    {"GarbageAndACrash", seen({sent_garbage, killed_by(SIGSEGV)}), verdict::protocol_error},
    {"GarbageAndTheWallLimit", seen({limits_set, sent_garbage, ended_by_parent_for(ended_for::wall_time)}),
     verdict::wall_timeout},
    {"GarbageAndCancelled", seen({sent_garbage, ended_by_parent_for(ended_for::cancelled)}), verdict::cancelled},
    {"GarbageThatCallsItselfAValue", seen({sent_garbage, replied(reply_kind::value)}), verdict::protocol_error},
    {"LyingCounters", seen({ended_by_parent_for(ended_for::lying)}), verdict::protocol_error},
    {"TooLarge", seen({ended_by_parent_for(ended_for::too_large)}), verdict::protocol_error},
    {"Unsendable", seen({replied(reply_kind::unsendable), exited_with(1)}), verdict::protocol_error},

    // Given up.
    {"Cancelled", seen({ended_by_parent_for(ended_for::cancelled)}), verdict::cancelled},
    {"CancelledAfterItReturned", seen({replied(reply_kind::value), ended_by_parent_for(ended_for::cancelled)}),
     verdict::returned},
    {"Interrupted", seen({ended_by_parent_for(ended_for::interrupted)}), verdict::cancelled},
    {"DiedOfTheInterruptThatWePassedOn", seen({killed_by(SIGINT), got_our_interrupt}), verdict::cancelled},
    {"DiedOfAnInterruptOfItsOwn", seen({killed_by(SIGINT)}), verdict::signalled},
    {"DiedOfSomethingElseAfterTheInterrupt", seen({killed_by(SIGSEGV), got_our_interrupt}), verdict::signalled},

    // Could not be started.
    {"StartFailed",
     seen({limits_set, failed_at(start_stage::memory_limit, std::errc::operation_not_permitted), exited_with(1)}),
     verdict::start_failed},
};

INSTANTIATE_TEST_SUITE_P(Death, Verdict, testing::ValuesIn(death_table),
                         [](const auto& param_info) { return std::string(param_info.param.title); });

// --- sentences --------------------------------------------------------------------------------------------

std::string sentence(const evidence& e, const std::string& detail = {}) {
  return explain(judge(e), e, "train(3)", detail);
}

TEST(Explanation, NamesTheLimitTheMeasuredValueAndTheEvidence) {
  EXPECT_THAT(sentence(seen({limits_set, ended_by_parent_for(ended_for::wall_time)})),
              AllOf(HasSubstr("wall"), HasSubstr("2 s"), HasSubstr("20 ms")));
  EXPECT_THAT(sentence(seen({limits_set, ended_by_parent_for(ended_for::cpu_time), used_cpu(1s, 1ms)})),
              AllOf(HasSubstr("CPU"), HasSubstr("1 s"), HasSubstr("1.001 s"), HasSubstr("parent")));
  EXPECT_THAT(sentence(seen({limits_set, killed_by(SIGKILL), used_cpu(1s, 1ms)})), HasSubstr("kernel"));
  EXPECT_THAT(sentence(seen({memory_set, ended_by_parent_for(ended_for::memory)})),
              AllOf(HasSubstr("100 MiB"), HasSubstr("101 MiB")));
  EXPECT_THAT(sentence(seen({memory_set, threw_bad_alloc})), AllOf(HasSubstr("100 MiB"), HasSubstr("bad_alloc")));
  EXPECT_THAT(sentence(seen({memory_set, killed_by(SIGSEGV), refused_allocation})),
              AllOf(HasSubstr("refused"), HasSubstr("SIGSEGV")));
}

TEST(Explanation, NamesTheSignalAndWhatItMeans) {
  EXPECT_THAT(sentence(seen({killed_by(SIGFPE)})), HasSubstr("SIGFPE"));
  EXPECT_THAT(sentence(seen({killed_by(SIGSEGV), overflowed_stack})),
              AllOf(HasSubstr("SIGSEGV"), HasSubstr("stack overflow")));
  EXPECT_THAT(sentence(seen({killed_by(SIGSEGV)})), Not(HasSubstr("stack overflow")));
  EXPECT_THAT(sentence(seen({killed_by(SIGSEGV), [](evidence& e) { e.crash_address = 0xdead0; }})),
              HasSubstr("0xdead0"));
#if defined(SIGRTMIN)
  EXPECT_THAT(sentence(seen({killed_by(SIGRTMIN + 1)})), HasSubstr("signal"));
#endif
  EXPECT_THAT(sentence(seen({killed_by(12345)})), HasSubstr("12345")) << "a number that is no signal";
}

TEST(Explanation, NamesWhatTheSystemItselfCallsTheSignal) {
  const auto by_status = [](evidence& e) { e.system_code = 0xC0000005; };
  EXPECT_THAT(sentence(seen({killed_by(SIGSEGV), by_status})), AllOf(HasSubstr("SIGSEGV"), HasSubstr("0xc0000005")));
  EXPECT_THAT(sentence(seen({killed_by(SIGSEGV)})), Not(HasSubstr("to the system")));
}

TEST(Explanation, TellsTheExitCodeOrThatItIsNotKnown) {
  EXPECT_THAT(sentence(seen({exited_with(42)})), HasSubstr("42"));
  EXPECT_THAT(sentence(seen({vanished})), HasSubstr("not known"));
}

TEST(Explanation, TellsWhatWasThrownAndWhatWasWrongWithTheReply) {
  EXPECT_THAT(sentence(seen({replied(reply_kind::exception)}), "std::range_error: far"),
              HasSubstr("std::range_error: far"));
  EXPECT_THAT(sentence(seen({replied(reply_kind::unsendable)}), "too deep"),
              AllOf(HasSubstr("packed"), HasSubstr("too deep")));
  EXPECT_THAT(sentence(seen({ended_by_parent_for(ended_for::too_large)})), HasSubstr("too large"));
  EXPECT_THAT(sentence(seen({sent_garbage}), "a bool is neither 0 nor 1"), HasSubstr("neither 0 nor 1"));
}

TEST(Explanation, NamesTheStageThatFailed) {
  for (auto stage = static_cast<int>(start_stage::die_with_parent);
       stage <= static_cast<int>(start_stage::memory_limit); ++stage) {
    const auto text = sentence(seen({failed_at(static_cast<start_stage>(stage), std::errc::operation_not_permitted)}));
    EXPECT_THAT(text, AllOf(HasSubstr(to_string(static_cast<start_stage>(stage))), HasSubstr("not permitted")));
    EXPECT_THAT(text, Not(HasSubstr("unknown stage")));
  }
  EXPECT_THAT(sentence(seen({failed_at(static_cast<start_stage>(4711), std::errc::protocol_error)})),
              HasSubstr("unknown stage"))
      << "the child can claim any number";
}

// --- the exceptions' numbers ------------------------------------------------------------------------------

template <class E>
E exception_of(const evidence& e) {
  const auto v = judge(e);
  try {
    std::rethrow_exception(exception_for(v, e, "train(3)", explain(v, e, "train(3)", {})));
  } catch (const E& caught) {
    return caught;
  }
}

TEST(ExceptionFor, CarriesTheNumbers) {
  const auto wall =
      exception_of<pynisher::WallTimeoutException>(seen({limits_set, ended_by_parent_for(ended_for::wall_time)}));
  EXPECT_EQ(wall.limit(), 2s);
  EXPECT_EQ(wall.measured(), 20ms);
  EXPECT_EQ(wall.call(), "train(3)");
  const auto cpu = exception_of<pynisher::CpuTimeoutException>(
      seen({limits_set, ended_by_parent_for(ended_for::cpu_time), used_cpu(600ms, 401ms)}));
  EXPECT_EQ(cpu.limit(), 1s);
  EXPECT_EQ(cpu.measured(), 1001ms);
  EXPECT_EQ(cpu.usage().peak_memory, 5u << 20);
  const auto watched =
      exception_of<pynisher::MemoryLimitException>(seen({memory_set, ended_by_parent_for(ended_for::memory)}));
  EXPECT_EQ(watched.limit(), 100_MiB);
  EXPECT_EQ(watched.measured(), 101_MiB);
  EXPECT_EQ(exception_of<pynisher::MemoryLimitException>(seen({memory_set, threw_bad_alloc})).measured(), 5_MiB);
  EXPECT_EQ(exception_of<pynisher::SignalException>(seen({killed_by(SIGFPE)})).signal(), SIGFPE);
  EXPECT_EQ(exception_of<pynisher::ExitException>(seen({exited_with(0)})).exit_code(), 0);
  const auto in_own_words = [](evidence& e) { e.memory_written = {100, "MB"}; };
  EXPECT_EQ(
      exception_of<pynisher::MemoryLimitException>(seen({memory_set, in_own_words, threw_bad_alloc})).limit().written(),
      "100 MB");
  const auto start = exception_of<pynisher::StartException>(
      seen({failed_at(start_stage::cpu_limit, std::errc::operation_not_permitted)}));
  EXPECT_EQ(start.stage(), to_string(start_stage::cpu_limit));
  EXPECT_EQ(start.code(), std::errc::operation_not_permitted);
}

TEST(ExceptionFor, AnExitWhoseCodeIsNotKnownIsNoExitException) {
  EXPECT_EQ(typeid(exception_of<pynisher::ChildDiedException>(seen({vanished}))), typeid(pynisher::ChildDiedException));
  try {
    std::rethrow_exception(exception_for(verdict::exited, seen({vanished}), "f()", "t"));
  } catch (const pynisher::ExitException&) {
    FAIL() << "there is no code to give";
  } catch (const pynisher::ChildDiedException&) {
  }
}

TEST(ExceptionFor, TellsCancellationFromTheKeyboard) {
  EXPECT_NO_THROW((void)exception_of<pynisher::CancelledException>(seen({ended_by_parent_for(ended_for::cancelled)})));
  EXPECT_NO_THROW((void)exception_of<pynisher::KeyboardInterrupt>(seen({ended_by_parent_for(ended_for::interrupted)})));
  EXPECT_NO_THROW((void)exception_of<pynisher::KeyboardInterrupt>(seen({killed_by(SIGINT), got_our_interrupt})));
}

}  // namespace
