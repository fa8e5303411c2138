// SPDX-License-Identifier: BSL-1.0
// iowq/sync/mutex.hpp -- one coroutine at a time, across its awaits.
//
// Coroutines of one executor never run at once, so what is read and written between two awaits
// needs no lock. This is for what must stay whole across an await.
#pragma once

#include <source_location>
#include <utility>

#include <iowq/base/assert.hpp>
#include <iowq/sync/detail/waiter.hpp>

namespace iowq::inline v0 {

/// Excludes the coroutines of one executor from each other. unlock() hands it to the one that has
/// waited longest, so nobody overtakes. Not recursive. Destroy it unlocked.
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

  /// Holds the mutex until it is destroyed or unlock()ed. Movable; an empty one holds nothing.
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
    /// Early. The next in line goes on at the next turn of the loop.
    void unlock() noexcept {
      IOWQ_ASSERT(held_ != nullptr, "a mutex was unlocked by a guard that does not hold it");
      std::exchange(held_, nullptr)->hand_on();
    }

   private:
    friend mutex;
    explicit guard(mutex& held) noexcept : held_{&held} {}
    mutex* held_ = nullptr;
  };

  /// Yields a guard. Throws operation_canceled if a stop came first.
  [[nodiscard("co_await it")]] detail::wait_operation<mutex> lock(
      std::source_location at = std::source_location::current()) noexcept {
    return {*this, at};
  }
  /// A guard that is empty if somebody else holds the mutex.
  [[nodiscard]] guard try_lock() noexcept { return take() ? guard{*this} : guard{}; }

  [[nodiscard]] bool is_locked() const noexcept { return locked_; }

 private:
  friend detail::wait_operation<mutex>;
  static constexpr operation_row row{
      .name = "mutex.lock", .first = route::inline_, .reason = "a line in user space"};
  bool take() noexcept { return !std::exchange(locked_, true); }
  [[nodiscard]] guard given() noexcept { return guard{*this}; }
  /// To the first in line, without being free in between.
  void hand_on() noexcept { locked_ = waiters_.grant_first<detail::wait_operation<mutex>>(); }

  bool locked_ = false;
  detail::wait_queue waiters_;
};

}  // namespace iowq::inline v0
