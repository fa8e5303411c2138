// SPDX-License-Identifier: BSL-1.0
// iowq/ring/detail/ring.hpp -- one io_uring: SQEs in, CQEs out.
//
// This class handles a full SQ, CQ overflow, EINTR and the transient errors of io_uring_enter(2).
// get() returns an SQE or null, and reap() delivers every CQE exactly once. An SQE belongs to the
// kernel from the moment it is filled. If enter() fails, the SQE is submitted by the next enter().
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <span>

#include <iowq/base/assert.hpp>
#include <iowq/base/policy.hpp>
#include <iowq/base/result.hpp>
#include <iowq/ring/detail/compat.hpp>
#include <iowq/ring/detail/cqe.hpp>
#include <iowq/ring/detail/kernel.hpp>
#include <iowq/ring/detail/registered_resource.hpp>
#include <iowq/ring/features.hpp>

namespace iowq::inline v0::detail {

/// One io_uring instance. Only the thread that opened it may use it. A closed ring has no free SQE
/// and no CQE, so callers need no is_open() check.
template <class Kernel = linux_kernel>
class basic_ring {
 public:
  basic_ring() noexcept = default;
  ~basic_ring() { close(); }

  /// Sets up a ring with `entries` SQEs (clamped to the kernel's limit), four times as many CQEs,
  /// and the best set-up flags that the kernel accepts. Then tests the ring with a NOP. Returns 0
  /// or -errno. EPERM, ENOSYS: io_uring is forbidden or missing. ENOMEM: not even a small ring fits
  /// into RLIMIT_MEMLOCK. Also EMFILE. `kernel_workers`, if not 0, limits the bounded workers of
  /// the kernel's io-wq for this ring. The unbounded workers are not limited: before Linux 6.4 a
  /// read of a pipe blocks such a worker, and the write that completes the read needs another one.
  int open(unsigned entries, unsigned kernel_workers) noexcept;

  /// Closes the ring. No request of it may be in flight.
  void close() noexcept {
    if (!is_open()) return;
    Kernel::close(ring_);
    ring_ = closed_ring(nothing_);
    next_ = end_ = sqes_ = nullptr;
    run_tail_ = mask_ = cq_mask_ = entries_ = enter_flags_ = 0;
    features_ = {};
  }

  [[nodiscard]] bool is_open() const noexcept { return ring_.ring_fd >= 0; }
  [[nodiscard]] const ring_features& features() const noexcept { return features_; }
  [[nodiscard]] const ring_stats& stats() const noexcept { return stats_; }
  [[nodiscard]] unsigned entries() const noexcept { return entries_; }
  [[nodiscard]] registrar& resources() noexcept { return resources_; }
  [[nodiscard]] int descriptor() const noexcept { return ring_.ring_fd; }

  /// Returns the next free SQE, zeroed, or null: call enter() first. The caller must fill the SQE
  /// at once, in any case: the next enter() submits it.
  [[nodiscard]] io_uring_sqe* get() noexcept { return get(head()); }

  /// As get(), but does not reuse the SQEs from number `kept` on, so that sqe() can still read
  /// them.
  [[nodiscard]] io_uring_sqe* get(unsigned kept) noexcept {
    return can_get(kept) ? try_get() : nullptr;
  }

  /// Returns true if get(kept) would return an SQE.
  [[nodiscard]] bool can_get(unsigned kept) noexcept { return next_ != end_ || find_run(kept); }

  /// As get(), but only from the run of free SQEs that an earlier get() found. If it returns null,
  /// get() may still return an SQE.
  [[nodiscard]] IOWQ_ALWAYS_INLINE io_uring_sqe* try_get() noexcept {
    if (next_ == end_) [[unlikely]]
      return nullptr;
    io_uring_sqe* const sqe = next_++;
    *sqe = io_uring_sqe{};
    return sqe;
  }
  /// Makes try_get() return null until the next get().
  void invalidate_run() noexcept {
    run_tail_ = tail();
    end_ = next_;
  }

  /// SQEs have consecutive numbers (modulo 2^32, not modulo entries()). The kernel has taken those
  /// before head(); those before tail() are filled. The kernel writes its head inside enter(), on
  /// this thread, so a plain read is current.
  [[nodiscard]] unsigned head() const noexcept { return *ring_.sq.khead; }
  [[nodiscard]] unsigned tail() const noexcept {
    return run_tail_ - static_cast<unsigned>(end_ - next_);
  }
  /// An SQE as it was filled. Valid as long as get(kept) preserves it.
  [[nodiscard]] const io_uring_sqe& sqe(unsigned number) const noexcept {
    return sqes_[number & mask_];
  }

  /// The number of SQEs that are filled and not yet taken by the kernel.
  [[nodiscard]] unsigned pending() const noexcept { return tail() - head(); }

  /// Returns true if enter() must be called even if there is nothing to submit or to wait for: CQEs
  /// overflowed, or task work waits for this thread to enter the kernel.
  [[nodiscard]] bool needs_enter() const noexcept {
    return has_flag(ignore_taskrun_for_ == 0 ? compat::sq_cq_overflow | compat::sq_taskrun
                                             : compat::sq_cq_overflow);
  }
  /// Returns true if the kernel has set the flag for task work, SQ_TASKRUN. The flag may be stale.
  [[nodiscard]] bool has_work() const noexcept { return has_flag(compat::sq_taskrun); }
  /// Called for each turn of the loop without enter(). A waker on another processor queues task
  /// work before it sets SQ_TASKRUN. If this thread ran the work in between, the flag stays set and
  /// is stale. So after an enter() without a result, needs_enter() ignores the flag for 64 such
  /// turns.
  void note_turn_without_enter() noexcept {
    if (ignore_taskrun_for_ != 0) --ignore_taskrun_for_;
  }

  /// Returns true if there are CQEs to reap().
  [[nodiscard]] bool ready() const noexcept { return cq_head() != cq_tail(); }

  /// Calls io_uring_enter(2) once: submits the pending SQEs and, with `wait`, blocks until there is
  /// a CQE or `deadline` has passed. Returns 0 or -errno: EINTR (a signal), ETIME (the deadline),
  /// EAGAIN, EBUSY or ENOMEM (reap, then retry). No SQE or CQE is lost in any case.
  int enter(bool wait, time_point deadline = never) noexcept {
    return wait && deadline != never ? enter_until(deadline) : enter(wait, 0, nullptr, _NSIG / 8);
  }

  /// CQEs are also numbered. The slots of those before cq_head() were given back to the kernel.
  [[nodiscard]] unsigned cq_head() const noexcept { return *ring_.cq.khead; }
  [[nodiscard]] const io_uring_cqe& cqe(unsigned number) const noexcept {
    return ring_.cq.cqes[number & cq_mask_];
  }
  /// The number of CQEs that have arrived and were not given back.
  [[nodiscard]] unsigned arrived() const noexcept { return cq_tail() - cq_head(); }

  /// At most `count` CQEs from `number` on, and only as many as are contiguous in memory.
  [[nodiscard]] std::span<io_uring_cqe> cqes(unsigned number, unsigned count) noexcept {
    unsigned const place = number & cq_mask_;
    return {ring_.cq.cqes + place, std::min(count, cq_mask_ + 1 - place)};
  }

  /// Gives the slots of the `count` oldest CQEs back to the kernel. They must have been read or
  /// copied.
  void give_back(unsigned count) noexcept {
    stats_.completed += count;
    // release: pairs with the kernel's read of the head. Our reads of the CQEs come before the
    // kernel writes their slots again.
    __atomic_store_n(ring_.cq.khead, cq_head() + count, __ATOMIC_RELEASE);
  }

  /// For a ring on which each user_data is a cqe_handler or 0. Passes the CQEs that have arrived to
  /// their handlers, oldest first, at most `budget`. Returns their number. Handlers may call get()
  /// and enter().
  unsigned reap(unsigned budget) noexcept {
    unsigned const all = std::min(budget, arrived());
    for (unsigned reaped = 0; reaped != all; ++reaped) {
      io_uring_cqe const cqe = this->cqe(cq_head());
      give_back(1);
      cqe_handler* const target = cqe_handler::from(cqe.user_data);
      if (target == nullptr) continue;
      annotate_acquire(target);
      target->complete(cqe.res, cqe.flags);
    }
    return all;
  }

 private:
  [[nodiscard]] bool has_flag(unsigned any) const noexcept {
    // acquire: pairs with the kernel's store of the flag, which follows the work it announces.
    return (__atomic_load_n(ring_.sq.kflags, __ATOMIC_ACQUIRE) & any) != 0;
  }
  [[nodiscard]] unsigned cq_tail() const noexcept {
    // acquire: pairs with the kernel's release; the CQEs before the tail are written.
    return __atomic_load_n(ring_.cq.ktail, __ATOMIC_ACQUIRE);
  }
  bool find_run(unsigned kept) noexcept;
  int enter_until(time_point deadline) noexcept;
  int enter(bool wait, unsigned flags, void* argument, std::size_t size) noexcept;
  int set_up(unsigned entries, unsigned flags) noexcept;
  int try_it() noexcept;

  // A run of contiguous SQEs that are known to be free, from next_ to end_.
  io_uring_sqe* next_ = nullptr;
  io_uring_sqe* end_ = nullptr;
  io_uring_sqe* sqes_ = nullptr;
  unsigned run_tail_ = 0;  // the number of the SQE at end_
  unsigned mask_ = 0, cq_mask_ = 0;
  unsigned nothing_ = 0;  // the heads and tails of a closed ring
  io_uring ring_ = closed_ring(nothing_);
  unsigned entries_ = 0;
  registrar resources_{ring_};
  unsigned ignore_taskrun_for_ = 0;  // turns for which SQ_TASKRUN is considered stale
  unsigned enter_flags_ = 0;  // for each enter(): registered descriptor, no I/O wait accounting
  ring_features features_;
  ring_stats stats_;
};
using ring = basic_ring<>;

template <class Kernel>
int basic_ring<Kernel>::set_up(unsigned entries, unsigned flags) noexcept {
  io_uring_params params{};
  params.flags = flags | compat::setup_clamp | compat::setup_cqsize;
  params.cq_entries = entries * 4;
  int const fd = Kernel::setup(entries, params);
  if (fd < 0) return fd;
  bool const has_array = (flags & compat::setup_no_sqarray) == 0;
  if (int const r = Kernel::map(fd, params, ring_, has_array); r < 0) {
    ::close(fd);
    ring_ = closed_ring(nothing_);
    return r;
  }
  entries_ = params.sq_entries;
  mask_ = params.sq_entries - 1;
  next_ = end_ = sqes_ = ring_.sq.sqes;
  run_tail_ = *ring_.sq.ktail;
  cq_mask_ = params.cq_entries - 1;
  features_.setup_flags = flags;
  features_.feature_bits = params.features;
  return 0;
}

template <class Kernel>
int basic_ring<Kernel>::open(unsigned entries, unsigned kernel_workers) noexcept {
  using namespace compat;
  IOWQ_ASSERT(!is_open(), "a ring was opened twice");
  if (entries == 0) return -EINVAL;
  // The best flags come first. A kernel that does not know a flag returns EINVAL.
  constexpr unsigned defer = setup_single_issuer | setup_defer_taskrun | setup_taskrun_flag;
  constexpr unsigned coop = setup_coop_taskrun | setup_taskrun_flag;
  constexpr unsigned choices[] = {defer | setup_submit_all | setup_no_sqarray,
                                  defer | setup_submit_all, coop | setup_submit_all, 0};
  int r = -EINVAL;
  for (unsigned const flags : choices) {
    for (unsigned size = entries;; size /= 2) {  // ENOMEM: a smaller ring may fit RLIMIT_MEMLOCK
      r = set_up(size, flags);
      if (r != -ENOMEM || size <= 8) break;
    }
    if (r != -EINVAL) break;
  }
  if (r < 0) return r;
  if (Kernel::register_descriptor(ring_) == 1) {
    features_.registered = true;
    enter_flags_ |= IORING_ENTER_REGISTERED_RING;
  }
  if (features_.has_feature(feature_no_iowait)) enter_flags_ |= enter_no_iowait;
  if (r = try_it(); r < 0) {
    close();
    return r;
  }
  static_cast<void>(Kernel::dont_fork(ring_));
  if (kernel_workers != 0) static_cast<void>(Kernel::limit_workers(ring_, kernel_workers, 0));
  features_.opcodes = probe_opcodes<Kernel>(ring_);
  features_.open = true;
  return 0;
}

/// Finds the next run when the current one is used up. A run ends at the end of the array at the
/// latest. Returns false if there is no free SQE.
template <class Kernel>
IOWQ_NOINLINE bool basic_ring<Kernel>::find_run(unsigned kept) noexcept {
  unsigned const held = std::max(run_tail_ - head(), run_tail_ - kept);
  unsigned const place = run_tail_ & mask_;
  unsigned const length = std::min(entries_ - held, entries_ - place);
  next_ = sqes_ + place;
  end_ = next_ + length;
  run_tail_ += length;
  return length != 0;
}

/// Submits one NOP and waits for it: a seccomp filter may allow io_uring_setup(2) and deny
/// io_uring_enter(2).
template <class Kernel>
int basic_ring<Kernel>::try_it() noexcept {
  io_uring_sqe* const sqe = get();
  sqe->opcode = IORING_OP_NOP;
  sqe->fd = -1;
  while (!ready())
    if (int const r = enter(true); r < 0 && r != -EINTR) return r;
  reap(1);
  stats_ = {};
  return 0;
}

template <class Kernel>
IOWQ_NOINLINE int basic_ring<Kernel>::enter_until(time_point deadline) noexcept {
  auto const left = deadline - Kernel::now();
  if (left <= time_point::duration::zero()) return enter(false);
  timespec const span = linux_policy::to_timespec(time_point{left});
  __kernel_timespec until{.tv_sec = span.tv_sec, .tv_nsec = span.tv_nsec};
  io_uring_getevents_arg argument{};
  argument.ts = reinterpret_cast<std::uintptr_t>(&until);
  return enter(true, IORING_ENTER_EXT_ARG, &argument, sizeof argument);
}

template <class Kernel>
int basic_ring<Kernel>::enter(bool wait, unsigned flags, void* argument,
                              std::size_t size) noexcept {
  // release: pairs with the kernel's acquire; the SQEs before the new tail are filled.
  __atomic_store_n(ring_.sq.ktail, tail(), __ATOMIC_RELEASE);
  ++stats_.entered;
  int const r = Kernel::enter(ring_.enter_ring_fd, pending(), wait ? 1 : 0,
                              enter_flags_ | IORING_ENTER_GETEVENTS | flags, argument, size);
  ignore_taskrun_for_ = r == 0 && !wait && !ready() ? 64 : 0;
  if (r < 0) return r;
  stats_.submitted += static_cast<unsigned>(r);
  return 0;
}

}  // namespace iowq::inline v0::detail
