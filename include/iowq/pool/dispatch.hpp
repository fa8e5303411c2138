// SPDX-License-Identifier: BSL-1.0
// iowq/pool/dispatch.hpp -- pure decisions: wake, create, watch, leave or stay.
// Layer pool; needs pool/account. Next in the book: pool/guarded.hpp.
//
// Numbers in, a decision out, so that each rule is tested without a thread. Whether an item waits
// for ever is decided in this file:
//
//   D2  If something is runnable, then a worker is on its way to take it; or one is in an item
//       and awake, and will look before it idles; or one is being created; or the manager
//       watches; or the limit is reached.
//
// The kernel wakes a free worker for each item. That is right for items that block and costs two
// to four times their price for those that do not: the woken thread contends for a processor and
// for M, finds nothing left, and sleeps again. So while items prove short, an idle worker is
// woken only for a processor that has none; the rest of D2 is the manager's watch.
#pragma once

#include <iowq/pool/account.hpp>

namespace iowq::detail {

/// What an account with something runnable, and nobody on the way to it, needs next.
enum class step : unsigned char {
  none,    // who is awake will take it, or the limit is reached
  wake,    // an idle worker
  create,  // another worker
  watch,   // the manager's eye on those that run: should all of them sleep, another worker
};

/// `concurrent`: the item that just became runnable wants a worker of its own.
[[nodiscard]] constexpr step next_step(const account_counts& counts, bool concurrent) noexcept {
  if (!counts.unserved()) return step::none;
  if (counts.idle > 0) {
    bool const helps = concurrent || !counts.quick() || counts.nr_running < counts.processors;
    return helps ? step::wake : step::watch;
  }
  if (counts.live + counts.creating >= counts.max_workers) return step::none;
  if (counts.nr_running + counts.creating == 0) return step::create;
  if (concurrent && counts.creating + counts.waking < counts.runnable) return step::create;
  return step::watch;
}

/// While true the manager may not park.
[[nodiscard]] constexpr bool needs_watch(const account_counts& counts) noexcept {
  return counts.unserved() &&
         (counts.idle > 0 || counts.live + counts.creating < counts.max_workers);
}

/// A reservation that nobody needs any more: an idle worker appeared, or the work is gone. (The
/// kernel created all the same, and threads churned: bug 29.)
[[nodiscard]] constexpr bool creation_is_stale(const account_counts& counts) noexcept {
  return counts.idle > 0 || (!counts.unserved() && counts.live > 0);
}

/// Whether a worker that has no item may not look for another: the pool ends, its context is an
/// old one, or the limit was lowered.
[[nodiscard]] constexpr bool must_leave(const account_counts& counts, bool exit,
                                        bool stale) noexcept {
  return exit || stale || counts.live > counts.max_workers;
}

/// Whether an idle worker may go when its time is up. The last of a class stays.
[[nodiscard]] constexpr bool may_time_out(const account_counts& counts,
                                          bool exit_on_idle) noexcept {
  return exit_on_idle || counts.live > 1;
}

}  // namespace iowq::detail
