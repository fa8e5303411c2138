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

/// Owner thread only, which is so the one that forks the pool's manager. What a turn of the loop
/// punts is collected, and enqueued at its end as one.
class pool_slot {
 public:
  /// A `shared` one takes the place of its own, and outlives it.
  pool_slot(pool_options options, unsigned entries, iowq::pool* shared)
      : options_{std::move(options)}, pool_{shared} {
    unsigned const cpus = processors();
    // io-wq: min(SQ entries, 4 x CPUs), with the CPUs that this thread may use (wq.md, 4).
    if (options_.max_workers.bound == 0) options_.max_workers.bound = std::min(entries, 4 * cpus);
    if (cpus > 1) spins_.length(options_.spin);
  }

  [[nodiscard]] iowq::pool* if_started() noexcept { return pool_; }
  [[nodiscard]] const iowq::pool* if_started() const noexcept { return pool_; }

  /// Starts it if need be; throws if that is not possible.
  [[nodiscard]] iowq::pool& get() {
    if (pool_ == nullptr) pool_ = &own_.emplace(options_);
    return *pool_;
  }

  /// The same without exceptions: 0 or -errno.
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

  /// One more is going to be punted, or to fail at it; then on_completed().
  void on_punted() noexcept { ++in_flight_; }
  void on_completed() noexcept { --in_flight_; }
  /// Collects `w`; it is started. Enqueued no later than by the next flush().
  void punt(work& w) noexcept {
    collected_.push_back(w);
    if (collected_.size() >= enough) flush();
  }
  void flush() noexcept {
    if (!collected_.empty()) pool_->enqueue(collected_);
  }

  /// Does the owner wait for workers, and is it worth to look out for them before it sleeps?
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
  iowq::pool* pool_;  // once there is one
};

}  // namespace iowq::inline v0::detail
