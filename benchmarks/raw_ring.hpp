// SPDX-License-Identifier: BSL-1.0
// The kernel alone: a loop on liburing, with the set-up flags that iowq uses.
#pragma once

#include <liburing.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>

#include <iowq/ring/detail/compat.hpp>

#include "ratio.hpp"

namespace bench {

/// Keeps `depth` operations in flight. `prepare(sqe, slot)` fills in the next operation of a slot.
/// `ended(slot, res)` returns whether the operation is complete; if not, prepare() is called for
/// the rest.
class raw_ring {
 public:
  explicit raw_ring(unsigned depth) : depth_{depth} {
    io_uring_params params{};
    params.flags = iowq::detail::compat::setup_single_issuer |
                   iowq::detail::compat::setup_defer_taskrun |
                   iowq::detail::compat::setup_submit_all;
    if (io_uring_queue_init_params(256, &ring_, &params) < 0) {
      params = {};
      if (int const r = io_uring_queue_init_params(256, &ring_, &params); r < 0) {
        std::cerr << "io_uring_queue_init_params: " << std::strerror(-r) << '\n';
        std::exit(1);
      }
    }
    io_uring_register_ring_fd(&ring_);
  }
  raw_ring(const raw_ring&) = delete;
  raw_ring& operator=(const raw_ring&) = delete;
  ~raw_ring() { io_uring_queue_exit(&ring_); }

  /// Limits the kernel's own bounded workers.
  void max_workers(unsigned most) {
    unsigned limits[2] = {most, 0};
    if (io_uring_register_iowq_max_workers(&ring_, limits) < 0) std::abort();
  }

  template <class Prepare, class Ended>
  ratio::tally run(std::uint64_t operations, Prepare&& prepare, Ended&& ended) {
    std::uint64_t begun = 0, done = 0, calls = 0;
    auto submit = [&](unsigned slot) {
      io_uring_sqe* const sqe = io_uring_get_sqe(&ring_);
      prepare(sqe, slot);
      io_uring_sqe_set_data64(sqe, slot);
    };
    for (unsigned slot = 0; slot < depth_ && begun < operations; ++slot, ++begun) submit(slot);
    while (done < operations) {
      io_uring_submit_and_wait(&ring_, 1);
      ++calls;
      unsigned head, seen = 0;
      io_uring_cqe* cqe;
      io_uring_for_each_cqe(&ring_, head, cqe) {
        ++seen;
        auto const slot = static_cast<unsigned>(cqe->user_data);
        if (!ended(slot, cqe->res)) {
          submit(slot);
          continue;
        }
        ++done;
        if (begun < operations) ++begun, submit(slot);
      }
      io_uring_cq_advance(&ring_, seen);
    }
    return {operations, {{"enters", calls}}};
  }
  template <class Prepare>
  ratio::tally run(std::uint64_t operations, Prepare&& prepare) {
    return run(operations, prepare, [](unsigned, int res) {
      if (res < 0) std::abort();
      return true;
    });
  }

 private:
  unsigned depth_;
  io_uring ring_{};
};

}  // namespace bench
