// SPDX-License-Identifier: BSL-1.0
// iowq/ring/detail/compat.hpp -- definitions that liburing 2.3 or old kernel headers lack.
//
// The values are part of the kernel's ABI (include/uapi/linux/io_uring.h) and never change.
// ring/features.hpp finds out whether the running kernel supports them.
#pragma once

#include <linux/io_uring.h>

namespace iowq::inline v0::detail::compat {

// io_uring_setup flags
inline constexpr unsigned setup_cqsize = 1U << 3;
inline constexpr unsigned setup_clamp = 1U << 4;
inline constexpr unsigned setup_submit_all = 1U << 7;      // 5.18
inline constexpr unsigned setup_coop_taskrun = 1U << 8;    // 5.19
inline constexpr unsigned setup_taskrun_flag = 1U << 9;    // 5.19
inline constexpr unsigned setup_single_issuer = 1U << 12;  // 6.0
inline constexpr unsigned setup_defer_taskrun = 1U << 13;  // 6.1
inline constexpr unsigned setup_no_sqarray = 1U << 16;     // 6.6

// io_uring_enter flags
inline constexpr unsigned enter_no_iowait = 1U << 7;  // 6.15

// features
inline constexpr unsigned feature_recvsend_bundle = 1U << 14;  // 6.10
inline constexpr unsigned feature_rw_attr = 1U << 16;          // 6.14
inline constexpr unsigned feature_no_iowait = 1U << 17;        // 6.15

// In an SQE's ioprio
inline constexpr unsigned recvsend_bundle = 1U << 4;  // 6.10

// SQ ring flags
inline constexpr unsigned sq_cq_overflow = 1U << 1;
inline constexpr unsigned sq_taskrun = 1U << 2;

// Opcodes after the last one of liburing 2.3 (IORING_OP_SENDMSG_ZC, 48).
inline constexpr int op_read_multishot = 49;    // 6.7
inline constexpr int op_waitid = 50;            // 6.7
inline constexpr int op_futex_wait = 51;        // 6.7
inline constexpr int op_futex_wake = 52;        // 6.7
inline constexpr int op_futex_waitv = 53;       // 6.7
inline constexpr int op_fixed_fd_install = 54;  // 6.8
inline constexpr int op_ftruncate = 55;         // 6.9
inline constexpr int op_bind = 56;              // 6.11
inline constexpr int op_listen = 57;            // 6.11
inline constexpr int op_recv_zc = 58;           // 6.15
inline constexpr int op_epoll_wait = 59;        // 6.15
inline constexpr int op_pipe = 62;              // 6.16

}  // namespace iowq::inline v0::detail::compat
