// SPDX-License-Identifier: BSL-1.0
// iowq/exec/detail/backend_poll.hpp -- without io_uring: epoll, and calls that do not block.
//
// The kernel holds no operation here. An operation is tried by a call that does not block. If it
// would block, it waits in the queue of its descriptor until epoll reports the descriptor ready,
// and is tried again. Operations without such a call, or without a descriptor to wait for, run on a
// worker from the start (exec/operation.hpp).
//
// Every wait re-arms its descriptor for one event (EPOLLONESHOT). That costs one epoll_ctl per
// wait, which a remembered edge would save. But it is the only way to notice that a descriptor was
// closed and its number reused: epoll keeps its entries by file, and a program that closes a number
// does not report it here. A wait that never ends would be worse than a system call.
#pragma once

#include <poll.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#include <iowq/base/fd.hpp>
#include <iowq/base/policy.hpp>
#include <iowq/base/result.hpp>
#include <iowq/exec/detail/operation_base.hpp>
#include <iowq/queue/intrusive_queue.hpp>
#include <iowq/ring/features.hpp>

namespace iowq::inline v0::detail {

/// The operations that wait for a descriptor, and the owner's sleep. Owner thread only.
class poll_backend {
 public:
  /// `wake`: a descriptor that ends the owner's sleep when it is written to. It is never read.
  explicit poll_backend(int wake) : set_{::epoll_create1(EPOLL_CLOEXEC)} {
    ::epoll_event event{.events = EPOLLIN | EPOLLET, .data = {.u64 = nobody}};
    if (!set_ || ::epoll_ctl(set_.get(), EPOLL_CTL_ADD, wake, &event) != 0)
      throw_error(-errno, "epoll (raise RLIMIT_NOFILE, ulimit -n)");
  }

  /// Queues `op` until its descriptor is ready. False: epoll cannot report that, or there is no
  /// memory.
  [[nodiscard]] bool arm(operation_base& op) noexcept {
    readiness const wanted = op.kind_->waits_for(op);
    if (wanted.events == 0 || wanted.file < 0 || !has_room_for(wanted.file)) return false;
    line& here = lines_[static_cast<std::size_t>(wanted.file)];
    std::uint32_t const events = here.events | bits_of(wanted);
    if (!tell(wanted.file, here, events)) return false;
    here.events = events;
    here.waiting.push_back(op);
    op.stage_ = stage::poll;
    ++stats_.submitted;
    ++armed_;
    return true;
  }

  /// Removes `op` from the queue of its descriptor.
  void forget(operation_base& op) noexcept {
    line& here = lines_[static_cast<std::size_t>(op.kind_->waits_for(op).file)];
    std::uint32_t left = 0;
    here.waiting.extract([&op](loop_item& i) { return &static_cast<operation_base&>(i) == &op; },
                         [this](loop_item&) { --armed_; });
    for (loop_item* i = here.waiting.front(); i != nullptr; i = i->next) left |= bits_of(*i);
    here.events = left;  // epoll may report other events once: ignored
  }

  /// The system call of a turn. Calls `retry` with each operation whose descriptor became ready, in
  /// the order in which they began to wait for it. With `sleep`, waits for an event, a wake-up or
  /// `deadline`.
  template <class Ripe>
  void wait(bool sleep, time_point deadline, Ripe&& retry) noexcept {
    if (!sleep && armed_ == 0) return;
    ++stats_.entered;
    std::array<::epoll_event, 128> events;
    int const n = wait_for(events, sleep, deadline);
    for (int i = 0; i < n; ++i) {
      std::uint64_t const number = events[static_cast<std::size_t>(i)].data.u64;
      if (number != nobody)
        look(static_cast<int>(number), events[static_cast<std::size_t>(i)].events, retry);
    }
  }

  [[nodiscard]] bool waits() const noexcept { return armed_ != 0; }
  [[nodiscard]] const ring_stats& stats() const noexcept { return stats_; }

 private:
  static constexpr std::uint64_t nobody = ~std::uint64_t{0};
  static constexpr std::uint32_t always = EPOLLERR | EPOLLHUP;  // reported even if not requested

  /// The operations that wait for one descriptor.
  struct line {
    intrusive_queue<&loop_item::next> waiting;
    std::uint32_t events = 0;  // the events that they wait for
    bool known = false;        // epoll knows the descriptor; a guess, since it may have been closed
  };

  [[nodiscard]] static std::uint32_t bits_of(readiness wanted) noexcept {
    return static_cast<unsigned short>(wanted.events);  // EPOLLIN is POLLIN, and so on
  }
  [[nodiscard]] static std::uint32_t bits_of(const loop_item& waiting) noexcept {
    auto const& op = static_cast<const operation_base&>(waiting);
    return bits_of(op.kind_->waits_for(op));
  }

  [[nodiscard]] bool has_room_for(int file) noexcept {
    auto const number = static_cast<std::size_t>(file);
    if (number < lines_.size()) [[likely]]
      return true;
    try {
      lines_.resize(std::max(number + 1, 2 * lines_.size()));
      return true;
    } catch (const std::bad_alloc&) {
      return false;
    }
  }

  /// Requests one event. False: epoll does not accept such a file (EPERM), or accepts no more
  /// files.
  [[nodiscard]] bool tell(int file, line& here, std::uint32_t events) noexcept {
    ::epoll_event event{.events = events | EPOLLONESHOT,
                        .data = {.u64 = static_cast<std::uint64_t>(file)}};
    if (here.known && ::epoll_ctl(set_.get(), EPOLL_CTL_MOD, file, &event) == 0) return true;
    here.known = ::epoll_ctl(set_.get(), EPOLL_CTL_ADD, file, &event) == 0 ||
                 (errno == EEXIST && ::epoll_ctl(set_.get(), EPOLL_CTL_MOD, file, &event) == 0);
    return here.known;
  }

  template <class Ripe>
  void look(int file, std::uint32_t told, Ripe&& retry) noexcept {
    line& here = lines_[static_cast<std::size_t>(file)];
    auto const all = (told & always) != 0;
    std::uint32_t left = 0;
    here.waiting.extract(
        [&](loop_item& i) {
          std::uint32_t const wanted = bits_of(i);
          bool const is_ripe = all || (wanted & told) != 0;
          if (!is_ripe) left |= wanted;
          return is_ripe;
        },
        [&](loop_item& i) { end_wait(i, retry); });
    here.events = left;
    if (left != 0 && !tell(file, here, left)) {
      // The descriptor was closed. Complete the waits; the retry reports the error.
      here.events = 0;
      here.waiting.extract([](loop_item&) { return true; },
                           [&](loop_item& i) { end_wait(i, retry); });
    }
  }

  template <class Ripe>
  void end_wait(loop_item& waiting, Ripe&& retry) noexcept {
    --armed_;
    ++stats_.completed;
    retry(static_cast<operation_base&>(waiting));
  }

  template <std::size_t N>
  int wait_for(std::array<::epoll_event, N>& events, bool sleep, time_point deadline) noexcept {
    constexpr int most = static_cast<int>(N);
    if (!sleep) return ::epoll_wait(set_.get(), events.data(), most, 0);
    if (deadline == never) return ::epoll_wait(set_.get(), events.data(), most, -1);
    auto const left = std::max(deadline - linux_policy::now(), time_point::duration::zero());
    ::timespec const span = linux_policy::to_timespec(time_point{left});
#if defined(SYS_epoll_pwait2)
    if (has_pwait2_) {
      long const n =
          ::syscall(SYS_epoll_pwait2, set_.get(), events.data(), most, &span, nullptr, 0);
      if (n >= 0 || errno != ENOSYS) return static_cast<int>(n);
      has_pwait2_ = false;
    }
#endif
    // Before 5.11 epoll counts in milliseconds; ppoll(2) does not, and an epoll set can be polled.
    ::pollfd set{.fd = set_.get(), .events = POLLIN, .revents = 0};
    if (::ppoll(&set, 1, &span, nullptr) <= 0) return 0;
    return ::epoll_wait(set_.get(), events.data(), most, 0);
  }

  fd set_;
  std::vector<line> lines_;  // by descriptor number
  std::size_t armed_ = 0;    // operations in lines_
  bool has_pwait2_ = true;
  ring_stats stats_;
};

}  // namespace iowq::inline v0::detail
