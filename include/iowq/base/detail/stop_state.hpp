// SPDX-License-Identifier: BSL-1.0
// iowq/base/detail/stop_state.hpp -- the list of callbacks of a stop source.
//
// Nearly every callback is registered, unregistered and run by the thread that created its source,
// the home thread. A source therefore has two lists. The home thread edits the home list without
// waiting for another thread. The other list holds the callbacks that all other threads registered;
// a lock guards it.
//
//   S1  The home thread may use the home list between busy_ = 1 and busy_ = 0, if it saw no claim
//       after it set busy_.
//   S2  Another thread may use the home list while it holds the lock, after it has set the claim
//       and has then seen busy_ == 0.
//   S3  The home thread may also use the home list while it holds the lock: S2 requires the lock.
//   S4  Any thread may use the other list while it holds the lock.
//   S5  runner_ is written before the first callback is taken out. Only a thread that found a
//       callback taken out reads it.
//
// S1 and S2 follow Dekker's algorithm: each side writes its own word and then reads the other
// side's word. All four accesses are seq_cst, so at least one side sees the other. If the home
// thread sees a claim, it clears busy_ and takes the lock. The claiming thread waits for the few
// instructions until busy_ is 0.
//
// A claim lasts while another thread unregisters a callback of the home list (because the
// callback's coroutine has moved to that thread). If another thread requests the stop, the claim is
// permanent. Without a claim, the home thread never waits for the home list: not to register a
// callback, not to unregister one, and not to request a stop.
#pragma once

#include <cstdint>
#include <utility>

#include <iowq/base/config.hpp>
#include <iowq/base/policy.hpp>

namespace iowq::inline v0::detail {

template <class Policy>
class stop_list;

/// One registered callback, linked into its list. The thread that ran the callback sets `done_`.
/// A thread that destroys the node waits for it.
template <class Policy>
class basic_stop_node {
 public:
  basic_stop_node(const basic_stop_node&) = delete;
  basic_stop_node& operator=(const basic_stop_node&) = delete;

 protected:
  using invoke_fn = void(basic_stop_node*) noexcept;
  explicit basic_stop_node(invoke_fn* invoke) noexcept : invoke_{invoke} {}
  ~basic_stop_node() = default;

  void attach(stop_list<Policy>* list) noexcept {
    if (list == nullptr) return;
    if (list->attach(*this))
      list_ = list;
    else
      invoke_(this);  // already requested: call it here, as std::stop_callback does
  }
  void detach() noexcept {
    if (auto* const list = std::exchange(list_, nullptr)) list->detach(*this);
  }

 private:
  friend stop_list<Policy>;
  using link = typename Policy::template guarded<basic_stop_node*>;

  invoke_fn* invoke_;
  stop_list<Policy>* list_ = nullptr;  // null: never linked, so detach() has nothing to do
  // Not initialised, to save stores: these members are written before they are read.
  link next_;
  typename Policy::template guarded<link*> link_;  // to this node; null once taken out
  bool* destroyed_;                                // while it runs: detach() sets it
  typename Policy::template atomic<bool> done_{false};
  bool elsewhere_ = false;  // this node is in the other list
};

/// The complete state of a stop_source. Immovable; destroy it after its callbacks.
template <class Policy>
class stop_list {
  using node = basic_stop_node<Policy>;

 public:
  stop_list() noexcept = default;
  stop_list(const stop_list&) = delete;
  stop_list& operator=(const stop_list&) = delete;
  ~stop_list() {
    if (gone_ != nullptr) *gone_ = true;  // destroyed by a callback that our own request() runs
    node* const left = home_;
    node* const others = others_;
    IOWQ_ASSERT(left == nullptr && others == nullptr,
                "a stop_source was destroyed before its callbacks");
  }

  [[nodiscard]] bool is_requested() const noexcept {
    // acquire: pairs with the release in request(); sees what its caller wrote before.
    return (state_.load(std::memory_order_acquire) & requested) != 0;
  }

  /// Runs all callbacks. Returns false, and runs none, if a stop was already requested.
  bool request() noexcept {
    bool const home = is_home();
    if (!home) lock();
    // release: a thread that sees the bit sees what the caller wrote before. acquire: a later
    // request sees what the first one published. Also, if `shared` is set, this thread sees the
    // lock held by the thread that set it, so lock() below waits for that thread.
    std::uint8_t const before = state_.fetch_or(requested, std::memory_order_acq_rel);
    if ((before & requested) != 0) {
      if (!home) unlock();
      return false;
    }
    if (!home) claim();  // permanently
    runner_ = Policy::thread_id();
    bool gone = false;
    gone_ = &gone;
    if (home) {
      while (node* const one = take_home()) {
        run(*one);
        if (gone) return true;
      }
      if ((before & shared) == 0) {  // the other list is empty and stays so
        gone_ = nullptr;
        return true;
      }
      lock();
    }
    while (node* const one = take_any()) {
      unlock();
      run(*one);
      if (gone) return true;
      lock();
    }
    gone_ = nullptr;
    unlock();
    return true;
  }

  /// Registers `one`. Returns false, and does not, if a stop was requested.
  [[nodiscard]] bool attach(node& one) noexcept {
    if (!is_home()) [[unlikely]]
      return attach_elsewhere(one);
    std::uint8_t const seen = enter();
    if ((seen & (requested | claimed)) != 0) [[unlikely]]
      return attach_late(one, seen);
    link(one, home_);
    leave();
    return true;
  }

  /// Unregisters `one`. Waits for a call of it that runs on another thread. It is not called
  /// afterwards.
  void detach(node& one) noexcept {
    if (one.elsewhere_ || !is_home()) [[unlikely]]
      return detach_elsewhere(one);
    if ((enter() & claimed) != 0) [[unlikely]]
      return detach_claimed(one);
    bool const linked = unlink(one);
    leave();
    if (!linked) called_here(one);  // without a claim only this thread can take it out
  }

 private:
  // state_
  static constexpr std::uint8_t requested = 1;
  static constexpr std::uint8_t claimed = 2;  // another thread claims the home list
  static constexpr std::uint8_t shared = 4;   // the other list has been used

  [[nodiscard]] bool is_home() const noexcept { return Policy::is_thread(owner_); }

  /// S1: writes busy_, then reads state_ and returns it. If it shows no claim, the caller may use
  /// the home list until leave().
  [[nodiscard]] std::uint8_t enter() noexcept {
    // An exchange, because of its acquire: a thread may have got the id of a thread that has ended.
    // It then is the home thread, and must see the list as the ended thread left it.
    (void)busy_.exchange(true, std::memory_order_seq_cst);
    return state_.load(std::memory_order_seq_cst);  // acquire: pairs with unclaim()
  }
  void leave() noexcept {
    // release: pairs with claim(); publishes the list.
    busy_.store(false, std::memory_order_release);
  }
  /// S2: the caller holds the lock.
  void claim() noexcept {
    (void)state_.fetch_or(claimed, std::memory_order_seq_cst);
    // seq_cst: S1 and S2. acquire: pairs with leave(); sees the list as the home thread left it.
    while (busy_.load(std::memory_order_seq_cst)) Policy::relax();
  }
  void unclaim() noexcept {
    // release: pairs with enter(); the home thread sees the list as this thread left it.
    (void)state_.fetch_and(static_cast<std::uint8_t>(~claimed), std::memory_order_release);
  }

  void lock() noexcept {
    // acquire: pairs with unlock(); sees the lists as the last holder left them.
    while (lock_.exchange(true, std::memory_order_acquire))
      while (lock_.load(std::memory_order_relaxed)) Policy::relax();  // relaxed: a hint
  }
  void unlock() noexcept {
    // release: pairs with the next lock(); publishes the lists.
    lock_.store(false, std::memory_order_release);
  }

  /// On the home thread, which saw a claim or a request in `seen`.
  IOWQ_NOINLINE bool attach_late(node& one, std::uint8_t seen) noexcept {
    leave();
    if ((seen & requested) != 0) return false;
    lock();
    // acquire: as in is_requested().
    bool const in_time = (state_.load(std::memory_order_acquire) & requested) == 0;
    if (in_time) link(one, home_);
    unlock();
    return in_time;
  }
  IOWQ_NOINLINE bool attach_elsewhere(node& one) noexcept {
    lock();
    // acquire: as in is_requested(). A thread that registers after the request's last look at the
    // other list takes the lock after the request did, and sees the bit.
    std::uint8_t seen = state_.load(std::memory_order_acquire);
    // release: a request on the home thread that sees `shared` takes the lock after this thread.
    if ((seen & shared) == 0) seen = state_.fetch_or(shared, std::memory_order_acq_rel);
    bool const in_time = (seen & requested) == 0;
    one.elsewhere_ = true;
    if (in_time) link(one, others_);
    unlock();
    return in_time;
  }

  /// On the home thread, which saw a claim.
  IOWQ_NOINLINE void detach_claimed(node& one) noexcept {
    leave();
    lock();
    end(one);
  }
  IOWQ_NOINLINE void detach_elsewhere(node& one) noexcept {
    lock();
    // relaxed: `claimed` changes only under the lock. If it is set here, the claim is permanent.
    if (one.elsewhere_ || (state_.load(std::memory_order_relaxed) & claimed) != 0) return end(one);
    claim();
    bool const linked = unlink(one);
    unclaim();
    unlock();
    if (!linked) called_elsewhere(one);  // no permanent claim: the home thread runs it
  }

  /// Unregisters `one` and releases the lock, which the caller holds. The caller also meets the
  /// other conditions (S1 to S4) for the node's list.
  void end(node& one) noexcept {
    if (unlink(one)) return unlock();
    int const runner = runner_;
    unlock();
    Policy::is_thread(runner) ? called_here(one) : called_elsewhere(one);
  }
  static void called_here(node& one) noexcept {
    if (one.destroyed_ != nullptr) *one.destroyed_ = true;  // its own callback destroys it
  }
  static void called_elsewhere(node& one) noexcept {
    // acquire: pairs with the release in run(), which is the last access of run() to this node.
    while (!one.done_.load(std::memory_order_acquire)) Policy::relax();
  }

  /// Takes out the newest node of the home list. Home thread only.
  node* take_home() noexcept {
    bool const claimed_now = (enter() & claimed) != 0;
    if (claimed_now) leave(), lock();
    node* const one = take(home_);
    claimed_now ? unlock() : leave();
    return one;
  }
  /// Takes out the newest node of the home list or, if that is empty, of the other list. The caller
  /// holds the lock and is the home thread or has called claim().
  node* take_any() noexcept {
    node* const one = take(home_);
    return one != nullptr ? one : take(others_);
  }
  static node* take(typename node::link& head) noexcept {
    node* const one = head;
    if (one != nullptr) {
      unlink(*one);
      one->link_ = nullptr;
    }
    return one;
  }
  static void run(node& one) noexcept {
    bool destroyed = false;
    one.destroyed_ = &destroyed;
    one.invoke_(&one);
    if (destroyed) return;
    one.destroyed_ = nullptr;
    // release: pairs with called_elsewhere(); the thread that destroys the node sees the callback's
    // effects. The node may be destroyed as soon as done_ is set.
    one.done_.store(true, std::memory_order_release);
  }

  static void link(node& one, typename node::link& head) noexcept {
    node* const next = head;
    one.next_ = next;
    one.link_ = &head;
    if (next != nullptr) next->link_ = &one.next_;
    head = &one;
  }
  /// Returns false if `one` was taken out to run.
  static bool unlink(node& one) noexcept {
    typename node::link* const at = one.link_;
    if (at == nullptr) return false;
    node* const next = one.next_;
    *at = next;
    if (next != nullptr) next->link_ = at;
    return true;
  }

  typename Policy::template atomic<std::uint8_t> state_{0};
  typename Policy::template atomic<bool> busy_{false};  // the home thread uses the home list
  typename Policy::template atomic<bool> lock_{false};
  int const owner_ = Policy::thread_id();
  typename Policy::template guarded<int> runner_{0};  // the thread that runs the callbacks
  typename node::link home_{nullptr};
  typename node::link others_{nullptr};
  bool* gone_ = nullptr;  // points into the frame of request(); the destructor sets it
};

}  // namespace iowq::inline v0::detail
