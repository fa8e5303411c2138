// SPDX-License-Identifier: BSL-1.0
// What a model is made of: threads, gates, jobs; and the list of all models.
//
//     EXPLORE_MODEL(wake, "an enqueue is not lost to a worker that goes idle") {
//       pool_under_test pool{one_worker()};
//       job first, second;
//       pool.enqueue(first);
//       first.done.wait();
//       pool.enqueue(second);
//       second.done.wait();
//     }
//
// It is run some hundred thousand times, so: few threads, few items. What two threads share is an
// atomic of the policy, a gate, or a `var`; anything else would be a state that the search does
// not see.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>

#include <iowq/pool/pool.hpp>

#include "atomic.hpp"
#include "policy.hpp"
#include "world.hpp"

namespace explore {

/// What a model says must hold.
inline void check(bool holds, const char* what, const where& at = where::current()) {
  if (!holds) here.fail("%s (line %u)", what, at.line());
}

/// The model has shown what it is about; how a pool ends is the business of others. Halves a tree.
[[noreturn]] inline void enough() { here.enough(); }

/// Counts up; whoever waits for a number sleeps until it is reached. Orders like a semaphore.
class gate {
 public:
  gate() noexcept = default;
  gate(const gate&) = delete;
  gate& operator=(const gate&) = delete;

  void open(const where& at = where::current()) {
    here.turn();
    ++count_;
    (void)here.tick();
    here.happened(history_);
    history_ = here.me().history;
    released_.join(here.me().clock);
    here.trace("open a gate", 0, 0, at);
  }
  void wait(std::uint64_t count = 1, const where& at = where::current()) {
    here.trace("wait at a gate", 0, 0, at);
    (void)here.wait(count_, count, "a gate");
    here.me().clock.join(released_);
    (void)here.tick();
    here.happened(history_);
    here.trace("through a gate", 0, 0, at);
  }
  [[nodiscard]] bool is_open() {
    here.turn();
    (void)here.tick();
    here.happened(history_);
    here.me().clock.join(released_);
    return count_ > 0;
  }

 private:
  std::uint64_t count_ = 0;
  std::uint64_t history_ = 67;
  clock_vector released_;
};

/// A thread of the model; joined by its destructor.
class thread {
 public:
  template <class Body>
  explicit thread(const char* name, Body body) : body_{std::move(body)} {
    id_ = here.start(
        [](void* self) -> void* {
          static_cast<thread*>(self)->body_();
          return nullptr;
        },
        this, name);
  }
  thread(const thread&) = delete;
  thread& operator=(const thread&) = delete;
  ~thread() { join(); }
  void join() {
    if (id_ >= 0) here.join(std::exchange(id_, -1));
  }

 private:
  std::function<void()> body_;
  int id_ = -1;
};

using pool_under_test = iowq::basic_pool<policy>;
using region = iowq::basic_blocking_region<policy>;

/// An item that checks what every item may expect: one finished() for each enqueue(), execute()
/// before it or not at all, and all of it in an order with what the enqueuer did.
class job : public iowq::work {
 public:
  using body = std::function<void(job&, const iowq::stop_token&)>;

  explicit job(iowq::work_flags flags = {}, body runs = {}) : work{flags}, runs_{std::move(runs)} {}
  ~job() override { check(finished_ == times, "an item was not finished as often as enqueued"); }

  void execute(const iowq::stop_token& stop) noexcept override {
    check(executed_ == finished_, "an item was executed twice");
    ++executed_;
    payload.set(payload.get() + 1);
    if (runs_) runs_(*this, stop);
  }
  void finished(bool cancelled) noexcept override {
    if (cancelled) {
      check(executed_ == finished_, "an item was executed and is reported as cancelled");
      check(error() != 0, "an item was cancelled and does not say why");
      ++executed_;  // so that the next time is like the first
      ++cancelled_;
    } else {
      check(executed_ == finished_ + 1, "an item was finished that was not executed");
    }
    ++finished_;
    payload.set(payload.get() + 1);
    if (after) after(*this);
    done.open();
  }

  /// After it is done.
  [[nodiscard]] bool ran() { return payload.get() > 0 && cancelled_ == 0; }
  [[nodiscard]] bool is_finished() { return payload.get() > 0 && finished_ == times; }
  [[nodiscard]] bool was_cancelled() const noexcept { return cancelled_ > 0; }

  gate done;
  var<int> payload;
  std::function<void(job&)> after;  // within finished()
  int times = 1;                    // that it is enqueued

 private:
  body runs_;
  int executed_ = 0;
  int finished_ = 0;
  int cancelled_ = 0;
};

/// Whether the item was asked to stop. A step of its own: the token is not the policy's.
[[nodiscard]] inline bool asked_to_stop(const iowq::stop_token& stop) {
  here.turn();
  (void)here.tick();
  bool const asked = stop.stop_requested();
  here.happened(asked ? 71 : 73);
  return asked;
}
/// The pool's descriptor for the running item; see iowq::this_worker::wake_descriptor().
[[nodiscard]] inline int wake_descriptor() {
  return iowq::detail::worker<policy>::current()->wake_descriptor();
}
/// A body that waits, as a well-behaved item does, until it is asked to stop.
inline void until_stopped(job&, const iowq::stop_token& stop) {
  while (!asked_to_stop(stop)) {
    wait_readable(wake_descriptor());
    policy::relax();  // it may be cancel_requested a moment before
  }
}

[[nodiscard]] inline iowq::pool_options workers(unsigned bound, unsigned unbound = 1) {
  iowq::pool_options options;
  options.max_workers = {bound, unbound};
  options.spin = {};
  options.check_context = iowq::context_check_mode::off;
  return options;
}

// ---- The list ----

struct model {
  const char* group;
  const char* name;
  const char* holds;
  void (*run)();
  bool fails = false;  // it is wrong, and the search must find it: a test of the explorer
  model* next = nullptr;

  static inline model* first = nullptr;
  static inline model** last = &first;

  model(const char* of, const char* called, const char* what, void (*body)(), bool wrong = false)
      : group{of}, name{called}, holds{what}, run{body}, fails{wrong} {
    *last = this;
    last = &next;
  }
};

#define EXPLORE_MODEL(group, name, holds)                                             \
  static void model_##group##_##name();                                               \
  static ::explore::model const registered_##group##_##name{#group, #name, holds,     \
                                                            &model_##group##_##name}; \
  static void model_##group##_##name()

#define EXPLORE_WRONG_MODEL(group, name, wrong)                                             \
  static void model_##group##_##name();                                                     \
  static ::explore::model const registered_##group##_##name{#group, #name, wrong,           \
                                                            &model_##group##_##name, true}; \
  static void model_##group##_##name()

}  // namespace explore
