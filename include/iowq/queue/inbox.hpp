// SPDX-License-Identifier: BSL-1.0
// iowq/queue/inbox.hpp -- how any thread hands work to the one that owns a loop.
//
// Why a stack: the loop wants all that has arrived, once a turn, so drain() is one exchange and
// never meets a half-linked node. FIFO order costs one reversal, paid by the consumer.
//
// head_ is  nullptr   empty, consumer awake
//           parked()  empty, consumer asleep or about to be
//           other     the newest node; older ones follow its link
// I1  A node is in at most one inbox; its link is the inbox's until drain() returns it.
// I2  A park() is answered by at most one post() that returns true; that caller wakes.
// Order: head_ is the only shared variable, so its modification order alone settles post against
// park; no seq_cst. No ABA: nodes leave all at once, never one from the middle.
#pragma once

#include <utility>

#include <iowq/base/assert.hpp>
#include <iowq/base/policy.hpp>

namespace iowq::inline v0::detail {

template <auto Link, class Policy = linux_policy>
class inbox;

/// Unbounded many-producer, one-consumer inbox of `T` chained through `Link`. Allocates and owns
/// nothing: nodes outlive their stay. Immovable; destroy it empty.
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
    // relaxed: whoever destroys it has already excluded every other thread.
    IOWQ_ASSERT(is_empty(head_.load(std::memory_order_relaxed)),
                "an inbox was destroyed with items in it");
  }

  /// Adds `node`. True: the consumer was parked and this caller owes it a wake-up.
  [[nodiscard]] bool post(T& node) noexcept { return post(node, node); }

  /// Adds the chain `newest` .. `oldest`, linked from newest to oldest, as one.
  [[nodiscard]] bool post(T& newest, T& oldest) noexcept {
    void* seen = head_.load(std::memory_order_relaxed);  // relaxed: a guess; the CAS checks
    do {
      IOWQ_ASSERT(seen != &newest, "an item was posted twice");  // I1, the half cheap to see
      oldest.*Link = is_empty(seen) ? nullptr : static_cast<T*>(seen);
      // release: pairs with drain()'s acquire; publishes the nodes and their links.
      // relaxed on failure: `seen` is compared and stored, never read through.
    } while (!head_.compare_exchange_weak(seen, &newest, std::memory_order_release,
                                          std::memory_order_relaxed));
    return seen == parked();
  }

  /// Consumer only. Takes every node, oldest first, chained by `Link`; ends any park.
  [[nodiscard]] T* drain() noexcept {
    // relaxed: to find nothing costs no locked instruction; what is posted next wakes or waits.
    if (head_.load(std::memory_order_relaxed) == nullptr) return nullptr;
    // acquire: pairs with every post() since the last drain, not just the newest: each CAS is a
    // read-modify-write, so it carries the earlier release sequences on.
    void* newest = head_.exchange(nullptr, std::memory_order_acquire);
    T* oldest = nullptr;
    for (T* node = is_empty(newest) ? nullptr : static_cast<T*>(newest); node != nullptr;) {
      T* older = std::exchange(node->*Link, oldest);
      oldest = std::exchange(node, older);
    }
    return oldest;
  }

  /// Consumer only: nothing to drain, as far as is seen yet.
  [[nodiscard]] bool empty() const noexcept {
    // relaxed: a hint; drain() is what synchronises.
    return is_empty(head_.load(std::memory_order_relaxed));
  }

  /// Consumer only, last thing before it blocks. False: a post came first; drain() instead.
  [[nodiscard]] bool park() noexcept {
    void* empty = nullptr;  // relaxed: success publishes nothing, failure leads to drain()
    return head_.compare_exchange_strong(empty, parked(), std::memory_order_relaxed);
  }

 private:
  static void* parked() noexcept { return &parked_; }
  static bool is_empty(void* head) noexcept { return head == nullptr || head == parked(); }

  static inline char parked_{};  // only its address means anything
  typename Policy::template atomic<void*> head_{nullptr};
};

}  // namespace iowq::inline v0::detail
