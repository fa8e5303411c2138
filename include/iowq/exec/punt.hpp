// SPDX-License-Identifier: BSL-1.0
// iowq/exec/punt.hpp -- runs any function on a worker and awaits it.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <optional>
#include <source_location>
#include <type_traits>
#include <utility>

#include <iowq/exec/operation.hpp>

namespace iowq::inline v0 {

/// How a punted callable is to run.
struct punt_options {
  bool unbound = false;                   ///< may wait without limit: counts as unbound work
  std::optional<std::uint64_t> key = {};  ///< never concurrently with another of this key, in order
  int node = any_node;                    ///< the NUMA node whose queue it joins
  bool brief = false;                     ///< takes microseconds and never blocks: see work_flags
};

namespace detail {

/// A named callable that punt() moves from.
template <class F>
struct moved_callable {
  F& callable;
};
template <class F>
concept puntable = std::is_invocable_v<std::decay_t<F>&> ||
                   std::is_invocable_v<std::decay_t<F>&, const stop_token&>;

/// A callable and its result or exception.
template <class F>
struct punt_call {
  static constexpr bool takes_stop = std::is_invocable_v<F&, const stop_token&>;
  using answer = typename std::conditional_t<takes_stop, std::invoke_result<F&, const stop_token&>,
                                             std::invoke_result<F&>>::type;
  static constexpr operation_row row{.name = "punt",
                                     .first = route::pool,
                                     .key = "the caller's",
                                     .reason = "a call of the user's may block at any point"};
  static constexpr bool value_may_throw = true;

  template <class F2>
  punt_call(F2&& f, const punt_options& o) : function(std::forward<F2>(f)), options{o} {}
  punt_call(punt_call&& other) noexcept(std::is_nothrow_move_constructible_v<F>)
      : function(std::move(other.function)), options{other.options} {}

  void choose_placement(placement& where) const noexcept {
    where.unbound = options.unbound;
    where.key = options.key;
    where.node = options.node;
    where.brief = options.brief;
  }

  answer invoke(const stop_token& stop) {
    if constexpr (takes_stop)
      return std::invoke(function, stop);
    else
      return std::invoke(function);
  }

  int call(const stop_token& stop) noexcept {
    try {
      if constexpr (std::is_void_v<answer>)
        invoke(stop);
      else if constexpr (std::is_reference_v<answer>)
        value_ = std::addressof(invoke(stop));
      else
        value_.emplace(invoke(stop));
    } catch (...) {
      error = std::current_exception();
    }
    return 0;
  }

  answer value(int) {
    if (error) std::rethrow_exception(std::exchange(error, nullptr));
    if constexpr (std::is_void_v<answer>)
      return;
    else if constexpr (std::is_reference_v<answer>)
      return static_cast<answer>(**value_);
    else
      return std::move(*value_);
  }

  struct nothing {};
  using stored = std::conditional_t<
      std::is_void_v<answer>, nothing,
      std::conditional_t<std::is_reference_v<answer>,
                         std::add_pointer_t<std::remove_reference_t<answer>>, answer>>;
  F function;
  punt_options options;
  std::exception_ptr error;
  std::optional<stored> value_;
};

}  // namespace detail

/// Lets punt() move from the named `callable`, which must outlive the call of punt(). On g++ 12 and
/// 13, punt() accepts a callable that owns something only in this form: those compilers destroy a
/// closure twice that is written inside the co_await expression, and no function can distinguish it
/// from a closure that is moved in.
template <class F>
  requires detail::puntable<F>
[[nodiscard]] detail::moved_callable<F> moved(F& callable) noexcept {
  return {callable};
}

/// Runs `callable()`, or `callable(stop_token)`, on a worker. The await yields its return value or
/// rethrows its exception, and the coroutine resumes on its owner's thread. A stop request cancels
/// the callable while it is queued. Once it runs, a request only reaches it through the token, if
/// it takes one; iowq cannot interrupt it. With a key it never runs concurrently with another
/// callable of that key, and callables of one key run in the order in which they are awaited.
///
///     auto n = co_await iowq::punt([&] { return ::getpid(); });
///     auto call = [name = std::move(name)] { return lookup(name); };   // owns something:
///     auto found = co_await iowq::punt(iowq::moved(call), {.key = id});   // named, and moved in
template <class F>
  requires detail::puntable<F>
[[nodiscard("co_await it, or it never runs")]] auto punt(
    F&& callable, punt_options options = {},
    std::source_location at = std::source_location::current()) {
  static_assert(
      !IOWQ_DESTROYS_CLOSURES_TWICE || std::is_lvalue_reference_v<F> ||
          std::is_trivially_destructible_v<std::decay_t<F>>,
      "g++ before 14 destroys a closure that owns something twice when it is written inside the "
      "co_await expression: name the closure first (auto call = [...] {...};) and let punt() move "
      "it: co_await punt(iowq::moved(call))");
  return operation<detail::punt_call<std::decay_t<F>>>{at, std::forward<F>(callable), options};
}
template <class F>
[[nodiscard("co_await it, or it never runs")]] auto punt(
    detail::moved_callable<F> callable, punt_options options = {},
    std::source_location at = std::source_location::current()) {
  return operation<detail::punt_call<std::decay_t<F>>>{at, std::move(callable.callable), options};
}

}  // namespace iowq::inline v0
