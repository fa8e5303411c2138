// SPDX-License-Identifier: BSL-1.0
// iowq/exec/detail/backend_ring.hpp -- operations go through io_uring, and the loop sleeps in it.
//
// That the kernel finds nothing to cancel mostly means that it has ended already. But on its way
// from one of the kernel's hands into another a request is in neither: Linux 6.1 takes it off a
// queue of io-wq before the worker that took it has it on display, and a chain keeps what it has
// not begun where no cancel looks. And what a worker of the kernel's has in hand is "already" on
// its way: the cancel leaves it a signal, which the worker may forget before the call that then
// waits (Linux 6.1). Such a cancel is lost, and who waits for its operation to end would wait for
// ever.
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

/// Whose CQEs the answers to cancels are. Owner thread only.
class cancel_retry : public cqe_handler {
 public:
  cancel_retry() noexcept : cqe_handler{&answered} {}

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

  static void answered(cqe_handler* self, int res, std::uint32_t) noexcept {
    auto& all = *static_cast<cancel_retry*>(self);
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

/// The ring, the line of operations that found it full, and the wake-up of a sleeping owner.
/// Owner thread only, wake() excepted.
class ring_backend {
 public:
  /// Throws std::system_error if there is no descriptor for the wake-up. Not open yet: until then,
  /// and without, it finds no SQE for anybody.
  explicit ring_backend(in_flight_registry& all) : fast_path_{ring_, all} {
    int const wake = linux_policy::wake_open();
    if (wake < 0) throw_error(wake, "eventfd (raise RLIMIT_NOFILE, ulimit -n)");
    wake_fd_.reset(wake);
  }

  /// 0, or -errno of what keeps us from having a ring (ring/detail/ring.hpp); ENOSYS where the
  /// kernel's is too old for us.
  int open(unsigned entries, punt_policy punt) noexcept {
    // Kernel workers would shadow ours; one is the least the kernel allows.
    int const r = ring_.open(entries, punt == punt_policy::pool ? 1 : 0);
    if (r < 0) return r;
    // We wait with a deadline (5.11) and for more than one event of a poll, which has no bit of its
    // own and came with this one (5.13); and a kernel that names no opcodes would do none of them.
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

  /// The same for the owner of `to`, which outlives this turn, with the turn's system call. False:
  /// not from here.
  [[nodiscard]] bool message(ring_backend& to) noexcept {
    bool const can = to.is_open() && features().has(IORING_OP_MSG_RING);
    io_uring_sqe* const entry = can ? sqe() : nullptr;
    if (entry == nullptr) return false;
    entry->opcode = IORING_OP_MSG_RING;
    entry->flags = IOSQE_CQE_SKIP_SUCCESS;
    entry->fd = to.ring_.descriptor();  // its CQE there is nobody's
    entry->user_data = to.undelivered_.user_data();
    return true;
  }

  /// An SQE for an operation that nobody waits in line before; null: line_up().
  [[nodiscard]] io_uring_sqe* sqe() noexcept { return waiting_.empty() ? take_sqe() : nullptr; }

  /// Are there `n` SQEs to be had by sqe(), now and without a submission in between? Submits what
  /// is in their way.
  [[nodiscard]] bool has_room_for(std::size_t n) noexcept {
    if (!waiting_.empty() || n > ring_.entries()) return false;
    auto const room = [this] {
      unsigned const tail = ring_.tail();
      return ring_.entries() - std::max(tail - ring_.head(), tail - fast_path_.first());
    };
    if (room() < n) {
      static_cast<void>(ring_.enter(false));  // an error shows again at the end of the turn
      fast_path_.release_cqes();
    }
    return room() >= n;
  }

  /// The same while the ring is open to all, which it is not while a stop is on or anyone waits
  /// in line; null: ask anew, by sqe().
  [[nodiscard]] IOWQ_ALWAYS_INLINE io_uring_sqe* try_sqe() noexcept { return ring_.try_get(); }
  /// After a null try_sqe(): is it worth another?
  [[nodiscard]] bool can_get_sqe() noexcept {
    return open_to_all_ && waiting_.empty() && ring_.can_get(fast_path_.first());
  }
  void open_to_all(bool open) noexcept {
    open_to_all_ = open && is_open();
    if (!open) ring_.invalidate_run();
  }

  /// Submits what there is to make room for `op`, or puts it into the line for the SQ.
  IOWQ_NOINLINE void line_up(operation_base& op) noexcept {
    op.stage_ = stage::waiting;
    waiting_.push_back(op);
    drain_waiting();
  }

  /// Asks the kernel to end `op`, which is in its hands. The operation still ends by its own CQE.
  void cancel(operation_base& op, bool again = false) noexcept {
    if (op.is(operation_base::cancel_sent) && !again) return;
    if (!op.is(operation_base::cancel_sent)) cancel_retry_.begin();
    // The next of a chain is begun by work that the kernel may have put off, and not found before.
    if (op.is(operation_base::has_callback) && ring_.has_work()) {
      fast_path_.release_cqes();
      static_cast<void>(ring_.enter(false));  // an error shows again at the end of the turn
    }
    io_uring_sqe* const sqe = sqe_or_submit();
    if (sqe == nullptr) {
      cancels_wait_ = true;  // pump() asks for them again
      return;
    }
    op.set(operation_base::cancel_sent);
    sqe->opcode = IORING_OP_ASYNC_CANCEL;
    sqe->fd = -1;
    sqe->addr = user_data_tag::of(
        op, op.is(operation_base::was_tracked_late) ? user_data_tag::untracked : 0);
    sqe->user_data = cancel_retry_.user_data();
  }

  /// Takes those that waited in line for an SQE and shall be cancelled: they never begin.
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
  /// Those that wait are asked for now. True: and those that were asked for.
  [[nodiscard]] bool ask_again() noexcept {
    return cancels_wait_ = false, cancel_retry_.take_due();
  }

  /// Is there a CQE to reap without asking the kernel?
  [[nodiscard]] bool ready() const noexcept { return ring_.ready(); }
  /// Has the kernel something that it cannot give without being asked?
  [[nodiscard]] bool needs_enter() const noexcept { return ring_.needs_enter(); }
  /// Are there SQEs to submit?
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

  /// Ends what the kernel has done, `budget` operations at most. `after()` runs behind each.
  template <class After>
  IOWQ_ALWAYS_INLINE void reap(unsigned budget, After&& after) noexcept {
    if (fast_path_.reap(budget, after) != 0) starved_ = {};
  }

  /// The operations that are in the kernel's hands and not in the census.
  [[nodiscard]] const fast_path& fast() const noexcept { return fast_path_; }
  /// There are none any more.
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

  /// A message that another ring could not bring here. On that ring's thread.
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

  /// The next SQE. The SQEs of the young are left alone, unless all are.
  IOWQ_NOINLINE io_uring_sqe* take_sqe() noexcept {
    io_uring_sqe* sqe = ring_.get(fast_path_.first());
    if (sqe == nullptr) {
      fast_path_.release_cqes();
      sqe = ring_.get(fast_path_.first());
    }
    if (!open_to_all_ || !waiting_.empty()) ring_.invalidate_run();
    return sqe;
  }

  /// An SQE; where the SQ is full, what it holds is submitted first. Null: the kernel takes none.
  [[nodiscard]] io_uring_sqe* sqe_or_submit() noexcept {
    io_uring_sqe* sqe = take_sqe();
    if (sqe != nullptr) [[likely]]
      return sqe;
    fast_path_.release_cqes();  // the kernel may need the CQ's room
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
  /// Poll events as an SQE holds them.
  [[nodiscard]] static constexpr std::uint32_t poll_mask(std::uint32_t events) noexcept {
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return (events >> 16) | (events << 16);
#else
    return events;
#endif
  }

 private:
  /// The kernel is out of something. What it holds is kept; completions free it. Until there is
  /// one, sleep a little longer each time instead of spinning, but not through a wake().
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
      waiting_;                // operations for which there was no SQE, first come, first served
  bool cancels_wait_ = false;  // a cancel found no SQE either
  cancel_retry cancel_retry_;
  bool open_to_all_ = false;
  std::chrono::milliseconds starved_{};
};

}  // namespace iowq::inline v0::detail
