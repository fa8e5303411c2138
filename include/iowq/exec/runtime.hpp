// SPDX-License-Identifier: BSL-1.0
// iowq/exec/runtime.hpp -- several executors, each on a thread of its own.
//
// There is no load balancing and no work stealing: a task stays on the executor where it was
// spawned, so data that it shares with its neighbours needs no lock. Executors communicate by
// channel, resume_on() and post().
//
// To wake another executor of the same runtime, a loop submits IORING_OP_MSG_RING with the rest of
// its turn. Everything for the other executor has been posted by then, and no lock is held. A round
// trip over two channels takes a third of the time that it takes with eventfd. A loop may name the
// ring of another one because the executors of a runtime all outlive each other's last turn. A
// thread that is no member, or has no ring, writes to the eventfd.
//
// Termination: a task may spawn another on any executor, even on one that was idle a moment ago. So
// the destructor asks in rounds. Each executor acknowledges when all tasks that it started have
// ended, and reports how many it has started in total. If two rounds give the same sum, nothing was
// started between the last acknowledgement of the first round and that of the second, and all tasks
// have ended (Mattern's four counters).
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
  bool pin = false;         ///< pin each thread to one of those processors, in turn
  bool share_pool = false;  ///< one pool for all; its workers get the calling thread's context
  executor_options executor = {};  ///< used for each; every executor calls on_unhandled
};

/// A fixed number of executors, each on a thread of its own. These threads, like pool workers,
/// start with all signals blocked except those of faults: other signals go to the threads that
/// existed before, or to an await of until_signal(). If an executor fails to start, the constructor
/// waits for the threads of the others to end, then throws the first exception. The destructor
/// waits for all spawned tasks; if they do not end by themselves, call request_stop() first. The
/// thread that constructed the runtime must destroy it, outside any coroutine.
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

  /// Starts `child` on the next executor, round-robin. Any thread.
  template <class = void>
  void spawn(task<> child) {
    // relaxed: concurrent callers only need different values.
    at(turn_.fetch_add(1, std::memory_order_relaxed) % size_).post(std::move(child));
  }
  /// Starts `child` on the executor of `key`, which is always the same. Any thread.
  template <class = void>
  void spawn(std::uint64_t key, task<> child) {
    at(place_of(key)).post(std::move(child));
  }

  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] executor& at(std::size_t i) noexcept {
    IOWQ_ASSERT(i < size_, "runtime::at() past the last executor");
    return *members_[i].running;
  }

  /// Cancels every operation on all executors, now and from now on: tasks that are spawned later
  /// find the stop requested. Any thread, and signal handlers.
  void request_stop() noexcept {
    // release: pairs with loop::group_stops(). Before the loop below: a task that one executor
    // cancels may return to another executor that has not received its request yet.
    stops_.store(true, std::memory_order_release);
    for (std::size_t i = 0; i < size_; ++i) members_[i].running->request_stop();
  }

 private:
  enum class command : std::uint32_t { wait, serve, leave };

  /// A thread of the runtime. As an item, a command to it, which ends the hold() of serve().
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
    command asked = command::wait;  // written by the destructor before it posts
    bool leaves = false;            // the thread's own
    std::uint64_t begun = 0;        // the thread's, until its ack()
  };

  /// Multiplicative hash: also spreads keys that are pointers or multiples of a number.
  [[nodiscard]] std::size_t place_of(std::uint64_t key) const noexcept {
    std::uint64_t const mixed = key * 0x9E3779B97F4A7C15ULL >> 32;
    return static_cast<std::size_t>(mixed * size_ >> 32);
  }

  void start(runtime_options options) {
    options_ = std::move(options);
    cpu_set const own = cpu_set::of_caller<detail::linux_policy>();
    std::size_t const wanted = options_.threads != 0 ? options_.threads : std::max(own.count(), 1U);
    if (options_.pin && options_.executor.pool.affinity.empty())
      options_.executor.pool.affinity = own;  // a pinned thread's own affinity is one processor
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
    // release: pairs with wait_for_acks(), which then sees what the member wrote.
    acks_.fetch_add(1, std::memory_order_release);
    detail::linux_policy::futex_wake(acks_, 1);
  }
  /// Waits for one ack() of every member, then resets the count.
  void wait_for_acks() noexcept {
    for (;;) {
      // acquire: pairs with ack().
      std::uint32_t const seen = acks_.load(std::memory_order_acquire);
      if (seen == size_) break;
      detail::linux_policy::futex_wait(acks_, seen, detail::never);
    }
    // relaxed: the next ack() answers a command that has not been posted yet.
    acks_.store(0, std::memory_order_relaxed);
  }
  void broadcast(command what) noexcept {
    // release: pairs with await_command(), which then sees all that the constructor wrote.
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
  /// Returns how many tasks were started in total, after every member has acknowledged that the
  /// tasks on it have ended.
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

  // Constant once the threads run.
  runtime_options options_;
  cpu_set cpus_;
  std::optional<iowq::pool> pool_;
  std::unique_ptr<member[]> members_;
  std::size_t size_ = 0;
  // Any thread.
  detail::atomic<std::uint32_t> command_{0};
  detail::atomic<std::uint32_t> acks_{0};
  detail::atomic<std::size_t> turn_{0};
  detail::atomic<bool> stops_{false};  // request_stop() was called; never cleared
};

}  // namespace iowq::inline v0
