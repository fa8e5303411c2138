// SPDX-License-Identifier: BSL-1.0
// iowq/flow/when_all.hpp -- awaits several awaitables concurrently and yields all results.
#pragma once

#include <cstddef>
#include <exception>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <iowq/flow/detail/concurrent.hpp>
#include <iowq/flow/detail/range_traits.hpp>

namespace iowq::inline v0 {

namespace detail {

/// The completion rule of when_all: the first failure stops the others, and the await throws it.
template <class Derived>
class all_succeed : public concurrent_awaiter<Derived> {
 public:
  template <class One>
  void ended(One& one) noexcept {
    if (error_)
      one.drop();
    else if (!one.take(error_))
      this->stop_others();
    this->child_completed();
  }

 protected:
  void rethrow() {
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  std::exception_ptr error_;
};

template <class... As>
class [[nodiscard("co_await it")]] when_all_tuple final
    : public all_succeed<when_all_tuple<As...>> {
 public:
  explicit when_all_tuple(As&&... awaitables) : children_{std::move(awaitables)...} {}

  std::tuple<result_t<value_of<As>>...> await_resume() {
    this->rethrow();
    return std::apply(
        [](auto&... one) { return std::tuple<result_t<value_of<As>>...>{one.take_result()...}; },
        children_);
  }

  bool begin(continuation waiter, stop_token outer) noexcept {
    return this->begin_each(waiter, outer, sizeof...(As), [this] {
      std::apply([&](auto&... one) { (one.start(*this), ...); }, children_);
    });
  }

 private:
  std::tuple<child<when_all_tuple, As>...> children_;
};

/// when_all of a range. Yields a vector of the results, or nothing if they are void.
template <class A>
class [[nodiscard("co_await it")]] when_all_range final : public all_succeed<when_all_range<A>> {
  using value = value_of<A>;
  using element =
      std::conditional_t<std::is_reference_v<value>,
                         std::reference_wrapper<std::remove_reference_t<value>>, stored_t<value>>;

 public:
  template <class R>
  explicit when_all_range(R&& range) : children_{children_of<when_all_range, A>(range)} {}

  auto await_resume() {
    this->rethrow();
    if constexpr (!std::is_void_v<value>) {
      std::vector<element> values;
      values.reserve(children_.size());
      for (auto& one : children_) values.push_back(one.take_result());
      return values;
    }
  }

  bool begin(continuation waiter, stop_token outer) noexcept {
    return this->begin_each(waiter, outer, children_.size(), [this] {
      for (auto& one : children_) one.start(*this);
    });
  }

 private:
  std::vector<child<when_all_range, A>> children_;
};

}  // namespace detail

/// Awaits all `awaitables` concurrently and yields a std::tuple of their results, with
/// std::monostate for void. Accepts tasks, operations and any other awaitables, in any mixture;
/// each is moved in. The first failure stops the others and is rethrown after all have ended. A
/// stop request reaches all of them.
///
///     auto read = co_await iowq::when_all(iowq::pread(a, x, 0), iowq::pread(b, y, 0));
///     use(std::get<0>(read), std::get<1>(read));
template <class... As>
  requires(sizeof...(As) != 0 && (awaitable<As> && ...))
[[nodiscard("co_await it")]] auto when_all(As... awaitables) {
  return detail::when_all_tuple<As...>{std::move(awaitables)...};
}

/// The same for a range of awaitables. This call iterates over the range and moves its elements
/// out. Yields a std::vector of the results in the order of the range, or nothing if they are void.
/// Allocates once for all children if the range knows its size, and once for the results.
template <detail::iterable R>
  requires(!awaitable<R>)
[[nodiscard("co_await it")]] auto when_all(R&& range) {
  return detail::when_all_range<detail::element_of<R>>{range};
}

}  // namespace iowq::inline v0
