// SPDX-License-Identifier: BSL-1.0
// iowq/flow/for_each.hpp -- awaits a function for every item of a range, with bounded concurrency.
//
// Up to `limit` tasks ("walkers") each take the next item from the range when they have finished
// one. So memory grows with the limit and not with the range, which may be infinite. All walkers
// run on one thread and share the iterator without a lock.
#pragma once

#include <cerrno>
#include <concepts>
#include <cstddef>
#include <exception>
#include <iterator>
#include <ranges>
#include <type_traits>
#include <utility>

#include <iowq/base/result.hpp>
#include <iowq/base/stop_token.hpp>
#include <iowq/coro/detail/promise.hpp>
#include <iowq/coro/task.hpp>
#include <iowq/flow/detail/range_traits.hpp>
#include <iowq/flow/task_group.hpp>

namespace iowq::inline v0 {

namespace detail {

template <class R, class F>
struct for_each_state {
  using iterator = decltype(std::ranges::begin(std::declval<R&>()));
  using sentinel = decltype(std::ranges::end(std::declval<R&>()));
  using item = item_of<R>;

  for_each_state(R& range, F& f, stop_token outer)
      : next{std::ranges::begin(range)},
        end{std::ranges::end(range)},
        function{f},
        walkers{outer} {}

  [[nodiscard]] bool goes_on() { return next != end && !walkers.stop_requested(); }

  iterator next;
  sentinel end;
  F& function;
  task_group walkers;
};

/// The coroutine that starts a walker passes the first item, so no walker is started without work.
template <class State>
task<> walk(State& state, typename State::item first) {
  co_await state.function(static_cast<typename State::item&&>(first));
  while (state.goes_on()) {
    typename State::item item = *state.next;
    ++state.next;
    co_await state.function(static_cast<typename State::item&&>(item));
  }
}

/// `R` is a reference if the caller keeps the range, else the range itself.
template <class R, class F>
task<> for_each_of(R range, std::size_t limit, F function) {
  using state_of = for_each_state<std::remove_reference_t<R>, F>;
  stop_token const outer = co_await ambient_stop();
  state_of state{range, function, outer};
  std::exception_ptr broken;
  try {
    for (std::size_t n = 0; n < limit && state.goes_on(); ++n) {
      typename state_of::item item = *state.next;
      ++state.next;
      state.walkers.spawn(walk(state, static_cast<typename state_of::item&&>(item)));
    }
  } catch (...) {
    broken = std::current_exception();  // the range threw, or no memory: join the walkers first
    state.walkers.request_stop();
  }
  co_await state.walkers.join();
  if (broken) std::rethrow_exception(broken);
  // Asks the group and not `outer`: under with_stop({}, ...) `outer` is empty, and the group then
  // inherits the executor's own stop.
  if (state.walkers.stop_requested() && state.next != state.end)
    throw_error(-ECANCELED, "for_each");
}

}  // namespace detail

/// Awaits `f(item)` for every item of `range`, for at most `limit` items at a time. `f` returns a
/// task<>. A range given as an lvalue is borrowed and must outlive the await; an rvalue is moved
/// in. `f` is moved in. Items are taken in order, each when a walker is free for it. The first
/// exception stops the others and is rethrown after they have ended, so nothing outlives the await.
/// A limit of 0 throws invalid_argument. A stop request reaches the calls of `f` that are running;
/// if items are left, the await then throws operation_canceled.
///
///     co_await iowq::for_each(paths, 64, [](const std::string& p) { return copy_file(p); });
///
/// `f` must not be a coroutine lambda that captures, unless it outlives the await: pass what it
/// needs as arguments, or return the task of a named coroutine, as above.
template <class R, class F>
  requires detail::iterable<R>
[[nodiscard("co_await it")]] task<> for_each(R&& range, std::size_t limit, F f) {
  if (limit == 0) detail::throw_error(-EINVAL, "for_each (limit 0)");
  // An lvalue deduces R as a reference, which for_each_of then holds; an rvalue is moved in.
  return detail::for_each_of<R, F>(std::forward<R>(range), limit, std::move(f));
}

}  // namespace iowq::inline v0
