// SPDX-License-Identifier: BSL-1.0
// iowq/pool/detail/generation.hpp -- the items a quiesce() waits for, and threads in finished().
//
// quiesce() waits for the items that were accepted before it and for no later ones. So it begins a
// new generation: an item counts in the generation that is current when the pool accepts it, and
// quiesce() returns when the older generations are empty. A count over all items would never reach
// zero under a constant stream of new ones.
//
// An item stores its generation in two bits, so at most four generations are in use. They end in
// order. While all four are in use, another quiesce() waits for the oldest to end before it begins
// a new one.
#pragma once

#include <cstdint>
#include <utility>

#include <iowq/base/policy.hpp>
#include <iowq/pool/work.hpp>
#include <iowq/queue/intrusive_queue.hpp>

namespace iowq::inline v0::detail {

/// A set of generations: one bit for each slot (0 .. 3).
using generation_set = std::uint8_t;
inline constexpr generation_set all_generations = (1u << generation_slots) - 1;

[[nodiscard]] constexpr generation_set generation_of(const item& one) noexcept {
  return static_cast<generation_set>(1u << one.generation);
}

/// Counts the threads that are calling finished() and are not live workers: cancellers, workers
/// that are leaving, and threads that fail items because no worker could be created.
///
/// A pool may be destroyed as soon as the last finished() has been entered, but quiesce() waits
/// until it has returned. So these counts are not part of the pool: each of those threads holds a
/// reference to them, and records the return of finished() without accessing the pool.
template <class Policy>
class finisher_counts {
  template <class T>
  using atomic = typename Policy::template atomic<T>;

 public:
  /// Under M, in the same critical section that removes the items from the pool.
  void enter(generation_set which) noexcept {
    // relaxed, both: quiesce() reads the counts under M.
    references_.fetch_add(1, std::memory_order_relaxed);
    for (unsigned slot = 0; slot < generation_slots; ++slot)
      if ((which >> slot & 1) != 0) inside_[slot].fetch_add(1, std::memory_order_relaxed);
  }
  /// Call after every finished() has returned. The pool may no longer exist.
  void leave(generation_set which) noexcept {
    // release: pairs with any_inside(), so the effects of finished() happen before quiesce()
    // returns.
    for (unsigned slot = 0; slot < generation_slots; ++slot)
      if ((which >> slot & 1) != 0) inside_[slot].fetch_sub(1, std::memory_order_release);
    drop();
  }
  [[nodiscard]] bool any_inside(unsigned slot) const noexcept {
    // acquire: pairs with leave().
    return inside_[slot].load(std::memory_order_acquire) != 0;
  }
  /// Drops a reference; the last one frees the counts.
  void drop() noexcept {
    // acq_rel: pairs with the other calls, so the last access of every other thread happens before
    // the delete.
    if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

 private:
  atomic<unsigned> references_{1};  // the first belongs to the pool
  atomic<unsigned> inside_[generation_slots]{};
};

/// Items that a thread removed from the pool under M, and finishes as cancelled without M.
template <class Policy>
class departures {
 public:
  void add(item& gone) noexcept { items_.push_back(gone); }
  /// Records the generations of items that were or will be passed to add().
  void are_of(generation_set which) noexcept { generations_ |= which; }
  [[nodiscard]] bool empty() const noexcept { return items_.empty(); }

  /// Under M, after the last add().
  void announce(finisher_counts<Policy>& counts) noexcept {
    if (items_.empty()) return;
    counts_ = &counts;
    counts.enter(generations_);
  }
  /// Calls finished() of all items. Call once, without M, after all other accesses to the pool: the
  /// last finished() may destroy the pool, or let another thread destroy it.
  void finish() noexcept {
    while (item* const one = items_.pop_front()) work_access::from_item(*one).finished(true);
    if (counts_ != nullptr) counts_->leave(generations_);
    counts_ = nullptr;
  }

 private:
  intrusive_queue<&item::next> items_;
  generation_set generations_ = 0;
  finisher_counts<Policy>* counts_ = nullptr;

  template <class>
  friend class rejections;
  int thread_ = 0;  // id of the thread that finishes the items, while in a list of rejections
  departures* next_ = nullptr;
};

/// The rejected items that threads are finishing while the pool is being destroyed. Under M.
template <class Policy>
class rejections {
 public:
  /// Returns true if the calling thread must finish `items` and then call end(). Returns false if
  /// the thread is already inside a finished() of an outer call, which takes over the items. So an
  /// item that enqueues itself again from finished() is rejected again without recursion.
  [[nodiscard]] bool begin(departures<Policy>& items) noexcept {
    items.thread_ = Policy::thread_id();
    for (departures<Policy>* outer = first_; outer != nullptr; outer = outer->next_)
      if (outer->thread_ == items.thread_) {
        outer->items_.append(items.items_);
        return false;
      }
    items.next_ = std::exchange(first_, &items);
    return true;
  }
  void end(departures<Policy>& items) noexcept {
    departures<Policy>** link = &first_;
    while (*link != &items) link = &(*link)->next_;
    *link = items.next_;
  }

 private:
  departures<Policy>* first_ = nullptr;
};

}  // namespace iowq::inline v0::detail
