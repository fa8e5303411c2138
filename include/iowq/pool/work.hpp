// SPDX-License-Identifier: BSL-1.0
// iowq/pool/work.hpp -- one item: what to do, where it may run, beside what it may not.
//
// An item is the caller's from the start and again from the first instruction of finished();
// between them the pool links it through itself and allocates nothing for it.
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
// W3  finished() is the last the pool does with an item, whatever happened to it.
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

/// Where an item says nothing about its node: that of the processor that enqueues it.
inline constexpr int any_node = -1;

/// Bound work ends by itself (files, processors); unbound work may wait for the world.
enum class work_class : unsigned char { bound, unbound };

/// What became of a request to cancel.
enum class cancel_outcome {
  not_found,  // it had ended, or was never here
  dequeued,   // it never ran; finished(true) has been called
  running,    // its token was stopped and its worker cancel_requested; it ends when it ends
};

/// How an item wants to be treated.
struct work_flags {
  bool unbound = false;                   // counts against the unbound workers' limit
  std::optional<std::uint64_t> key = {};  // never beside another of that key, in enqueue order
  int node = any_node;                    // the NUMA node whose queue it joins
  bool concurrent = false;                // wants a worker now, not when the running one blocks
  // execute() takes microseconds and waits for nobody: a worker may take several such items at
  // once, run them in a row, and finish them together. They are no longer cancelled then.
  bool brief = false;
};

class work;

namespace detail {

struct work_access;

enum class item_state : std::uint8_t { fresh, linked, ready, chained, running, done };

/// How many generations may be in use: an item has two bits for its own.
inline constexpr unsigned generation_slots = 4;

/// What the pool keeps in an item. All of it under M from enqueue() to finished().
struct item {
  // Ready list; the ring of those that wait behind a key_head; running: the batch it is in.
  item* next = nullptr;
  union {
    item* prev = nullptr;
    item* predecessor;    // linked; null once that has ended
    void* worker_thread;  // running: the worker
  };
  item* successor = nullptr;  // starts when this has run well; `linked` until then
  union {
    item* bucket = nullptr;  // key_head: the next key_head in its hash bucket
    item* ahead;             // without a key: one that was enqueued a little later, or was once
  };
  item* waiters = nullptr;  // key_head: the newest that waits behind it; its next is the oldest
  std::uint64_t key = 0;
  int error = 0;  // running: written by execute() only
  std::int8_t node = any_node;
  std::uint8_t node_queue = 0;  // the queue it joined: `node` made real
  item_state state = item_state::fresh;
  bool unbound : 1 = false;
  bool keyed : 1 = false;
  bool concurrent : 1 = false;
  bool brief : 1 = false;
  bool withdrawn : 1 =
      false;  // linked, its predecessor gone: was cancelled before it was handed on
  std::uint8_t generation : 2 = 0;  // see generation.hpp; a linked item's is its predecessor's

  [[nodiscard]] work_class kind() const noexcept {
    return unbound ? work_class::unbound : work_class::bound;
  }
  [[nodiscard]] bool queued() const noexcept {
    return state == item_state::ready || state == item_state::chained;
  }
  [[nodiscard]] bool in_pool() const noexcept { return queued() || state == item_state::running; }
  /// May share a worker's hands with others.
  [[nodiscard]] bool batchable() const noexcept { return brief && !keyed && successor == nullptr; }
};

}  // namespace detail

/// One item of work: derive from it, override two functions, enqueue it. Owned by the caller,
/// who keeps it alive until finished() was called. It may then be enqueued again, even from
/// there. A copy is a new item with the same flags.
class work : protected detail::item {
 public:
  work(work_flags wanted = {}) noexcept { flags(wanted); }
  work(const work& other) noexcept : item{} { *this = other; }
  work& operator=(const work& other) noexcept {
    flags(other.flags());
    return *this;
  }
  virtual ~work() { IOWQ_ASSERT(!in_pool(), "work was destroyed before it was finished"); }

  /// Links `other` behind this item: it is enqueued, with flags of its own, when this one has run
  /// and its finished() has returned. Call it before this item is enqueued, and enqueue only the
  /// head. If this item is cancelled, or its execute() called fail(), `other` and all behind it
  /// are finished as cancelled, in order. The link holds for one time.
  void then(work& other) noexcept {
    IOWQ_ASSERT(!in_pool() && !other.in_pool(), "work was linked while it is enqueued");
    IOWQ_ASSERT(&other != this, "work was linked behind itself");
    successor = &other;
    other.state = detail::item_state::linked;
    other.predecessor = this;
    other.withdrawn = false;
    other.item::error = 0;
  }
  /// Inside execute(): it has failed, with an errno, which error() says from then on. What is
  /// linked behind it is cancelled.
  void fail(int why) noexcept { item::error = why; }

  /// On a worker. `stop` is asked to stop by cancel() and by the pool's end; it is good until
  /// execute() returns, and so is every stop_callback made of it.
  virtual void execute(const stop_token& stop) noexcept = 0;

  /// Exactly once for each enqueue(). `cancelled`: execute() was never called and error() says
  /// why. On a worker, or inside cancel(), enqueue() or ~pool on the calling thread. Short, and
  /// it takes no lock that a caller of those holds. The pool touches the item no more.
  virtual void finished(bool cancelled) noexcept = 0;

  /// Not while it is enqueued.
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

  /// From finished() on: 0 if it ran; what fail() was told; ECANCELED, or the errno of the thread
  /// that could not be created for it.
  [[nodiscard]] int error() const noexcept { return item::error; }

 private:
  friend struct detail::work_access;
};

namespace detail {

/// The pool's way in: from the item it links to the work it runs, and back.
struct work_access {
  [[nodiscard]] static item& to_item(work& outer) noexcept { return outer; }
  [[nodiscard]] static work& from_item(item& inner) noexcept { return static_cast<work&>(inner); }
};

}  // namespace detail

static_assert(sizeof(work) <= 64, "an item fits a cache line");

/// Items to be enqueued together: one critical section and one decision for all of them, instead
/// of one each. Owns nothing, allocates nothing; not synchronised. Destroy it empty.
///
///     iowq::work_chain some;
///     for (auto& one : items) some.push_back(one);
///     pool.enqueue(some);
class work_chain {
 public:
  /// `one` is in no pool and no chain.
  void push_back(work& one) noexcept {
    IOWQ_ASSERT(!detail::work_access::to_item(one).in_pool(), "work was enqueued twice");
    detail::item& last = detail::work_access::to_item(one);
    IOWQ_ASSERT(last.state != detail::item_state::linked,
                "work that is linked behind another was enqueued: enqueue the head alone");
    items_.push_back(last);
    // Who takes them finds each in another processor's cache, and the next only through it, so it
    // is told where to look ahead. No more than a hint: it may be gone by then.
    last.ahead = nullptr;
    detail::item*& before = recent_[size_++ % look_ahead];
    if (before != nullptr) before->ahead = &last;
    before = &last;
  }
  [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

  /// Takes the oldest out; null if there is none.
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
