// SPDX-License-Identifier: BSL-1.0
// iowq/sync/detail/channel_wait.hpp -- waits of a channel, across threads.
#pragma once

#include <cerrno>
#include <source_location>
#include <utility>

#include <iowq/base/assert.hpp>
#include <iowq/base/policy.hpp>
#include <iowq/sync/detail/waiter.hpp>

namespace iowq::inline v0::detail {

/// What does not depend on the type of the values.
struct channel_base {
  using lock = linux_policy::lock;

  /// Every so many awaits that need not wait go around the loop all the same: else a busy other
  /// side would keep everything else on this thread from its turn.
  static constexpr unsigned budget = 64;

  mutable linux_policy::mutex mutex;
  // Under `mutex`.
  wait_queue senders;    // none while there is room, or a receiver
  wait_queue receivers;  // none while there is a value, or a sender
  bool closed = false;
  unsigned complete_inline = 0;
};

/// A send or a recv. It is its owner's, but for what is marked, which is under the channel's lock.
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

  /// Begins, under the lock, by `done(self)`: true if it need not wait. False: it is over.
  template <class Done>
  bool begin(stop_token token, wait_queue& line, Done&& done) noexcept {
    loop& here = loop::current();
    bool ambient = token == here.ambient();
    owner_ = &here;
    stage_ = stage::sync_wait;
    {
      channel_base::lock const held{all_.mutex};
      if (done()) {
        if (++all_.complete_inline % channel_base::budget != 0) return !over();
        stage_ = stage::ready;
        here.ready(*this);
        ambient = true;  // a stop would come too late: it is not registered
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

  /// The lock is held, by any thread; *this has left the line.
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

  /// Before the end: who called still holds the lock, of a channel that may be gone after this.
  void let_caller_go() noexcept {
    if (from_afar_) channel_base::lock const held{all_.mutex};
  }

  /// Unless it was called already, by whatever thread.
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
  // Under the lock.
  bool in_line_ = false;
  bool from_afar_ = false;
};

}  // namespace iowq::inline v0::detail
