// SPDX-License-Identifier: BSL-1.0
// iowq/queue/timer_heap.hpp -- the timers of a loop, in an intrusive pairing heap.
//
// The nodes of the heap are in the frames of the waiting coroutines, so nothing is allocated.
// Arming a timer is O(1). The earliest deadline is at the root. Disarming and firing are O(log n)
// amortised. A binary heap would need an array that grows. A timer wheel rounds deadlines or needs
// a slot for every tick.
#pragma once

#include <cstdint>
#include <utility>

#include <iowq/base/assert.hpp>
#include <iowq/base/policy.hpp>

namespace iowq::inline v0::detail {

/// One deadline. Its waiter owns it, and disarms it (or it fires) before it is destroyed.
class timer {
 public:
  timer() noexcept = default;
  timer(const timer&) = delete;
  timer& operator=(const timer&) = delete;
  ~timer() { IOWQ_ASSERT(!armed(), "a timer was destroyed while it is armed"); }

  [[nodiscard]] bool armed() const noexcept { return link_ != nullptr; }
  [[nodiscard]] time_point deadline() const noexcept { return deadline_; }
  /// Returns true if this timer fires before `other`, provided that both are armed.
  [[nodiscard]] bool is_before(const timer& other) const noexcept {
    return deadline_ != other.deadline_ ? deadline_ < other.deadline_ : order_ < other.order_;
  }

 private:
  template <class Before>
  friend class basic_timer_heap;
  time_point deadline_{};
  std::uint64_t order_ = 0;  // order of arming: at equal deadlines, the first armed fires first
  timer* child_ = nullptr;
  timer* next_ = nullptr;   // right sibling
  timer** link_ = nullptr;  // points to this: root_, a parent's child_ or a sibling's next_
};

/// The order of timers. A parameter of the heap, so that a test can count the comparisons.
struct fires_before {
  [[nodiscard]] bool operator()(const timer& a, const timer& b) const noexcept {
    return a.is_before(b);
  }
};

/// The armed timers of one loop. Owner thread only. Destroy it empty.
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

  /// Arms `node`, which must not be armed. O(1).
  void arm(timer& node, time_point deadline) noexcept {
    IOWQ_ASSERT(!node.armed(), "a timer was armed twice");
    node.deadline_ = deadline;
    node.order_ = ++order_;
    root(meld(root_, &node));
  }

  /// Removes `node` if it is armed. O(log n) amortised.
  void disarm(timer& node) noexcept {
    if (!node.armed()) return;
    *node.link_ = node.next_;
    if (node.next_ != nullptr) node.next_->link_ = node.link_;
    timer* const children = pair_up(node.child_);
    node.child_ = node.next_ = nullptr;
    node.link_ = nullptr;
    root(meld(root_, children));
  }

  /// Removes and returns the timer with the earliest deadline if that is not after `now`; otherwise
  /// returns null.
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

  /// Makes the heap with the later root the first child of the other root. Does not set the link_
  /// of the result.
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

  /// Merges siblings in the two passes that give the heap its amortised bound: pairs from the left,
  /// then all pairs from the right.
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
