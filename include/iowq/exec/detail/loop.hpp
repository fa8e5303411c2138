// SPDX-License-Identifier: BSL-1.0
// iowq/exec/detail/loop.hpp -- the event loop: inbox, timers, ready queue, submit and wait, reap.
//
// A turn makes at most one system call. Every completion (a CQE, an item that a worker posted, a
// timer) leads to finish(), which resumes the coroutine by one indirect call. Only the fast path
// (exec/detail/fast_path.hpp) resumes a coroutine without finish().
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include <iowq/coro/detail/promise.hpp>
#include <iowq/exec/detail/backend_poll.hpp>
#include <iowq/exec/detail/backend_ring.hpp>
#include <iowq/exec/detail/fd_cache.hpp>
#include <iowq/exec/detail/operation_base.hpp>
#include <iowq/exec/detail/operation_counters.hpp>
#include <iowq/exec/detail/pool_slot.hpp>
#include <iowq/exec/detail/remote_inbox.hpp>
#include <iowq/exec/detail/select_backend.hpp>
#include <iowq/queue/timer_heap.hpp>

namespace iowq::inline v0::detail {

/// The loop of the calling thread, or null.
inline constinit thread_local loop* this_thread_loop = nullptr;

/// The event loop of one owner thread. Owner thread only, unless a member says otherwise.
class loop {
 public:
  loop(unsigned entries, backend_kind backend, punt_policy punt, pool_options pool,
       iowq::pool* shared)
      : punt_{punt},
        ring_{registry_},
        reason_{open_backend(backend, entries, punt, ring_, poll_)},
        pool_{std::move(pool), entries, shared} {}

  ~loop() {
    pool_.stop();
    ending_ = true;
    for (; shots_.armed != 0; turn()) cancel_all();
    while (loop_item* next = remote_.drain())
      while (loop_item* const now = next) next = now->next, now->run();
    while (loop_item* const now = ready_.pop_front()) now->run();
    in_flight().for_each([](operation_base& op) { static_cast<void>(at_fault(op.source())); });
    IOWQ_ASSERT(registry_.empty(), "an executor was destroyed with operations in flight");
    remote_.wait_for_callers();
  }

  /// Returns the loop of this thread. Asserts that there is one.
  [[nodiscard]] static loop& current() noexcept {
    loop* const here = this_thread_loop;
    IOWQ_ASSERT(here != nullptr, "an operation was awaited on a thread that runs no executor");
    return *here;
  }

  // ---- Any thread ----

  /// Hands `i` to the owner, and wakes the owner if, and only if, it is parked.
  void post(loop_item& i) noexcept {
    remote_.post(i, [this] { kick(); });
  }

  /// Also from a signal handler.
  void request_stop() noexcept {
    remote_.call_while_alive([this] {
      // release: pairs with the acquire in turn(), which then sees what the caller did before.
      stop_wanted_.store(true, std::memory_order_release);
      int const saved = errno;
      ring_.wake();  // even if not parked: a handler may run on the owner's thread
      errno = saved;
    });
  }

  [[nodiscard]] std::uint64_t kicks() const noexcept { return remote_.kicks(); }

  // ---- Owner ----

  void ready(loop_item& i) noexcept { ready_.push_back(i); }

  /// Runs one turn. Blocks until there is something to do.
  void turn() noexcept {
    registry_.start_turn();
    may_continue_ = most_at_once;
    // acquire: pairs with request_stop().
    if (stop_wanted_.load(std::memory_order_acquire)) stop_all();
    for (loop_item* next = remote_.drain(); loop_item* const now = next;) {
      next = now->next;
      now->run();
      drain_trampoline();
    }
    if (!timers_.empty()) fire_timers();
    for (unsigned left = turn_budget; left != 0 && !ready_.empty(); --left) {
      ++items_run_;
      ready_.pop_front()->run();
      drain_trampoline();
    }
    if (ring_.cancels_wait()) cancel_again();
    pool_.flush();
    bool const idle = !over() && ready_.empty() && !ring_.ready();
    bool const sleep = idle && !worth_spinning() && remote_.park();
    if (poll_) [[unlikely]]
      return poll_->wait(sleep, timers_.next(), [this](operation_base& op) { retry(op); });
    ring_.enter(sleep, timers_.next());
    ring_.reap(reap_budget, [] { drain_trampoline(); });
  }

  /// Joins a group of loops that outlive each other's last turn. `stops` is set when the whole
  /// group is asked to stop.
  void join_group(const atomic<bool>& stops) noexcept { group_stop_ = &stops; }
  [[nodiscard]] bool group_stops() const noexcept {
    // acquire: pairs with runtime::request_stop().
    return group_stop_ != nullptr && group_stop_->load(std::memory_order_acquire);
  }

  /// Runs turns until `done` is set by an item that a turn runs, no coroutine of another loop is
  /// here, and no abandoned request is left.
  void run_until(const bool& done) noexcept {
    trampoline_scope const scope;
    done_ = &done;
    while (!over()) turn();
    done_ = nullptr;
  }

  /// Counts a coroutine that has arrived from another loop.
  void arrive() noexcept { ++migrated_in_; }
  /// Sends a coroutine to `other`, as `i`. Touches nothing of the coroutine after the post.
  void migrate_to(loop& other, loop_item& i) noexcept { --migrated_in_, other.post(i); }

  /// Registers `op` as in flight. Call this last: if a stop was already requested, it cancels `op`.
  void watch(operation_base& op, stop_token token, bool ambient) noexcept {
    registry_.add(op);
    if (!ambient) [[unlikely]]
      hook(op, token);
  }

  /// Sends `op` to the pool, and starts the pool if this is the first punt. A null `w` means that
  /// its allocation failed.
  void start_work(operation_base& op, work* w) noexcept {
    op.stage_ = stage::pool;
    if (w != nullptr) pool_.on_punted();
    int const r = w == nullptr ? -ENOMEM : pool_.start();
    if (r < 0) [[unlikely]]
      return complete_later(op, r);
    pool_.punt(*w);
  }

  /// Returns true if the coroutine of an await that need not wait may continue without a turn of
  /// the loop. That is limited to 64 times a turn: a peer that never lets it wait must not starve
  /// the other coroutines of this thread.
  [[nodiscard]] bool may_continue() noexcept {
    if (may_continue_ == 0) [[unlikely]]
      return false;
    --may_continue_;
    return true;
  }

  void arm(alarm& a, time_point deadline) noexcept {
    a.op.stage_ = stage::timer;
    timers_.arm(a, deadline);
  }
  void disarm(alarm& a) noexcept { timers_.disarm(a); }

  /// Cancels `op` if that is possible. `op` completes in a later step, never inside this call.
  void cancel(operation_base& op) noexcept;

  /// Completes `op` with `res` when the ready queue is run, not inside this call.
  void complete_later(operation_base& op, int res) noexcept {
    op.result_.set(res);
    op.stage_ = stage::ready;
    ready(op);
  }

  /// Completes an operation whose result is set, and resumes its coroutine. Must be the last
  /// statement of a completion or an item; their caller then calls drain_trampoline().
  template <const operation_row& Row>
  void finish(operation_base& op, std::uint64_t operation_stats::* way) noexcept {
    in_flight_registry::remove(op);
    ++(counters_.of<Row>().*way);
    constexpr auto unusual = operation_base::cancel_wanted | operation_base::hooked;
    if (op.is(unusual | operation_base::has_callback)) [[unlikely]]
      return finish_general(op, counters_.of<Row>());
    resume(op);
  }

  /// Call after `op` was removed from the registry: a close() may wait for it. finish() calls it
  /// itself.
  void left(const operation_base& op) noexcept;

  void resume(operation_base& op) noexcept {
    op.stage_ = stage::completed;
    if (op.is(operation_base::has_callback)) return op.callback_->invoke();
    op.waiter_.resume();
  }

  template <const operation_row& Row>
  void count(std::uint64_t operation_stats::* way) noexcept {
    counters_.count<Row>(way);
  }

  /// The token under which run() and spawn() start their tasks.
  [[nodiscard]] stop_token ambient() const noexcept { return ambient_; }
  [[nodiscard]] punt_policy punting() const noexcept { return punt_; }
  [[nodiscard]] ring_backend& backend() noexcept { return ring_; }
  [[nodiscard]] const ring_backend& backend() const noexcept { return ring_; }
  /// Null if the loop has a ring.
  [[nodiscard]] poll_backend* poller() noexcept { return poll_ ? &*poll_ : nullptr; }
  [[nodiscard]] bool has_ring() const noexcept { return !poll_; }
  [[nodiscard]] const std::string& backend_reason() const noexcept { return reason_; }
  [[noreturn]] IOWQ_COLD void fail_for_ring(const operation_row& row) const {
    std::string const what = std::string{row.name} + " (needs a ring; none here: " + reason_ + ")";
    throw_error(-ENOTSUP, what.c_str());
  }
  [[nodiscard]] const ring_stats& kernel_stats() const noexcept {
    return poll_ ? poll_->stats() : ring_.stats();
  }
  [[nodiscard]] const class operation_counters& counts() const noexcept { return counters_; }
  [[nodiscard]] class devices& devices() noexcept { return devices_; }
  [[nodiscard]] std::uint64_t items_run() const noexcept { return items_run_; }
  [[nodiscard]] request_counts& shots() noexcept { return shots_; }
  [[nodiscard]] bool over() const noexcept {
    return done_ && *done_ && migrated_in_ == 0 && shots_.abandoned == 0;
  }
  [[nodiscard]] bool ending() const noexcept { return ending_; }
  [[nodiscard]] bool stopping() const noexcept { return stop_->stop_requested(); }
  // relaxed: a request made on this thread is always seen.
  [[nodiscard]] bool will_stop() const noexcept {
    return stopping() || stop_wanted_.load(std::memory_order_relaxed);
  }
  /// All operations in flight.
  [[nodiscard]] in_flight_registry& in_flight() noexcept {
    ring_.track_all();
    return registry_;
  }
  [[nodiscard]] pool_slot& pool() noexcept { return pool_; }
  [[nodiscard]] const pool_slot& pool() const noexcept { return pool_; }
  /// Call at the end of a run. A stop request applies to that run, even if it came in the last
  /// turn.
  void forget_stop() noexcept {
    // relaxed: only the owner clears it, and a request that comes now is for the next run.
    stop_wanted_.store(false, std::memory_order_relaxed);
    if (!stopping()) return;
    ring_.open_to_all(true);
    stop_.emplace();  // at the same address: ambient_ stays valid
  }

 private:
  static constexpr unsigned turn_budget = 256;   // items run before the kernel is entered
  static constexpr unsigned most_at_once = 64;   // awaits that continue without a turn
  static constexpr unsigned reap_budget = 1024;  // CQEs reaped before the next turn

  /// Wakes the owner. A loop of the same group does so through its ring, with its next submission.
  void kick() noexcept {
    loop* const from = this_thread_loop;
    bool const near = from != nullptr && group_stop_ != nullptr && from->group_stop_ == group_stop_;
    if (!near || !from->ring_.message(ring_)) ring_.wake();
  }

  /// Before the owner sleeps, it spins for its workers if that pays. It spins only if it has
  /// nothing else to wait for: no SQE, no timer, and no descriptor in epoll. The ring shows a
  /// completion in shared memory; epoll reports one only through a system call.
  [[nodiscard]] bool worth_spinning() noexcept {
    if (!pool_.should_spin() || !timers_.empty() || ring_.pending()) return false;
    if (poll_ && poll_->waits()) return false;
    return pool_.spin([this] { return !remote_.empty() || ring_.ready() || ring_.needs_enter(); });
  }

  void finish_general(operation_base& op, operation_stats& line) noexcept;

  IOWQ_NOINLINE void fire_timers() noexcept {
    time_point const now = linux_policy::now();
    while (timer* const due = timers_.pop_due(now)) complete_later(static_cast<alarm*>(due)->op, 0);
  }

  /// No ring: the descriptor seems to be ready, or the operation was cancelled.
  void retry(operation_base& op) noexcept { op.stage_ = stage::ready, ready(op); }

  // Defined below the class.
  void hook(operation_base& op, stop_token token) noexcept;
  void stop_all() noexcept;
  void cancel_all() noexcept;
  void cancel_again() noexcept;

  // Constant, or owner thread only.
  punt_policy punt_;
  std::optional<stop_source> stop_{std::in_place};
  stop_token const ambient_ = stop_->get_token();
  in_flight_registry registry_{counters_};
  ring_backend ring_;
  intrusive_queue<&loop_item::next> ready_;
  timer_heap timers_;
  const atomic<bool>* group_stop_ = nullptr;  // its address identifies the group
  const bool* done_ = nullptr;
  std::ptrdiff_t migrated_in_ = 0;  // less the coroutines of this loop that are elsewhere
  bool ending_ = false;
  unsigned may_continue_ = most_at_once;
  request_counts shots_;
  std::uint64_t items_run_ = 0;
  class operation_counters counters_;
  class devices devices_;
  std::optional<poll_backend> poll_;  // instead of the ring, which is then not open
  std::string reason_;                // why this backend

  // Any thread.
  remote_inbox remote_;
  atomic<bool> stop_wanted_{false};

  // Last, so that its workers end before anything that they post to is destroyed.
  pool_slot pool_;
};

inline void loop::cancel(operation_base& op) noexcept {
  if (!op.row().cancellable || op.is(operation_base::cancel_wanted)) return;
  op.set(operation_base::cancel_wanted);
  switch (op.stage_) {
    case stage::waiting:
      ring_.drop_cancelled([this](operation_base& late) { complete_later(late, -ECANCELED); });
      break;
    case stage::ring:
      ring_.cancel(op);
      break;
    case stage::poll:
      poll_->forget(op);
      retry(op);  // finds cancel_wanted and does not try again
      break;
    case stage::pool:
      pool_.flush();
      // dequeued: the pool has called finished(), which posted; running: its token was stopped.
      if (auto* const pool = pool_.if_started()) pool->cancel(op.kind_->as_work(op));
      break;
    case stage::timer:
    case stage::sync_wait:
      if (op.kind_->disarm(op)) complete_later(op, -ECANCELED);
      break;
    default:
      break;
  }
}

IOWQ_NOINLINE inline void loop::hook(operation_base& op, stop_token token) noexcept {
  if (!token.stop_possible()) return;
  // Callers that can no longer report ENOMEM skip prepare().
  bool const made = op.is(operation_base::hooked) || stop_hook::prepare(*this, op, token);
  IOWQ_ASSERT(made, "no memory to register an operation with its stop token");
  op.hook_.object().begin(token);
}

IOWQ_NOINLINE inline bool stop_hook::prepare(loop& owner, operation_base& op,
                                             stop_token token) noexcept {
  if (!token.stop_possible()) return true;
  if (op.hook_.emplace(owner, op) == nullptr) return false;
  op.set(operation_base::hooked);
  return true;
}

inline void stop_hook::drop(operation_base& op) noexcept {
  if (!op.is(operation_base::hooked)) return;
  op.hook_.destroy();
  op.bits_ = static_cast<std::uint8_t>(op.bits_ & ~operation_base::hooked);
}

/// Stops the ambient token and cancels every operation in flight, whatever its own token is. A
/// second request cancels the operations that began since the first: an operation that is shielded
/// from a stop may wait without limit.
IOWQ_COLD inline void loop::stop_all() noexcept {
  // acquire: as in turn(). A request that came since turn() looked is also handled here.
  static_cast<void>(stop_wanted_.exchange(false, std::memory_order_acquire));
  if (!stopping()) {
    ring_.open_to_all(false);
    stop_->request_stop();
  }
  cancel_all();
}

IOWQ_NOINLINE inline void loop::finish_general(operation_base& op, operation_stats& line) noexcept {
  if (op.result_.res() == -ECANCELED && op.is(operation_base::cancel_wanted)) ++line.cancelled;
  left(op);
  if (op.is(operation_base::hooked)) {
    if (!op.hook_.object().end()) {
      op.stage_ = stage::draining_stop;  // its stop request is still in our inbox, and refers to it
      return;
    }
    op.hook_.destroy();
  }
  resume(op);
}

inline void loop::left(const operation_base& op) noexcept {
  if (!op.is(operation_base::cancel_wanted)) return;
  registry_.on_user_completed(op, [this](operation_base& closer) { ready(closer); });
}

IOWQ_COLD inline void loop::cancel_all() noexcept {
  in_flight().for_each([this](operation_base& op) { cancel(op); });
}

IOWQ_COLD inline void loop::cancel_again() noexcept {
  bool const all = ring_.ask_again();
  registry_.for_each([&](operation_base& op) {
    if (op.stage_ == stage::ring && op.is(operation_base::cancel_wanted)) ring_.cancel(op, all);
  });
}

inline void stop_hook::requested() noexcept {
  if (this_thread_loop == &owner_) return owner_.cancel(op_);
  posted_ = true;
  owner_.post(*this);
}

inline void stop_hook::arrived(loop_item* self) noexcept {
  auto& hook = *static_cast<stop_hook*>(self);
  hook.posted_ = false;
  operation_base& op = hook.op_;
  loop& owner = hook.owner_;
  if (op.stage_ != stage::draining_stop) return owner.cancel(op);
  op.hook_.destroy();
  owner.resume(op);
}

}  // namespace iowq::inline v0::detail
