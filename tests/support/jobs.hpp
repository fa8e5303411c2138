// SPDX-License-Identifier: BSL-1.0
// Work items for the tests of the pool, and things to wait for. Every wait has a deadline far
// beyond what a loaded machine needs: a test that would hang fails instead.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <iowq/pool/pool.hpp>

#include "bounded.hpp"

namespace iowq_test {

inline const std::chrono::seconds patience = longest_wait();

/// A counter. A thread that waits for a value sees all writes made before the value was reached.
class counter {
 public:
  void add(int by = 1) {
    std::lock_guard lock(mutex_);
    value_ += by;
    changed_.notify_all();
  }
  [[nodiscard]] bool wait_for(int value, std::chrono::milliseconds limit = patience) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, limit, [&] { return value_ >= value; });
  }
  [[nodiscard]] int value() {
    std::lock_guard lock(mutex_);
    return value_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int value_ = 0;
};

/// A gate, initially closed. The kernel shows a thread that waits for it as sleeping.
class gate {
 public:
  void open() { opened_.add(); }
  [[nodiscard]] bool wait() { return opened_.wait_for(1); }
  /// For a gate that should stay closed.
  [[nodiscard]] bool wait_at_most(std::chrono::milliseconds limit) {
    return opened_.wait_for(1, limit);
  }

 private:
  counter opened_;
};

/// A work item that calls a given function, and counts its starts, ends and cancellations.
class job : public iowq::work {
 public:
  using body = std::function<void(const iowq::stop_token&)>;

  explicit job(body does = {}, iowq::work_flags flags = {})
      : iowq::work{flags}, does_{std::move(does)} {}

  void execute(const iowq::stop_token& stop) noexcept override {
    started_.add();
    if (does_) does_(stop);
  }
  void finished(bool cancelled) noexcept override {
    if (cancelled) cancellations_.fetch_add(1);
    if (then) then(*this);
    finished_.add();
  }

  [[nodiscard]] bool wait(int times = 1) { return finished_.wait_for(times); }
  [[nodiscard]] bool wait_started(int times = 1) { return started_.wait_for(times); }
  [[nodiscard]] int starts() { return started_.value(); }
  [[nodiscard]] int ends() { return finished_.value(); }
  [[nodiscard]] int cancellations() const { return cancellations_.load(); }

  std::function<void(job&)> then;  // called by finished()

 private:
  body does_;
  counter started_, finished_;
  std::atomic<int> cancellations_{0};
};

/// Many jobs at stable addresses.
class jobs {
 public:
  job& add(job::body does = {}, iowq::work_flags flags = {}) {
    return *all_.emplace_back(std::make_unique<job>(std::move(does), flags));
  }
  job& operator[](std::size_t index) { return *all_[index]; }
  std::size_t size() const { return all_.size(); }
  auto begin() { return all_.begin(); }
  auto end() { return all_.end(); }

  template <class Pool>
  void enqueue_all(Pool& pool) {
    for (auto& one : all_) pool.enqueue(*one);
  }
  [[nodiscard]] bool wait_all() {
    for (auto& one : all_)
      if (!one->wait()) return false;
    return true;
  }

 private:
  std::vector<std::unique_ptr<job>> all_;
};

/// Polls until `holds()` is true, and yields in between. For states that only a snapshot shows.
/// Returns false after the deadline.
template <class Condition>
bool eventually(Condition holds) {
  auto const deadline = std::chrono::steady_clock::now() + patience;
  while (!holds()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

/// Returns whether every worker is idle and no work is queued.
template <class Pool>
bool quiet(const Pool& pool) {
  auto const stats = pool.stats();
  auto const still = [](const iowq::class_stats& one) {
    return one.queued == 0 && one.running == 0 && one.blocked == 0 && one.idle == one.workers;
  };
  return still(stats.bound) && still(stats.unbound);
}

}  // namespace iowq_test
