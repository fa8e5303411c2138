// SPDX-License-Identifier: BSL-1.0
// Bounded waits for tests. A wait that reaches its deadline prints its source line and stops the
// program. The condition will not become true, so the case cannot continue, and the printed line
// identifies the failed wait. For coroutines: waiting.hpp.
//
//     iowq_test::spin_until([&] { return begun.load(); });
#pragma once

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <source_location>
#include <string>
#include <thread>

namespace iowq_test {

/// The longest time that a wait of a test may take: far more than a loaded machine needs.
inline std::chrono::seconds longest_wait() {
  // Set by op/mutants.py: some mutants are found by a wait that reaches its deadline.
  static const char* const wanted = std::getenv("IOWQ_TEST_WAIT_SECONDS");
  return std::chrono::seconds{wanted != nullptr ? std::atoi(wanted) : 60};
}

/// The deadline of one wait, identified by the source line that started the wait.
class wait_limit {
 public:
  explicit wait_limit(std::source_location at = std::source_location::current()) noexcept
      : at_{at} {}

  /// Returns whether the deadline has passed.
  [[nodiscard]] bool is_over() const { return std::chrono::steady_clock::now() > deadline_; }

  [[noreturn]] void fail(const char* missing) const {
    std::fprintf(stderr, "%s:%u: %lld s have passed without %s\n", at_.file_name(),
                 static_cast<unsigned>(at_.line()), static_cast<long long>(longest_wait().count()),
                 missing);
    std::abort();
  }

  /// Call this each time before the condition is tested again. Stops the program after the
  /// deadline.
  void check() const {
    if (is_over()) fail("what this line waits for");
  }

 private:
  std::source_location at_;
  std::chrono::steady_clock::time_point deadline_ =
      std::chrono::steady_clock::now() + longest_wait();
};

/// Returns whether the kernel reports that this thread of the process sleeps.
inline bool is_asleep(const std::string& thread) {
  std::ifstream file{"/proc/self/task/" + thread + "/stat"};
  std::string const text{std::istreambuf_iterator<char>{file}, {}};
  auto const name_end = text.rfind(") ");
  return name_end != text.npos && (text[name_end + 2] == 'S' || text[name_end + 2] == 'D');
}

/// Yields the processor until `holds()` is true.
template <class Condition>
void spin_until(Condition holds, std::source_location at = std::source_location::current()) {
  wait_limit const limit{at};
  while (!holds()) {
    limit.check();
    std::this_thread::yield();
  }
}

}  // namespace iowq_test
