// SPDX-License-Identifier: BSL-1.0
// iowq/exec/detail/parked_operation.hpp -- an await that the program itself completes.
//
// A sleep, a wait for a mutex or a send on a channel is an operation like any other. It lives in
// the frame of its coroutine, is counted, is listed by dump(), and is cancelled in the same way.
// But neither the kernel nor the pool completes it. A timer does, or the coroutine that releases
// what it waits for.
#pragma once

#include <cerrno>
#include <coroutine>
#include <source_location>
#include <type_traits>

#include <iowq/base/assert.hpp>
#include <iowq/base/result.hpp>
#include <iowq/base/stop_token.hpp>
#include <iowq/coro/detail/promise.hpp>
#include <iowq/exec/detail/loop.hpp>

namespace iowq::inline v0::detail {

/// The awaiter. `Derived` has:
///
///     static constexpr operation_row row = ...;
///     bool try_complete() noexcept;   // true: it need not wait, and result_ is set
///     void park(loop&) noexcept;      // enters the place where its completer finds it
///     bool unpark() noexcept;         // leaves that place, for a stop; false: it is being
///     completed auto value();                   // what a successful await yields
///
/// and may have `lock()`, whose lock is held during try_complete() and park(), `on_complete()`,
/// which the owner calls before the coroutine resumes, and `reported_as`, the name in an error.
/// Movable until it is awaited. Owner thread only.
template <class Derived>
class parked_operation : public operation_base {
 public:
  bool await_ready() const noexcept {
    IOWQ_ASSERT(is_fresh(), "an operation was awaited twice");
    return false;
  }
  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> waiter) noexcept {
    waiter_ = waiter;
    return begin(stop_of(waiter));
  }
  /// As await_suspend(), but invokes a callback instead of resuming a coroutine
  /// (coro/detail/continuation.hpp).
  bool start(completion_callback& waiter, stop_token token) noexcept {
    set_callback(waiter);
    return begin(token);
  }
  decltype(auto) await_resume() {
    if (result_.res() < 0) throw_error(result_.res(), name());
    return self().value();
  }
  auto await_resume_result() {
    using answer = result<decltype(self().value())>;
    if (result_.res() < 0) return answer{to_error(result_.res())};
    if constexpr (std::is_void_v<decltype(self().value())>)
      return answer{};
    else
      return answer{self().value()};
  }

 protected:
  // NOLINTBEGIN(bugprone-crtp-constructor-accessibility): channel_wait is between it and Derived.
  explicit parked_operation(std::source_location at) noexcept : operation_base{kind, at} {
    set_action(&on_item);
  }
  parked_operation(parked_operation&& other) noexcept : operation_base{std::move(other)} {
    set_action(&on_item);
  }
  // NOLINTEND(bugprone-crtp-constructor-accessibility)
  ~parked_operation() { check_not_parked(); }

  void check_not_parked() const noexcept {
    IOWQ_ASSERT(stage_ <= stage::completed || at_fault(source_),
                "a coroutine was destroyed while it waits: request a stop and await its end");
  }

  static void value() noexcept {}

  /// Completes the await, which has left its place, with `res`. Its coroutine resumes when the
  /// ready queue is run, not inside this call.
  void complete(loop& owner, int res) noexcept { owner.complete_later(*this, res); }

 private:
  [[nodiscard]] Derived& self() noexcept { return static_cast<Derived&>(*this); }

  [[nodiscard]] static constexpr const char* name() noexcept {
    if constexpr (requires { Derived::reported_as; })
      return Derived::reported_as;
    else
      return Derived::row.name;
  }

  /// Returns false if the await is complete. A stop that was requested before comes first: an await
  /// that fails must not have taken anything.
  bool begin(stop_token token) noexcept {
    loop& here = loop::current();
    bool const ambient = token == here.ambient();
    if (ambient ? here.stopping() : token.stop_requested())
      return complete_at_once(here, -ECANCELED);
    bool parked = false;
    int failed = 0;
    {
      [[maybe_unused]] auto const held = lock();
      if (!self().try_complete()) {
        if (ambient || stop_hook::prepare(here, *this, token)) {
          parked = true;
          stage_ = stage::sync_wait;
          self().park(here);
        } else {
          failed = -ENOMEM;
        }
      }
    }
    if (!parked) return complete_at_once(here, failed != 0 ? failed : result_.res());
    here.watch(*this, token, ambient);
    return true;
  }

  /// Returns false if the coroutine continues without suspending.
  bool complete_at_once(loop& here, int res) noexcept {
    result_.set(res);
    stage_ = stage::completed;
    if (here.may_continue()) [[likely]]
      return false;
    complete(here, res);
    here.watch(*this, {}, true);
    return true;
  }

  auto lock() noexcept {
    if constexpr (requires { self().mutex(); })
      return linux_policy::lock{self().mutex()};
    else
      return 0;
  }

  static void on_item(loop_item* item) noexcept {
    auto& op = static_cast<Derived&>(*static_cast<operation_base*>(item));
    if constexpr (requires { op.on_complete(); }) op.on_complete();
    this_thread_loop->finish<Derived::row>(op, &operation_stats::inline_ops);
  }
  static bool disarm(operation_base& op) noexcept { return static_cast<Derived&>(op).unpark(); }

  static constexpr operation_kind kind{&Derived::row, nullptr, nullptr, nullptr, &disarm, nullptr};
};

}  // namespace iowq::inline v0::detail
