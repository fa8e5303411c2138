// SPDX-License-Identifier: BSL-1.0
// iowq/op/futex.hpp -- waits for a word of memory to change, and wakes waiters.
//
// For words that other threads or processes change. Between coroutines of one executor, use sync/,
// which needs no system call. Where the ring has no futexes (before 6.7) a worker waits, and for
// two words at the same time: a stop request changes the second one.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <ctime>
#include <limits>
#include <source_location>

#include <iowq/base/policy.hpp>
#include <iowq/base/stop_token.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/ring/detail/compat.hpp>

namespace iowq::inline v0 {

/// Which waiters a wake reaches: threads of this process, or of all processes that map the memory.
enum class futex_scope : std::uint8_t { process, shared };

/// A word for futexes: an unsigned 32-bit integer, or an atomic one. Borrowed.
class futex_word {
 public:
  futex_word(const detail::atomic<std::uint32_t>& word) noexcept
      : address_{reinterpret_cast<const std::uint32_t*>(&word)} {}
  futex_word(const std::uint32_t& word) noexcept : address_{&word} {}
  futex_word(const detail::atomic<std::uint32_t>* word) noexcept : futex_word{*word} {}
  futex_word(const std::uint32_t* word) noexcept : address_{word} {}
  futex_word(const std::uint32_t&&) = delete;

  [[nodiscard]] std::uint32_t* address() const noexcept {
    return const_cast<std::uint32_t*>(address_);
  }

 private:
  const std::uint32_t* address_;
  static_assert(sizeof(detail::atomic<std::uint32_t>) == sizeof(std::uint32_t));
};

namespace detail {

/// The flags of the futex2 system calls. Debian's headers define only some of them.
inline constexpr unsigned futex2_u32 = 2;
inline constexpr unsigned futex2_private = 128;
[[nodiscard]] constexpr unsigned futex2_flags(futex_scope scope) noexcept {
  return futex2_u32 | (scope == futex_scope::process ? futex2_private : 0);
}
[[nodiscard]] constexpr int futex1_flags(futex_scope scope) noexcept {
  return scope == futex_scope::process ? FUTEX_PRIVATE_FLAG : 0;
}

/// futex(2), FUTEX_WAIT.
struct futex_wait_call {
  static constexpr operation_row row{.name = "futex_wait",
                                     .opcode = compat::op_futex_wait,
                                     .first = route::ring,
                                     .unbound = true,
                                     .reason = "the kernel's own wait queue, no thread"};
  futex_word word;
  std::uint32_t expected;
  futex_scope scope;

  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = static_cast<std::uint8_t>(compat::op_futex_wait);
    sqe.fd = static_cast<int>(futex2_flags(scope));
    sqe.addr = reinterpret_cast<std::uintptr_t>(word.address());
    sqe.off = expected;
    sqe.addr3 = FUTEX_BITSET_MATCH_ANY;
  }
  /// EAGAIN is a result: the word holds a different value.
  [[nodiscard]] bool would_block(int) const noexcept { return false; }

  int call(const stop_token& stop) const noexcept {
    atomic<std::uint32_t> stopped{0};
    auto const wake = [&stopped]() noexcept {
      // release: pairs with the acquire below, although no data other than the word is read.
      stopped.store(1, std::memory_order_release);
      linux_policy::futex_wake(stopped, 1);
    };
    stop_callback<decltype(wake)> const inherited{stop, wake};
    for (;;) {
      long const r = wait_for(stopped);
      if (stopped.load(std::memory_order_acquire) != 0) return r == 0 ? 0 : -ECANCELED;
      if (r != -EINTR && r != -ETIMEDOUT) return static_cast<int>(r);
    }
  }

 private:
  /// Returns 0 if woken, -EAGAIN if one of the words holds a different value, or -errno.
  long wait_for(atomic<std::uint32_t>& stopped) const noexcept {
    // If both words were woken, the kernel returns the index of the last. That is the user's
    // word, so a wake that this wait consumed is not lost.
    ::futex_waitv both[2] = {};
    both[0].uaddr = reinterpret_cast<std::uintptr_t>(&stopped);
    both[0].flags = futex2_flags(futex_scope::process);
    both[1].val = expected;
    both[1].uaddr = reinterpret_cast<std::uintptr_t>(word.address());
    both[1].flags = futex2_flags(scope);
    long const r = or_errno(::syscall(SYS_futex_waitv, both, 2, 0, nullptr, 0));
    if (r != -ENOSYS) return r == 1 ? 0 : r == 0 ? -ECANCELED : r;
    // Before 5.16: wait for the user's word only, and look at the other every 10 ms.
    ::timespec const a_while{0, 10'000'000};
    return or_errno(::syscall(SYS_futex, word.address(), FUTEX_WAIT | futex1_flags(scope), expected,
                              &a_while, nullptr, 0));
  }
};

/// futex(2), FUTEX_WAKE.
struct futex_wake_call {
  static constexpr operation_row row{.name = "futex_wake",
                                     .opcode = compat::op_futex_wake,
                                     .first = route::inline_,
                                     .reason = "wakes, and waits for nothing"};
  futex_word word;
  int most;
  futex_scope scope;

  [[nodiscard]] int validate() const noexcept { return most < 0 ? -EINVAL : 0; }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = static_cast<std::uint8_t>(compat::op_futex_wake);
    sqe.fd = static_cast<int>(futex2_flags(scope));
    sqe.addr = reinterpret_cast<std::uintptr_t>(word.address());
    sqe.off = static_cast<unsigned>(most);
    sqe.addr3 = FUTEX_BITSET_MATCH_ANY;
  }
  int call(const stop_token&) const noexcept {
    return static_cast<int>(or_errno(::syscall(
        SYS_futex, word.address(), FUTEX_WAKE | futex1_flags(scope), most, nullptr, nullptr, 0)));
  }
  static int value(int answer) noexcept { return answer; }
};

}  // namespace detail

/// Waits while `word` holds `expected`, until futex_wake() or any futex(2) wake. As futex(2), it
/// fails with EAGAIN (resource_unavailable_try_again) if the word holds a different value when the
/// wait begins. Spurious wake-ups are possible: check the word again. The word must outlive the
/// wait.
///
///     while (word.load(std::memory_order_acquire) == 0) {
///       auto const woken = co_await iowq::as_result(iowq::futex_wait(word, 0));
///       if (woken.error() == std::errc::operation_canceled) co_return;
///     }
template <class = void>
[[nodiscard("co_await it")]] operation<detail::futex_wait_call> futex_wait(
    futex_word word, std::uint32_t expected, futex_scope scope = futex_scope::process,
    std::source_location at = std::source_location::current()) {
  return operation<detail::futex_wait_call>{at, detail::futex_wait_call{word, expected, scope}};
}

/// Wakes at most `most` waiters of `word`. Yields the number of waiters woken. Fails with
/// invalid_argument if `most` is negative.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::futex_wake_call> futex_wake(
    futex_word word, int most = std::numeric_limits<int>::max(),
    futex_scope scope = futex_scope::process,
    std::source_location at = std::source_location::current()) {
  return operation<detail::futex_wake_call>{at, detail::futex_wake_call{word, most, scope}};
}

}  // namespace iowq::inline v0
