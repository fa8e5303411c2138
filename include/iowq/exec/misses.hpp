// SPDX-License-Identifier: BSL-1.0
// iowq/exec/misses.hpp -- cancels that may have missed their operation, and are asked for again.
// Layer exec; needs ring. Next in the book: exec/backend_ring.hpp.
//
// That the kernel finds nothing to cancel mostly means that it has ended already. But on its way
// from one of the kernel's hands into another a request is in neither: Linux 6.1 takes it off a
// queue of io-wq before the worker that took it has it on display, and a chain keeps what it has
// not begun where no cancel looks. And what a worker of the kernel's has in hand is "already" on
// its way: the cancel leaves it a signal, which the worker may forget before the call that then
// waits (Linux 6.1). Such a cancel is lost, and who waits for its operation to end would wait for
// ever.
#pragma once

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>

#include <iowq/base/policy.hpp>
#include <iowq/ring/completion.hpp>

namespace iowq::detail {

/// Whose CQEs the answers to cancels are. Owner thread only.
class misses : public completion {
 public:
  misses() noexcept : completion{&answered} {}

  /// An operation is cancelled that was not before.
  void begin() noexcept { delay_ = first; }
  /// When to ask again; never, if nothing was missed.
  [[nodiscard]] time_point due() const noexcept { return due_; }
  [[nodiscard]] bool is_due() const noexcept {
    return due_ != never && linux_policy::now() >= due_;
  }
  /// Is it time? Then it is no more.
  [[nodiscard]] bool take_due() noexcept {
    if (!is_due()) return false;
    due_ = never;
    return true;
  }

 private:
  using duration = std::chrono::milliseconds;
  static constexpr duration first{1}, last{64};

  static void answered(completion* self, int res, std::uint32_t) noexcept {
    auto& all = *static_cast<misses*>(self);
    if (res != -ENOENT && res != -EALREADY) return;
    // Seldom a second time; where it is, as for a disk that does not answer, less and less often.
    time_point const next = linux_policy::now() + all.delay_;
    if (next >= all.due_) return;
    all.due_ = next;
    all.delay_ = std::min(2 * all.delay_, last);
  }

  time_point due_ = never;
  duration delay_ = first;
};

}  // namespace iowq::detail
