// SPDX-License-Identifier: BSL-1.0
// iowq/coro/detail/trampoline.hpp -- one coroutine resumes the next without growing the stack.
//
// Symmetric transfer (await_suspend returning a handle) should be a tail call, but g++ 12 makes
// it an ordinary one below -O2 and under sanitizers (720 bytes an await with ASan), and no macro
// tells. So nobody transfers: await_suspend leaves the next coroutine in `next` and returns, and
// the loop that resumed the last one resumes it. The stack stays flat in every build, recursion
// of any depth included, at the price of one load and one store.
#pragma once

#include <coroutine>
#include <utility>

#include <iowq/base/config.hpp>

namespace iowq::inline v0::detail {

struct trampoline {
  std::coroutine_handle<> next;
  bool running;  // a resume_flat() is below us on this thread's stack
};

inline constinit thread_local trampoline this_thread_trampoline{};

/// Resumes `coroutine` and whatever it and its successors hand over to, until one suspends
/// without a successor. May be nested.
inline void resume_flat(std::coroutine_handle<> coroutine) noexcept {
  trampoline& here = this_thread_trampoline;
  bool const nested = std::exchange(here.running, true);
  do {
    coroutine.resume();
    coroutine = std::exchange(here.next, nullptr);
  } while (coroutine);
  here.running = nested;
}

/// Marks the calling thread as one whose stack has a loop at its bottom, for as long as it lives:
/// what such a loop resumes need not say so each time.
class trampoline_scope {
 public:
  trampoline_scope() noexcept : nested_{std::exchange(this_thread_trampoline.running, true)} {}
  trampoline_scope(const trampoline_scope&) = delete;
  trampoline_scope& operator=(const trampoline_scope&) = delete;
  ~trampoline_scope() { this_thread_trampoline.running = nested_; }

 private:
  bool nested_;
};

/// Inside a trampoline_scope, outside of any coroutine: runs what the last one handed over to.
/// Whoever resumes a coroutine in such a scope calls this next, so that the call that resumed it
/// can be a tail call.
inline void drain_trampoline() noexcept {
  trampoline& here = this_thread_trampoline;
  while (here.next) [[unlikely]]
    std::exchange(here.next, nullptr).resume();
}

/// The last act of an await_suspend: `coroutine` runs next on this thread. Not at once: where a
/// coroutine resumed another inline, the other's successor waits until the first suspends.
inline void hand_over(std::coroutine_handle<> coroutine) noexcept {
  trampoline& here = this_thread_trampoline;
  if (here.running && !here.next) [[likely]] {
    here.next = coroutine;
  } else if (!here.running) {
    resume_flat(coroutine);  // someone else's scheduler resumed us: be the loop ourselves
  } else {
    // Someone resumed a coroutine from within one of ours; its successor waits in `next`.
    resume_flat(std::exchange(here.next, nullptr));
    here.next = coroutine;
  }
}

}  // namespace iowq::inline v0::detail
