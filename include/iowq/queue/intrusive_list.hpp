// SPDX-License-Identifier: BSL-1.0
// iowq/queue/intrusive_list.hpp -- a doubly linked list of nodes that others own.
//
// intrusive_queue.hpp needs one pointer less per item. The second pointer is needed to remove items
// from the middle: a queued item that is cancelled, or a worker whose idle time is over.
#pragma once

#include <utility>

#include <iowq/base/assert.hpp>

namespace iowq::inline v0::detail {

template <auto Next, auto Prev>
class intrusive_list;

/// Intrusive doubly linked list of `T`, linked through `Next` and `Prev`. Owns and allocates
/// nothing; not synchronised. Destroy it empty. Every function is O(1).
template <class T, T* T::* Next, T* T::* Prev>
class intrusive_list<Next, Prev> {
 public:
  intrusive_list() noexcept = default;
  intrusive_list(intrusive_list&& other) noexcept
      : head_{std::exchange(other.head_, nullptr)}, tail_{std::exchange(other.tail_, nullptr)} {}
  intrusive_list& operator=(intrusive_list&&) = delete;
  ~intrusive_list() { IOWQ_ASSERT(empty(), "a list was destroyed with items in it"); }

  [[nodiscard]] bool empty() const noexcept { return head_ == nullptr; }
  [[nodiscard]] T* front() const noexcept { return head_; }
  [[nodiscard]] T* back() const noexcept { return tail_; }

  void push_back(T& item) noexcept {
    item.*Next = nullptr;
    item.*Prev = tail_;
    (tail_ != nullptr ? tail_->*Next : head_) = &item;
    tail_ = &item;
  }
  void push_front(T& item) noexcept {
    item.*Prev = nullptr;
    item.*Next = head_;
    (head_ != nullptr ? head_->*Prev : tail_) = &item;
    head_ = &item;
  }
  /// Unlinks and returns the first item; null if the list is empty.
  T* pop_front() noexcept {
    T* const item = head_;
    if (item != nullptr) erase(*item);
    return item;
  }
  /// Unlinks `item`, which is in this list.
  void erase(T& item) noexcept {
    (item.*Prev != nullptr ? item.*Prev->*Next : head_) = item.*Next;
    (item.*Next != nullptr ? item.*Next->*Prev : tail_) = item.*Prev;
    item.*Next = item.*Prev = nullptr;
  }
  /// Replaces `item`, which is in this list, by `heir`, which is in no list, at the same position.
  void replace(T& item, T& heir) noexcept {
    heir.*Next = item.*Next;
    heir.*Prev = item.*Prev;
    (item.*Prev != nullptr ? item.*Prev->*Next : head_) = &heir;
    (item.*Next != nullptr ? item.*Next->*Prev : tail_) = &heir;
    item.*Next = item.*Prev = nullptr;
  }
  /// Becomes empty without touching the items: for a forked child, which does not own them.
  void abandon() noexcept { head_ = tail_ = nullptr; }

 private:
  T* head_ = nullptr;
  T* tail_ = nullptr;
};

}  // namespace iowq::inline v0::detail
