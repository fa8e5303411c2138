// SPDX-License-Identifier: BSL-1.0
// iowq/pool/work.hpp -- one item of work: its code, its class, its node and its key.
//
// The caller owns an item until it enqueues the item, and again from the first instruction of
// finished(). In between, the pool uses the links inside the item and allocates nothing for it.
//
//   fresh -> ready ---------> running -> done        ready: in a node's ready list
//    |   \-> chained -> ready /^  |                  chained: behind an item of the same key
//    |       |   |  \-----------/ |                  linked: behind its predecessor
//    v       v   v                v
//   linked   done (cancelled)     done               then finished(), once
//
// W1  State and links change only under M, the pool's one mutex.
// W2  A queued item is in exactly one place: one ready list, behind one key_head of its key, or
//     behind one predecessor.
// W3  The call of finished() is the pool's last access to an item, however the item ended.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>

#include <iowq/base/assert.hpp>
#include <iowq/base/stop_token.hpp>
#include <iowq/queue/intrusive_queue.hpp>

namespace iowq::inline v0 {

/// The default of work_flags::node: the NUMA node of the processor that enqueues the item.
inline constexpr int any_node = -1;

/// Bound work ends by itself (file I/O, computation). Unbound work may wait for another party.
enum class work_class : unsigned char { bound, unbound };

/// The result of a request to cancel.
enum class cancel_outcome {
  not_found,  // the item had finished, or was never enqueued
  dequeued,   // the item never ran; finished(true) has been called
  running,    // the item runs: its token and wake descriptor tell it to stop; finished() follows
};

/// How the pool treats an item.
struct work_flags {
  bool unbound = false;                   // counts against the limit of unbound workers
  std::optional<std::uint64_t> key = {};  // items of one key run one at a time, in enqueue order
  int node = any_node;                    // the NUMA node whose queue the item joins
  bool concurrent = false;                // gets a worker now, not when the running one blocks
  // execute() takes microseconds and does not block. A worker may take several such items at once,
  // run them one after the other, and finish them together. Items that were taken in such a batch
  // can no longer be cancelled.
  bool brief = false;
};

class work;

namespace detail {

struct work_access;

enum class item_state : std::uint8_t { fresh, linked, ready, chained, running, done };

/// How many generations may be in use at once: an item stores its generation in two bits.
inline constexpr unsigned generation_slots = 4;

/// The pool's data in an item. The pool accesses it under M from enqueue() to finished().
struct item {
  // Link in a ready list, in the ring of waiters behind a key_head, or (running) in a batch.
  item* next = nullptr;
  union {
    item* prev = nullptr;
    item* predecessor;    // linked: the item before it; null once that one has ended
    void* worker_thread;  // running: its worker
  };
  item* successor = nullptr;  // starts after this item ran without fail(); `linked` until then
  union {
    item* bucket = nullptr;  // key_head: the next key_head in its hash bucket
    item* ahead;             // without a key: prefetch hint, see work_chain; may dangle
  };
  item* waiters = nullptr;  // key_head: the newest waiter behind it, whose `next` is the oldest
  std::uint64_t key = 0;
  int error = 0;  // running: written by execute() only
  std::int8_t node = any_node;
  std::uint8_t node_queue = 0;  // index of the queue that the item joins, derived from `node`
  item_state state = item_state::fresh;
  bool unbound : 1 = false;
  bool keyed : 1 = false;
  bool concurrent : 1 = false;
  bool brief : 1 = false;
  // linked: the item was cancelled after its predecessor ended and before it was enqueued.
  bool withdrawn : 1 = false;
  std::uint8_t generation : 2 = 0;  // see generation.hpp; a linked item takes its predecessor's

  [[nodiscard]] work_class kind() const noexcept {
    return unbound ? work_class::unbound : work_class::bound;
  }
  [[nodiscard]] bool queued() const noexcept {
    return state == item_state::ready || state == item_state::chained;
  }
  [[nodiscard]] bool in_pool() const noexcept { return queued() || state == item_state::running; }
  /// Whether a worker may take the item in one batch with others.
  [[nodiscard]] bool batchable() const noexcept { return brief && !keyed && successor == nullptr; }
};

}  // namespace detail

/// One item of work: derive from it, override execute() and finished(), and enqueue it. The caller
/// owns the item and keeps it alive until finished() is called. From then on, even inside
/// finished(), it may be enqueued again or destroyed. A copy is a new item with the same flags.
class work : protected detail::item {
 public:
  work(work_flags wanted = {}) noexcept { flags(wanted); }
  work(const work& other) noexcept : item{} { *this = other; }
  work& operator=(const work& other) noexcept {
    flags(other.flags());
    return *this;
  }
  virtual ~work() { IOWQ_ASSERT(!in_pool(), "work was destroyed before it was finished"); }

  /// Links `other` behind this item. `other` starts, with its own flags, after this item has run
  /// and its finished() has returned. Call then() before this item is enqueued, and enqueue only
  /// the head of a chain. If this item is cancelled, or its execute() calls fail(), then `other`
  /// and all items linked behind it are finished as cancelled, in order. The link holds for one
  /// enqueue().
  void then(work& other) noexcept {
    IOWQ_ASSERT(!in_pool() && !other.in_pool(), "work was linked while it is enqueued");
    IOWQ_ASSERT(&other != this, "work was linked behind itself");
    successor = &other;
    other.state = detail::item_state::linked;
    other.predecessor = this;
    other.withdrawn = false;
    other.item::error = 0;
  }
  /// Inside execute() only: marks the item as failed with the errno `why`, which error() then
  /// returns. The pool cancels the items linked behind it.
  void fail(int why) noexcept { item::error = why; }

  /// Called on a worker. cancel() and the destruction of the pool request a stop on `stop`. The
  /// token is valid until execute() returns; destroy every stop_callback on it before that.
  virtual void execute(const stop_token& stop) noexcept = 0;

  /// Called exactly once for each enqueue(). `cancelled`: execute() was not called, and error()
  /// gives the reason. Called on a worker, or on the calling thread inside enqueue(), cancel(),
  /// cancel_all(), context_changed() or the destructor of the pool. It must be short, and must not
  /// take a lock that a caller of these functions holds. The pool does not access the item after
  /// it has called finished().
  virtual void finished(bool cancelled) noexcept = 0;

  /// Sets the flags. Asserts that the item is not enqueued.
  void flags(work_flags wanted) noexcept {
    IOWQ_ASSERT(!in_pool(), "the flags of enqueued work were changed");
    unbound = wanted.unbound;
    keyed = wanted.key.has_value();
    item::key = wanted.key.value_or(0);
    node = static_cast<std::int8_t>(wanted.node < 0 || wanted.node > INT8_MAX ? any_node
                                                                              : wanted.node);
    concurrent = wanted.concurrent;
    brief = wanted.brief;
  }
  [[nodiscard]] work_flags flags() const noexcept {
    return {unbound, keyed ? std::optional{item::key} : std::nullopt, node, concurrent, brief};
  }

  /// Valid from finished() on: 0 if the item ran; the argument of fail(); ECANCELED if the item was
  /// cancelled; or the errno of the failed creation of a worker for it.
  [[nodiscard]] int error() const noexcept { return item::error; }

 private:
  friend struct detail::work_access;
};

namespace detail {

/// Gives the pool access to the private base: converts between a work and its item.
struct work_access {
  [[nodiscard]] static item& to_item(work& outer) noexcept { return outer; }
  [[nodiscard]] static work& from_item(item& inner) noexcept { return static_cast<work&>(inner); }
};

}  // namespace detail

static_assert(sizeof(work) <= 64, "an item fits a cache line");

/// Items to be enqueued together, in one critical section and with one decision for all of them
/// instead of one each. Owns nothing, allocates nothing, and is not synchronised. The chain must be
/// empty when it is destroyed.
///
///     iowq::work_chain some;
///     for (auto& one : items) some.push_back(one);
///     pool.enqueue(some);
class work_chain {
 public:
  /// Appends `one`, which must not be in a pool or in another chain.
  void push_back(work& one) noexcept {
    IOWQ_ASSERT(!detail::work_access::to_item(one).in_pool(), "work was enqueued twice");
    detail::item& last = detail::work_access::to_item(one);
    IOWQ_ASSERT(last.state != detail::item_state::linked,
                "work that is linked behind another was enqueued: enqueue the head alone");
    items_.push_back(last);
    // A worker that takes the items finds each in another processor's cache, and finds the next one
    // only through it. So each item points to the one `look_ahead` places behind it, for the worker
    // to prefetch. The pointer is only a hint: that item may be gone by then.
    last.ahead = nullptr;
    detail::item*& before = recent_[size_++ % look_ahead];
    if (before != nullptr) before->ahead = &last;
    before = &last;
  }
  [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

  /// Removes and returns the oldest item; null if the chain is empty.
  work* pop_front() noexcept {
    detail::item* const oldest = items_.pop_front();
    if (oldest == nullptr) return nullptr;
    if (--size_ == 0) std::fill(std::begin(recent_), std::end(recent_), nullptr);
    return &detail::work_access::from_item(*oldest);
  }

 private:
  static constexpr std::size_t look_ahead = 4;
  detail::intrusive_queue<&detail::item::next> items_;
  std::size_t size_ = 0;
  detail::item* recent_[look_ahead] = {};
};

}  // namespace iowq::inline v0
