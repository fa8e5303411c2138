// SPDX-License-Identifier: BSL-1.0
// iowq/coro/detail/trampoline.hpp -- resumes one coroutine after another without growing the stack.
//
// Symmetric transfer (await_suspend returns a handle) should be a tail call. But g++ 12 makes it an
// ordinary call below -O2 and under sanitizers (720 bytes of stack per await with ASan), and no
// macro shows which one it makes. This library therefore does not use symmetric transfer.
// await_suspend stores the next coroutine in `next` and returns. The loop that resumed the previous
// coroutine then resumes the next one. The stack does not grow in any build, even with recursion of
// any depth. The cost is one load and one store.
#pragma once

#include <coroutine>
#include <utility>

#include <iowq/base/config.hpp>

namespace iowq::inline v0::detail {

struct trampoline {
  std::coroutine_handle<> next;
  bool running;  // this thread's stack has a loop that resumes `next`
};

inline constinit thread_local trampoline this_thread_trampoline{};

/// Resumes `coroutine`, then the coroutine that it passed to hand_over(), and so on, until one
/// suspends without a successor. May be nested.
inline void resume_flat(std::coroutine_handle<> coroutine) noexcept {
  trampoline& here = this_thread_trampoline;
  bool const nested = std::exchange(here.running, true);
  do {
    coroutine.resume();
    coroutine = std::exchange(here.next, nullptr);
  } while (coroutine);
  here.running = nested;
}

/// While it exists, marks the calling thread as one that runs a loop which calls
/// drain_trampoline(). Coroutines that this loop resumes then need no resume_flat() each.
class trampoline_scope {
 public:
  trampoline_scope() noexcept : nested_{std::exchange(this_thread_trampoline.running, true)} {}
  trampoline_scope(const trampoline_scope&) = delete;
  trampoline_scope& operator=(const trampoline_scope&) = delete;
  ~trampoline_scope() { this_thread_trampoline.running = nested_; }

 private:
  bool nested_;
};

/// Resumes the coroutine that the last one passed to hand_over(), and its successors. Call it
/// inside a trampoline_scope and outside of any coroutine, after each resume of a coroutine. The
/// call that resumed the coroutine can then be a tail call.
inline void drain_trampoline() noexcept {
  trampoline& here = this_thread_trampoline;
  while (here.next) [[unlikely]]
    std::exchange(here.next, nullptr).resume();
}

/// Makes `coroutine` the next one to run on this thread. Call it last in an await_suspend. The
/// coroutine does not run immediately: if one coroutine resumed another inline, the successor of
/// the other one runs only when the first one suspends.
inline void hand_over(std::coroutine_handle<> coroutine) noexcept {
  trampoline& here = this_thread_trampoline;
  if (here.running && !here.next) [[likely]] {
    here.next = coroutine;
  } else if (!here.running) {
    resume_flat(coroutine);  // a foreign scheduler resumed the caller: run the loop here
  } else {
    // `next` is taken: a coroutine of ours resumed another one inline, whose successor is in
    // `next`. Run that successor first.
    resume_flat(std::exchange(here.next, nullptr));
    here.next = coroutine;
  }
}

}  // namespace iowq::inline v0::detail
