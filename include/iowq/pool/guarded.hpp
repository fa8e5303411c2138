// SPDX-License-Identifier: BSL-1.0
// iowq/pool/guarded.hpp -- all that M guards, and M.
// Layer pool; needs pool/chain, worker, topology. Next in the book: pool/roster.hpp.
//
// One mutex a pool. The kernel split its lock twice (a list's, the workers', the hash's) and each
// split brought back a lost wake-up or a lost item; a pool here has one owner, so what contends
// is a handful of threads, and they hold it for some tens of instructions.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#include <iowq/base/assert.hpp>
#include <iowq/base/policy.hpp>
#include <iowq/pool/account.hpp>
#include <iowq/pool/chain.hpp>
#include <iowq/pool/generation.hpp>
#include <iowq/pool/topology.hpp>
#include <iowq/pool/work.hpp>
#include <iowq/pool/worker.hpp>
#include <iowq/queue/list.hpp>
#include <iowq/queue/spin.hpp>

namespace iowq::detail {

/// What is left to do once M is free. Of what they point at, only addresses are used then: a
/// worker may have woken by itself, run and left meanwhile, and a wake too many is harmless.
template <class Policy>
struct deeds {
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

  deeds() noexcept {}  // leaves `wake` as it is

  void became_runnable(const item& one) noexcept {
    unsettled_account& account = unsettled[one.unbound];
    account.any = true;
    account.concurrent |= one.concurrent;
    account.node = one.lane;
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
  chain_table chains;
  cpu_set affinity;
  unsigned affinity_version = 0;  // 0: as inherited, nothing to apply
  unsigned epoch = 0;
  // Of items, by the last quiesce() before they were accepted. Those in use, oldest first, are
  // numbered from oldest_generation to generation.
  std::uint64_t generation = 0, oldest_generation = 0;
  bool closed = false;                    // the pool ends: what is enqueued now is finished at once
  bool exit = false;                      // ... and nothing else begins
  detail::rejections<Policy> rejections;  // while it is closed
  list<&worker_type::next, &worker_type::prev> retired;  // left; to be joined
  list<&worker_type::next, &worker_type::prev> spare;    // joined; to be used again
  std::uint64_t created = 0, retired_count = 0, create_failures = 0, completed = 0, cancelled = 0,
                stolen = 0, wakes = 0, unparks = 0, sleeps = 0;

  // `exit` for a worker between two items of a batch, without M. It stays set once it is, so
  // who reads it late runs one brief item more.
  atomic<bool> ending{false};

  // Never null: the pool has one of the references.
  finisher_counts<Policy>* const finishers = new finisher_counts<Policy>;

  // One idle worker at most spins before it sleeps. Set under M, cleared by the spinner.
  atomic<bool> spinning{false};
  spinner<Policy> spins;  // the spinner's; between two of them, whoever has M may ask

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
      for (auto& lane : account.lanes) {
        lane.ready.abandon();
        lane.idle.abandon();
      }
      account.workers.abandon();
    }
    retired.abandon();
    spare.abandon();
  }
};

}  // namespace iowq::detail
