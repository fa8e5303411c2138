// SPDX-License-Identifier: BSL-1.0
// iowq/exec/runtime.hpp -- several executors, each on a thread of its own.
//
// Nothing is balanced: a task stays where it was spawned, so what it shares with its neighbours
// needs no lock, and nobody steals. Between executors there are channel, resume_on() and post().
// Who wakes another of the same runtime does it by its ring (IORING_OP_MSG_RING), with what it
// submits at the end of its turn: all that it has for the other is there by then, and no lock is
// held. A round trip over two channels takes a third of the time that it does by eventfd. It may
// name the other's ring because they all end after each other's last turn; whoever is no member,
// or has no ring, writes to the eventfd.
//
// When is all over? A task may spawn another on any executor, also on one that had nothing left a
// moment ago. So the destructor asks in rounds: each executor answers when all that it started has
// ended, and says how many it ever started. If two rounds give the same sum, nothing was started
// between the first's last answer and the second's: that was the end (Mattern's four counters).
#pragma once

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <optional>
#include <system_error>
#include <utility>

#include <iowq/base/assert.hpp>
#include <iowq/base/policy.hpp>
#include <iowq/base/result.hpp>
#include <iowq/coro/task.hpp>
#include <iowq/exec/detail/operation_base.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/pool/pool.hpp>
#include <iowq/pool/topology.hpp>

namespace iowq::inline v0 {

/// How to build a runtime.
struct runtime_options {
  unsigned threads = 0;     ///< 0: one for each processor that the calling thread may use
  bool pin = false;         ///< each to one of those, in turn
  bool share_pool = false;  ///< one pool for all; its workers get the calling thread's context
  executor_options executor = {};  ///< of each; on_unhandled is called by all of them
};

/// Executors on threads, as many as it is told. Its threads start with all signals blocked but
/// those of faults, as workers do: signals go to the threads that were there before, or to who
/// awaits until_signal(). The destructor waits until all has ended that was spawned on any of
/// them; where that is not by itself, request_stop() comes first. It is destroyed by the thread
/// that made it, and by no coroutine. Construction throws what the first that failed threw, when
/// all have ended.
///
///     iowq::runtime all{{.threads = 4}};
///     for (auto& shard : shards) all.spawn(serve(shard));
class runtime {
 public:
  explicit runtime(runtime_options options = {}) { start(std::move(options)); }
  runtime(const runtime&) = delete;
  runtime& operator=(const runtime&) = delete;
  ~runtime() {
    IOWQ_ASSERT(detail::this_thread_executor == nullptr,
                "a runtime was destroyed by a coroutine: that would block its executor");
    for (std::uint64_t before = count_started(), now; (now = count_started()) != before;)
      before = now;
    for (std::size_t i = 0; i < size_; ++i) ask(members_[i], command::leave);
    join();
  }

  /// Starts `child` on the next executor in turn. Any thread.
  template <class = void>
  void spawn(task<> child) {
    // relaxed: whoever comes at once gets another.
    at(turn_.fetch_add(1, std::memory_order_relaxed) % size_).post(std::move(child));
  }
  /// Starts `child` on the executor of `key`, always the same. Any thread.
  template <class = void>
  void spawn(std::uint64_t key, task<> child) {
    at(place_of(key)).post(std::move(child));
  }

  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] executor& at(std::size_t i) noexcept {
    IOWQ_ASSERT(i < size_, "runtime::at() past the last executor");
    return *members_[i].running;
  }

  /// Cancels everything on all of them, now and from now on: what is spawned later finds the stop
  /// requested. Any thread, and signal handlers.
  void request_stop() noexcept {
    // release: pairs with loop::group_stops(). First, for what one of them ends may come home to
    // another before that hears of it.
    stops_.store(true, std::memory_order_release);
    for (std::size_t i = 0; i < size_; ++i) members_[i].running->request_stop();
  }

 private:
  enum class command : std::uint32_t { wait, serve, leave };

  /// A thread; and, as an item, what it is asked: it ends the hold of serve().
  struct member : detail::loop_item {
    member() noexcept : loop_item{&on_command} {}
    static void on_command(loop_item* self) noexcept {
      auto& one = *static_cast<member*>(self);
      one.leaves = one.asked == command::leave;
      one.running->ended();
    }
    runtime* all = nullptr;
    unsigned number = 0;
    detail::linux_policy::thread thread{};
    executor* running = nullptr;
    std::exception_ptr error;
    command asked = command::wait;  // by the destructor, before it posts
    bool leaves = false;            // the thread's own
    std::uint64_t begun = 0;        // the thread's, until it answers
  };

  /// Keys that are pointers, or multiples of something, are spread all the same.
  [[nodiscard]] std::size_t place_of(std::uint64_t key) const noexcept {
    std::uint64_t const mixed = key * 0x9E3779B97F4A7C15ULL >> 32;
    return static_cast<std::size_t>(mixed * size_ >> 32);
  }

  void start(runtime_options options) {
    options_ = std::move(options);
    cpu_set const own = cpu_set::of_caller<detail::linux_policy>();
    std::size_t const wanted = options_.threads != 0 ? options_.threads : std::max(own.count(), 1U);
    if (options_.pin && options_.executor.pool.affinity.empty())
      options_.executor.pool.affinity = own;  // that of a pinned thread is one processor
    if (options_.share_pool) {
      pool_.emplace(options_.executor.pool);
      options_.executor.shared_pool = &*pool_;
    }
    cpus_ = own;
    members_ = std::make_unique<member[]>(wanted);
    std::exception_ptr error;
    for (; size_ < wanted && !error; ++size_) {
      member& one = members_[size_];
      one.all = this;
      one.number = static_cast<unsigned>(size_);
      if (int const r = detail::linux_policy::thread_start(one.thread, &body, &one, 0); r != 0) {
        error = std::make_exception_ptr(std::system_error{
            detail::to_error(-r), "runtime (pthread_create: raise RLIMIT_NPROC, ulimit -u)"});
        break;
      }
    }
    wait_for_acks();
    for (std::size_t i = 0; i < size_ && !error; ++i) error = members_[i].error;
    broadcast(error ? command::leave : command::serve);
    if (!error) return;
    join();
    std::rethrow_exception(error);
  }

  static void* body(void* argument) noexcept {
    member& self = *static_cast<member*>(argument);
    runtime& all = *self.all;
    char name[16];
    std::snprintf(name, sizeof name, "iow-exe-%u", self.number);
    detail::linux_policy::thread_name(name);
    std::optional<executor> here;
    try {
      self.running = &here.emplace(all.options_.executor);
      here->loop_.join_group(all.stops_);
      if (all.options_.pin) all.pin(self.number);
    } catch (...) {
      self.error = std::current_exception();
    }
    all.ack();
    if (all.await_command() == command::serve) all.serve(self);
    return nullptr;
  }

  void pin(unsigned number) const {
    unsigned left = number % std::max(cpus_.count(), 1U);
    for (unsigned cpu = 0; cpu < cpu_set::capacity; ++cpu) {
      if (!cpus_.contains(cpu) || left-- != 0) continue;
      cpu_set const one{cpu};
      if (::sched_setaffinity(0, sizeof(cpu_set_t), &one.native()) != 0)
        detail::throw_error(-errno, "runtime (sched_setaffinity)");
      return;
    }
  }

  void serve(member& self) noexcept {
    executor& here = *self.running;
    executor::on_this_thread const running{here};
    for (;;) {
      here.hold();
      here.loop_.run_until(here.done_);
      if (self.leaves) return;
      self.begun = here.begun_;
      ack();
    }
  }

  // ---- Between the thread of the runtime and the others ----

  void ack() noexcept {
    // release: pairs with wait_for_acks(); what the member wrote is seen there.
    acks_.fetch_add(1, std::memory_order_release);
    detail::linux_policy::futex_wake(acks_, 1);
  }
  /// From all; then none is there any more.
  void wait_for_acks() noexcept {
    for (;;) {
      // acquire: pairs with ack().
      std::uint32_t const seen = acks_.load(std::memory_order_acquire);
      if (seen == size_) break;
      detail::linux_policy::futex_wait(acks_, seen, detail::never);
    }
    // relaxed: the next answer is to a question that is yet to be posted.
    acks_.store(0, std::memory_order_relaxed);
  }
  void broadcast(command what) noexcept {
    // release: pairs with await_command(); all that the constructor wrote is seen there.
    command_.store(static_cast<std::uint32_t>(what), std::memory_order_release);
    detail::linux_policy::futex_wake(command_, INT_MAX);
  }
  [[nodiscard]] command await_command() noexcept {
    for (;;) {
      // acquire: pairs with broadcast().
      auto const what = static_cast<command>(command_.load(std::memory_order_acquire));
      if (what != command::wait) return what;
      detail::linux_policy::futex_wait(command_, static_cast<std::uint32_t>(command::wait),
                                       detail::never);
    }
  }
  static void ask(member& one, command what) noexcept {
    one.asked = what;
    one.running->loop_.post(one);
  }
  /// How many tasks were ever started, when each has answered that those on it have ended.
  [[nodiscard]] std::uint64_t count_started() noexcept {
    for (std::size_t i = 0; i < size_; ++i) ask(members_[i], command::serve);
    wait_for_acks();
    std::uint64_t begun = 0;
    for (std::size_t i = 0; i < size_; ++i) begun += members_[i].begun;
    return begun;
  }
  void join() noexcept {
    for (std::size_t i = 0; i < size_; ++i) detail::linux_policy::thread_join(members_[i].thread);
  }

  // Never changes once they run.
  runtime_options options_;
  cpu_set cpus_;
  std::optional<iowq::pool> pool_;
  std::unique_ptr<member[]> members_;
  std::size_t size_ = 0;
  // Any thread.
  detail::atomic<std::uint32_t> command_{0};
  detail::atomic<std::uint32_t> acks_{0};
  detail::atomic<std::size_t> turn_{0};
  detail::atomic<bool> stops_{false};  // request_stop() was called; all their lives
};

}  // namespace iowq::inline v0
