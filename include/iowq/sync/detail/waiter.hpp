// SPDX-License-Identifier: BSL-1.0
// iowq/sync/detail/waiter.hpp -- a queue of waiting coroutines.
//
// A coroutine that must wait enters the queue of the object that it waits for. The coroutine that
// releases the object grants it to the first waiter. exec/detail/parked_operation.hpp has the
// await.
#pragma once

#include <source_location>
#include <utility>

#include <iowq/base/assert.hpp>
#include <iowq/exec/detail/loop.hpp>
#include <iowq/exec/detail/parked_operation.hpp>
#include <iowq/queue/intrusive_list.hpp>

namespace iowq::inline v0::detail {

/// The links of a wait in its queue. Owner thread only.
struct waiter {
  waiter() noexcept {}          // no store: most awaits never wait
  waiter(waiter&&) noexcept {}  // a wait is moved only before it is in a queue
  waiter* next;
  waiter* prev;
};

/// The coroutines that wait for one object, first in, first out.
class wait_queue {
 public:
  [[nodiscard]] bool empty() const noexcept { return waiters_.empty(); }
  void join(waiter& w) noexcept { waiters_.push_back(w); }
  void leave(waiter& w) noexcept { waiters_.erase(w); }
  /// Removes and returns the first waiter, or returns null.
  waiter* pop() noexcept { return waiters_.pop_front(); }
  /// Grants the first waiter what it waits for; it resumes at the loop's next turn. Returns false
  /// if the queue is empty.
  template <class Wait>
  bool grant_first() noexcept {
    auto* const first = static_cast<Wait*>(pop());
    if (first != nullptr) first->granted();
    return first != nullptr;
  }

 private:
  intrusive_list<&waiter::next, &waiter::prev> waiters_;
};

/// The wait for a `Thing`, which has a `row`, a `waiters_`, a `bool take()` that succeeds if no
/// wait is needed, and a `given()` that returns the result of the await.
template <class Thing>
class [[nodiscard("co_await it")]] wait_operation final
    : public parked_operation<wait_operation<Thing>>,
      private waiter {
  using base = parked_operation<wait_operation>;

 public:
  static constexpr const operation_row& row = Thing::row;

  wait_operation(Thing& thing, std::source_location at) noexcept : base{at}, thing_{thing} {}

 private:
  friend base;
  friend wait_queue;

  bool try_complete() noexcept {
    if (!thing_.take()) return false;
    this->result_.set(0);
    return true;
  }
  void park(loop& here) noexcept {
    owner_ = &here;
    thing_.waiters_.join(*this);
  }
  bool unpark() noexcept {
    thing_.waiters_.leave(*this);
    return true;
  }
  decltype(auto) value() noexcept { return thing_.given(); }

  /// Completes the wait after it has left the queue: the awaited object now belongs to this wait.
  void granted() noexcept {
    IOWQ_ASSERT(this_thread_loop == owner_,
                "a coroutine was woken from another thread than its executor's: between executors "
                "there is channel");
    this->complete(*owner_, 0);
  }

  Thing& thing_;
  loop* owner_ = nullptr;
};

}  // namespace iowq::inline v0::detail
