// SPDX-License-Identifier: BSL-1.0
// iowq/pool/detail/generation.hpp -- which items a quiesce() waits for, and who is inside
// finished().
//
// quiesce() waits for the items that were accepted before it and for no later ones. So it begins a
// new generation: an item counts in the generation that is current when the pool accepts it, and
// quiesce() returns when the older generations are empty. A count over all items would never reach
// zero under a constant stream of new ones.
//
// An item has room for two bits, so at most four generations are in use. They end in order; while
// the four are in use, another quiesce() waits for the oldest before it begins a generation.
#pragma once

#include <cstdint>
#include <utility>

#include <iowq/base/policy.hpp>
#include <iowq/pool/work.hpp>
#include <iowq/queue/intrusive_queue.hpp>

namespace iowq::inline v0::detail {

/// Generations, by the slot (0 .. 3) that they use.
using generation_set = std::uint8_t;
inline constexpr generation_set all_generations = (1u << generation_slots) - 1;

[[nodiscard]] constexpr generation_set generation_of(const item& one) noexcept {
  return static_cast<generation_set>(1u << one.generation);
}

/// Counts the threads that call finished() and are not live workers: cancellers, workers that
/// leave, threads that fail items for which no thread could be created.
///
/// A pool may be destroyed as soon as the last finished() has been entered, and quiesce() waits
/// until it has returned. So the counts do not live in the pool: each of those threads owns a
/// reference, and notes the return without touching the pool.
template <class Policy>
class finisher_counts {
  template <class T>
  using atomic = typename Policy::template atomic<T>;

 public:
  /// Under M, in the step that takes the items out of the pool.
  void enter(generation_set which) noexcept {
    // relaxed, both: quiesce() looks under M.
    references_.fetch_add(1, std::memory_order_relaxed);
    for (unsigned slot = 0; slot < generation_slots; ++slot)
      if ((which >> slot & 1) != 0) inside_[slot].fetch_add(1, std::memory_order_relaxed);
  }
  /// When every finished() has returned; the pool may be gone.
  void leave(generation_set which) noexcept {
    // release: pairs with any_inside(); quiesce() returns after what finished() did.
    for (unsigned slot = 0; slot < generation_slots; ++slot)
      if ((which >> slot & 1) != 0) inside_[slot].fetch_sub(1, std::memory_order_release);
    drop();
  }
  [[nodiscard]] bool any_inside(unsigned slot) const noexcept {
    // acquire: pairs with leave().
    return inside_[slot].load(std::memory_order_acquire) != 0;
  }
  /// Gives up a reference.
  void drop() noexcept {
    // acq_rel: whoever frees it does so after the last access of every other thread.
    if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

 private:
  atomic<unsigned> references_{1};  // the first is the pool's
  atomic<unsigned> inside_[generation_slots]{};
};

/// Items that a thread took out of the pool under M and finishes, as cancelled, without M.
template <class Policy>
class departures {
 public:
  void add(item& gone) noexcept { items_.push_back(gone); }
  /// Those that add() was or will be called for are of these generations.
  void are_of(generation_set which) noexcept { generations_ |= which; }
  [[nodiscard]] bool empty() const noexcept { return items_.empty(); }

  /// Under M, after the last add().
  void announce(finisher_counts<Policy>& counts) noexcept {
    if (items_.empty()) return;
    counts_ = &counts;
    counts.enter(generations_);
  }
  /// Without M, once, after everything else that needs the pool: the last finished() may destroy
  /// it, or have another thread do so.
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
  int thread_ = 0;  // that finishes them, while they are in a list of rejections
  departures* next_ = nullptr;
};

/// What a pool that ends rejected and which threads finish just now. Under M.
template <class Policy>
class rejections {
 public:
  /// True: the calling thread finishes `items`, and calls end() then. False: it is inside a
  /// finished() already, in an outer call, which gets the items. So an item that is enqueued again
  /// from finished() is rejected again without recursion.
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
