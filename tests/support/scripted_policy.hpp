// SPDX-License-Identifier: BSL-1.0
// A policy like linux_policy, except for what a test overrides: threads that cannot be created,
// thread states, the current processor, a missing /proc, and callbacks between two steps of the
// pool.
//
//     iowq_test::script script;              // overrides nothing; undone at the end of the scope
//     script.refuse(EAGAIN, 4);              // the next four thread creations fail
//     iowq::basic_pool<iowq_test::scripted_policy> pool;
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <limits>
#include <mutex>
#include <utility>
#include <vector>

#include <iowq/base/policy.hpp>

namespace iowq_test {

struct creation {
  int by;     // thread id
  int error;  // 0: the thread was created
  iowq::detail::time_point at;
};

enum class probing { real, without_proc, says_running, says_sleeping };

class script {
 public:
  static constexpr int for_ever = std::numeric_limits<int>::max();

  script() { current_ = this; }
  script(const script&) = delete;
  script& operator=(const script&) = delete;
  ~script() { current_ = nullptr; }

  /// From now on the first `sparing` threads are created, and the `times` creations after them
  /// fail.
  void refuse(int error, int times = for_ever, int sparing = 0) {
    std::lock_guard lock(mutex_);
    error_ = error, refusals_ = times, spared_ = sparing;
  }
  [[nodiscard]] std::vector<creation> creations() {
    std::lock_guard lock(mutex_);
    return creations_;
  }

  std::atomic<probing> probe{probing::real};
  std::atomic<int> looks{0};
  std::atomic<unsigned> cpu{std::numeric_limits<unsigned>::max()};  // max: the real processor
  std::function<void(iowq::detail::pause_point)> at_pause;  // set it before the pool is constructed
  std::function<void()> at_ring;  // called before wake_ring(); set it likewise

  [[nodiscard]] static script& current() noexcept { return *current_; }
  [[nodiscard]] int next_creation() {
    std::lock_guard lock(mutex_);
    if (spared_ > 0) return --spared_, 0;
    if (refusals_ == 0) return 0;
    if (refusals_ != for_ever) --refusals_;
    return error_;
  }
  void note(creation one) {
    std::lock_guard lock(mutex_);
    creations_.push_back(one);
  }

 private:
  static inline script* current_ = nullptr;
  std::mutex mutex_;
  int error_ = 0, refusals_ = 0, spared_ = 0;
  std::vector<creation> creations_;
};

struct scripted_policy : iowq::detail::linux_policy {
  [[nodiscard]] static int thread_start(thread& created, void* (*body)(void*), void* argument,
                                        std::size_t stack_size) noexcept {
    int error = script::current().next_creation();
    script::current().note({thread_id(), error, now()});
    if (error == 0) error = linux_policy::thread_start(created, body, argument, stack_size);
    return error;
  }

  class thread_probe {
   public:
    [[nodiscard]] iowq::detail::thread_state look(thread handle, int id) noexcept {
      script::current().looks.fetch_add(1);
      switch (script::current().probe.load()) {
        case probing::real:
          return real_.look(handle, id);
        case probing::without_proc:
          return blind_.look(handle, id);
        case probing::says_running:
          return iowq::detail::thread_state::running;
        case probing::says_sleeping:
          break;
      }
      return iowq::detail::thread_state::sleeping;
    }
    void close() noexcept {
      real_.close();
      blind_.close();
    }

   private:
    linux_policy::thread_probe real_{};
    linux_policy::thread_probe blind_{"/nowhere"};
  };

  [[nodiscard]] static unsigned current_cpu() noexcept {
    unsigned const told = script::current().cpu.load();
    return told != std::numeric_limits<unsigned>::max() ? told : linux_policy::current_cpu();
  }

  static void wake_ring(int fd) {
    if (script::current().at_ring) script::current().at_ring();
    linux_policy::wake_ring(fd);
  }

  static void pause(iowq::detail::pause_point point) {
    if (script::current().at_pause) script::current().at_pause(point);
  }
};

}  // namespace iowq_test
