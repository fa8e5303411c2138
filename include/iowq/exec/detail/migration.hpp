// SPDX-License-Identifier: BSL-1.0
// iowq/exec/detail/migration.hpp -- moves a coroutine to the thread of another executor.
//
// A run ends when everything that it started has ended, on whichever executor. So the loop to which
// a coroutine migrates counts it as migrated in, and the loop that started it still counts it. The
// code that counts a coroutine's end, a run or a group of awaits (flow/detail/concurrent.hpp),
// first makes the coroutine return to its own loop.
#pragma once

#include <cerrno>
#include <coroutine>

#include <iowq/base/assert.hpp>
#include <iowq/base/result.hpp>
#include <iowq/base/stop_token.hpp>
#include <iowq/coro/detail/promise.hpp>
#include <iowq/exec/detail/loop.hpp>
#include <iowq/exec/detail/operation_base.hpp>

namespace iowq::inline v0::detail {

/// Resumes the awaiting coroutine, and later its awaiters, on the thread of `to`.
class [[nodiscard("co_await it")]] migration : loop_item {
 public:
  enum class why : unsigned char { asked, returning };

  explicit migration(loop& to, why reason = why::asked) noexcept
      : loop_item{&arrived}, to_{to}, reason_{reason} {}

  static bool await_ready() noexcept { return false; }
  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> coroutine) noexcept {
    token_ = stop_of(coroutine);
    coroutine_ = coroutine;
    loop& here = loop::current();
    if (&to_ != &here) return here.migrate_to(to_, *this);
    // Already there: queue behind the others, as a migration would. A coroutine that visits its own
    // executor in a round must not starve them.
    set_action(&go_on);
    here.ready(*this);
  }
  void await_resume() const {
    if (stopped_) throw_error(-ECANCELED, "resume_on");
  }

 private:
  static void arrived(loop_item* self) noexcept {
    auto& one = *static_cast<migration*>(self);
    IOWQ_ASSERT(!one.to_.ending(),
                "an executor was destroyed while a coroutine was on its way to it (resume_on)");
    one.to_.arrive();
    go_on(self);
  }
  static void go_on(loop_item* self) noexcept {
    auto& one = *static_cast<migration*>(self);
    one.stopped_ = one.reason_ == why::asked && (one.token_.stop_requested() || one.to_.stopping());
    one.coroutine_.resume();
  }

  loop& to_;
  why reason_;
  bool stopped_ = false;
  stop_token token_;
  std::coroutine_handle<> coroutine_;
};

}  // namespace iowq::inline v0::detail
