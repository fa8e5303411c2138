// SPDX-License-Identifier: BSL-1.0
// iowq/pool/detail/worker.hpp -- the record of a worker, and its states.
//
// The kernel's scheduler tells io-wq when a worker goes to sleep. Nobody tells us, so a worker
// leaves a progress_counter wherever it begins something, and the manager, when somebody waits,
// looks at those whose progress_counter has not moved. A progress_counter is one plain store; a
// blocking region is two.
//
//   creating -> idle <-> running <-> sleeping        state, under M
//                 \         |
//                  \------> retired
//
// A record is recycled, never freed before its pool: whoever wakes a worker after releasing M
// may find that it has run, left and been joined meanwhile, and then wakes nobody.
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

/// What a worker is at, in the low bits of its progress_counter; above them a count that only
/// grows.
enum class phase : std::uint64_t {
  pool = 0,             // in the pool's own code: waiting there for M is not the item's sleep
  item = 1,             // in execute()
  blocking_region = 2,  // in execute(), where it said that it may block
};

template <class Policy>
struct pool_state;

template <class Policy>
struct worker {
  using pool = pool_state<Policy>;
  template <class T>
  using atomic = typename Policy::template atomic<T>;

  explicit worker(pool& owner) noexcept : home{&owner} {}

  // Never changes while the worker lives.
  pool* const home;
  work_class kind = work_class::bound;
  unsigned node = 0;
  unsigned epoch = 0;  // of the context it was forked in

  // Under M.
  worker_state state = worker_state::creating;
  item* cur = nullptr;        // the first of its batch; the others start_successor by `next`
  item* later = nullptr;      // was linked behind the last: handed on once that is finished
  std::uint8_t departed = 0;  // the generations of what it ended and has not finished
  unsigned batch = 0;         // items of one key, one after the other
  time_point batch_start{};
  std::chrono::nanoseconds batch_length{};  // of brief items: how long it may take, about
  unsigned arrived_seen = 0;                // of its account, when it last took something
  bool cancel_requested = false;  // the current item was cancelled: its token, our descriptor
  bool canceller_active = false;  // ... by somebody who is not done with either yet
  int tid = 0;
  worker* next = nullptr;  // of its class; or among the retired, or the free records
  worker* prev = nullptr;
  worker* next_idle = nullptr;
  worker* prev_idle = nullptr;
  worker* next_cancelled = nullptr;  // the holder's, while `held`

  // What it sleeps on. Written under M, so a reader that goes on to take M needs no order.
  // But for spinning -> idle, which is the worker's own: see roster.hpp.
  enum : std::uint32_t { awake, idle, unborn, waits_for_canceller, spinning };
  atomic<std::uint32_t> word{unborn};

  // Written by the worker, read by the manager, which acts on no more than that it has changed.
  atomic<std::uint64_t> progress_counter{0};
  // Written under M, read by the worker without: a mark it misses now, it sees at its next M.
  atomic<bool> asleep{false};
  // The generations of the items that it ended and whose finished() it calls now. Set by the worker
  // under M, cleared by it when they have returned.
  atomic<std::uint8_t> finishing{0};
  // Opened by the worker, under M, when first asked for; -1 before.
  atomic<int> wake_fd{-1};

  // One item's at a time. Stopped only by a holder, renewed only by the worker when not held.
  std::optional<stop_source> stop{std::in_place};

  // The worker's own.
  unsigned affinity_seen = 0;
  unsigned runs = 0;   // wraps; tells which are measured
  bool spins = false;  // it is the idle worker that does

  // The manager's own.
  typename Policy::thread thread{};
  typename Policy::thread_probe probe{};
  std::uint64_t progress_seen = 0;
  worker* next_sample = nullptr;
  bool sample_holds = false;
  bool made_no_progress = false;
  unsigned times_seen_sleeping = 0;  // how many looks in a row found it asleep

  /// Says what the worker does from here on. Worker only.
  void enter(phase now) noexcept {
    // relaxed, both: nobody else writes it, and nothing else is read by what it says.
    std::uint64_t const before = progress_counter.load(std::memory_order_relaxed);
    progress_counter.store(((before | 3) + 1) | static_cast<std::uint64_t>(now),
                           std::memory_order_relaxed);
  }
  [[nodiscard]] phase at() const noexcept {
    return static_cast<phase>(progress_counter.load(std::memory_order_relaxed) &
                              3);  // relaxed: see enter()
  }

  /// Its descriptor, opened if need be; -1 if there is none left to have. Worker only.
  [[nodiscard]] int wake_descriptor() noexcept {
    int fd = wake_fd.load(std::memory_order_relaxed);  // relaxed: we alone write it
    if (fd >= 0) return fd;
    phase const before = at();
    enter(phase::pool);
    {
      auto const lock = home->acquire();
      fd = Policy::wake_open();
      if (fd >= 0) {
        // release: pairs with the acquire of a holder that rings it, who may not take M again.
        wake_fd.store(fd, std::memory_order_release);
        if (cancel_requested) Policy::wake_ring(fd);  // the canceller looked before there was one
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

/// Says, for its lifetime, that the code on this worker may block: the pool need not find out
/// by itself. Two plain stores; nothing off a worker. Regions nest.
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
    // relaxed: no fence, so a mark made just now is missed; every M of the worker looks again.
    if (worker_->asleep.load(std::memory_order_relaxed))
      worker_->home->on_blocking_region_end(*worker_);
  }

 private:
  detail::worker<Policy>* worker_;
  detail::phase outer_{};
};

using blocking_region = basic_blocking_region<detail::linux_policy>;

}  // namespace iowq::inline v0
