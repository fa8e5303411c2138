// SPDX-License-Identifier: BSL-1.0
// iowq/pool/stats.hpp -- the counters of a pool, and the text that dump() prints.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ostream>

#include <iowq/pool/detail/state.hpp>

namespace iowq::inline v0 {

/// The state of one class of a pool. idle + running + blocked == workers.
struct class_stats {
  std::size_t queued = 0;  // enqueued and not started
  unsigned running = 0;    // workers that are awake
  unsigned blocked = 0;    // workers that the manager found asleep in their item
  unsigned idle = 0;
  unsigned workers = 0;
  unsigned max_workers = 0;
  unsigned peak_workers = 0;
};

/// The state of a pool, and its counters since construction.
struct pool_stats {
  class_stats bound, unbound;
  std::uint64_t created = 0;          // workers created
  std::uint64_t retired = 0;          // workers that have left
  std::uint64_t create_failures = 0;  // failed thread creations; retries are not counted again
  std::uint64_t completed = 0;        // items that ran
  std::uint64_t cancelled = 0;        // items that did not run
  std::uint64_t stolen = 0;           // items taken from another node's queue
  std::uint64_t wakes = 0;            // idle workers woken for an item
  std::uint64_t kicks = 0;            // wake-ups of the owner: counted by the executor, 0 here
  std::uint64_t unparks = 0;          // wake-ups of the manager
  std::uint64_t sleeps = 0;           // times that a worker was found asleep in its item
  std::size_t keys = 0;               // keys with queued or running items
  unsigned nodes = 0;
};

namespace detail {

/// Copies all counters. Under M.
template <class Policy>
[[nodiscard]] pool_stats snapshot(pool_state<Policy>& pool) noexcept {
  auto of = [&](work_class kind) {
    const account_counts& account = pool.account_of(kind);
    return class_stats{account.queued, account.nr_running,  account.sleeping, account.idle,
                       account.live,   account.max_workers, account.peak};
  };
  pool_stats stats;
  stats.bound = of(work_class::bound);
  stats.unbound = of(work_class::unbound);
  stats.created = pool.created;
  stats.retired = pool.retired_count;
  stats.create_failures = pool.create_failures;
  stats.completed = pool.completed;
  stats.cancelled = pool.cancelled;
  stats.stolen = pool.stolen;
  stats.wakes = pool.wakes;
  stats.unparks = pool.unparks;
  stats.sleeps = pool.sleeps;
  stats.keys = pool.chains.keys();
  stats.nodes = pool.nodes.size();
  return stats;
}

inline void print(std::ostream& out, const item& one) {
  out << "work " << static_cast<const void*>(&one);
  if (one.keyed) out << " key " << one.key;
}

/// Prints one line for each worker and for each ready item, oldest first. Under M.
template <class Policy>
void print(std::ostream& out, pool_state<Policy>& pool) {
  static constexpr const char* kinds[] = {"bound", "unbound"};
  static constexpr const char* states[] = {"creating", "idle", "running", "sleeping", "retired"};
  static constexpr std::size_t enough = 64;  // lines for each queue
  for (unsigned kind = 0; kind < 2; ++kind) {
    auto& account = pool.accounts[kind];
    out << kinds[kind] << ": " << account.live << " of " << account.max_workers << " workers ("
        << account.nr_running << " running, " << account.sleeping << " sleeping, " << account.idle
        << " idle, " << account.creating << " being created), " << account.queued << " queued\n";
    for (auto* worker = account.workers.front(); worker != nullptr; worker = worker->next) {
      out << "  worker " << worker->tid << " node " << worker->node << ' '
          << states[static_cast<unsigned>(worker->state)];
      if (worker->epoch != pool.epoch) out << ", of an old context";
      if (worker->cancel_requested) out << ", asked to stop";
      if (worker->cur != nullptr) print(out << ": ", *worker->cur);
      unsigned others = 0;
      for (item* one = worker->cur; one != nullptr && one->next != nullptr; one = one->next)
        ++others;
      if (others != 0) out << " in a batch with " << others << " more";
      out << '\n';
    }
    for (unsigned node = 0; node < account.node_queues.size(); ++node) {
      std::size_t lines = 0;
      for (item* one = account.node_queues[node].ready.front(); one != nullptr; one = one->next) {
        if (++lines > enough) {
          out << "  ready on node " << node << ": ... " << account.node_queues[node].nr_ready
              << " in all\n";
          break;
        }
        print(out << "  ready on node " << node << ": ", *one);
        out << (one->waiters != nullptr ? ", and others of this key\n" : "\n");
      }
    }
  }
}

}  // namespace detail
}  // namespace iowq::inline v0
