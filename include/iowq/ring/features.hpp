// SPDX-License-Identifier: BSL-1.0
// iowq/ring/features.hpp -- the io_uring features of the running kernel.
//
// They are probed at run time. The running kernel may be older or newer than the headers with which
// the program was compiled.
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <iowq/ring/detail/compat.hpp>
#include <iowq/ring/detail/kernel.hpp>

namespace iowq::inline v0::detail {

/// The features that the kernel reported for one ring.
struct ring_features {
  unsigned setup_flags = 0;   // the flags that the kernel accepted
  unsigned feature_bits = 0;  // IORING_FEAT_*
  bool open = false;          // a ring is open
  bool registered = false;    // the ring's descriptor is registered with the task
  std::bitset<256> opcodes;

  /// Returns true if the kernel supports `opcode`.
  [[nodiscard]] bool has(int opcode) const noexcept {
    return opcode >= 0 && opcode < 256 && opcodes[static_cast<std::size_t>(opcode)];
  }
  [[nodiscard]] bool has_feature(unsigned bit) const noexcept { return (feature_bits & bit) != 0; }
  [[nodiscard]] bool defers() const noexcept {
    return (setup_flags & compat::setup_defer_taskrun) != 0;
  }

  // A probe shows opcodes but not their flags. A flag is inferred from an opcode that was added in
  // the same kernel version or a later one.
  [[nodiscard]] bool polls_many() const noexcept { return has_feature(IORING_FEAT_RSRC_TAGS); }
  [[nodiscard]] bool accepts_many() const noexcept { return has(IORING_OP_SOCKET); }    // 5.19
  [[nodiscard]] bool buffer_rings() const noexcept { return has(IORING_OP_SOCKET); }    // 5.19
  [[nodiscard]] bool receives_many() const noexcept { return has(IORING_OP_SEND_ZC); }  // 6.0
  /// Returns true if a cancelled receive with MSG_WAITALL reports the bytes already received. Since
  /// Linux 6.1.
  [[nodiscard]] bool keeps_parts() const noexcept { return has(IORING_OP_SENDMSG_ZC); }
  /// Returns true if registered files can be used. They are reference-counted per slot since Linux
  /// 6.13; no feature bit says so. Before that, the kernel closes a removed file only when all
  /// requests in flight on any slot have completed, which may be never. All opcodes that the
  /// library uses on registered files are also required: a file without a descriptor has no other
  /// route.
  [[nodiscard]] bool keeps_files() const noexcept {
    for (int const opcode :
         {int{IORING_OP_ACCEPT}, int{IORING_OP_CLOSE}, int{IORING_OP_READ}, int{IORING_OP_WRITE},
          int{IORING_OP_FSYNC}, int{IORING_OP_RECV}, int{IORING_OP_SEND}, int{IORING_OP_RECVMSG},
          int{IORING_OP_SENDMSG}, int{IORING_OP_POLL_ADD}, int{IORING_OP_SHUTDOWN},
          compat::op_fixed_fd_install})
      if (!has(opcode)) return false;
    return has_feature(compat::feature_rw_attr);
  }
  /// Returns true if receive bundles can be used. Bundles exist since Linux 6.10, but up to 6.15 a
  /// retried bundle could skip a buffer.
  [[nodiscard]] bool bundles() const noexcept {
    return has_feature(compat::feature_recvsend_bundle) && has(compat::op_pipe);
  }
};

/// The counters of one ring.
struct ring_stats {
  std::uint64_t submitted = 0;  // SQEs that the kernel has taken
  std::uint64_t entered = 0;    // io_uring_enter calls
  std::uint64_t completed = 0;  // CQEs given back
};

/// Asks the kernel for its opcodes: io_uring_register(2), IORING_REGISTER_PROBE. The result is
/// empty for kernels without it (before 5.6).
template <class Kernel>
std::bitset<256> probe_opcodes(io_uring& ring) noexcept {
  constexpr unsigned count = 255;  // the count field has one byte
  alignas(io_uring_probe)
      std::byte space[sizeof(io_uring_probe) + count * sizeof(io_uring_probe_op)] = {};
  auto* const probe = reinterpret_cast<io_uring_probe*>(space);
  std::bitset<256> known;
  if (Kernel::probe(ring, *probe, count) < 0) return known;
  auto const* const ops =
      reinterpret_cast<const io_uring_probe_op*>(space + sizeof(io_uring_probe));
  for (unsigned i = 0; i < probe->ops_len && i < count; ++i)
    if ((ops[i].flags & IO_URING_OP_SUPPORTED) != 0) known.set(ops[i].op);
  return known;
}

}  // namespace iowq::inline v0::detail
