// SPDX-License-Identifier: BSL-1.0
// iowq/sync/detail/waiter.hpp -- a queue of waiting coroutines.
//
// A wait is an operation like any other. It lives in the frame of its coroutine, is counted, is
// listed by dump(), and can be cancelled in the same way. The difference is that the owner of the
// awaited object completes it, and not the kernel. So this header contains only the queue and the
// wait.
#pragma once

#include <cerrno>
#include <coroutine>
#include <source_location>
#include <type_traits>
#include <utility>

#include <iowq/base/result.hpp>
#include <iowq/coro/detail/promise.hpp>
#include <iowq/exec/detail/loop.hpp>
#include <iowq/queue/intrusive_list.hpp>

namespace iowq::inline v0::detail {

/// A wait of any kind. Owner thread only.
class waiter : public operation_base {
 public:
  waiter* next;
  waiter* prev;

 protected:
  waiter(const operation_kind& kind, std::source_location at) noexcept : operation_base{kind, at} {}
  waiter(waiter&& other) noexcept : operation_base{std::move(other)} {}
  ~waiter() {
    IOWQ_ASSERT(stage_ <= stage::completed || at_fault(source_),
                "a coroutine was destroyed while it waits in line: request a stop and await its "
                "end");
  }
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
/// wait is needed, and a `given()` that returns the result of the await. Movable until awaited.
template <class Thing>
class [[nodiscard("co_await it")]] wait_operation final : public waiter {
 public:
  wait_operation(Thing& thing, std::source_location at) noexcept : waiter{kind, at}, thing_{thing} {
    set_action(&on_item);
  }
  wait_operation(wait_operation&& other) noexcept : waiter{std::move(other)}, thing_{other.thing_} {
    set_action(&on_item);
  }
  ~wait_operation() = default;

  bool await_ready() noexcept {
    IOWQ_ASSERT(is_fresh(), "a wait was awaited twice");
    return thing_.take() && over(0);
  }
  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> coroutine) noexcept {
    waiter_ = coroutine;
    return begin(stop_of(coroutine));
  }
  bool start(completion_callback& told, stop_token token) noexcept {
    set_callback(told);
    return !(thing_.take() && over(0)) && begin(token);
  }
  decltype(auto) await_resume() {
    if (result_.res() < 0) throw_error(result_.res(), Thing::row.name);
    return thing_.given();
  }
  auto await_resume_result() {
    using value = decltype(thing_.given());
    if (result_.res() < 0) return result<value>{to_error(result_.res())};
    if constexpr (std::is_void_v<value>)
      return result<value>{};
    else
      return result<value>{thing_.given()};
  }

 private:
  friend wait_queue;

  bool over(int res) noexcept {
    result_.set(res);
    stage_ = stage::completed;
    return true;
  }

  /// Returns false if the wait is already complete.
  bool begin(stop_token token) noexcept {
    loop& here = loop::current();
    bool const ambient = token == here.ambient();
    if (ambient ? here.stopping() : token.stop_requested()) return !over(-ECANCELED);
    if (!ambient && !stop_hook::prepare(here, *this, token)) return !over(-ENOMEM);
    owner_ = &here;
    stage_ = stage::sync_wait;
    thing_.waiters_.join(*this);
    here.watch(*this, token, ambient);
    return true;
  }

  /// Completes the wait after it has left the queue: the awaited object now belongs to this wait.
  void granted() noexcept {
    IOWQ_ASSERT(this_thread_loop == owner_,
                "a coroutine was woken from another thread than its executor's: between executors "
                "there is channel");
    result_.set(0);
    stage_ = stage::ready;
    owner_->ready(*this);
  }

  static void on_item(loop_item* self) noexcept {
    auto& op = *static_cast<wait_operation*>(static_cast<operation_base*>(self));
    this_thread_loop->finish<Thing::row>(op, &operation_stats::inline_ops);
  }
  static bool disarm(operation_base& op) noexcept {
    auto& self = static_cast<wait_operation&>(op);
    self.thing_.waiters_.leave(self);
    return true;
  }
  static constexpr operation_kind kind{&Thing::row, nullptr, nullptr, nullptr, &disarm, nullptr};

  Thing& thing_;
  loop* owner_ = nullptr;
};

}  // namespace iowq::inline v0::detail
