// SPDX-License-Identifier: BSL-1.0
// iowq/sync/detail/channel_wait.hpp -- the waits of a channel, which other threads can complete.
#pragma once

#include <cerrno>
#include <source_location>
#include <utility>

#include <iowq/base/assert.hpp>
#include <iowq/base/policy.hpp>
#include <iowq/sync/detail/waiter.hpp>

namespace iowq::inline v0::detail {

/// The part of a channel that does not depend on the type of the values.
struct channel_base {
  using lock = linux_policy::lock;

  /// One of `budget` awaits that need not wait goes through the loop anyway. Otherwise a busy peer
  /// would keep all other coroutines of this thread from running.
  static constexpr unsigned budget = 64;

  mutable linux_policy::mutex mutex;
  // Guarded by `mutex`.
  wait_queue senders;    // empty while there is room or a waiting receiver
  wait_queue receivers;  // empty while there is a value or a waiting sender
  bool closed = false;
  unsigned completed_at_once = 0;
};

/// A send or a recv. Only the owner thread uses its members, except those marked below, which the
/// channel's lock guards.
class channel_wait : public waiter {
 protected:
  channel_wait(const operation_kind& kind, std::source_location at, channel_base& all) noexcept
      : waiter{kind, at}, all_{all} {}
  channel_wait(channel_wait&& other) noexcept
      : waiter{std::move(other)},  // moves the base only
        all_{other.all_} {}        // NOLINT(bugprone-use-after-move)

  void check_fresh() const noexcept {
    IOWQ_ASSERT(is_fresh(), "a send or recv of a channel was awaited twice");
  }

  /// Calls `done()` under the lock; it returns true if the operation need not wait. Otherwise the
  /// operation enters the queue `line`. Returns false if the operation is complete.
  template <class Done>
  bool begin(stop_token token, wait_queue& line, Done&& done) noexcept {
    loop& here = loop::current();
    bool ambient = token == here.ambient();
    owner_ = &here;
    stage_ = stage::sync_wait;
    {
      channel_base::lock const held{all_.mutex};
      if (done()) {
        if (++all_.completed_at_once % channel_base::budget != 0) return !over();
        stage_ = stage::ready;
        here.ready(*this);
        ambient = true;  // not registered with `token`: a stop would come too late
      } else if (ambient ? here.stopping() : token.stop_requested()) {
        result_.set(-ECANCELED);
        return !over();
      } else if (!ambient && !stop_hook::prepare(here, *this, token)) {
        result_.set(-ENOMEM);
        return !over();
      } else {
        in_line_ = true;
        line.join(*this);
      }
    }
    here.watch(*this, token, ambient);
    return true;
  }

  /// Grants this wait with the result `res`, and makes its owner complete it. Call from any thread,
  /// with the lock held, after *this has left its queue.
  void call(int res) noexcept {
    in_line_ = false;
    result_.set(res);
    if (owner_ == this_thread_loop) {
      stage_ = stage::ready;
      owner_->ready(*this);
    } else {
      from_afar_ = true;
      owner_->post(*this);
    }
  }

  /// Call before completing a wait that another thread has granted by call(). That thread may still
  /// hold the lock, and the channel may be destroyed after the completion. Taking the lock waits
  /// until that thread has released it.
  void let_caller_go() noexcept {
    if (from_afar_) channel_base::lock const held{all_.mutex};
  }

  /// Leaves the queue. Returns false if a thread has already granted the wait by call().
  bool leave(wait_queue& line) noexcept {
    channel_base::lock const held{all_.mutex};
    if (!in_line_) return false;
    in_line_ = false;
    line.leave(*this);
    return true;
  }

  channel_base& all_;

 private:
  bool over() noexcept {
    stage_ = stage::completed;
    return true;
  }
  loop* owner_ = nullptr;
  // Guarded by the lock.
  bool in_line_ = false;
  bool from_afar_ = false;
};

}  // namespace iowq::inline v0::detail
