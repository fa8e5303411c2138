// SPDX-License-Identifier: BSL-1.0
// iowq/base/assert.hpp -- what the library believes, checked in every build.
//
// A broken belief here means that a coroutine could be resumed twice or the kernel could write
// into freed memory, so the program stops with a sentence that names the mistake. Define
// IOWQ_ASSERT before the first include, in every translation unit alike, to act differently.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <source_location>

#include <iowq/base/config.hpp>

namespace iowq::inline v0::detail {

/// Prints the belief that does not hold and ends the process by SIGABRT.
[[noreturn]] IOWQ_COLD inline void assertion_failed(const char* belief, const char* message,
                                                    const char* file, int line) noexcept {
  std::fprintf(stderr, "iowq: %s\n  (%s is false, %s:%d)\n", *message != 0 ? message : belief,
               belief, file, line);
  std::fflush(stderr);
  std::abort();
}

/// Says which line of the user's the next message is about. False, so that it can stand behind a
/// belief: IOWQ_ASSERT(belief || at_fault(source), "...").
IOWQ_COLD inline bool at_fault(const std::source_location& source) noexcept {
  std::fprintf(stderr, "iowq: %s:%u, in %s:\n", source.file_name(),
               static_cast<unsigned>(source.line()), source.function_name());
  return false;
}

}  // namespace iowq::inline v0::detail

/// IOWQ_ASSERT(condition) or IOWQ_ASSERT(condition, "what the user did wrong").
#ifndef IOWQ_ASSERT
#define IOWQ_ASSERT(condition, ...)   \
  (__builtin_expect(!!(condition), 1) \
       ? static_cast<void>(0)         \
       : ::iowq::detail::assertion_failed(#condition, "" __VA_ARGS__, __FILE__, __LINE__))
#endif
