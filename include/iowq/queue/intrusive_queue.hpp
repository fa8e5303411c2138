// SPDX-License-Identifier: BSL-1.0
// iowq/queue/intrusive_queue.hpp -- a singly linked FIFO queue of nodes that others own.
#pragma once

#include <utility>

#include <iowq/base/assert.hpp>

namespace iowq::inline v0::detail {

template <auto Link>
class intrusive_queue;

/// Intrusive singly linked queue of `T`, linked through `Link`. Owns and allocates nothing; not
/// synchronised. Destroy it empty. Every function except extract() is O(1).
template <class T, T* T::* Link>
class intrusive_queue<Link> {
 public:
  intrusive_queue() noexcept = default;
  intrusive_queue(intrusive_queue&& other) noexcept { append(other); }
  intrusive_queue& operator=(intrusive_queue&&) = delete;
  ~intrusive_queue() { IOWQ_ASSERT(empty(), "a queue was destroyed with items in it"); }

  [[nodiscard]] bool empty() const noexcept { return head_ == nullptr; }
  [[nodiscard]] T* front() const noexcept { return head_; }

  void push_back(T& item) noexcept {
    item.*Link = nullptr;
    *tail_ = &item;
    tail_ = &(item.*Link);
  }
  void push_front(T& item) noexcept {
    item.*Link = head_;
    if (head_ == nullptr) tail_ = &(item.*Link);
    head_ = &item;
  }
  /// Unlinks and returns the first item; null if the queue is empty.
  T* pop_front() noexcept {
    T* const item = head_;
    if (item == nullptr) return nullptr;
    head_ = item->*Link;
    if (head_ == nullptr) tail_ = &head_;
    return item;
  }
  /// Moves all items of `other` to the end of this queue.
  void append(intrusive_queue& other) noexcept {
    if (other.empty()) return;
    *tail_ = other.head_;
    tail_ = other.tail_;
    other.head_ = nullptr;
    other.tail_ = &other.head_;
  }
  /// Returns all items as a chain, first item first, and becomes empty. Null if it was empty.
  [[nodiscard]] T* release() noexcept {
    tail_ = &head_;
    return std::exchange(head_, nullptr);
  }
  /// Unlinks each item for which `match` returns true and passes it to `take`, in order, in one
  /// pass.
  template <class Match, class Take>
  void extract(Match&& match, Take&& take) {
    T** link = &head_;
    while (*link != nullptr) {
      T* const item = *link;
      if (match(*item)) {
        *link = item->*Link;
        take(*item);
      } else {
        link = &(item->*Link);
      }
    }
    tail_ = link;
  }

 private:
  T* head_ = nullptr;
  T** tail_ = &head_;
};

}  // namespace iowq::inline v0::detail
