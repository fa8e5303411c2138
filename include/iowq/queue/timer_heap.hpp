// SPDX-License-Identifier: BSL-1.0
// iowq/queue/timer_heap.hpp -- deadlines in order: an intrusive pairing heap.
//
// A pairing heap of nodes that live where the waiting coroutine does: arming is O(1), the next
// deadline is the root, cancelling and firing are O(log n) amortised, and nothing is allocated.
// A binary heap would need an array that grows; a wheel rounds, or holds a slot for every tick.
#pragma once

#include <cstdint>
#include <utility>

#include <iowq/base/assert.hpp>
#include <iowq/base/policy.hpp>

namespace iowq::inline v0::detail {

/// One deadline. Lives with whoever waits for it; disarmed or fired before it is destroyed.
class timer {
 public:
  timer() noexcept = default;
  timer(const timer&) = delete;
  timer& operator=(const timer&) = delete;
  ~timer() { IOWQ_ASSERT(!armed(), "a timer was destroyed while it is armed"); }

  [[nodiscard]] bool armed() const noexcept { return link_ != nullptr; }
  [[nodiscard]] time_point deadline() const noexcept { return deadline_; }
  /// Does it fire before `other`, if both are armed?
  [[nodiscard]] bool is_before(const timer& other) const noexcept {
    return deadline_ != other.deadline_ ? deadline_ < other.deadline_ : order_ < other.order_;
  }

 private:
  template <class Before>
  friend class basic_timer_heap;
  time_point deadline_{};
  std::uint64_t order_ = 0;  // of arming: equal deadlines fire first come, first served
  timer* child_ = nullptr;
  timer* next_ = nullptr;   // right sibling
  timer** link_ = nullptr;  // what points at us: the root, a parent's child_ or a left sibling
};

/// How timers are compared; a test counts how often.
struct fires_before {
  [[nodiscard]] bool operator()(const timer& a, const timer& b) const noexcept {
    return a.is_before(b);
  }
};

/// The armed timers of one loop. Owner thread only; destroy it empty.
template <class Before = fires_before>
class basic_timer_heap {
 public:
  basic_timer_heap() noexcept = default;
  basic_timer_heap(const basic_timer_heap&) = delete;
  basic_timer_heap& operator=(const basic_timer_heap&) = delete;
  ~basic_timer_heap() { IOWQ_ASSERT(empty(), "a loop was destroyed with timers armed"); }

  [[nodiscard]] bool empty() const noexcept { return root_ == nullptr; }

  /// The earliest deadline, or `never`.
  [[nodiscard]] time_point next() const noexcept {
    return root_ != nullptr ? root_->deadline_ : never;
  }

  /// Arms `node`; it is not armed yet. O(1).
  void arm(timer& node, time_point deadline) noexcept {
    IOWQ_ASSERT(!node.armed(), "a timer was armed twice");
    node.deadline_ = deadline;
    node.order_ = ++order_;
    root(meld(root_, &node));
  }

  /// Takes `node` out, armed or not.
  void disarm(timer& node) noexcept {
    if (!node.armed()) return;
    *node.link_ = node.next_;
    if (node.next_ != nullptr) node.next_->link_ = node.link_;
    timer* const children = pair_up(node.child_);
    node.child_ = node.next_ = nullptr;
    node.link_ = nullptr;
    root(meld(root_, children));
  }

  /// Takes out and returns the timer that is due first, if its deadline is not after `now`.
  [[nodiscard]] timer* pop_due(time_point now) noexcept {
    timer* const due = root_;
    if (due == nullptr || due->deadline_ > now) return nullptr;
    disarm(*due);
    return due;
  }

 private:
  void root(timer* node) noexcept {
    root_ = node;
    if (node == nullptr) return;
    node->link_ = &root_;
    IOWQ_ASSERT(node->next_ == nullptr);
  }

  /// Makes the later of two heaps the first child of the earlier. Sets no link_ of the result.
  static timer* meld(timer* a, timer* b) noexcept {
    if (a == nullptr) return b;
    if (b == nullptr) return a;
    if (Before{}(*b, *a)) std::swap(a, b);
    b->next_ = a->child_;
    if (b->next_ != nullptr) b->next_->link_ = &b->next_;
    b->link_ = &a->child_;
    a->child_ = b;
    a->next_ = nullptr;
    return a;
  }

  /// The two passes that give the heap its bound: pairs from the left, then all from the right.
  static timer* pair_up(timer* first) noexcept {
    timer* pairs = nullptr;  // a stack, chained by next_
    while (first != nullptr) {
      timer* const second = first->next_;
      timer* const rest = second != nullptr ? second->next_ : nullptr;
      first->next_ = nullptr;
      if (second != nullptr) second->next_ = nullptr;
      timer* const pair = meld(first, second);
      pair->next_ = pairs;
      pairs = pair;
      first = rest;
    }
    timer* all = nullptr;
    while (pairs != nullptr) {
      timer* const rest = std::exchange(pairs->next_, nullptr);
      all = meld(all, pairs);
      pairs = rest;
    }
    return all;
  }

  timer* root_ = nullptr;
  std::uint64_t order_ = 0;
};

using timer_heap = basic_timer_heap<>;

}  // namespace iowq::inline v0::detail
