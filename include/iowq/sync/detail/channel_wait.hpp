// SPDX-License-Identifier: BSL-1.0
// iowq/sync/detail/channel_wait.hpp -- the waits of a channel, which other threads can complete.
#pragma once

#include <source_location>

#include <iowq/base/policy.hpp>
#include <iowq/exec/detail/parked_operation.hpp>
#include <iowq/sync/detail/waiter.hpp>

namespace iowq::inline v0::detail {

/// The part of a channel that does not depend on the type of the values.
struct channel_base {
  using lock = linux_policy::lock;

  mutable linux_policy::mutex mutex;
  // Guarded by `mutex`.
  wait_queue senders;    // empty while there is room or a waiting receiver
  wait_queue receivers;  // empty while there is a value or a waiting sender
  bool closed = false;
};

/// A send or receive on a channel. `Derived` is the awaiter (sync/channel.hpp).
template <class Derived>
class channel_wait : public parked_operation<Derived>, public waiter {
  using base = parked_operation<Derived>;

 protected:
  channel_wait(std::source_location at, channel_base& all) noexcept : base{at}, all_{all} {}
  channel_wait(channel_wait&&) noexcept = default;
  ~channel_wait() = default;

  /// Grants this wait with the result `res`, and makes its owner complete it. Call from any thread,
  /// with the lock held, after *this has left its queue.
  void call(int res) noexcept {
    in_line_ = false;
    if (owner_ == this_thread_loop) return this->complete(*owner_, res);
    this->result_.set(res);
    from_afar_ = true;
    owner_->post(*this);
  }

  channel_base& all_;

 private:
  friend base;

  linux_policy::mutex& mutex() noexcept { return all_.mutex; }
  void park(loop& here) noexcept {
    owner_ = &here;
    in_line_ = true;
    Derived::queue(all_).join(*this);
  }
  /// Leaves the queue. Returns false if a thread has already granted the wait by call().
  bool unpark() noexcept {
    channel_base::lock const held{all_.mutex};
    if (!in_line_) return false;
    in_line_ = false;
    Derived::queue(all_).leave(*this);
    return true;
  }
  /// If another thread has granted the wait by call(), that thread may still hold the lock, and the
  /// channel may be destroyed after the completion. Taking the lock waits until that thread has
  /// released it.
  void on_complete() noexcept {
    if (from_afar_) channel_base::lock const held{all_.mutex};
  }

  loop* owner_ = nullptr;
  // Guarded by the lock.
  bool in_line_ = false;
  bool from_afar_ = false;
};

}  // namespace iowq::inline v0::detail
