// SPDX-License-Identifier: BSL-1.0
// iowq/base/detail/stop_state.hpp -- the list of callbacks of a stop source.
//
// Nearly every callback is registered, ended and run by the thread that made its source, its
// home. So there are two lists: one for those, which its thread edits without waiting for anybody,
// and one for the callbacks of all other threads, guarded by a lock.
//
//   home list     S1  At home: between busy_ = 1 and busy_ = 0, if no claim was seen in between.
//                 S2  Elsewhere: with the lock, the claim set, and busy_ seen to be 0 after that.
//                 S3  At home, too, with the lock: whoever claims has it.
//   other list    S4  With the lock.
//   runner_       S5  Written before the first callback is taken out, read by who finds one out.
//
// S1 against S2 is Dekker's: each writes its own word and then reads the other's, all four of them
// seq_cst, so one at least sees the other. Then home gives way and takes the lock, while the other
// waits for a few instructions of home's. A claim lasts while a callback of home's is ended
// elsewhere (its coroutine has moved), or for good if it is elsewhere that the stop was requested.
// Without one, nothing at home waits: neither a registration, nor its end, nor a request, as far
// as the home list goes.
#pragma once

#include <cstdint>
#include <utility>

#include <iowq/base/config.hpp>
#include <iowq/base/policy.hpp>

namespace iowq::inline v0::detail {

template <class Policy>
class stop_list;

/// One registered callback, linked into its list. `done_` is set by the thread that ran it and
/// awaited by the one that destroys it.
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
      invoke_(this);  // too late to wait for it: run here and now, as the standard's does
  }
  void detach() noexcept {
    if (auto* const list = std::exchange(list_, nullptr)) list->detach(*this);
  }

 private:
  friend stop_list<Policy>;
  using link = typename Policy::template guarded<basic_stop_node*>;

  invoke_fn* invoke_;
  stop_list<Policy>* list_ = nullptr;  // null: never linked, so nothing to undo
  // No more stores than needed: these are written before they are read.
  link next_;
  typename Policy::template guarded<link*> link_;  // at us; null once taken out to run
  bool* destroyed_;                                // while running: for its destructor to set
  typename Policy::template atomic<bool> done_{false};
  bool elsewhere_ = false;  // it is in the other list
};

/// All of a source. Immovable; destroy it after its callbacks.
template <class Policy>
class stop_list {
  using node = basic_stop_node<Policy>;

 public:
  stop_list() noexcept = default;
  stop_list(const stop_list&) = delete;
  stop_list& operator=(const stop_list&) = delete;
  ~stop_list() {
    if (gone_ != nullptr) *gone_ = true;  // we die inside our own request()
    node* const left = home_;
    node* const others = others_;
    IOWQ_ASSERT(left == nullptr && others == nullptr,
                "a stop_source was destroyed before its callbacks");
  }

  [[nodiscard]] bool is_requested() const noexcept {
    // acquire: pairs with the release in request(); what its caller wrote before is seen.
    return (state_.load(std::memory_order_acquire) & requested) != 0;
  }

  /// Runs all callbacks; false if that had been asked for before.
  bool request() noexcept {
    bool const home = is_home();
    if (!home) lock();
    // release: what the caller wrote before is seen by whoever sees the bit. acquire: who is late
    // acts on what the first one published; and the lock of who set `shared` is seen.
    std::uint8_t const before = state_.fetch_or(requested, std::memory_order_acq_rel);
    if ((before & requested) != 0) {
      if (!home) unlock();
      return false;
    }
    if (!home) claim();  // for good
    runner_ = Policy::thread_id();
    bool gone = false;
    gone_ = &gone;
    if (home) {
      while (node* const one = take_home()) {
        run(*one);
        if (gone) return true;
      }
      if ((before & shared) == 0) {  // and nobody can register there any more
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

  /// False: a stop was requested.
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

  /// Afterwards it is not called; waits for a call that another thread is in.
  void detach(node& one) noexcept {
    if (one.elsewhere_ || !is_home()) [[unlikely]]
      return detach_elsewhere(one);
    if ((enter() & claimed) != 0) [[unlikely]]
      return detach_claimed(one);
    bool const linked = unlink(one);
    leave();
    if (!linked) called_here(one);  // who else could have taken it, without a claim?
  }

 private:
  // state_
  static constexpr std::uint8_t requested = 1;
  static constexpr std::uint8_t claimed = 2;  // the home list, by another thread
  static constexpr std::uint8_t shared = 4;   // the other list was used

  [[nodiscard]] bool is_home() const noexcept { return Policy::is_thread(owner_); }

  /// S1: our word, then theirs. If that shows no claim, the list is ours until leave().
  [[nodiscard]] std::uint8_t enter() noexcept {
    // An exchange for its acquire: a thread may have got the number of one that has ended, and
    // then sees the list as that one left it.
    (void)busy_.exchange(true, std::memory_order_seq_cst);
    return state_.load(std::memory_order_seq_cst);  // and acquires what a claim did
  }
  void leave() noexcept {
    // release: pairs with claim(); publishes the list.
    busy_.store(false, std::memory_order_release);
  }
  /// S2: with the lock.
  void claim() noexcept {
    (void)state_.fetch_or(claimed, std::memory_order_seq_cst);
    // seq_cst: S1 against S2; acquire: the list as home left it.
    while (busy_.load(std::memory_order_seq_cst)) Policy::relax();
  }
  void unclaim() noexcept {
    // release: pairs with enter(), which sees the list as we left it.
    (void)state_.fetch_and(static_cast<std::uint8_t>(~claimed), std::memory_order_release);
  }

  void lock() noexcept {
    // acquire: the lists as the last holder left them.
    while (lock_.exchange(true, std::memory_order_acquire))
      while (lock_.load(std::memory_order_relaxed)) Policy::relax();  // a guess; see above
  }
  void unlock() noexcept {
    // release: pairs with the next lock(); publishes the lists.
    lock_.store(false, std::memory_order_release);
  }

  /// At home, where a claim or a request was seen.
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
    // acquire: as in is_requested(). Who registers after a request's last look has the lock after
    // it, and sees the bit.
    std::uint8_t seen = state_.load(std::memory_order_acquire);
    // release: a request at home that sees `shared` takes the lock after us.
    if ((seen & shared) == 0) seen = state_.fetch_or(shared, std::memory_order_acq_rel);
    bool const in_time = (seen & requested) == 0;
    one.elsewhere_ = true;
    if (in_time) link(one, others_);
    unlock();
    return in_time;
  }

  /// At home, where a claim was seen.
  IOWQ_NOINLINE void detach_claimed(node& one) noexcept {
    leave();
    lock();
    end(one);
  }
  IOWQ_NOINLINE void detach_elsewhere(node& one) noexcept {
    lock();
    // relaxed: set and cleared under the lock. It is set if it is for good.
    if (one.elsewhere_ || (state_.load(std::memory_order_relaxed) & claimed) != 0) return end(one);
    claim();
    bool const linked = unlink(one);
    unclaim();
    unlock();
    if (!linked) called_elsewhere(one);  // at home, where nothing is claimed for good
  }

  /// With the lock, and all that the node's list asks for. Gives the lock back.
  void end(node& one) noexcept {
    if (unlink(one)) return unlock();
    int const runner = runner_;
    unlock();
    Policy::is_thread(runner) ? called_here(one) : called_elsewhere(one);
  }
  static void called_here(node& one) noexcept {
    if (one.destroyed_ != nullptr) *one.destroyed_ = true;  // we are inside our own callback
  }
  static void called_elsewhere(node& one) noexcept {
    // acquire: pairs with the release in run(); after it nobody touches this node.
    while (!one.done_.load(std::memory_order_acquire)) Policy::relax();
  }

  /// The newest of the home list, at home.
  node* take_home() noexcept {
    bool const claimed_now = (enter() & claimed) != 0;
    if (claimed_now) leave(), lock();
    node* const one = take(home_);
    claimed_now ? unlock() : leave();
    return one;
  }
  /// The newest, with the lock, at home or after claim().
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
    // release: pairs with called_elsewhere(); the callback's effects are seen by whoever destroys
    // it, and we touch it no more.
    one.done_.store(true, std::memory_order_release);
  }

  static void link(node& one, typename node::link& head) noexcept {
    node* const next = head;
    one.next_ = next;
    one.link_ = &head;
    if (next != nullptr) next->link_ = &one.next_;
    head = &one;
  }
  /// False: it was taken out to run.
  static bool unlink(node& one) noexcept {
    typename node::link* const at = one.link_;
    if (at == nullptr) return false;
    node* const next = one.next_;
    *at = next;
    if (next != nullptr) next->link_ = at;
    return true;
  }

  typename Policy::template atomic<std::uint8_t> state_{0};
  typename Policy::template atomic<bool> busy_{false};  // home is at its list
  typename Policy::template atomic<bool> lock_{false};
  int const owner_ = Policy::thread_id();
  typename Policy::template guarded<int> runner_{0};  // thread that runs the callbacks
  typename node::link home_{nullptr};
  typename node::link others_{nullptr};
  bool* gone_ = nullptr;  // in the frame of request(): set by our destructor
};

}  // namespace iowq::inline v0::detail
