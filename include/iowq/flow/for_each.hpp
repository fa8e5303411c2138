// SPDX-License-Identifier: BSL-1.0
// iowq/flow/for_each.hpp -- the same for every item of a range, some at a time.
// Layer flow; needs exec. Last in the book.
//
// `limit` walkers take the next item from the range whenever they are free, so memory grows with
// the limit, not with the range, which may be infinite. Everything is on one thread: the walkers
// share the iterator without a lock.
#pragma once

#include <cerrno>
#include <concepts>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <iterator>
#include <ranges>
#include <type_traits>
#include <utility>

#include <iowq/base/result.hpp>
#include <iowq/base/stop.hpp>
#include <iowq/coro/promise.hpp>
#include <iowq/coro/task.hpp>
#include <iowq/exec/loop.hpp>
#include <iowq/flow/walkable.hpp>

namespace iowq {

namespace detail {

/// One walker: started by the loop, destroys itself at its end.
struct walker {
  struct promise_type final : promise_base, loop_item {
    promise_type() noexcept : loop_item{&start} {}
    walker get_return_object() noexcept {
      return {std::coroutine_handle<promise_type>::from_promise(*this)};
    }
    static std::suspend_always initial_suspend() noexcept { return {}; }
    static std::suspend_never final_suspend() noexcept { return {}; }
    static void return_void() noexcept {}
    [[noreturn]] static void unhandled_exception() noexcept { std::terminate(); }
    static void start(loop_item* self) noexcept {
      std::coroutine_handle<promise_type>::from_promise(*static_cast<promise_type*>(self)).resume();
    }
  };
  std::coroutine_handle<promise_type> handle;
};

/// What the walkers of one for_each have in common. Owner thread only.
class walkers : loop_item {
 public:
  walkers() noexcept : loop_item{&joined} {}

  /// Starts one more, at the next turn.
  void start(walker fresh) {
    ++running_;
    fresh.handle.promise().stop(stop_.get_token());
    loop::current().ready(fresh.handle.promise());
  }
  void ended() noexcept {
    if (--running_ == 0 && waiter_) loop::current().ready(*this);
  }
  /// The first failure stops the others and is the one that is rethrown.
  void failed() noexcept {
    if (!error_) error_ = std::current_exception();
    stop_.request_stop();
  }
  void request_stop() noexcept { stop_.request_stop(); }
  [[nodiscard]] bool stopped() const noexcept { return stop_.stop_requested(); }

  /// Awaits the end of all walkers.
  auto join() noexcept {
    struct awaiter {
      walkers& all;
      bool await_ready() const noexcept { return all.running_ == 0; }
      void await_suspend(std::coroutine_handle<> waiter) const noexcept { all.waiter_ = waiter; }
      void await_resume() const {
        if (all.error_) std::rethrow_exception(std::exchange(all.error_, nullptr));
      }
    };
    return awaiter{*this};
  }

 private:
  static void joined(loop_item* self) noexcept { static_cast<walkers*>(self)->waiter_.resume(); }
  stop_source stop_;
  std::size_t running_ = 0;
  std::exception_ptr error_;
  std::coroutine_handle<> waiter_;
};

template <class R, class F>
struct for_each_state {
  using iterator = decltype(std::ranges::begin(std::declval<R&>()));
  using sentinel = decltype(std::ranges::end(std::declval<R&>()));
  // An item outlives the iterator's next step only if the range is multi-pass.
  using item =
      std::conditional_t<std::forward_iterator<iterator>, decltype(*std::declval<iterator&>()),
                         std::remove_cvref_t<decltype(*std::declval<iterator&>())>>;

  for_each_state(R& range, F& f)
      : next{std::ranges::begin(range)}, end{std::ranges::end(range)}, function{f} {}

  iterator next;
  sentinel end;
  F& function;
  walkers all;
};

/// A walker gets its first item from whoever starts it, so none is started for nothing.
template <class State>
walker walk(State& state, typename State::item first) {
  try {
    co_await state.function(static_cast<typename State::item&&>(first));
    while (!state.all.stopped() && state.next != state.end) {
      typename State::item item = *state.next;
      ++state.next;
      co_await state.function(static_cast<typename State::item&&>(item));
    }
  } catch (...) {
    state.all.failed();
  }
  state.all.ended();
}

/// `R` is a reference for a range that stays the caller's, else the range itself.
template <class R, class F>
task<> for_each_of(R range, std::size_t limit, F function) {
  using state_of = for_each_state<std::remove_reference_t<R>, F>;
  state_of state{range, function};
  stop_token const outer = co_await ambient_stop();
  {
    auto const pass_on = [&state] { state.all.request_stop(); };
    stop_callback<decltype(pass_on)> const inherited{outer, pass_on};
    for (std::size_t n = 0; n < limit && state.next != state.end && !state.all.stopped(); ++n) {
      typename state_of::item item = *state.next;
      ++state.next;
      state.all.start(walk(state, static_cast<typename state_of::item&&>(item)));
    }
    co_await state.all.join();
  }
  if (outer.stop_requested() && state.next != state.end) throw_error(-ECANCELED, "for_each");
}

}  // namespace detail

/// Awaits `f(item)` for every item of `range`, at most `limit` of them at a time. `f` returns a
/// task<>; a range given as an lvalue is borrowed, else moved in; `f` is moved in. Items are taken
/// in order, one when there is room for it. The first exception stops the others and is rethrown
/// when they have ended; nothing of it outlives the await. A limit of 0 is invalid_argument.
///
///     co_await iowq::for_each(paths, 64, [](const std::string& p) { return copy_file(p); });
///
/// `f` must not be a coroutine lambda that captures, unless it outlives the await: pass what it
/// needs as arguments, or return the task of a named coroutine, as above.
template <class R, class F>
requires detail::walkable<R>
[[nodiscard("co_await it")]] task<> for_each(R&& range, std::size_t limit, F f) {
  if (limit == 0) throw_error(-EINVAL, "for_each (limit 0)");
  // An lvalue deduces R as a reference, which for_each_of then holds; an rvalue is moved in.
  return detail::for_each_of<R, F>(std::forward<R>(range), limit, std::move(f));
}

}  // namespace iowq
