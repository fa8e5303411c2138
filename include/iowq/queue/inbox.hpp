// SPDX-License-Identifier: BSL-1.0
// iowq/queue/inbox.hpp -- a queue through which any thread passes work to the owner of a loop.
//
// It is a stack because the loop takes all items that have arrived, once per turn. drain() is then
// one exchange and never sees a half-linked node. FIFO order costs one reversal, which the consumer
// does.
//
// head_ is  nullptr   the inbox is empty and the consumer is awake
//           parked()  the inbox is empty and the consumer sleeps or is about to
//           other     the newest node; its link leads to the older ones
//
// I1  A node is in at most one inbox. The inbox uses the node's link until drain() returns it.
// I2  For each park(), at most one post() returns true. Its caller wakes the consumer.
//
// Order: head_ is the only shared variable. Its modification order alone decides between post() and
// park(), so seq_cst is not needed. There is no ABA problem: all nodes leave in one exchange, never
// a single one.
#pragma once

#include <utility>

#include <iowq/base/assert.hpp>
#include <iowq/base/policy.hpp>

namespace iowq::inline v0::detail {

template <auto Link, class Policy = linux_policy>
class inbox;

/// Unbounded inbox of `T`, linked through `Link`, for many producers and one consumer. Allocates
/// and owns nothing: a node must live until drain() returns it. Immovable; destroy it empty.
///
///     if (box.post(op)) loop.wake();                          // any thread
///     for (op* next = box.drain(); op* now = next;) {         // the consumer
///       next = now->next; now->run(); }                       // run() may free *now
template <class T, T* T::* Link, class Policy>
class inbox<Link, Policy> {
 public:
  inbox() noexcept = default;
  inbox(const inbox&) = delete;
  inbox& operator=(const inbox&) = delete;
  ~inbox() {
    // relaxed: the caller of the destructor has already excluded every other thread.
    IOWQ_ASSERT(is_empty(head_.load(std::memory_order_relaxed)),
                "an inbox was destroyed with items in it");
  }

  /// Adds `node`. Any thread. Returns true if the consumer was parked: the caller must wake it.
  [[nodiscard]] bool post(T& node) noexcept { return post(node, node); }

  /// Adds the chain `newest` .. `oldest`, which is linked from newest to oldest, in one step.
  [[nodiscard]] bool post(T& newest, T& oldest) noexcept {
    void* seen = head_.load(std::memory_order_relaxed);  // relaxed: a guess; the CAS verifies it
    do {
      IOWQ_ASSERT(seen != &newest, "an item was posted twice");  // the cheap part of I1
      oldest.*Link = is_empty(seen) ? nullptr : static_cast<T*>(seen);
      // release: pairs with drain()'s acquire; publishes the nodes and their links.
      // relaxed on failure: `seen` is compared and stored, never dereferenced.
    } while (!head_.compare_exchange_weak(seen, &newest, std::memory_order_release,
                                          std::memory_order_relaxed));
    return seen == parked();
  }

  /// Takes every node, as a chain through `Link`, oldest first; null if empty. Ends a park().
  /// Consumer only.
  [[nodiscard]] T* drain() noexcept {
    // relaxed: an empty inbox then costs no locked instruction. A node posted later is found by the
    // next drain(), or its post() wakes a parked consumer.
    if (head_.load(std::memory_order_relaxed) == nullptr) return nullptr;
    // acquire: pairs with every post() since the last drain(), not only the newest. Each CAS is a
    // read-modify-write and so continues the release sequences of the earlier ones.
    void* newest = head_.exchange(nullptr, std::memory_order_acquire);
    T* oldest = nullptr;
    for (T* node = is_empty(newest) ? nullptr : static_cast<T*>(newest); node != nullptr;) {
      T* older = std::exchange(node->*Link, oldest);
      oldest = std::exchange(node, older);
    }
    return oldest;
  }

  /// Returns true if the consumer sees no node yet. Consumer only.
  [[nodiscard]] bool empty() const noexcept {
    // relaxed: a hint; drain() synchronises.
    return is_empty(head_.load(std::memory_order_relaxed));
  }

  /// Marks the consumer as parked. Call it last before blocking. Returns false if a node was posted
  /// before: call drain() instead of blocking. Consumer only.
  [[nodiscard]] bool park() noexcept {
    void* empty = nullptr;  // relaxed: success publishes nothing, failure leads to drain()
    return head_.compare_exchange_strong(empty, parked(), std::memory_order_relaxed);
  }

 private:
  static void* parked() noexcept { return &parked_; }
  static bool is_empty(void* head) noexcept { return head == nullptr || head == parked(); }

  static inline char parked_{};  // only its address is used
  typename Policy::template atomic<void*> head_{nullptr};
};

}  // namespace iowq::inline v0::detail
