// SPDX-License-Identifier: BSL-1.0
// iowq/ring/detail/kernel.hpp -- the only code that enters the kernel through liburing.
//
// The second seam: a simulated kernel replaces this class and the ring above it stays the same.
// All answers are >= 0 or -errno, as liburing's raw wrappers give them.
#pragma once

#include <liburing.h>
#include <signal.h>
#include <sys/resource.h>

#include <bitset>
#include <cerrno>

#include <iowq/base/policy.hpp>

namespace iowq::inline v0::detail {

/// A ring that is not open: no descriptor, and `nothing`, which is 0, for its heads and tails.
[[nodiscard]] inline io_uring closed_ring(unsigned& nothing) noexcept {
  io_uring none{};
  none.ring_fd = none.enter_ring_fd = -1;
  none.sq.khead = none.sq.ktail = none.sq.kflags = none.cq.khead = none.cq.ktail = &nothing;
  return none;
}

/// For tests: what the running kernel has and one that is pretended lacks.
struct lacking {
  std::bitset<256> opcodes;
  unsigned setup_flags = 0;
  unsigned features = 0;
};
/// Of the rings that this thread opens; null: nothing.
inline constinit thread_local const lacking* pretended = nullptr;

/// The kernel under us, through liburing (2.3 or newer).
struct linux_kernel {
  [[nodiscard]] static time_point now() noexcept { return linux_policy::now(); }

  /// io_uring_setup(2): a descriptor.
  static int setup(unsigned entries, io_uring_params& params) noexcept {
    const lacking* const lacks = pretended;
    if (lacks != nullptr && (params.flags & lacks->setup_flags) != 0) return -EINVAL;
    int const r = ::io_uring_setup(entries, &params);
    if (lacks != nullptr) params.features &= ~lacks->features;
    return r;
  }

  /// Maps the rings of `fd` into `ring`, with SQ slots bound to SQEs of the same number.
  static int map(int fd, io_uring_params& params, io_uring& ring, bool has_array) noexcept {
    int const r = ::io_uring_queue_mmap(fd, &params, &ring);
    if (r < 0) return r;
    annotate_acquire(&mapped_);
    // Up to 2.3 the call above sets these, too; newer ones leave them to whoever calls it.
    ring.flags = params.flags;
    ring.features = params.features;
    ring.ring_fd = ring.enter_ring_fd = fd;
    // liburing 2.3 writes the array when it flushes, later ones once; we flush ourselves.
    if (has_array)
      for (unsigned i = 0; i < params.sq_entries; ++i) ring.sq.array[i] = i;
    return 0;
  }

  /// Unmaps and closes what map() made; gives the registered descriptor's slot back too.
  static void close(io_uring& ring) noexcept {
    annotate_release(&mapped_);
    ::io_uring_queue_exit(&ring);
  }

  /// Keeps the rings out of children that fork(2): a child that submitted would submit for us.
  static int dont_fork(io_uring& ring) noexcept { return ::io_uring_ring_dontfork(&ring); }

  /// io_uring_enter(2). `argument` is an io_uring_getevents_arg if flags has EXT_ARG.
  static int enter(int fd, unsigned submit, unsigned wait, unsigned flags, void* argument,
                   unsigned long size) noexcept {
    return ::io_uring_enter2(static_cast<unsigned>(fd), submit, wait, flags,
                             static_cast<sigset_t*>(argument), size);
  }

  /// Puts the ring's descriptor into the task's table of registered ones; 1, or -errno when its
  /// 16 slots are taken.
  static int register_descriptor(io_uring& ring) noexcept {
    return ::io_uring_register_ring_fd(&ring);
  }

  /// Limits the kernel's own bounded and unbounded workers of this ring; 0 keeps a limit.
  static int limit_workers(io_uring& ring, unsigned bounded, unsigned unbounded) noexcept {
    unsigned limits[2] = {bounded, unbounded};
    return ::io_uring_register_iowq_max_workers(&ring, limits);
  }

  /// Asks which opcodes there are, for `count` of them.
  static int probe(io_uring& ring, io_uring_probe& probe, unsigned count) noexcept {
    int const r = ::io_uring_register_probe(&ring, &probe, count);
    const lacking* const lacks = pretended;
    for (unsigned i = 0; lacks != nullptr && i < probe.ops_len; ++i)
      if (lacks->opcodes[probe.ops[i].op]) probe.ops[i].flags = 0;
    return r;
  }

  /// Gives the kernel a ring of buffers to choose from, and takes it back.
  static int register_buffer_ring(io_uring& ring, io_uring_buf_reg& what) noexcept {
    return ::io_uring_register_buf_ring(&ring, &what, 0);
  }
  static int unregister_buffer_ring(io_uring& ring, int group) noexcept {
    return ::io_uring_unregister_buf_ring(&ring, group);
  }

  /// Gives the kernel the ring's one table of buffers, and takes it back.
  static int register_buffers(io_uring& ring, const iovec* all, unsigned count) noexcept {
    return ::io_uring_register_buffers(&ring, all, count);
  }
  static int unregister_buffers(io_uring& ring) noexcept {
    return ::io_uring_unregister_buffers(&ring);
  }

  /// Gives the kernel the ring's one table of files, -1 for an empty slot, and takes it back.
  static int register_files(io_uring& ring, const int* all, unsigned count) noexcept {
    rlimit most{};  // liburing would raise it, for the whole process
    if (::getrlimit(RLIMIT_NOFILE, &most) == 0 && count > most.rlim_cur) return -EMFILE;
    return ::io_uring_register_files(&ring, all, count);
  }
  static int unregister_files(io_uring& ring) noexcept {
    return ::io_uring_unregister_files(&ring);
  }
  /// Another file in one slot; -1: none. 1, or -errno.
  static int update_file(io_uring& ring, unsigned slot, int file) noexcept {
    return ::io_uring_register_files_update(&ring, slot, &file, 1);
  }

 private:
  // liburing unmaps unseen by ThreadSanitizer, which would take another thread's next ring at the
  // same address for the old one.
  static inline char mapped_{};
};

}  // namespace iowq::inline v0::detail
