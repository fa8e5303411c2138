// SPDX-License-Identifier: BSL-1.0
// iowq/queue/intrusive_list.hpp -- a doubly linked list of nodes that others own.
//
// fifo.hpp is one pointer an item cheaper. Cancelling a queued item, or an idle worker that has
// waited long enough, needs the second one: neither is where the next pop happens.
#pragma once

#include <utility>

#include <iowq/base/assert.hpp>

namespace iowq::inline v0::detail {

template <auto Next, auto Prev>
class intrusive_list;

/// Intrusive doubly linked list of `T` chained through `Next` and `Prev`. Owns and allocates
/// nothing; not synchronised. Destroy it empty. Everything is O(1).
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
  /// The oldest item, or null.
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
  /// Puts `heir`, which is in no list, where `item` was.
  void replace(T& item, T& heir) noexcept {
    heir.*Next = item.*Next;
    heir.*Prev = item.*Prev;
    (item.*Prev != nullptr ? item.*Prev->*Next : head_) = &heir;
    (item.*Next != nullptr ? item.*Next->*Prev : tail_) = &heir;
    item.*Next = item.*Prev = nullptr;
  }
  /// Forgets its items where they stand: for a forked child, to which they no longer belong.
  void abandon() noexcept { head_ = tail_ = nullptr; }

 private:
  T* head_ = nullptr;
  T* tail_ = nullptr;
};

}  // namespace iowq::inline v0::detail
