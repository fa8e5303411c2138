// SPDX-License-Identifier: BSL-1.0
// iowq/exec/detail/backend_ring.hpp -- operations go through io_uring, and the loop sleeps in it.
//
// A cancel that finds nothing (ENOENT) usually means that the request has completed. But a request
// may be between two of the kernel's queues and in neither. Linux 6.1 removes a request from
// io-wq's queue before it publishes it as the worker's current item, and a chain keeps the requests
// that it has not begun where no cancel looks. A cancel of a request that a kernel worker executes
// reports EALREADY and leaves the worker a signal, which the worker may drop before the call that
// then blocks (Linux 6.1). Such a cancel is lost, and the await would never end. So cancels with
// these results are repeated.
#pragma once

#include <poll.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include <iowq/base/fd.hpp>
#include <iowq/base/policy.hpp>
#include <iowq/base/result.hpp>
#include <iowq/exec/detail/fast_path.hpp>
#include <iowq/exec/detail/operation_base.hpp>
#include <iowq/queue/intrusive_queue.hpp>
#include <iowq/ring/detail/cqe.hpp>
#include <iowq/ring/detail/ring.hpp>

namespace iowq::inline v0::detail {

/// Receives the CQEs of all cancels, and decides when to repeat them. Owner thread only.
class cancel_retry : public cqe_handler {
 public:
  cancel_retry() noexcept : cqe_handler{&answered} {}

  /// Call when an operation is cancelled for the first time.
  void begin() noexcept { delay_ = first; }
  /// When to repeat the cancels; `never` if none was missed.
  [[nodiscard]] time_point due() const noexcept { return due_; }
  [[nodiscard]] bool is_due() const noexcept {
    return due_ != never && linux_policy::now() >= due_;
  }
  /// Returns true once when the retry is due, and clears it.
  [[nodiscard]] bool take_due() noexcept {
    if (!is_due()) return false;
    due_ = never;
    return true;
  }

 private:
  using duration = std::chrono::milliseconds;
  static constexpr duration first{1}, last{64};

  static void answered(cqe_handler* self, int res, std::uint32_t) noexcept {
    auto& all = *static_cast<cancel_retry*>(self);
    if (res != -ENOENT && res != -EALREADY) return;
    // A second retry is rare. If it is needed, as for a disk that does not answer, the delay
    // doubles.
    time_point const next = linux_policy::now() + all.delay_;
    if (next >= all.due_) return;
    all.due_ = next;
    all.delay_ = std::min(2 * all.delay_, last);
  }

  time_point due_ = never;
  duration delay_ = first;
};

/// The ring, the queue of operations that found it full, and the wake-up of a sleeping owner. Owner
/// thread only, except wake().
class ring_backend {
 public:
  /// Throws std::system_error if there is no descriptor for the wake-up. The ring is not open yet:
  /// as long as it is not, this class never returns an SQE.
  explicit ring_backend(in_flight_registry& all) : fast_path_{ring_, all} {
    int const wake = linux_policy::wake_open();
    if (wake < 0) throw_error(wake, "eventfd (raise RLIMIT_NOFILE, ulimit -n)");
    wake_fd_.reset(wake);
  }

  /// Opens the ring. Returns 0, or -errno if that fails (ring/detail/ring.hpp); ENOSYS if the
  /// kernel's io_uring is too old.
  int open(unsigned entries, punt_policy punt) noexcept {
    // The kernel's own workers would duplicate ours. One is the least that the kernel allows.
    int const r = ring_.open(entries, punt == punt_policy::pool ? 1 : 0);
    if (r < 0) return r;
    // We wait with a deadline (5.11) and for more than one event of a poll. The latter has no
    // feature bit and came with RSRC_TAGS (5.13). A kernel that reports no opcodes would execute
    // none of them.
    if (!ring_.features().has_feature(IORING_FEAT_EXT_ARG) ||
        !ring_.features().has_feature(IORING_FEAT_RSRC_TAGS) ||
        !ring_.features().has(IORING_OP_POLL_ADD)) {
      ring_.close();
      return -ENOSYS;
    }
    waker_.owner = undelivered_.owner = this;
    fast_path_.begin();
    open_to_all_ = true;
    return 0;
  }
  [[nodiscard]] bool is_open() const noexcept { return ring_.is_open(); }

  [[nodiscard]] const ring_features& features() const noexcept { return ring_.features(); }
  [[nodiscard]] const ring_stats& stats() const noexcept { return ring_.stats(); }

  [[nodiscard]] int wake_descriptor() const noexcept { return wake_fd_.get(); }
  [[nodiscard]] registrar& resources() noexcept { return ring_.resources(); }

  /// Any thread and signal handlers: ends the owner's sleep, now or when it next begins.
  void wake() const noexcept { linux_policy::wake_ring(wake_fd_.get()); }

  /// Wakes the owner of `to`, which must outlive this turn, with this turn's system call. False:
  /// this ring or `to` cannot.
  [[nodiscard]] bool message(ring_backend& to) noexcept {
    bool const can = to.is_open() && features().has(IORING_OP_MSG_RING);
    io_uring_sqe* const entry = can ? sqe() : nullptr;
    if (entry == nullptr) return false;
    entry->opcode = IORING_OP_MSG_RING;
    entry->flags = IOSQE_CQE_SKIP_SUCCESS;
    entry->fd = to.ring_.descriptor();  // its CQE there has no handler
    entry->user_data = to.undelivered_.user_data();
    return true;
  }

  /// Returns an SQE, or null if other operations wait for one or there is no room: then call
  /// line_up().
  [[nodiscard]] io_uring_sqe* sqe() noexcept { return waiting_.empty() ? take_sqe() : nullptr; }

  /// Returns true if sqe() can now return `n` SQEs without a submission in between. First submits
  /// the pending SQEs if they take up that room.
  [[nodiscard]] bool has_room_for(std::size_t n) noexcept {
    if (!waiting_.empty() || n > ring_.entries()) return false;
    auto const room = [this] {
      unsigned const tail = ring_.tail();
      return ring_.entries() - std::max(tail - ring_.head(), tail - fast_path_.first());
    };
    if (room() < n) {
      static_cast<void>(ring_.enter(false));  // an error recurs at the end of the turn
      fast_path_.release_cqes();
    }
    return room() >= n;
  }

  /// As sqe(), but only while the ring is open to all: not after a stop request, and not while
  /// operations wait for an SQE. Null does not mean that sqe() fails.
  [[nodiscard]] IOWQ_ALWAYS_INLINE io_uring_sqe* try_sqe() noexcept { return ring_.try_get(); }
  /// After try_sqe() returned null: returns true if a second call can succeed.
  [[nodiscard]] bool can_get_sqe() noexcept {
    return open_to_all_ && waiting_.empty() && ring_.can_get(fast_path_.first());
  }
  void open_to_all(bool open) noexcept {
    open_to_all_ = open && is_open();
    if (!open) ring_.invalidate_run();
  }

  /// Queues `op` until it gets an SQE, and submits the pending SQEs to make room.
  IOWQ_NOINLINE void line_up(operation_base& op) noexcept {
    op.stage_ = stage::waiting;
    waiting_.push_back(op);
    drain_waiting();
  }

  /// Asks the kernel to cancel `op`, which it has. The operation still completes by its own CQE.
  void cancel(operation_base& op, bool again = false) noexcept {
    if (op.is(operation_base::cancel_sent) && !again) return;
    if (!op.is(operation_base::cancel_sent)) cancel_retry_.begin();
    // The kernel may start the next request of a chain in deferred work. Before that work ran, a
    // cancel does not find the request.
    if (op.is(operation_base::has_callback) && ring_.has_work()) {
      fast_path_.release_cqes();
      static_cast<void>(ring_.enter(false));  // an error recurs at the end of the turn
    }
    io_uring_sqe* const sqe = sqe_or_submit();
    if (sqe == nullptr) {
      cancels_wait_ = true;  // loop::cancel_again() repeats them
      return;
    }
    op.set(operation_base::cancel_sent);
    sqe->opcode = IORING_OP_ASYNC_CANCEL;
    sqe->fd = -1;
    sqe->addr = user_data_tag::of(
        op, op.is(operation_base::was_tracked_late) ? user_data_tag::untracked : 0);
    sqe->user_data = cancel_retry_.user_data();
  }

  /// Removes the cancelled operations from the queue for an SQE: they never begin.
  template <class Take>
  void drop_cancelled(Take&& take) noexcept {
    waiting_.extract(
        [](loop_item& i) {
          return static_cast<operation_base&>(i).is(operation_base::cancel_wanted);
        },
        [&](loop_item& i) { take(static_cast<operation_base&>(i)); });
  }

  [[nodiscard]] bool cancels_wait() const noexcept {
    return cancels_wait_ || cancel_retry_.is_due();
  }
  /// The caller now repeats the cancels that found no SQE. True: and the cancels that were already
  /// sent.
  [[nodiscard]] bool ask_again() noexcept {
    return cancels_wait_ = false, cancel_retry_.take_due();
  }

  /// Returns true if there is a CQE to reap without a system call.
  [[nodiscard]] bool ready() const noexcept { return ring_.ready(); }
  /// Returns true if the kernel has completions that it only delivers in a system call.
  [[nodiscard]] bool needs_enter() const noexcept { return ring_.needs_enter(); }
  /// Returns true if there are SQEs to submit.
  [[nodiscard]] bool pending() const noexcept { return ring_.pending() != 0; }

  /// The system call of a turn: submits, and with `sleep` waits for a CQE, a wake() or `deadline`.
  void enter(bool sleep, time_point deadline) noexcept {
    if (!waker_.armed) arm_waker();
    drain_waiting();
    if (!sleep && ring_.pending() == 0 && !ring_.needs_enter())
      return ring_.note_turn_without_enter();
    int const r = ring_.enter(sleep && waker_.armed, std::min(deadline, cancel_retry_.due()));
    if (r == -EAGAIN || r == -EBUSY || r == -ENOMEM)
      starve();
    else if (r < 0 && r != -EINTR && r != -ETIME)
      broken(r);
  }

  /// Completes the operations that have a CQE, at most `budget` CQEs. Calls `after()` after each.
  template <class After>
  IOWQ_ALWAYS_INLINE void reap(unsigned budget, After&& after) noexcept {
    if (fast_path_.reap(budget, after) != 0) starved_ = {};
  }

  /// The operations that the kernel has and that are not in the registry.
  [[nodiscard]] const fast_path& fast() const noexcept { return fast_path_; }
  /// Registers all of those operations.
  void track_all() noexcept { fast_path_.track_all(); }

 private:
  struct waker : cqe_handler {
    waker() noexcept : cqe_handler{&rung} {}
    static void rung(cqe_handler* self, int, std::uint32_t flags) noexcept {
      if ((flags & IORING_CQE_F_MORE) == 0) static_cast<waker*>(self)->armed = false;
    }
    ring_backend* owner = nullptr;
    bool armed = false;
  };

  /// The handler of a message that another ring could not deliver here. Runs on that ring's thread.
  struct undelivered : cqe_handler {
    undelivered() noexcept : cqe_handler{&failed} {}
    static void failed(cqe_handler* self, int, std::uint32_t) noexcept {
      static_cast<undelivered*>(self)->owner->wake();
    }
    ring_backend* owner = nullptr;
  };

  static void fill(operation_base& op, io_uring_sqe& sqe) noexcept {
    op.stage_ = stage::ring;
    op.kind_->prepare(op, sqe);
    sqe.user_data = user_data_tag::of(op);
    annotate_release(&op);
  }

  /// Returns the next free SQE, or null. Never overwrites the SQE of an untracked operation: if no
  /// other SQE is free, release_cqes() registers such operations first.
  IOWQ_NOINLINE io_uring_sqe* take_sqe() noexcept {
    io_uring_sqe* sqe = ring_.get(fast_path_.first());
    if (sqe == nullptr) {
      fast_path_.release_cqes();
      sqe = ring_.get(fast_path_.first());
    }
    if (!open_to_all_ || !waiting_.empty()) ring_.invalidate_run();
    return sqe;
  }

  /// Returns an SQE. If the SQ is full, submits it first. Null: the kernel accepts no SQE.
  [[nodiscard]] io_uring_sqe* sqe_or_submit() noexcept {
    io_uring_sqe* sqe = take_sqe();
    if (sqe != nullptr) [[likely]]
      return sqe;
    fast_path_.release_cqes();  // the kernel may need room in the CQ
    if (int const r = ring_.enter(false);
        r < 0 && r != -EINTR && r != -EAGAIN && r != -EBUSY && r != -ENOMEM)
      broken(r);
    return take_sqe();
  }

  void drain_waiting() noexcept {
    while (loop_item* const first = waiting_.front()) {
      io_uring_sqe* const sqe = sqe_or_submit();
      if (sqe == nullptr) return;
      waiting_.pop_front();
      fill(static_cast<operation_base&>(*first), *sqe);
    }
  }

  /// A multishot, edge-triggered poll of an eventfd that is never read: one write, one CQE.
  void arm_waker() noexcept {
    io_uring_sqe* const sqe = sqe_or_submit();
    if (sqe == nullptr) return;
    waker_.armed = true;
    sqe->opcode = IORING_OP_POLL_ADD;
    sqe->fd = wake_fd_.get();
    sqe->len = IORING_POLL_ADD_MULTI;
    sqe->poll32_events = poll_mask(POLLIN | EPOLLET);
    sqe->user_data = waker_.user_data();
    annotate_release(static_cast<cqe_handler*>(&waker_));
  }

 public:
  /// Poll events in the byte order of an SQE.
  [[nodiscard]] static constexpr std::uint32_t poll_mask(std::uint32_t events) noexcept {
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return (events >> 16) | (events << 16);
#else
    return events;
#endif
  }

 private:
  /// The kernel lacks some resource. The ring keeps its SQEs, and completions free the resource.
  /// Until there is a completion, sleep 1 ms, doubled up to 64 ms, instead of spinning. The sleep
  /// is on wake_fd_, so that a wake() is not slept through.
  IOWQ_COLD void starve() noexcept {
    if (ring_.ready()) return;
    using std::chrono::milliseconds;
    starved_ =
        starved_ == milliseconds{} ? milliseconds{1} : std::min(starved_ * 2, milliseconds{64});
    pollfd wake{.fd = wake_fd_.get(), .events = 0, .revents = 0};
    ::poll(&wake, 0, static_cast<int>(starved_.count()));
  }

  [[noreturn]] IOWQ_COLD static void broken(int r) noexcept {
    std::fprintf(stderr, "iowq: io_uring_enter: %s\n", to_error(r).message().c_str());
    assertion_failed("io_uring_enter() >= 0",
                     "the ring cannot be entered any more, with operations in flight", __FILE__,
                     __LINE__);
  }

  fd wake_fd_;
  ring ring_;
  fast_path fast_path_;
  waker waker_;
  undelivered undelivered_;
  intrusive_queue<&loop_item::next>
      waiting_;                // operations that found no SQE, first come, first served
  bool cancels_wait_ = false;  // a cancel found no SQE
  cancel_retry cancel_retry_;
  bool open_to_all_ = false;
  std::chrono::milliseconds starved_{};
};

}  // namespace iowq::inline v0::detail
