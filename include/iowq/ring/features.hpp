// SPDX-License-Identifier: BSL-1.0
// iowq/ring/features.hpp -- what the running kernel can do.
//
// The headers we were compiled with say nothing about the kernel we run on, in either direction.
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <iowq/ring/detail/compat.hpp>
#include <iowq/ring/detail/kernel.hpp>

namespace iowq::inline v0::detail {

/// The answers of one ring's kernel.
struct ring_features {
  unsigned setup_flags = 0;   // those that were granted
  unsigned feature_bits = 0;  // IORING_FEAT_*
  bool open = false;          // there is one
  bool registered = false;    // the ring's descriptor has a slot in the task's table
  std::bitset<256> opcodes;

  /// Does the kernel know this opcode?
  [[nodiscard]] bool has(int opcode) const noexcept {
    return opcode >= 0 && opcode < 256 && opcodes[static_cast<std::size_t>(opcode)];
  }
  [[nodiscard]] bool has_feature(unsigned bit) const noexcept { return (feature_bits & bit) != 0; }
  [[nodiscard]] bool defers() const noexcept {
    return (setup_flags & compat::setup_defer_taskrun) != 0;
  }

  // What is a flag of an opcode shows in no probe: an opcode that came with it, or later, does.
  [[nodiscard]] bool polls_many() const noexcept { return has_feature(IORING_FEAT_RSRC_TAGS); }
  [[nodiscard]] bool accepts_many() const noexcept { return has(IORING_OP_SOCKET); }    // 5.19
  [[nodiscard]] bool buffer_rings() const noexcept { return has(IORING_OP_SOCKET); }    // 5.19
  [[nodiscard]] bool receives_many() const noexcept { return has(IORING_OP_SEND_ZC); }  // 6.0
  /// Does a receive with MSG_WAITALL that is cancelled say what had come? Since 6.1.
  [[nodiscard]] bool keeps_parts() const noexcept { return has(IORING_OP_SENDMSG_ZC); }
  /// Files of which each slot knows its own users: since 6.13, which no bit says. Before, one is
  /// closed when all that was in flight on any slot has ended, which may be never.
  /// And all that is done with one: who has no descriptor can go no other way.
  [[nodiscard]] bool keeps_files() const noexcept {
    for (int const opcode :
         {int{IORING_OP_ACCEPT}, int{IORING_OP_CLOSE}, int{IORING_OP_READ}, int{IORING_OP_WRITE},
          int{IORING_OP_FSYNC}, int{IORING_OP_RECV}, int{IORING_OP_SEND}, int{IORING_OP_RECVMSG},
          int{IORING_OP_SENDMSG}, int{IORING_OP_POLL_ADD}, int{IORING_OP_SHUTDOWN},
          compat::op_fixed_fd_install})
      if (!has(opcode)) return false;
    return has_feature(compat::feature_rw_attr);
  }
  /// Since 6.10, but up to 6.15 a bundle that was retried could skip a buffer.
  [[nodiscard]] bool bundles() const noexcept {
    return has_feature(compat::feature_recvsend_bundle) && has(compat::op_pipe);
  }
};

/// What a ring counted.
struct ring_stats {
  std::uint64_t submitted = 0;  // SQEs the kernel mark_taken
  std::uint64_t entered = 0;    // io_uring_enter calls
  std::uint64_t completed = 0;  // CQEs
};

/// io_uring_register(2), IORING_REGISTER_PROBE. A kernel without it (before 5.6) knows nothing.
template <class Kernel>
std::bitset<256> probe_opcodes(io_uring& ring) noexcept {
  constexpr unsigned count = 255;  // the field that counts is one byte wide
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
