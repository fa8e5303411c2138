// SPDX-License-Identifier: BSL-1.0
// iowq/sync/mutex.hpp -- mutual exclusion of coroutines across their awaits.
//
// Coroutines of one executor never run at the same time, so data that is read and written between
// two awaits needs no lock. This mutex protects data that must stay consistent across an await.
#pragma once

#include <source_location>
#include <utility>

#include <iowq/base/assert.hpp>
#include <iowq/sync/detail/waiter.hpp>

namespace iowq::inline v0 {

/// Mutual exclusion among the coroutines of one executor, on its thread. unlock() passes the mutex
/// to the coroutine that has waited longest, so no coroutine overtakes another. Not recursive. The
/// destructor asserts that the mutex is unlocked and that no coroutine waits.
///
///     iowq::mutex m;
///     auto lock = co_await m.lock();      // until the end of the scope
class mutex {
 public:
  mutex() noexcept = default;
  mutex(const mutex&) = delete;
  mutex& operator=(const mutex&) = delete;
  ~mutex() {
    IOWQ_ASSERT(waiters_.empty(), "a mutex was destroyed while coroutines wait for it");
    IOWQ_ASSERT(!locked_, "a mutex was destroyed while it is locked");
  }

  /// Holds the mutex until the guard is destroyed or unlock() is called. Movable; an empty guard
  /// holds no mutex.
  class [[nodiscard("the mutex is unlocked when it goes")]] guard {
   public:
    guard() noexcept = default;
    guard(guard&& other) noexcept : held_{std::exchange(other.held_, nullptr)} {}
    guard& operator=(guard&& other) noexcept {
      if (this != &other) {
        if (held_ != nullptr) unlock();
        held_ = std::exchange(other.held_, nullptr);
      }
      return *this;
    }
    ~guard() {
      if (held_ != nullptr) unlock();
    }

    [[nodiscard]] explicit operator bool() const noexcept { return held_ != nullptr; }
    /// Unlocks before the guard is destroyed. The next waiter resumes at the next turn of the loop.
    void unlock() noexcept {
      IOWQ_ASSERT(held_ != nullptr, "a mutex was unlocked by a guard that does not hold it");
      std::exchange(held_, nullptr)->hand_on();
    }

   private:
    friend mutex;
    explicit guard(mutex& held) noexcept : held_{&held} {}
    mutex* held_ = nullptr;
  };

  /// Waits for the mutex and yields a guard. Throws operation_canceled if a stop is requested
  /// first.
  [[nodiscard("co_await it")]] detail::wait_operation<mutex> lock(
      std::source_location at = std::source_location::current()) noexcept {
    return {*this, at};
  }
  /// Returns a guard, which is empty if the mutex is locked.
  [[nodiscard]] guard try_lock() noexcept { return take() ? guard{*this} : guard{}; }

  [[nodiscard]] bool is_locked() const noexcept { return locked_; }

 private:
  friend detail::wait_operation<mutex>;
  static constexpr operation_row row{
      .name = "mutex.lock", .first = route::inline_, .reason = "a queue in user space"};
  bool take() noexcept { return !std::exchange(locked_, true); }
  [[nodiscard]] guard given() noexcept { return guard{*this}; }
  /// Hands the lock directly to the first waiter, without unlocking in between; unlocks if there is
  /// no waiter.
  void hand_on() noexcept { locked_ = waiters_.grant_first<detail::wait_operation<mutex>>(); }

  bool locked_ = false;
  detail::wait_queue waiters_;
};

}  // namespace iowq::inline v0
