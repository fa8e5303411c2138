// SPDX-License-Identifier: BSL-1.0
// iowq/exec/detail/pool_slot.hpp -- an executor's pool, created by the first punt.
#pragma once

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <optional>
#include <system_error>
#include <utility>

#include <iowq/base/config.hpp>
#include <iowq/pool/pool.hpp>
#include <iowq/queue/adaptive_spin.hpp>

namespace iowq::inline v0::detail {

/// Owner thread only: the pool's manager is then always forked by the owner thread. The items that
/// a turn of the loop punts are collected, and enqueued together at the end of the turn.
class pool_slot {
 public:
  /// A `shared` pool is used instead of one of its own, and must outlive this object.
  pool_slot(pool_options options, unsigned entries, iowq::pool* shared)
      : options_{std::move(options)}, pool_{shared} {
    unsigned const cpus = processors();
    // io-wq: min(SQ entries, 4 x CPUs), with the CPUs that this thread may use (wq.md, 4).
    if (options_.max_workers.bound == 0) options_.max_workers.bound = std::min(entries, 4 * cpus);
    if (cpus > 1) spins_.length(options_.spin);
  }

  [[nodiscard]] iowq::pool* if_started() noexcept { return pool_; }
  [[nodiscard]] const iowq::pool* if_started() const noexcept { return pool_; }

  /// Starts the pool if necessary. Throws if that is not possible.
  [[nodiscard]] iowq::pool& get() {
    if (pool_ == nullptr) pool_ = &own_.emplace(options_);
    return *pool_;
  }

  /// As get(), without exceptions: returns 0 or -errno.
  [[nodiscard]] int start() noexcept {
    if (pool_ != nullptr) [[likely]]
      return 0;
    try {
      static_cast<void>(get());
      return 0;
    } catch (const std::system_error& error) {
      return -error.code().value();
    } catch (...) {
      return -ENOMEM;
    }
  }

  /// Call before a punt, even if the punt then fails. Each is matched by one on_completed().
  void on_punted() noexcept { ++in_flight_; }
  void on_completed() noexcept { --in_flight_; }
  /// Collects `w`. The pool must be started. The next flush() enqueues `w` at the latest.
  void punt(work& w) noexcept {
    collected_.push_back(w);
    if (collected_.size() >= enough) flush();
  }
  void flush() noexcept {
    if (!collected_.empty()) pool_->enqueue(collected_);
  }

  /// Returns true if the owner waits for workers, and should spin for them before it sleeps.
  [[nodiscard]] bool should_spin() noexcept { return in_flight_ != 0 && spins_.should_spin(); }
  template <class Found>
  bool spin(Found&& found) noexcept {
    return spins_.spin(found);
  }

  void stop() noexcept {
    flush();
    own_.reset();
    pool_ = nullptr;
  }

 private:
  static constexpr std::size_t enough = 32;

  [[nodiscard]] static unsigned processors() noexcept {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    int const r = ::sched_getaffinity(0, sizeof mask, &mask);
    return r == 0 ? std::max(static_cast<unsigned>(CPU_COUNT(&mask)), 1U) : 1;
  }

  pool_options options_;
  work_chain collected_;
  std::size_t in_flight_ = 0;
  adaptive_spinner<> spins_;
  std::optional<iowq::pool> own_;
  iowq::pool* pool_;  // null until it is started, unless it is shared
};

}  // namespace iowq::inline v0::detail
