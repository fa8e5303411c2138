// SPDX-License-Identifier: BSL-1.0
// iowq/flow/when_all.hpp -- all at once, and all of their results.
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

namespace iowq {

namespace detail {

/// The rule: the first failure stops the others, and is what the await throws.
template <class Derived>
class all_succeed : public awaited_together<Derived> {
 public:
  template <class One>
  void ended(One& one) noexcept {
    if (error_)
      one.drop();
    else if (!one.take(error_))
      this->stop_the_rest();
    this->one_less();
  }

 protected:
  void rethrow() {
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  std::exception_ptr error_;
};

template <class... As>
class [[nodiscard("co_await it")]] all_of_these final : public all_succeed<all_of_these<As...>> {
 public:
  explicit all_of_these(As&&... awaitables) : ones_{std::move(awaitables)...} {}

  std::tuple<given<value_of<As>>...> await_resume() {
    this->rethrow();
    return std::apply(
        [](auto&... one) { return std::tuple<given<value_of<As>>...>{one.give()...}; }, ones_);
  }

  bool begin(continuation waiter, stop_token outer) noexcept {
    return this->begin_each(waiter, outer, sizeof...(As), [this] {
      std::apply([&](auto&... one) { (one.start(*this), ...); }, ones_);
    });
  }

 private:
  std::tuple<one_of<all_of_these, As>...> ones_;
};

/// Of a range: a vector, or nothing at all if there is nothing to put into it.
template <class A>
class [[nodiscard("co_await it")]] all_of_those final : public all_succeed<all_of_those<A>> {
  using value = value_of<A>;
  using element =
      std::conditional_t<std::is_reference_v<value>,
                         std::reference_wrapper<std::remove_reference_t<value>>, kept<value>>;

 public:
  template <class R>
  explicit all_of_those(R&& range) : ones_{ones_of<all_of_those, A>(range)} {}

  auto await_resume() {
    this->rethrow();
    if constexpr (!std::is_void_v<value>) {
      std::vector<element> values;
      values.reserve(ones_.size());
      for (auto& one : ones_) values.push_back(one.give());
      return values;
    }
  }

  bool begin(continuation waiter, stop_token outer) noexcept {
    return this->begin_each(waiter, outer, ones_.size(), [this] {
      for (auto& one : ones_) one.start(*this);
    });
  }

 private:
  std::vector<one_of<all_of_those, A>> ones_;
};

}  // namespace detail

/// Awaits all of them at once and yields a std::tuple of their results, std::monostate for void.
/// Tasks, operations and whatever else can be awaited, in any mixture; each is moved in. The first
/// failure stops the others and is rethrown when all have ended.
///
///     auto read = co_await iowq::when_all(iowq::pread(a, x, 0), iowq::pread(b, y, 0));
///     use(std::get<0>(read), std::get<1>(read));
template <class... As>
  requires(sizeof...(As) != 0 && (awaitable<As> && ...))
[[nodiscard("co_await it")]] auto when_all(As... awaitables) {
  return detail::all_of_these<As...>{std::move(awaitables)...};
}

/// The same for a range of awaitables, which is walked now; its elements are moved out of it.
/// Yields a std::vector of the results in the order of the range, or nothing for void. Takes memory
/// once for all of them if the range knows its size, and once for the results.
template <detail::walkable R>
  requires(!awaitable<R>)
[[nodiscard("co_await it")]] auto when_all(R&& range) {
  return detail::all_of_those<detail::element_of<R>>{range};
}

}  // namespace iowq
