// SPDX-License-Identifier: BSL-1.0
// iowq/ring/detail/kernel.hpp -- the only code that enters the kernel through liburing.
//
// Tests can replace linux_kernel by a simulated kernel, without a change to the ring. (The other
// class that tests replace is linux_policy in base/policy.hpp.) All functions return a value >= 0
// or -errno, as liburing's raw wrappers do.
#pragma once

#include <liburing.h>
#include <signal.h>
#include <sys/resource.h>

#include <bitset>
#include <cerrno>

#include <iowq/base/policy.hpp>

namespace iowq::inline v0::detail {

/// A ring that is not open: it has no descriptor, and its heads and tails refer to `nothing`, which
/// is 0.
[[nodiscard]] inline io_uring closed_ring(unsigned& nothing) noexcept {
  io_uring none{};
  none.ring_fd = none.enter_ring_fd = -1;
  none.sq.khead = none.sq.ktail = none.sq.kflags = none.cq.khead = none.cq.ktail = &nothing;
  return none;
}

/// For tests: features that the running kernel has but that the library must see as missing.
struct lacking {
  std::bitset<256> opcodes;
  unsigned setup_flags = 0;
  unsigned features = 0;
};
/// The features missing from the rings that this thread opens. Null: none are missing.
inline constinit thread_local const lacking* pretended = nullptr;

/// The running kernel, through liburing (2.3 or newer).
struct linux_kernel {
  [[nodiscard]] static time_point now() noexcept { return linux_policy::now(); }

  /// io_uring_setup(2). Returns a descriptor or -errno.
  static int setup(unsigned entries, io_uring_params& params) noexcept {
    const lacking* const lacks = pretended;
    if (lacks != nullptr && (params.flags & lacks->setup_flags) != 0) return -EINVAL;
    int const r = ::io_uring_setup(entries, &params);
    if (lacks != nullptr) params.features &= ~lacks->features;
    return r;
  }

  /// Maps the rings of `fd` into `ring`. Each SQ slot refers to the SQE of the same number.
  static int map(int fd, io_uring_params& params, io_uring& ring, bool has_array) noexcept {
    int const r = ::io_uring_queue_mmap(fd, &params, &ring);
    if (r < 0) return r;
    annotate_acquire(&mapped_);
    // Up to liburing 2.3 the call above also sets these; in newer versions the caller sets them.
    ring.flags = params.flags;
    ring.features = params.features;
    ring.ring_fd = ring.enter_ring_fd = fd;
    // liburing 2.3 writes the array at each flush, newer versions once. We do not use its flush.
    if (has_array)
      for (unsigned i = 0; i < params.sq_entries; ++i) ring.sq.array[i] = i;
    return 0;
  }

  /// Unmaps and closes a ring that map() mapped, and unregisters its registered descriptor.
  static void close(io_uring& ring) noexcept {
    annotate_release(&mapped_);
    ::io_uring_queue_exit(&ring);
  }

  /// Unmaps the rings in children of fork(2). A child that submitted would submit our requests.
  static int dont_fork(io_uring& ring) noexcept { return ::io_uring_ring_dontfork(&ring); }

  /// io_uring_enter(2). `argument` is an io_uring_getevents_arg if flags has EXT_ARG.
  static int enter(int fd, unsigned submit, unsigned wait, unsigned flags, void* argument,
                   unsigned long size) noexcept {
    return ::io_uring_enter2(static_cast<unsigned>(fd), submit, wait, flags,
                             static_cast<sigset_t*>(argument), size);
  }

  /// Registers the ring's descriptor in the task's table of ring descriptors. Returns 1, or -errno
  /// if the 16 slots of that table are taken.
  static int register_descriptor(io_uring& ring) noexcept {
    return ::io_uring_register_ring_fd(&ring);
  }

  /// Limits the bounded and unbounded workers of the kernel's io-wq for this ring. 0 leaves a limit
  /// as it is.
  static int limit_workers(io_uring& ring, unsigned bounded, unsigned unbounded) noexcept {
    unsigned limits[2] = {bounded, unbounded};
    return ::io_uring_register_iowq_max_workers(&ring, limits);
  }

  /// Asks the kernel which of the first `count` opcodes it supports.
  static int probe(io_uring& ring, io_uring_probe& probe, unsigned count) noexcept {
    int const r = ::io_uring_register_probe(&ring, &probe, count);
    const lacking* const lacks = pretended;
    for (unsigned i = 0; lacks != nullptr && i < probe.ops_len; ++i)
      if (lacks->opcodes[probe.ops[i].op]) probe.ops[i].flags = 0;
    return r;
  }

  /// Registers, and unregisters, a ring of provided buffers.
  static int register_buffer_ring(io_uring& ring, io_uring_buf_reg& what) noexcept {
    return ::io_uring_register_buf_ring(&ring, &what, 0);
  }
  static int unregister_buffer_ring(io_uring& ring, int group) noexcept {
    return ::io_uring_unregister_buf_ring(&ring, group);
  }

  /// Registers, and unregisters, the ring's only table of registered buffers.
  static int register_buffers(io_uring& ring, const iovec* all, unsigned count) noexcept {
    return ::io_uring_register_buffers(&ring, all, count);
  }
  static int unregister_buffers(io_uring& ring) noexcept {
    return ::io_uring_unregister_buffers(&ring);
  }

  /// Registers, and unregisters, the ring's only table of registered files; -1 is an empty slot.
  static int register_files(io_uring& ring, const int* all, unsigned count) noexcept {
    rlimit most{};  // liburing would raise the limit, for the whole process
    if (::getrlimit(RLIMIT_NOFILE, &most) == 0 && count > most.rlim_cur) return -EMFILE;
    return ::io_uring_register_files(&ring, all, count);
  }
  static int unregister_files(io_uring& ring) noexcept {
    return ::io_uring_unregister_files(&ring);
  }
  /// Replaces the file in one slot; -1 empties the slot. Returns 1 or -errno.
  static int update_file(io_uring& ring, unsigned slot, int file) noexcept {
    return ::io_uring_register_files_update(&ring, slot, &file, 1);
  }

 private:
  // ThreadSanitizer does not see that liburing unmaps a ring. Without this variable it would
  // confuse the next ring that another thread maps at the same address with the old one.
  static inline char mapped_{};
};

}  // namespace iowq::inline v0::detail
