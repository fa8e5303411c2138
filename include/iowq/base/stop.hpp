// SPDX-License-Identifier: BSL-1.0
// iowq/base/stop.hpp -- the polite request to end early.
// Layer base; needs policy. Next in the book: base/fd.hpp.
//
// The shape of C++26's std::inplace_stop_source: the state lives in the source, a callback is
// linked into it, nothing is allocated. Two things are ours: a callback may destroy the source
// that runs it (a when_any whose loser frees the parent does just that), and a callback that is
// running on another thread is waited for when it is destroyed, by a spin: callbacks are short.
#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>
#include <utility>

#include <iowq/base/policy.hpp>

namespace iowq {

class stop_source;
template <class F>
class stop_callback;

namespace detail {

/// One registered callback, linked into its source. The links are guarded by the source's lock
/// bit; `done` is set by the thread that ran it and awaited by the one that destroys it.
class stop_node {
 public:
  stop_node(const stop_node&) = delete;
  stop_node& operator=(const stop_node&) = delete;

 protected:
  using invoke_fn = void(stop_node*) noexcept;
  explicit stop_node(invoke_fn* invoke) noexcept : invoke_{invoke} {}
  ~stop_node() = default;

  inline void attach(stop_source* source) noexcept;
  inline void detach() noexcept;

 private:
  friend stop_source;
  invoke_fn* invoke_;
  stop_source* source_ = nullptr;  // null: never linked, so nothing to undo
  stop_node* next_ = nullptr;
  stop_node** link_ = nullptr;  // what points at us; null once taken for running
  bool* destroyed_ = nullptr;   // while running: set if the callback destroys itself
  atomic<bool> done_{false};
};

}  // namespace detail

/// Asks whether its source was requested to stop. Cheap to copy; a default one never stops.
/// The source outlives its use. Any thread.
class stop_token {
 public:
  template <class F>
  using callback_type = stop_callback<F>;

  stop_token() noexcept = default;
  [[nodiscard]] inline bool stop_requested() const noexcept;
  [[nodiscard]] bool stop_possible() const noexcept { return source_ != nullptr; }
  void swap(stop_token& other) noexcept { std::swap(source_, other.source_); }
  friend bool operator==(const stop_token&, const stop_token&) noexcept = default;

 private:
  friend stop_source;
  friend detail::stop_node;
  template <class F>
  friend class stop_callback;
  explicit stop_token(stop_source* source) noexcept : source_{source} {}
  stop_source* source_ = nullptr;
};

/// Where a stop is requested. Immovable; destroy it after its callbacks. A callback may end its
/// own registration and then this source, too.
class stop_source {
 public:
  stop_source() noexcept = default;
  stop_source(const stop_source&) = delete;
  stop_source& operator=(const stop_source&) = delete;
  ~stop_source() {
    if (gone_ != nullptr) *gone_ = true;  // we die inside our own request_stop()
    IOWQ_ASSERT(head_ == nullptr, "a stop_source was destroyed before its callbacks");
  }

  [[nodiscard]] stop_token get_token() const noexcept {
    return stop_token{const_cast<stop_source*>(this)};
  }
  [[nodiscard]] static constexpr bool stop_possible() noexcept { return true; }
  [[nodiscard]] bool stop_requested() const noexcept {
    // acquire: pairs with the release in request_stop(); what its caller wrote before is seen.
    return (state_.load(std::memory_order_acquire) & requested) != 0;
  }

  /// Runs every callback on this thread, newest first; later registrations run at once. False if
  /// it had been requested before. Any thread. A callback may destroy this source.
  bool request_stop() noexcept {
    if (!lock_unless_requested(requested)) return false;
    runner_ = linux_policy::thread_id();
    bool gone = false;
    gone_ = &gone;
    while (head_ != nullptr) {
      detail::stop_node* const node = head_;
      unlink(*node);
      bool destroyed = false;
      node->destroyed_ = &destroyed;
      unlock();
      node->invoke_(node);
      if (!destroyed) {
        node->destroyed_ = nullptr;
        // release: pairs with detach()'s acquire; the callback's effects are seen by whoever
        // destroys it, and we touch it no more.
        node->done_.store(true, std::memory_order_release);
      }
      if (gone) return true;
      lock();
    }
    gone_ = nullptr;
    unlock();
    return true;
  }

 private:
  friend detail::stop_node;
  static constexpr std::uint32_t requested = 1;
  static constexpr std::uint32_t locked = 2;

  /// Takes the lock bit, and sets `bits` with it; false, without the lock, if already requested.
  bool lock_unless_requested(std::uint32_t bits) noexcept {
    std::uint32_t seen = state_.load(std::memory_order_relaxed);  // a guess; the CAS checks
    for (;;) {
      if ((seen & requested) != 0) {
        // acquire on its own: the caller now acts on what the requester published.
        (void)state_.load(std::memory_order_acquire);
        return false;
      }
      if ((seen & locked) != 0) {
        linux_policy::relax();
        seen = state_.load(std::memory_order_relaxed);
        continue;
      }
      // acquire: the list as the last holder left it. release: what a requester wrote before
      // request_stop() is seen by whoever sees the bit.
      if (state_.compare_exchange_weak(seen, seen | locked | bits, std::memory_order_acq_rel,
                                       std::memory_order_relaxed))
        return true;
    }
  }
  void lock() noexcept {
    // acquire: the list as the last holder left it.
    while ((state_.fetch_or(locked, std::memory_order_acquire) & locked) != 0)
      linux_policy::relax();
  }
  void unlock() noexcept {
    // A plain store will do: while the bit is set no one else changes the word.
    // release: pairs with the next lock(); publishes the list.
    state_.store(state_.load(std::memory_order_relaxed) & ~locked, std::memory_order_release);
  }
  void link(detail::stop_node& node) noexcept {
    node.next_ = head_;
    node.link_ = &head_;
    if (head_ != nullptr) head_->link_ = &node.next_;
    head_ = &node;
  }
  void unlink(detail::stop_node& node) noexcept {
    *node.link_ = node.next_;
    if (node.next_ != nullptr) node.next_->link_ = node.link_;
    node.link_ = nullptr;
  }

  atomic<std::uint32_t> state_{0};
  // Guarded by the lock bit of state_.
  detail::stop_node* head_ = nullptr;
  int runner_ = 0;        // thread that runs the callbacks; set once, with `requested`
  bool* gone_ = nullptr;  // in its frame: set by our destructor
};

inline bool stop_token::stop_requested() const noexcept {
  return source_ != nullptr && source_->stop_requested();
}

namespace detail {

inline void stop_node::attach(stop_source* source) noexcept {
  if (source == nullptr) return;
  if (source->lock_unless_requested(0)) {
    source_ = source;
    source->link(*this);
    source->unlock();
  } else {
    invoke_(this);  // too late to wait for it: run here and now, as the standard's does
  }
}

inline void stop_node::detach() noexcept {
  stop_source* const source = std::exchange(source_, nullptr);
  if (source == nullptr) return;
  source->lock();
  if (link_ != nullptr) {
    source->unlink(*this);
    source->unlock();
    return;
  }
  int const runner = source->runner_;
  source->unlock();
  if (runner == linux_policy::thread_id()) {
    if (destroyed_ != nullptr) *destroyed_ = true;  // we are inside our own callback
    return;
  }
  // acquire: pairs with the release in request_stop(); after it nobody touches this node.
  while (!done_.load(std::memory_order_acquire)) linux_policy::relax();
}

}  // namespace detail

/// Calls `F` when the token's source is requested to stop: on the requesting thread, or at once
/// in the constructor if that has happened. The destructor waits for a call that another thread
/// is in; it may run inside its own call.
template <class F>
class [[nodiscard("it is unregistered when destroyed")]] stop_callback : detail::stop_node {
 public:
  using callback_type = F;

  template <class Init>
  requires std::constructible_from<F, Init>
  explicit stop_callback(stop_token token, Init && init)
      : stop_node{&invoke}, call_(std::forward<Init>(init)) {
    attach(token.source_);
  }
  ~stop_callback() { detach(); }

 private:
  static void invoke(stop_node * node) noexcept { static_cast<stop_callback*>(node)->call_(); }
  F call_;
};

template <class F>
stop_callback(stop_token, F) -> stop_callback<F>;

}  // namespace iowq
