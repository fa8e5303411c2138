// SPDX-License-Identifier: BSL-1.0
// iowq/pool/detail/worker.hpp -- the record of a worker, and its states.
//
// The kernel's scheduler notifies io-wq when a worker goes to sleep. A user-space pool gets no such
// notification. So each worker advances its progress_counter whenever it begins something, and
// while items are waiting the manager examines the workers whose progress_counter has not moved. An
// advance costs one plain store; a blocking region costs two.
//
//   creating -> idle <-> running <-> sleeping        state, under M
//                 \         |
//                  \------> retired
//
// A record is recycled, and is not freed before its pool. A thread that wakes a worker after it
// released M may be late: the worker may have run, left and been joined since. The record still
// exists then, and the wake has no effect.
#pragma once

#include <cstdint>
#include <optional>

#include <iowq/base/assert.hpp>
#include <iowq/base/policy.hpp>
#include <iowq/base/stop_token.hpp>
#include <iowq/pool/work.hpp>

namespace iowq::inline v0 {

namespace detail {

enum class worker_state : unsigned char { creating, idle, running, sleeping, retired };

/// The phase of a worker, stored in the two low bits of its progress_counter. The other bits are a
/// count that only grows.
enum class phase : std::uint64_t {
  pool = 0,             // in the pool's own code: waiting for M does not count as sleeping
  item = 1,             // in execute()
  blocking_region = 2,  // in execute(), inside a blocking_region
};

template <class Policy>
struct pool_state;

template <class Policy>
struct worker {
  using pool = pool_state<Policy>;
  template <class T>
  using atomic = typename Policy::template atomic<T>;

  explicit worker(pool& owner) noexcept : home{&owner} {}

  // Constant while the worker lives.
  pool* const home;
  work_class kind = work_class::bound;
  unsigned node = 0;
  unsigned epoch = 0;  // number of the owner's context in which the worker was created

  // Under M.
  worker_state state = worker_state::creating;
  item* cur = nullptr;        // the first item of its batch; the others follow by `next`
  item* later = nullptr;      // successor of the ended item: enqueued once that one is finished
  std::uint8_t departed = 0;  // generations of items that it ended and has not yet finished
  unsigned batch = 0;         // items taken in a row, in one batch, key or chain
  time_point batch_start{};
  std::chrono::nanoseconds batch_length{};  // approximate duration of a batch of brief items
  unsigned arrived_seen = 0;                // its account's `arrived` when it last took an item
  bool cancel_requested = false;  // the item was cancelled: token and descriptor must be reset
  bool canceller_active = false;  // ... and the canceller still uses the token and the descriptor
  int tid = 0;
  worker* next = nullptr;  // in the list of its class, of retired workers, or of free records
  worker* prev = nullptr;
  worker* next_idle = nullptr;
  worker* prev_idle = nullptr;
  worker* next_cancelled = nullptr;  // in the canceller's list, while canceller_active

  // The futex word on which the worker sleeps. It is written under M, so a reader that takes M next
  // needs no order. The exception is spinning -> idle, which the worker writes without M: see D3 in
  // state.hpp.
  enum : std::uint32_t { awake, idle, unborn, waits_for_canceller, spinning };
  atomic<std::uint32_t> word{unborn};

  // Written by the worker. The manager reads it, and only uses whether it has changed, and the
  // phase.
  atomic<std::uint64_t> progress_counter{0};
  // True while the state is `sleeping`. Written under M, read by the worker without M: a mark that
  // the worker misses is seen at its next acquisition of M.
  atomic<bool> asleep{false};
  // The generations of the ended items whose finished() the worker is calling. The worker sets it
  // under M, and clears it when every finished() has returned.
  atomic<std::uint8_t> finishing{0};
  // The wake descriptor. The worker opens it under M at the first request; -1 before that.
  atomic<int> wake_fd{-1};

  // The stop source of the current item. Only a canceller stops it, while canceller_active. Only
  // the worker replaces it, while no canceller is active.
  std::optional<stop_source> stop{std::in_place};

  // Used by the worker.
  unsigned affinity_seen = 0;
  unsigned runs = 0;   // wraps; selects the runs that are measured
  bool spins = false;  // this idle worker spins before it sleeps

  // Used by the manager.
  typename Policy::thread thread{};
  typename Policy::thread_probe probe{};
  std::uint64_t progress_seen = 0;
  worker* next_sample = nullptr;
  bool sample_holds = false;
  bool made_no_progress = false;
  unsigned times_seen_sleeping = 0;  // consecutive samples that found it asleep

  /// Records that the worker begins phase `now`, and advances the progress_counter. Worker only.
  void enter(phase now) noexcept {
    // relaxed, both: only this thread writes it, and no other data is published by it.
    std::uint64_t const before = progress_counter.load(std::memory_order_relaxed);
    progress_counter.store(((before | 3) + 1) | static_cast<std::uint64_t>(now),
                           std::memory_order_relaxed);
  }
  [[nodiscard]] phase at() const noexcept {
    return static_cast<phase>(progress_counter.load(std::memory_order_relaxed) &
                              3);  // relaxed: see enter()
  }

  /// Returns the wake descriptor, and opens it at the first call; -1 if it cannot be opened. Worker
  /// only.
  [[nodiscard]] int wake_descriptor() noexcept {
    int fd = wake_fd.load(std::memory_order_relaxed);  // relaxed: only this thread opens it
    if (fd >= 0) return fd;
    phase const before = at();
    enter(phase::pool);
    {
      auto const lock = home->acquire();
      fd = Policy::wake_open();
      if (fd >= 0) {
        // release: pairs with the acquire in cancellation::deliver(), which does not hold M.
        wake_fd.store(fd, std::memory_order_release);
        if (cancel_requested) Policy::wake_ring(fd);  // an earlier canceller found no descriptor
      }
    }
    enter(before);
    return fd >= 0 ? fd : -1;
  }

  /// The worker that runs on this thread, or null.
  [[nodiscard]] static worker* current() noexcept {
    return static_cast<worker*>(Policy::this_worker());
  }
};

}  // namespace detail

/// Declares, for its lifetime, that the code on the calling worker may block, so that the manager
/// recognises a blocked worker at its first sample. Costs two plain stores, and has no effect on a
/// thread that is not a worker. Regions nest.
template <class Policy>
class basic_blocking_region {
 public:
  basic_blocking_region() noexcept : worker_{detail::worker<Policy>::current()} {
    if (worker_ == nullptr) return;
    outer_ = worker_->at();
    worker_->enter(detail::phase::blocking_region);
  }
  basic_blocking_region(const basic_blocking_region&) = delete;
  basic_blocking_region& operator=(const basic_blocking_region&) = delete;
  ~basic_blocking_region() {
    if (worker_ == nullptr) return;
    worker_->enter(outer_);
    // relaxed: without a fence a mark made at this moment can be missed. The worker checks again at
    // each later acquisition of M.
    if (worker_->asleep.load(std::memory_order_relaxed))
      worker_->home->on_blocking_region_end(*worker_);
  }

 private:
  detail::worker<Policy>* worker_;
  detail::phase outer_{};
};

using blocking_region = basic_blocking_region<detail::linux_policy>;

}  // namespace iowq::inline v0
