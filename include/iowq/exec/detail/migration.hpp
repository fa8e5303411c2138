// SPDX-License-Identifier: BSL-1.0
// iowq/exec/detail/migration.hpp -- moves a coroutine to the thread of another executor.
//
// A run ends when all that it started has ended, wherever that went; so where a coroutine comes
// to, it is counted as a guest, and who started it counts on. Whoever counts its ends, a run or
// one of several awaits (flow/detail/concurrent.hpp), calls it home first.
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

/// The awaiting coroutine, and who awaits it in turn, goes on at `to`.
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
    // Behind the others, as after a journey: who goes round one executor leaves them their turn.
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
