// SPDX-License-Identifier: BSL-1.0
// iowq/pool/detail/state.hpp -- the state of a pool: its data, and every transition of items and
// workers.
//
// One mutex a pool. The kernel split its lock twice (a list's, the workers', the hash's) and each
// split brought back a lost wake-up or a lost item; a pool here has one owner, so what contends
// is a handful of threads, and they hold it for some tens of instructions.
//
//   D3  A worker on the idle stack is taken off by whoever activates it, under M, so its time-out
//       and its activation cannot both win. Its word, too, is set to `awake` under M; the worker
//       itself only ever takes it from `spinning` to `idle`, by a compare and swap, and sleeps on
//       no other value.
//
// Everything here runs under M and does nothing to the outside: it moves items and workers
// between their places and says what is to be done after M is free.
//
//   D1  Insertion and decision are one critical section. (The kernel checked before it inserted,
//       and slept after: bugs 12 and 13 of its history.)
//   D2  See dispatch.hpp. Whatever makes an item runnable notes that in the deferred_wakes, and
//   ensure_worker()
//       decides at the end of the critical section: only then it is known which item the worker
//       takes itself, and no move has to know what follows it.
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

/// What is left to do once M is free. Of what they point at, only addresses are used then: a
/// worker may have woken by itself, run and left meanwhile, and a wake too many is harmless.
template <class Policy>
struct deferred_wakes {
  static constexpr unsigned room = 64;

  /// One account: whether an item became runnable since it was settled last, the node of the newest
  /// such item, and whether one of them wants a worker of its own.
  struct unsettled_account {
    bool any = false;
    bool concurrent = false;
    std::uint8_t node = 0;
  };

  worker<Policy>* wake[room];  // the first nr_wake
  unsigned nr_wake = 0;
  bool unpark = false;
  unsettled_account unsettled[2];  // by work_class

  deferred_wakes() noexcept {}  // leaves `wake` as it is

  void became_runnable(const item& one) noexcept {
    unsettled_account& account = unsettled[one.unbound];
    account.any = true;
    account.concurrent |= one.concurrent;
    account.node = one.node_queue;
  }

  /// The worker that was activated first, or null.
  [[nodiscard]] worker<Policy>* woken() const noexcept { return nr_wake != 0 ? wake[0] : nullptr; }

  void add(worker<Policy>& sleeper) noexcept {
    // Beyond that many the call is made at once, under M.
    if (nr_wake == room)
      Policy::futex_wake(sleeper.word, 1);
    else
      wake[nr_wake++] = &sleeper;
  }
};

/// The data. See roster.hpp and state.hpp for the moves.
template <class Policy>
struct guarded {
  using worker_type = worker<Policy>;
  using account_type = account<worker_type>;
  using lock = typename Policy::lock;
  template <class T>
  using atomic = typename Policy::template atomic<T>;

  // Never changes once the pool is made.
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
  unsigned affinity_version = 0;  // 0: as inherited, nothing to apply
  unsigned epoch = 0;
  // Of items, by the last quiesce() before they were accepted. Those in use, oldest first, are
  // numbered from oldest_generation to generation.
  std::uint64_t generation = 0, oldest_generation = 0;
  bool closed = false;                    // the pool ends: what is enqueued now is finished at once
  bool exit = false;                      // ... and nothing else begins
  detail::rejections<Policy> rejections;  // while it is closed
  intrusive_list<&worker_type::next, &worker_type::prev> retired;  // left; to be joined
  intrusive_list<&worker_type::next, &worker_type::prev> spare;    // joined; to be used again
  std::uint64_t created = 0, retired_count = 0, create_failures = 0, completed = 0, cancelled = 0,
                stolen = 0, wakes = 0, unparks = 0, sleeps = 0;

  // `exit` for a worker between two items of a batch, without M. It stays set once it is, so
  // who reads it late runs one brief item more.
  atomic<bool> ending{false};

  // Never null: the pool has one of the references.
  finisher_counts<Policy>* const finishers = new finisher_counts<Policy>;

  // One idle worker at most spins before it sleeps. Set under M, cleared by the adaptive_spinner.
  atomic<bool> spinning{false};
  adaptive_spinner<Policy>
      spins;  // the adaptive_spinner's; between two of them, whoever has M may ask

  // The manager's. Its word is written under M.
  enum : std::uint32_t { manager_busy, manager_parked, manager_ticking };
  atomic<std::uint32_t> manager_word{manager_busy};
  bool manager_present = false;
  bool manager_retires = false;  // the owner is forking its successor, or ends the pool
  int manager_error = 0;         // why there is none and nobody is forking one; else 0

  // The thread inside a match of cancel_all(), or 0. Written under M; read anywhere, to refuse.
  atomic<int> matcher{0};

  guarded() = default;
  guarded(const guarded&) = delete;
  guarded& operator=(const guarded&) = delete;
  ~guarded() { finishers->drop(); }

  [[nodiscard]] lock acquire() noexcept {
    // relaxed: only the thread that wrote it can find itself there.
    int const inside = matcher.load(std::memory_order_relaxed);
    IOWQ_ASSERT(inside == 0 || inside != Policy::thread_id(),
                "a match of cancel_all() called into its pool");
    return lock{m};
  }

  [[nodiscard]] account_type& account_of(work_class kind) noexcept {
    return accounts[static_cast<unsigned>(kind)];
  }

  /// When a worker that is idle since `now` may leave: at once if the time-out is negative, never
  /// if it ends after the last time that the clock can show.
  [[nodiscard]] time_point idle_until(time_point now) const noexcept {
    if (idle_timeout <= std::chrono::milliseconds::zero()) return now;
    auto const longest = std::chrono::floor<std::chrono::milliseconds>(never - now);
    return idle_timeout < longest ? now + idle_timeout : never;
  }

  /// In a child of fork(): forgets all items and workers where they stand. M may be anybody's.
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
};

/// The moves of workers. All of them under M.
template <class Policy>
struct roster : guarded<Policy> {
  using base = guarded<Policy>;
  using typename base::account_type;
  using typename base::worker_type;

  /// Something of this account may have become runnable, near this node: wakes, creates or has
  /// watched, as dispatch.hpp says, until it says that it is enough.
  void ensure_worker(account_type& account, unsigned node, bool concurrent,
                     deferred_wakes<Policy>& todo) noexcept {
    for (;;) {
      switch (next_step(account, concurrent)) {
        case step::none:
          break;
        case step::wake:
          wake(*account.newest_idle(this->nodes.near(node)), todo);
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

  /// The last step of every critical section that made an item runnable, after its worker, if it
  /// has one, took the item that it runs next. run_deferred() asserts that it was not left out.
  void ensure_worker(deferred_wakes<Policy>& todo) noexcept {
    for (work_class const kind : {work_class::bound, work_class::unbound}) {
      auto const what = std::exchange(todo.unsettled[static_cast<unsigned>(kind)], {});
      if (what.any) ensure_worker(this->account_of(kind), what.node, what.concurrent, todo);
    }
  }

  /// Activates an idle worker for an item.
  void wake(worker_type& sleeper, deferred_wakes<Policy>& todo) noexcept {
    if (!activate(sleeper)) return;
    todo.add(sleeper);
    ++this->wakes;
  }

  /// Takes an idle worker off its stack: it is awake from here on. True: it slept, or is about to,
  /// and the caller owes it a futex_wake; false: it spins, and sees the word. D3.
  [[nodiscard]] bool activate(worker_type& sleeper) noexcept {
    this->account_of(sleeper.kind).remove_idle(sleeper);
    sleeper.state = worker_state::running;
    // relaxed: what it finds next, it finds under M. An exchange, not a store: whether the
    // adaptive_spinner went to sleep just now decides who owes the wake.
    return sleeper.word.exchange(worker_type::awake, std::memory_order_relaxed) !=
           worker_type::spinning;
  }
  /// The first it does under M after activation or birth: from here on it looks for an item.
  void worker_started_looking(worker_type& looker) noexcept {
    --this->account_of(looker.kind).waking;
  }
  /// Wakes every idle worker of a class, to see whether it may stay. Rare, hence under M.
  void wake_all_idle(account_type& account) noexcept {
    for (node_queue<worker_type>& each : account.node_queues)
      while (worker_type* const sleeper = each.idle.front())
        if (activate(*sleeper)) Policy::futex_wake(sleeper->word, 1);
  }

  /// A worker that has no item puts itself on the stack.
  void go_idle(worker_type& quiet) noexcept {
    account_type& account = this->account_of(quiet.kind);
    IOWQ_ASSERT(quiet.state == worker_state::running);
    quiet.state = worker_state::idle;
    account.push_idle(quiet);
    quiet.spins = may_spin();
    // relaxed, both: whoever activates it has M, and the worker looks at its word once more
    // before it sleeps; `spinning` is no more than a limit.
    if (quiet.spins) this->spinning.store(true, std::memory_order_relaxed);
    quiet.word.store(quiet.spins ? worker_type::spinning : worker_type::idle,
                     std::memory_order_relaxed);
  }

  /// The manager saw it asleep in its item.
  void mark_sleeping(worker_type& sleeper) noexcept {
    account_type& account = this->account_of(sleeper.kind);
    IOWQ_ASSERT(sleeper.state == worker_state::running);
    sleeper.state = worker_state::sleeping;
    --account.nr_running;
    ++account.sleeping;
    account.check();
    account.slow_down();
    sleeper.asleep.store(true, std::memory_order_relaxed);  // relaxed: see blocking_region
  }
  /// It runs again.
  void mark_running(worker_type& awake_worker) noexcept {
    account_type& account = this->account_of(awake_worker.kind);
    IOWQ_ASSERT(awake_worker.state == worker_state::sleeping);
    awake_worker.state = worker_state::running;
    --account.sleeping;
    ++account.nr_running;
    account.check();
    awake_worker.asleep.store(false, std::memory_order_relaxed);  // relaxed: see blocking_region
  }
  /// Whether the mark may go before the item ends. A worker of an old epoch takes no other item,
  /// so it stays marked: it must not keep one of the new epoch from being created.
  [[nodiscard]] bool can_mark_running(const worker_type& marked) const noexcept {
    return marked.state == worker_state::sleeping && marked.epoch == this->epoch;
  }
  /// Whether somebody could take an item of this account, now or later.
  [[nodiscard]] bool has_current_worker(const account_type& account) const noexcept {
    for (worker_type* one = account.workers.front(); one != nullptr; one = one->next)
      if (one->epoch == this->epoch) return true;
    return false;
  }
  /// The end of a blocking region found the mark. Worker only; takes M.
  void on_blocking_region_end(worker_type& awake_worker) noexcept {
    phase const before = awake_worker.at();
    awake_worker.enter(phase::pool);
    {
      auto const held = this->acquire();
      if (can_mark_running(awake_worker)) mark_running(awake_worker);
    }
    awake_worker.enter(before);
  }

  [[nodiscard]] bool must_leave(const worker_type& asked) noexcept {
    return detail::must_leave(this->account_of(asked.kind), this->exit, asked.epoch != this->epoch);
  }
  /// A worker, awake and without an item, leaves for good. It is joined by the manager.
  void leave(worker_type& leaver, deferred_wakes<Policy>& todo) noexcept {
    account_type& account = this->account_of(leaver.kind);
    IOWQ_ASSERT(leaver.state == worker_state::running);
    account.remove(leaver);
    leaver.state = worker_state::retired;
    this->retired.push_back(leaver);
    ++this->retired_count;
    ensure_worker(account, leaver.node, false, todo);
    call_manager(true, todo);
  }

  /// Sees to it that the manager looks again: at once, or no later than at its next tick.
  void call_manager(bool complete_inline, deferred_wakes<Policy>& todo) noexcept {
    // relaxed: it is written under M, which we have.
    std::uint32_t const word = this->manager_word.load(std::memory_order_relaxed);
    if (word != base::manager_parked && !(complete_inline && word == base::manager_ticking)) return;
    this->manager_word.store(base::manager_busy, std::memory_order_relaxed);
    todo.unpark = true;
    ++this->unparks;
  }

  /// Does what is left to do. Without M, where there is a choice: the woken want it.
  void run_deferred(const deferred_wakes<Policy>& todo) noexcept {
    IOWQ_ASSERT(!todo.unsettled[0].any && !todo.unsettled[1].any);  // D2
    for (unsigned i = 0; i < todo.nr_wake; ++i) Policy::futex_wake(todo.wake[i]->word, 1);
    if (todo.unpark) Policy::futex_wake(this->manager_word, 1);
  }

 private:
  /// A spin pays off where the next item comes within microseconds from another processor that
  /// is free to send it: one for the adaptive_spinner, one for the owner, one for each worker that
  /// runs. Of items that take long we do not know whether they compute: then the spins' own luck
  /// tells.
  [[nodiscard]] bool may_spin() noexcept {
    if (this->exit) return false;
    unsigned busy = 2;
    for (const account_type& account : this->accounts)
      if (account.quick()) busy += account.nr_running;
    if (busy > this->accounts[0].processors) return false;
    // acquire: pairs with the last adaptive_spinner's release; what it noted of its luck is ours to
    // read.
    return !this->spinning.load(std::memory_order_acquire) && this->spins.should_spin();
  }
};

/// What becomes of a worker's hands at the end of its item.
struct finish_result {
  item* next = nullptr;  // runs at once, on the same worker
  intrusive_queue<&item::next>
      failed;  // were linked behind it, and it failed: to be finished after it
};

/// All that M guards, and the moves on it.
template <class Policy>
struct pool_state : roster<Policy> {
  using base = roster<Policy>;
  using typename base::account_type;
  using typename base::worker_type;

  static constexpr unsigned max_batch = 16;  // items of one key, or linked to each other
  static constexpr unsigned max_brief = 32;  // brief items taken at once
  static constexpr std::chrono::nanoseconds short_batch{8'000}, long_batch{50'000};
  static constexpr std::chrono::milliseconds max_batch_time{2};

  /// A new item of any thread. Settle before M is released. D1.
  void insert(item& fresh, deferred_wakes<Policy>& todo) noexcept {
    accept(fresh, static_cast<unsigned>(this->generation % generation_slots));
    place(fresh, todo);
  }
  /// The item counts in that generation until depart().
  void accept(item& fresh, unsigned slot) noexcept {
    fresh.generation = static_cast<std::uint8_t>(slot) & (generation_slots - 1);
    ++this->account_of(fresh.kind()).unfinished[fresh.generation];
  }
  /// The item ended or was cancelled; whoever calls its finished() has to show that from here on.
  generation_set depart(const item& gone) noexcept {
    --this->account_of(gone.kind()).unfinished[gone.generation];
    return generation_of(gone);
  }
  void place(item& fresh, deferred_wakes<Policy>& todo) noexcept {
    account_type& account = this->account_of(fresh.kind());
    ++account.queued;
    ++account.arrived;
    if (fresh.keyed && !this->chains.enter(fresh)) return;
    make_ready(fresh, todo);
  }

  /// Gives `taker`, which is awake and has none, the item it should run; null if there is none.
  /// A brief one brings others along, chained by `next`. Changes nothing for others: what was
  /// unserved before is so still, and D2 holds as it did.
  [[nodiscard]] item* take(worker_type& taker) noexcept {
    account_type& account = this->account_of(taker.kind);
    if (account.runnable == 0) return nullptr;
    for (std::uint8_t const node : this->nodes.near(taker.node)) {
      auto& node_queue = account.node_queues[node];
      item* const oldest = node_queue.ready.front();
      if (oldest == nullptr) continue;
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
      if (node != taker.node) this->stolen += taken;
      return oldest;
    }
    return nullptr;
  }

  /// The item of `ender` has run, or all of its batch. If that makes both a successor and the next
  /// item of the key startable, the worker keeps the successor, and the other item is queued.
  /// Settle after the worker took its next item.
  [[nodiscard]] finish_result end(worker_type& ender, deferred_wakes<Policy>& todo) noexcept {
    item& ended = *std::exchange(ender.cur, nullptr);
    for (item* one = &ended; one != nullptr; one = one->next) {
      one->state = item_state::done;
      one->worker_thread = nullptr;
      ender.departed |= depart(*one);
      ++this->completed;
    }
    finish_result after;
    if (ended.successor != nullptr) start_successor(ender, ended, after);
    if (ended.keyed) release_key(ender, ended, after, todo);
    return after;
  }

  /// The pool began to end within a batch: what comes behind `last` in it never runs. Finish it,
  /// cancelled, after M.
  void abandon_rest(worker_type& ender, item& last, intrusive_queue<&item::next>& rest) noexcept {
    for (item *one = std::exchange(last.next, nullptr), *next; one != nullptr; one = next) {
      next = one->next;
      one->state = item_state::done;
      one->worker_thread = nullptr;
      one->error = ECANCELED;
      ender.departed |= depart(*one);
      ++this->cancelled;
      rest.push_back(*one);
    }
  }

  /// What `ender` kept until its predecessor was finished, now like any other item of any
  /// thread; or cancelled, with all behind it, into `failed`.
  void enqueue_successor(worker_type& ender, intrusive_queue<&item::next>& failed,
                         deferred_wakes<Policy>& todo) noexcept {
    item& successor = *std::exchange(ender.later, nullptr);
    if (this->closed || successor.withdrawn) {
      ender.departed |= depart(successor);
      cancel_chain(&successor, ECANCELED, [&](item& one) { failed.push_back(one); });
    } else {
      place(successor, todo);
    }
  }

  /// Takes a queued item out for good, with all that is linked behind it, and hands them to
  /// `take`, in order: finish them, cancelled, after M. Settle before M is released.
  template <class Take>
  void dequeue_item(item& queued, int why, deferred_wakes<Policy>& todo, Take&& take) noexcept {
    account_type& account = this->account_of(queued.kind());
    if (queued.state == item_state::chained) {
      this->chains.leave(queued);
    } else {
      item* const next_head = queued.keyed ? this->chains.release(queued) : nullptr;
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
  /// The rest of it: for an item that is linked nowhere any more.
  template <class Take>
  void drop_queued(item& withdrawn, int why, Take&& take) noexcept {
    --this->account_of(withdrawn.kind()).queued;
    (void)depart(withdrawn);
    cancel_chain(&withdrawn, why, take);
  }
  /// For what is counted neither as queued nor as unfinished: `first` and all behind it.
  template <class Take>
  void cancel_chain(item* first, int why, Take&& take) noexcept {
    while (first != nullptr) {
      item& one = *first;
      first = std::exchange(one.successor, nullptr);
      one.state = item_state::done;
      one.error = why;
      one.prev = nullptr;
      ++this->cancelled;
      take(one);
    }
  }

 private:
  void make_ready(item& startable, deferred_wakes<Policy>& todo) noexcept {
    this->account_of(startable.kind()).make_ready(startable);
    todo.became_runnable(startable);
  }
  void begin(worker_type& worker_thread, item& next) noexcept {
    --this->account_of(next.kind()).queued;
    hold(worker_thread, next);
  }
  void hold(worker_type& worker_thread, item& next) noexcept {
    next.state = item_state::running;
    next.worker_thread = &worker_thread;
    next.next = nullptr;
    ++worker_thread.batch;
  }

  /// How many brief items to take at once: what each of those that run would get, were all that
  /// is ready dealt out now. Where items have arrived since the last batch was taken, as many as
  /// end before an owner that looks out for them goes to sleep. Else it sleeps already, or is busy:
  /// twice as long as the last, up to what makes its wake worth it.
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

  /// `key_head` gives its key up. `ender` runs the next item of the key at once, unless it keeps a
  /// successor of `key_head` already.
  void release_key(worker_type& ender, item& key_head, finish_result& after,
                   deferred_wakes<Policy>& todo) noexcept {
    item* const next_head = this->chains.release(key_head);
    if (next_head == nullptr) return;
    if (after.next == nullptr && ender.later == nullptr && next_head->kind() == ender.kind &&
        ender.batch < max_batch && !this->must_leave(ender) &&
        Policy::now() - ender.batch_start < max_batch_time) {
      ender.cur = after.next = next_head;
      begin(ender, *next_head);
      return;
    }
    // To the end of its queue: a hot key holds a worker no longer than others can bear.
    make_ready(*next_head, todo);
  }

  /// What was linked behind `ended`: runs here and now if no rule is in the way, is handed on
  /// after `ended` is finished, or will not run.
  void start_successor(worker_type& ender, item& ended, finish_result& after) noexcept {
    item& successor = *std::exchange(ended.successor, nullptr);
    if (ended.error != 0 || this->closed)
      return cancel_chain(&successor, ECANCELED, [&](item& one) { after.failed.push_back(one); });
    successor.predecessor = nullptr;  // it may be gone as soon as it is finished
    accept(successor, ended.generation);
    successor.node_queue =
        successor.node == any_node || static_cast<unsigned>(successor.node) >= this->nodes.size()
            ? ended.node_queue
            : static_cast<std::uint8_t>(successor.node);
    bool const here = !successor.keyed && !successor.withdrawn && successor.kind() == ender.kind &&
                      successor.node_queue == ended.node_queue && ender.batch < max_batch &&
                      !this->must_leave(ender);
    if (!here) {
      IOWQ_ASSERT(ender.later ==
                  nullptr);  // the worker_thread handed it on before it took another item
      ender.later = &successor;
      return;
    }
    ender.cur = &successor;
    hold(ender, successor);
    after.next = &successor;
  }
};

}  // namespace iowq::inline v0::detail
