// SPDX-License-Identifier: BSL-1.0
// iowq/ring/ring.hpp -- SQEs in, CQEs out, one system call a turn.
// Layer ring; needs base. Next in the book: pool/topology.hpp.
//
// SQ full, CQ overflow, EINTR and the transient errors of io_uring_enter end here: whoever asks
// for an SQE gets one or null, whoever reaps gets every CQE exactly once. An SQE belongs to the
// kernel from the moment it is filled; an enter that fails keeps it for the next.
#pragma once

#include <cerrno>
#include <cstdint>
#include <utility>

#include <iowq/base/assert.hpp>
#include <iowq/base/policy.hpp>
#include <iowq/base/result.hpp>
#include <iowq/ring/compat.hpp>
#include <iowq/ring/completion.hpp>
#include <iowq/ring/features.hpp>
#include <iowq/ring/kernel.hpp>

namespace iowq {

/// What a ring counted.
struct ring_stats {
  std::uint64_t submitted = 0;  // SQEs the kernel took
  std::uint64_t entered = 0;    // io_uring_enter calls
  std::uint64_t completed = 0;  // CQEs
};

struct nothing_after {
  void operator()() const noexcept {}
};

/// One io_uring instance. Everything on the thread that opened it.
template <class Kernel = linux_kernel>
class basic_ring {
 public:
  basic_ring() noexcept = default;
  basic_ring(const basic_ring&) = delete;
  basic_ring& operator=(const basic_ring&) = delete;
  ~basic_ring() {
    if (is_open()) Kernel::close(ring_);
  }

  /// Sets up a ring with room for `entries` SQEs (clamped to what the kernel allows) and four
  /// times as many CQEs, with the best flags the kernel grants, and tries it. 0 or -errno:
  /// EPERM and ENOSYS where io_uring is forbidden or absent, ENOMEM when not even a small ring
  /// fits into RLIMIT_MEMLOCK, EMFILE. The kernel's own workers are limited to `kernel_workers`
  /// of each kind; 0 leaves its default.
  int open(unsigned entries, unsigned kernel_workers) noexcept;

  [[nodiscard]] bool is_open() const noexcept { return ring_.ring_fd >= 0; }
  [[nodiscard]] const ring_features& features() const noexcept { return features_; }
  [[nodiscard]] const ring_stats& stats() const noexcept { return stats_; }

  /// The next free SQE, zeroed, or null: enter() first. To be filled at once, whatever happens.
  [[nodiscard]] IOWQ_ALWAYS_INLINE io_uring_sqe* get() noexcept {
    if (room_ == 0) [[unlikely]] {
      // The kernel writes khead inside enter(), on this thread: a plain read is current.
      room_ = entries_ - pending();
      if (room_ == 0) return nullptr;
    }
    --room_;
    io_uring_sqe* const sqe = &sqes_[tail_++ & mask_];
    *sqe = io_uring_sqe{};
    return sqe;
  }

  /// SQEs filled and not yet taken by the kernel.
  [[nodiscard]] unsigned pending() const noexcept { return tail_ - *ring_.sq.khead; }

  /// Must enter() be called although nothing is submitted or awaited? CQEs overflowed, or
  /// completions wait for this thread to let the kernel finish them.
  [[nodiscard]] bool needs_enter() const noexcept {
    // acquire: pairs with the kernel's store of the flag after the work it announces.
    unsigned const flags = __atomic_load_n(ring_.sq.kflags, __ATOMIC_ACQUIRE);
    return (flags & (unheeded_ == 0 ? compat::sq_cq_overflow | compat::sq_taskrun
                                    : compat::sq_cq_overflow)) != 0;
  }
  /// A turn was made without enter(). Who wakes us on another processor queues its work first and
  /// raises the flag then: if we did the work in between, the flag stays up and means nothing.
  /// So after it has called us in vain, it is looked at only every so often.
  void passed() noexcept {
    if (unheeded_ != 0) --unheeded_;
  }

  /// Are there CQEs to reap()?
  [[nodiscard]] bool ready() const noexcept { return *ring_.cq.khead != cq_tail(); }

  /// One io_uring_enter: submits what is pending; with `wait`, sleeps until a CQE has come or
  /// `deadline` passed. 0, or -errno of what kept it from doing so: EINTR (a signal), ETIME (the
  /// deadline), EAGAIN, EBUSY, ENOMEM (reap, and try again). Nothing is lost in any case.
  int enter(bool wait, time_point deadline = never) noexcept;

  /// Hands every CQE that has arrived to its completion, oldest first, at most `budget`; how
  /// many. Completions may get() and enter(). `after()` is called behind each.
  template <class After = nothing_after>
  unsigned reap(unsigned budget, After&& after = {}) noexcept {
    unsigned reaped = 0;
    unsigned head = *ring_.cq.khead;
    for (unsigned end = cq_tail(); head != end && reaped < budget; ++reaped) {
      io_uring_cqe const& cqe = ring_.cq.cqes[head & cq_mask_];
      completion* const target = completion::from(cqe.user_data);
      int const res = cqe.res;
      std::uint32_t const flags = cqe.flags;
      // The slot is given back before the call, which may enter() and need it.
      // release: our reads of the CQE come before the kernel may write the slot again.
      __atomic_store_n(ring_.cq.khead, ++head, __ATOMIC_RELEASE);
      if (target != nullptr) {
        detail::annotate_acquire(target);
        target->complete(res, flags);
        after();
      }
    }
    stats_.completed += reaped;
    return reaped;
  }

 private:
  [[nodiscard]] unsigned cq_tail() const noexcept {
    // acquire: pairs with the kernel's release; the CQEs before it are written.
    return __atomic_load_n(ring_.cq.ktail, __ATOMIC_ACQUIRE);
  }
  int set_up(unsigned entries, unsigned flags) noexcept;
  int try_it() noexcept;

  [[nodiscard]] static io_uring closed() noexcept {
    io_uring none{};
    none.ring_fd = none.enter_ring_fd = -1;
    return none;
  }

  io_uring_sqe* sqes_ = nullptr;
  unsigned tail_ = 0;  // of the SQ: as we fill it, ahead of what the kernel has been shown
  unsigned mask_ = 0;
  unsigned room_ = 0;  // SQEs free for sure; counted anew when there are none
  unsigned cq_mask_ = 0;
  io_uring ring_ = closed();
  unsigned entries_ = 0;
  unsigned unheeded_ = 0;     // turns for which a raised flag is taken for a stale one
  unsigned enter_flags_ = 0;  // for every call: registered descriptor, no I/O wait accounting
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
    ring_ = closed();
    return r;
  }
  entries_ = params.sq_entries;
  mask_ = params.sq_entries - 1;
  sqes_ = ring_.sq.sqes;
  tail_ = *ring_.sq.ktail;
  room_ = 0;
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
  // Best first; a kernel refuses flags it does not know with EINVAL.
  constexpr unsigned defer = setup_single_issuer | setup_defer_taskrun | setup_taskrun_flag;
  constexpr unsigned coop = setup_coop_taskrun | setup_taskrun_flag;
  constexpr unsigned choices[] = {
      defer | setup_submit_all | setup_no_sqarray,
      defer | setup_submit_all,
      coop | setup_submit_all,
      0,
  };
  int r = -EINVAL;
  for (unsigned const flags : choices) {
    for (unsigned size = entries;; size /= 2) {  // ENOMEM: less may fit into RLIMIT_MEMLOCK
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
    Kernel::close(ring_);
    ring_ = closed();
    return r;
  }
  static_cast<void>(Kernel::dont_fork(ring_));
  if (kernel_workers != 0)
    static_cast<void>(Kernel::limit_workers(ring_, kernel_workers, kernel_workers));
  features_.opcodes = detail::probe_opcodes<Kernel>(ring_);
  return 0;
}

/// A seccomp filter may allow the set-up and deny the use: send one NOP through.
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
int basic_ring<Kernel>::enter(bool wait, time_point deadline) noexcept {
  // release: pairs with the kernel's acquire; the SQEs behind the old tail are filled.
  __atomic_store_n(ring_.sq.ktail, tail_, __ATOMIC_RELEASE);
  unsigned const submit = pending();
  unsigned flags = enter_flags_ | IORING_ENTER_GETEVENTS;
  io_uring_getevents_arg argument{};
  __kernel_timespec until{};
  void* extra = nullptr;
  std::size_t size = _NSIG / 8;
  if (wait && deadline != never) {
    auto const left = deadline - Kernel::now();
    if (left <= time_point::duration::zero()) {
      wait = false;
    } else {
      timespec const span = linux_policy::to_timespec(time_point{left});
      until.tv_sec = span.tv_sec;
      until.tv_nsec = span.tv_nsec;
      argument.ts = reinterpret_cast<std::uintptr_t>(&until);
      extra = &argument;
      size = sizeof argument;
      flags |= IORING_ENTER_EXT_ARG;
    }
  }
  ++stats_.entered;
  int const r = Kernel::enter(ring_.enter_ring_fd, submit, wait ? 1 : 0, flags, extra, size);
  unheeded_ = r == 0 && !wait && !ready() ? 64 : 0;
  if (r < 0) return r;
  stats_.submitted += static_cast<unsigned>(r);
  return 0;
}

}  // namespace iowq
