// SPDX-License-Identifier: BSL-1.0
// Runs a function that must stop the program in a child process, and returns how the child ended
// and what it printed.
//
//     const auto end = iowq_test::death_output([] { IOWQ_ASSERT(1 == 2); });
//     CHECK(end.signal == SIGABRT);
//     CHECK(end.says("1 == 2"));
//
// The child is a fork of the test program, so fork before starting threads that hold locks.
#pragma once

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

namespace iowq_test {

struct death {
  int exit_code = -1;  ///< as passed to exit(), or -1
  int signal = 0;      ///< the signal that killed the child, or 0; SIGALRM: it hung
  std::string text;    ///< what it wrote to stderr

  bool survived() const { return exit_code == 0; }
  bool says(std::string_view words) const { return text.find(words) != std::string::npos; }
};

namespace detail {
template <class F>
[[noreturn]] void die_in_child(int stderr_fd, F&& callable) noexcept {
  // doctest catches these signals to report them; here they must kill the child.
  for (int number : {SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTERM, SIGINT})
    std::signal(number, SIG_DFL);
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  ::dup2(stderr_fd, STDERR_FILENO);
  ::alarm(30);
  std::forward<F>(callable)();
  ::_exit(0);
}
}  // namespace detail

/// Exits the child with a message if `holds` is false.
inline void demand(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "not so: %s", what);
  ::_exit(1);
}

/// Runs `callable` in a child process. If it returned, the child survived and exit_code is 0.
template <class F>
death death_output(F&& callable) {
  std::array<int, 2> ends{};
  if (::pipe(ends.data()) != 0) std::abort();
  std::fflush(nullptr);  // else the child would print the buffered output again
  const pid_t child = ::fork();
  if (child < 0) std::abort();
  if (child == 0) detail::die_in_child(ends[1], std::forward<F>(callable));

  ::close(ends[1]);
  death result;
  std::array<char, 4096> chunk;
  for (;;) {
    const ssize_t got = ::read(ends[0], chunk.data(), chunk.size());
    if (got > 0) result.text.append(chunk.data(), static_cast<std::size_t>(got));
    if (got == 0 || (got < 0 && errno != EINTR)) break;
  }
  ::close(ends[0]);

  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
  return result;
}

}  // namespace iowq_test
