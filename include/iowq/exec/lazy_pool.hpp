// SPDX-License-Identifier: BSL-1.0
// iowq/exec/lazy_pool.hpp -- an executor's pool, made when something is first punted.
// Layer exec; needs pool. Next in the book: exec/loop.hpp.
#pragma once

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <system_error>
#include <utility>

#include <iowq/base/config.hpp>
#include <iowq/pool/pool.hpp>

namespace iowq::detail {

/// Owner thread only, which is so the one that forks the pool's manager.
class lazy_pool {
 public:
  lazy_pool(pool_options options, unsigned entries) : options_{std::move(options)} {
    if (options_.max_workers.bound == 0) options_.max_workers.bound = default_bound(entries);
  }

  [[nodiscard]] iowq::pool* if_started() noexcept { return pool_ ? &*pool_ : nullptr; }
  [[nodiscard]] const iowq::pool* if_started() const noexcept { return pool_ ? &*pool_ : nullptr; }

  /// Starts it if need be; throws if that is not possible.
  [[nodiscard]] iowq::pool& get() {
    if (!pool_) pool_.emplace(options_);
    return *pool_;
  }

  /// The same without exceptions: 0 or -errno.
  [[nodiscard]] int start() noexcept {
    if (pool_) [[likely]]
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

  void stop() noexcept { pool_.reset(); }

 private:
  /// io-wq: min(SQ entries, 4 x CPUs), with the CPUs that this thread may use (wq.md, 4).
  [[nodiscard]] static unsigned default_bound(unsigned entries) noexcept {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    int const r = ::sched_getaffinity(0, sizeof mask, &mask);
    unsigned const cpus = r == 0 ? static_cast<unsigned>(CPU_COUNT(&mask)) : 1;
    return std::min(entries, 4 * std::max(cpus, 1U));
  }

  pool_options options_;
  std::optional<iowq::pool> pool_;
};

}  // namespace iowq::detail
