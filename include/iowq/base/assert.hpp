// SPDX-License-Identifier: BSL-1.0
// iowq/base/assert.hpp -- IOWQ_ASSERT, which checks invariants in every build.
//
// If an invariant of this library does not hold, a coroutine could be resumed twice or the kernel
// could write into freed memory. The program therefore stops, with a message that names the
// mistake. To act differently, define IOWQ_ASSERT before the first include, in the same way in
// every translation unit.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <source_location>

#include <iowq/base/config.hpp>

namespace iowq::inline v0::detail {

/// Prints the message, or the condition if the message is empty, and ends the process with SIGABRT.
[[noreturn]] IOWQ_COLD inline void assertion_failed(const char* belief, const char* message,
                                                    const char* file, int line) noexcept {
  std::fprintf(stderr, "iowq: %s\n  (%s is false, %s:%d)\n", *message != 0 ? message : belief,
               belief, file, line);
  std::fflush(stderr);
  std::abort();
}

/// Prints the line of the user's code that the next message is about. Returns false, so that it
/// can follow a condition: IOWQ_ASSERT(condition || at_fault(source), "...").
IOWQ_COLD inline bool at_fault(const std::source_location& source) noexcept {
  std::fprintf(stderr, "iowq: %s:%u, in %s:\n", source.file_name(),
               static_cast<unsigned>(source.line()), source.function_name());
  return false;
}

}  // namespace iowq::inline v0::detail

/// IOWQ_ASSERT(condition) or IOWQ_ASSERT(condition, "what the user did wrong"). If `condition` is
/// false, prints the message and ends the process with SIGABRT.
#ifndef IOWQ_ASSERT
#define IOWQ_ASSERT(condition, ...)   \
  (__builtin_expect(!!(condition), 1) \
       ? static_cast<void>(0)         \
       : ::iowq::detail::assertion_failed(#condition, "" __VA_ARGS__, __FILE__, __LINE__))
#endif
