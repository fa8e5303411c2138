// SPDX-License-Identifier: BSL-1.0
// iowq/pool/detail/state.hpp -- a pool's data, and every state change of its items and workers.
//
// A pool has one mutex, M. The kernel split its lock twice, into locks of the list, the workers and
// the hash, and each split brought back a lost wake-up or a lost item. A pool here has one owner,
// so only a few threads contend for M, and each holds it for tens of instructions.
//
// The functions here run under M and have no effect outside the pool. They move items and workers
// between their places, and record in a deferred_wakes the wake-ups to make after M is released.
//
//   D1  Insertion and decision are one critical section. (The kernel checked before it inserted,
//       and slept after it: bugs 12 and 13 of its history.)
//   D2  See account.hpp. A function that makes an item runnable records that in the deferred_wakes.
//       ensure_worker() decides at the end of the critical section. Only then is it known which
//       item the calling worker takes itself.
//   D3  The thread that activates an idle worker removes it from the idle stack under M, so its
//       time-out and its activation cannot both win. The word of the worker is also set to `awake`
//       under M. The worker itself changes the word only from `spinning` to `idle`, by a compare
//       and swap, and sleeps only while the word is `idle`.
#pragma once

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <utility>

#include <iowq/base/assert.hpp>
#include <iowq/base/policy.hpp>
#include <iowq/pool/detail/account.hpp>
#include <iowq/pool/detail/generation.hpp>
#include <iowq/pool/detail/key_table.hpp>
#include <iowq/pool/detail/worker.hpp>
#include <iowq/pool/topology.hpp>
#include <iowq/pool/work.hpp>
#include <iowq/queue/adaptive_spin.hpp>
#include <iowq/queue/intrusive_list.hpp>
#include <iowq/queue/intrusive_queue.hpp>

namespace iowq::inline v0::detail {

/// The wake-ups to make after M is released, and the accounts to decide on before that. After M is
/// released only the addresses of the workers are used: a worker may have woken by itself, run and
/// left since. A surplus wake-up is harmless.
template <class Policy>
struct deferred_wakes {
  static constexpr unsigned room = 64;

  /// For one account: whether an item became runnable since the last ensure_worker(), the node of
  /// the newest such item, and whether one of them requires a worker of its own.
  struct unsettled_account {
    bool any = false;
    bool concurrent = false;
    std::uint8_t node = 0;
  };

  worker<Policy>* wake[room];  // the first nr_wake
  unsigned nr_wake = 0;
  bool unpark = false;
  unsettled_account unsettled[2];  // by work_class

  deferred_wakes() noexcept {}  // leaves `wake` uninitialised

  void became_runnable(const item& one) noexcept {
    unsettled_account& account = unsettled[one.unbound];
    account.any = true;
    account.concurrent |= one.concurrent;
    account.node = one.node_queue;
  }

  /// The worker that was activated first, or null.
  [[nodiscard]] worker<Policy>* woken() const noexcept { return nr_wake != 0 ? wake[0] : nullptr; }

  void add(worker<Policy>& sleeper) noexcept {
    // If the array is full, wake the worker at once, under M.
    if (nr_wake == room)
      Policy::futex_wake(sleeper.word, 1);
    else
      wake[nr_wake++] = &sleeper;
  }
};

/// The outcome of pool_state::end().
struct finish_result {
  item* next = nullptr;  // the item that the same worker runs next, at once
  // The linked successors of a failed item: finish them, as cancelled, after the item.
  intrusive_queue<&item::next> failed;
};

/// The state of a pool: all data that M guards, the state changes of workers and those of items.
/// Under M unless noted.
template <class Policy>
struct pool_state {
  using worker_type = worker<Policy>;
  using account_type = account<worker_type>;
  using lock = typename Policy::lock;
  template <class T>
  using atomic = typename Policy::template atomic<T>;

  // Constant after construction.
  topology nodes;
  std::chrono::milliseconds idle_timeout{};
  std::size_t stack_size = 0;
  bool exit_on_idle = false;
  bool drain_bounded = false;
  int owner_tid = 0;

  typename Policy::mutex m;  // "M"

  // Under M.
  account_type accounts[2];  // by work_class
  key_table chains;
  cpu_set affinity;
  unsigned affinity_version = 0;  // 0: workers keep the inherited affinity
  unsigned epoch = 0;             // number of the owner's context
  // The current generation of items, and the oldest one in use; see generation.hpp.
  std::uint64_t generation = 0, oldest_generation = 0;
  bool closed = false;                    // destruction has begun: new items are rejected
  bool exit = false;                      // ... and workers start no other item
  detail::rejections<Policy> rejections;  // used while `closed`
  intrusive_list<&worker_type::next, &worker_type::prev> retired;  // left, not joined yet
  intrusive_list<&worker_type::next, &worker_type::prev> spare;    // joined, to be reused
  std::uint64_t created = 0, retired_count = 0, create_failures = 0, completed = 0, cancelled = 0,
                stolen = 0, wakes = 0, unparks = 0, sleeps = 0;

  // A copy of `exit` that a worker reads without M between two items of a batch. Once set it stays
  // set, so relaxed is enough: a worker that reads it late runs one more brief item.
  atomic<bool> ending{false};

  // Never null: the pool holds one of the references.
  finisher_counts<Policy>* const finishers = new finisher_counts<Policy>;

  // At most one idle worker spins before it sleeps. Set under M, cleared by the spinning worker.
  atomic<bool> spinning{false};
  // Used by the spinning worker. While no worker spins, may_spin() uses it under M.
  adaptive_spinner<Policy> spins;

  // State of the manager. The word is written under M.
  enum : std::uint32_t { manager_busy, manager_parked, manager_ticking };
  atomic<std::uint32_t> manager_word{manager_busy};
  bool manager_present = false;
  bool manager_retires = false;  // the owner replaces the manager or destroys the pool
  int manager_error = 0;         // the errno if the manager could not be created; else 0

  // The thread that is inside a match of cancel_all(), or 0. Written under M. acquire() reads it
  // without M, to refuse a call from that thread.
  atomic<int> matcher{0};

  pool_state() = default;
  pool_state(const pool_state&) = delete;
  pool_state& operator=(const pool_state&) = delete;
  ~pool_state() { finishers->drop(); }

  [[nodiscard]] lock acquire() noexcept {
    // relaxed: only the thread that wrote the value can find its own id there.
    int const inside = matcher.load(std::memory_order_relaxed);
    IOWQ_ASSERT(inside == 0 || inside != Policy::thread_id(),
                "a match of cancel_all() called into its pool");
    return lock{m};
  }

  [[nodiscard]] account_type& account_of(work_class kind) noexcept {
    return accounts[static_cast<unsigned>(kind)];
  }

  /// When a worker that is idle since `now` may leave: at once if the time-out is 0 or negative,
  /// never if it ends after the last time that the clock can represent.
  [[nodiscard]] time_point idle_until(time_point now) const noexcept {
    if (idle_timeout <= std::chrono::milliseconds::zero()) return now;
    auto const longest = std::chrono::floor<std::chrono::milliseconds>(never - now);
    return idle_timeout < longest ? now + idle_timeout : never;
  }

  /// In a child of fork(): empties all lists and leaves items and workers as they are. Does not
  /// lock M, which any thread of the parent may have held.
  void abandon() noexcept {
    for (account_type& account : accounts) {
      for (auto& node_queue : account.node_queues) {
        node_queue.ready.abandon();
        node_queue.idle.abandon();
      }
      account.workers.abandon();
    }
    retired.abandon();
    spare.abandon();
  }

  // ---- Workers ----

  /// Call after an item of this account may have become runnable near `node`. Takes the steps that
  /// next_step() decides: wakes workers, reserves new ones, or lets the manager watch.
  void ensure_worker(account_type& account, unsigned node, bool concurrent,
                     deferred_wakes<Policy>& todo) noexcept {
    for (;;) {
      switch (next_step(account, concurrent)) {
        case step::none:
          break;
        case step::wake:
          wake(*account.newest_idle(nodes.near(node)), todo);
          continue;
        case step::create:
          account.reserve();
          call_manager(true, todo);
          continue;
        case step::watch:
          call_manager(false, todo);
          break;
      }
      account.check();
      return;
    }
  }

  /// The last step of every critical section that made an item runnable. On a worker, call it after
  /// the worker took its next item. run_deferred() asserts that it was called.
  void ensure_worker(deferred_wakes<Policy>& todo) noexcept {
    for (work_class const kind : {work_class::bound, work_class::unbound}) {
      auto const what = std::exchange(todo.unsettled[static_cast<unsigned>(kind)], {});
      if (what.any) ensure_worker(account_of(kind), what.node, what.concurrent, todo);
    }
  }

  /// Activates an idle worker for an item, and records its wake-up in `todo`.
  void wake(worker_type& sleeper, deferred_wakes<Policy>& todo) noexcept {
    if (!activate(sleeper)) return;
    todo.add(sleeper);
    ++wakes;
  }

  /// Removes an idle worker from its stack and marks it running. Returns true if the worker sleeps
  /// or is about to sleep: the caller must then call futex_wake(). Returns false if the worker
  /// spins, and so sees the word. D3.
  [[nodiscard]] bool activate(worker_type& sleeper) noexcept {
    account_of(sleeper.kind).remove_idle(sleeper);
    sleeper.state = worker_state::running;
    // relaxed: the worker takes M before it reads anything else. It is an exchange, not a store:
    // the old value shows whether a spinning worker has just gone to sleep and needs the wake.
    return sleeper.word.exchange(worker_type::awake, std::memory_order_relaxed) !=
           worker_type::spinning;
  }
  /// A worker calls this first under M after its activation or start: it now looks for an item.
  void worker_started_looking(worker_type& looker) noexcept { --account_of(looker.kind).waking; }
  /// Wakes every idle worker of a class, so that each checks whether it must leave. This is rare,
  /// so the wake-ups are made under M.
  void wake_all_idle(account_type& account) noexcept {
    for (node_queue<worker_type>& each : account.node_queues)
      while (worker_type* const sleeper = each.idle.front())
        if (activate(*sleeper)) Policy::futex_wake(sleeper->word, 1);
  }

  /// Pushes the calling worker, which has no item, on the idle stack.
  void go_idle(worker_type& quiet) noexcept {
    account_type& account = account_of(quiet.kind);
    IOWQ_ASSERT(quiet.state == worker_state::running);
    quiet.state = worker_state::idle;
    account.push_idle(quiet);
    quiet.spins = may_spin();
    // relaxed, both: a thread that activates the worker holds M, and the worker reads its word once
    // more before it sleeps. `spinning` only limits the number of spinning workers.
    if (quiet.spins) spinning.store(true, std::memory_order_relaxed);
    quiet.word.store(quiet.spins ? worker_type::spinning : worker_type::idle,
                     std::memory_order_relaxed);
  }

  /// Marks a running worker as sleeping in its item.
  void mark_sleeping(worker_type& sleeper) noexcept {
    account_type& account = account_of(sleeper.kind);
    IOWQ_ASSERT(sleeper.state == worker_state::running);
    sleeper.state = worker_state::sleeping;
    --account.nr_running;
    ++account.sleeping;
    account.check();
    account.slow_down();
    sleeper.asleep.store(true, std::memory_order_relaxed);  // relaxed: see blocking_region
  }
  /// Removes the mark: the worker runs again.
  void mark_running(worker_type& awake_worker) noexcept {
    account_type& account = account_of(awake_worker.kind);
    IOWQ_ASSERT(awake_worker.state == worker_state::sleeping);
    awake_worker.state = worker_state::running;
    --account.sleeping;
    ++account.nr_running;
    account.check();
    awake_worker.asleep.store(false, std::memory_order_relaxed);  // relaxed: see blocking_region
  }
  /// Whether the mark may be removed before the item ends. A worker of an old epoch takes no other
  /// item, so it stays marked: it must not prevent the creation of a worker of the new epoch.
  [[nodiscard]] bool can_mark_running(const worker_type& marked) const noexcept {
    return marked.state == worker_state::sleeping && marked.epoch == epoch;
  }
  /// Whether a live worker exists that can take an item of this account, now or later.
  [[nodiscard]] bool has_current_worker(const account_type& account) const noexcept {
    for (worker_type* one = account.workers.front(); one != nullptr; one = one->next)
      if (one->epoch == epoch) return true;
    return false;
  }
  /// Called at the end of a blocking region that found the worker marked. Worker only, without M,
  /// which it acquires.
  void on_blocking_region_end(worker_type& awake_worker) noexcept {
    phase const before = awake_worker.at();
    awake_worker.enter(phase::pool);
    {
      auto const held = acquire();
      if (can_mark_running(awake_worker)) mark_running(awake_worker);
    }
    awake_worker.enter(before);
  }

  [[nodiscard]] bool must_leave(const worker_type& asked) noexcept {
    return detail::must_leave(account_of(asked.kind), exit, asked.epoch != epoch);
  }
  /// Retires a running worker that has no item. The manager joins its thread.
  void leave(worker_type& leaver, deferred_wakes<Policy>& todo) noexcept {
    account_type& account = account_of(leaver.kind);
    IOWQ_ASSERT(leaver.state == worker_state::running);
    account.remove(leaver);
    leaver.state = worker_state::retired;
    retired.push_back(leaver);
    ++retired_count;
    ensure_worker(account, leaver.node, false, todo);
    call_manager(true, todo);
  }

  /// Makes the manager run: at once if `at_once`, else at its next tick at the latest.
  void call_manager(bool at_once, deferred_wakes<Policy>& todo) noexcept {
    // relaxed: it is written under M, which we have.
    std::uint32_t const word = manager_word.load(std::memory_order_relaxed);
    if (word != manager_parked && !(at_once && word == manager_ticking)) return;
    manager_word.store(manager_busy, std::memory_order_relaxed);
    todo.unpark = true;
    ++unparks;
  }

  /// Makes the deferred wake-ups. Call it without M if possible, because the woken threads need M.
  void run_deferred(const deferred_wakes<Policy>& todo) noexcept {
    IOWQ_ASSERT(!todo.unsettled[0].any && !todo.unsettled[1].any);  // D2
    for (unsigned i = 0; i < todo.nr_wake; ++i) Policy::futex_wake(todo.wake[i]->word, 1);
    if (todo.unpark) Policy::futex_wake(manager_word, 1);
  }

 private:
  /// Whether the next idle worker should spin. A spin pays off if another processor sends the next
  /// item within microseconds. So there must be a processor for the spinning worker, the owner, and
  /// each running worker. Workers with long items are not counted, since such items may sleep
  /// rather than compute; then only the success rate of earlier spins decides.
  [[nodiscard]] bool may_spin() noexcept {
    if (exit) return false;
    unsigned busy = 2;
    for (const account_type& account : accounts)
      if (account.quick()) busy += account.nr_running;
    if (busy > accounts[0].processors) return false;
    // acquire: pairs with the release in worker_thread::spin(), so that should_spin() reads the
    // complete notes of the last spin.
    return !spinning.load(std::memory_order_acquire) && spins.should_spin();
  }

 public:
  // ---- Items ----

  static constexpr unsigned max_batch = 16;  // items in a row of one key or one chain of links
  static constexpr unsigned max_brief = 32;  // brief items taken at once
  static constexpr unsigned max_passed_over = 16;  // takes from other nodes while a node has items
  static constexpr std::chrono::nanoseconds short_batch{8'000}, long_batch{50'000};
  static constexpr std::chrono::milliseconds max_batch_time{2};

  /// Inserts a new item. Any thread. Call ensure_worker() before M is released. D1.
  void insert(item& fresh, deferred_wakes<Policy>& todo) noexcept {
    accept(fresh, static_cast<unsigned>(generation % generation_slots));
    place(fresh, todo);
  }
  /// Counts the item in the generation of `slot`, until depart().
  void accept(item& fresh, unsigned slot) noexcept {
    fresh.generation = static_cast<std::uint8_t>(slot) & (generation_slots - 1);
    ++account_of(fresh.kind()).unfinished[fresh.generation];
  }
  /// Stops counting an item that ended or was cancelled. The thread that calls its finished() must
  /// be counted instead, in worker::finishing or finisher_counts.
  generation_set depart(const item& gone) noexcept {
    --account_of(gone.kind()).unfinished[gone.generation];
    return generation_of(gone);
  }
  void place(item& fresh, deferred_wakes<Policy>& todo) noexcept {
    account_type& account = account_of(fresh.kind());
    ++account.queued;
    ++account.arrived;
    if (fresh.keyed && !chains.enter(fresh)) return;
    make_ready(fresh, todo);
  }

  /// Gives `taker`, a running worker without an item, its next item, and returns it; null if no
  /// item is ready. After a brief item, other brief items may follow by `next`. Does not change
  /// which other items are unserved, so D2 still holds.
  [[nodiscard]] item* take(worker_type& taker) noexcept {
    account_type& account = account_of(taker.kind);
    if (account.runnable == 0) return nullptr;
    unsigned const node = node_to_take_from(account, taker.node);
    auto& node_queue = account.node_queues[node];
    item* const oldest = node_queue.ready.front();
    unsigned const fair = fair_share(account, taker);
    account.take_ready(*oldest);
    taker.batch = 0;
    if (oldest->keyed) taker.batch_start = Policy::now();
    taker.cur = oldest;
    begin(taker, *oldest);
    unsigned taken = 1;
    if (oldest->batchable())
      for (item* last = oldest; taken < fair; ++taken, last = last->next) {
        item* const also = node_queue.ready.front();
        if (also == nullptr || !also->batchable()) break;
        __builtin_prefetch(also->ahead, 1);
        account.take_ready(*also);
        begin(taker, *also);
        last->next = also;
      }
    if (node != taker.node) stolen += taken;
    return oldest;
  }

  /// Ends the item of `ender`, or all items of its batch, after execute(). If both a successor and
  /// the next item of the key become startable, the worker keeps the successor, and the other item
  /// is queued. Call ensure_worker() after the worker took its next item.
  [[nodiscard]] finish_result end(worker_type& ender, deferred_wakes<Policy>& todo) noexcept {
    item& ended = *std::exchange(ender.cur, nullptr);
    for (item* one = &ended; one != nullptr; one = one->next) {
      one->state = item_state::done;
      one->worker_thread = nullptr;
      ender.departed |= depart(*one);
      ++completed;
    }
    finish_result after;
    if (ended.successor != nullptr) start_successor(ender, ended, after);
    if (ended.keyed) release_key(ender, ended, after, todo);
    return after;
  }

  /// Cancels the items behind `last` in a batch, because the pool is being destroyed. The caller
  /// finishes the items in `rest`, as cancelled, after it has released M.
  void abandon_rest(worker_type& ender, item& last, intrusive_queue<&item::next>& rest) noexcept {
    for (item *one = std::exchange(last.next, nullptr), *next; one != nullptr; one = next) {
      next = one->next;
      one->state = item_state::done;
      one->worker_thread = nullptr;
      one->error = ECANCELED;
      ender.departed |= depart(*one);
      ++cancelled;
      rest.push_back(*one);
    }
  }

  /// Enqueues the successor that `ender` kept until its predecessor was finished. If the successor
  /// was withdrawn or the pool is closed, cancels the whole chain into `failed` instead.
  void enqueue_successor(worker_type& ender, intrusive_queue<&item::next>& failed,
                         deferred_wakes<Policy>& todo) noexcept {
    item& successor = *std::exchange(ender.later, nullptr);
    if (closed || successor.withdrawn) {
      ender.departed |= depart(successor);
      cancel_chain(&successor, ECANCELED, [&](item& one) { failed.push_back(one); });
    } else {
      place(successor, todo);
    }
  }

  /// Removes a queued item, and the items linked behind it, and passes them to `take` in order. The
  /// caller calls ensure_worker(), releases M, and then finishes the items as cancelled.
  template <class Take>
  void dequeue_item(item& queued, int why, deferred_wakes<Policy>& todo, Take&& take) noexcept {
    account_type& account = account_of(queued.kind());
    if (queued.state == item_state::chained) {
      chains.leave(queued);
    } else {
      item* const next_head = queued.keyed ? chains.release(queued) : nullptr;
      if (next_head != nullptr && next_head->kind() == queued.kind() &&
          next_head->node_queue == queued.node_queue) {
        account.make_ready_at(queued, *next_head);
        todo.became_runnable(*next_head);
      } else {
        account.unready(queued);
        if (next_head != nullptr) make_ready(*next_head, todo);
      }
    }
    drop_queued(queued, why, take);
  }
  /// The second part of dequeue_item(), for an item that is no longer in any list.
  template <class Take>
  void drop_queued(item& withdrawn, int why, Take&& take) noexcept {
    --account_of(withdrawn.kind()).queued;
    (void)depart(withdrawn);
    cancel_chain(&withdrawn, why, take);
  }
  /// Marks `first` and the items linked behind it as cancelled with the errno `why`, and passes
  /// each to `take`. They must not be counted as queued or unfinished.
  template <class Take>
  void cancel_chain(item* first, int why, Take&& take) noexcept {
    while (first != nullptr) {
      item& one = *first;
      first = std::exchange(one.successor, nullptr);
      one.state = item_state::done;
      one.error = why;
      one.prev = nullptr;
      ++cancelled;
      take(one);
    }
  }

 private:
  void make_ready(item& startable, deferred_wakes<Policy>& todo) noexcept {
    account_of(startable.kind()).make_ready(startable);
    todo.became_runnable(startable);
  }
  /// The node that a worker of node `own` takes its next item from: `own`, or else the nearest
  /// node with a ready item. But a node that was passed over `max_passed_over` times comes first.
  /// Otherwise, if all workers that the limit allows were on other nodes and always found items
  /// there, the items of this node would never run. Call only if an item is runnable.
  [[nodiscard]] unsigned node_to_take_from(account_type& account, unsigned own) const noexcept {
    unsigned chosen = no_node;
    for (std::uint8_t const node : nodes.near(own)) {
      auto& node_queue = account.node_queues[node];
      if (node_queue.ready.empty()) continue;
      if (chosen == no_node || ++node_queue.passed_over >= max_passed_over) chosen = node;
    }
    account.node_queues[chosen].passed_over = 0;
    return chosen;
  }
  static constexpr unsigned no_node = ~0u;

  void begin(worker_type& worker_thread, item& next) noexcept {
    --account_of(next.kind()).queued;
    hold(worker_thread, next);
  }
  void hold(worker_type& worker_thread, item& next) noexcept {
    next.state = item_state::running;
    next.worker_thread = &worker_thread;
    next.next = nullptr;
    ++worker_thread.batch;
  }

  /// How many brief items to take at once: at most an equal share of the ready items for each
  /// running worker, and at most the number that fits the duration of a batch. If items arrived
  /// since the last batch, the batch is short: it ends before an owner that spins for the results
  /// goes to sleep. Else the owner is asleep or busy, and the batch lasts twice as long as the last
  /// one, up to a limit that makes waking the owner worth its cost.
  [[nodiscard]] static unsigned fair_share(const account_type& account,
                                           worker_type& taker) noexcept {
    unsigned const running = std::max(account.nr_running, 1u);
    bool const answered = std::exchange(taker.arrived_seen, account.arrived) != account.arrived;
    taker.batch_length = answered ? short_batch : std::min(2 * taker.batch_length, long_batch);
    auto const in_time =
        taker.batch_length / std::max(account.pace, taker.batch_length / max_brief);
    return std::min((account.runnable + running - 1) / running,
                    std::max(static_cast<unsigned>(in_time), 1u));
  }

  /// Releases the key of `key_head`. `ender` runs the next item of the key at once, unless it
  /// already keeps a successor of `key_head` or has reached the limits of a batch.
  void release_key(worker_type& ender, item& key_head, finish_result& after,
                   deferred_wakes<Policy>& todo) noexcept {
    item* const next_head = chains.release(key_head);
    if (next_head == nullptr) return;
    if (after.next == nullptr && ender.later == nullptr && next_head->kind() == ender.kind &&
        ender.batch < max_batch && !must_leave(ender) &&
        Policy::now() - ender.batch_start < max_batch_time) {
      ender.cur = after.next = next_head;
      begin(ender, *next_head);
      return;
    }
    // Appended at the end of its ready list, so a hot key does not occupy a worker without limit.
    make_ready(*next_head, todo);
  }

  /// Starts the successor of `ended` on the same worker if all rules permit it. Otherwise `ender`
  /// keeps the successor, to enqueue it after `ended` is finished. If `ended` failed or the pool is
  /// closed, cancels the successor and all items linked behind it.
  void start_successor(worker_type& ender, item& ended, finish_result& after) noexcept {
    item& successor = *std::exchange(ended.successor, nullptr);
    if (ended.error != 0 || closed)
      return cancel_chain(&successor, ECANCELED, [&](item& one) { after.failed.push_back(one); });
    successor.predecessor = nullptr;  // `ended` may be gone as soon as it is finished
    accept(successor, ended.generation);
    successor.node_queue =
        successor.node == any_node || static_cast<unsigned>(successor.node) >= nodes.size()
            ? ended.node_queue
            : static_cast<std::uint8_t>(successor.node);
    bool const here = !successor.keyed && !successor.withdrawn && successor.kind() == ender.kind &&
                      successor.node_queue == ended.node_queue && ender.batch < max_batch &&
                      !must_leave(ender);
    if (!here) {
      // The worker enqueued the previous successor before it took another item.
      IOWQ_ASSERT(ender.later == nullptr);
      ender.later = &successor;
      return;
    }
    ender.cur = &successor;
    hold(ender, successor);
    after.next = &successor;
  }
};

}  // namespace iowq::inline v0::detail
