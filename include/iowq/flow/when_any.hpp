// SPDX-License-Identifier: BSL-1.0
// iowq/flow/when_any.hpp -- awaits several awaitables and yields the first that succeeds.
#pragma once

#include <cerrno>
#include <cstddef>
#include <exception>
#include <limits>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <iowq/base/assert.hpp>
#include <iowq/base/result.hpp>
#include <iowq/flow/detail/concurrent.hpp>
#include <iowq/flow/detail/range_traits.hpp>

namespace iowq::inline v0 {

/// The result of when_any: which awaitable succeeded first, and its result.
template <class... Ts>
class when_any_result {
  using choice = std::variant<detail::stored_t<Ts>...>;
  template <std::size_t I>
  using at = detail::result_t<std::tuple_element_t<I, std::tuple<Ts...>>>;

 public:
  template <std::size_t I, class Value>
  when_any_result(std::in_place_index_t<I> which, Value&& value)
      : choice_{which, std::forward<Value>(value)} {}

  /// The index of the winner among the arguments.
  [[nodiscard]] std::size_t index() const noexcept { return choice_.index(); }
  /// The result of the awaitable at index `I`, std::monostate for void. Asserts that it is the
  /// winner.
  template <std::size_t I>
  [[nodiscard]] auto& get() & {
    return pick<I>(*this);
  }
  template <std::size_t I>
  [[nodiscard]] const auto& get() const& {
    return pick<I>(*this);
  }
  template <std::size_t I>
  [[nodiscard]] at<I> get() && {
    return static_cast<at<I>&&>(pick<I>(*this));
  }

 private:
  template <std::size_t I, class Self>
  static auto& pick(Self& self) {
    auto* const value = std::get_if<I>(&self.choice_);
    IOWQ_ASSERT(value != nullptr, "get<I>() of a when_any that another one has won");
    if constexpr (std::is_reference_v<at<I>>)
      return **value;
    else
      return *value;
  }
  choice choice_;
};

/// The result of when_any of a range, whose elements all yield a `T`.
template <class T>
class when_any_range_result {
 public:
  when_any_range_result(std::size_t index, detail::stored_t<T>&& value)
      : index_{index}, value_(std::move(value)) {}

  /// The index of the winner in the range.
  [[nodiscard]] std::size_t index() const noexcept { return index_; }
  /// The result of the winner, std::monostate for void.
  [[nodiscard]] auto& value() & { return pick(*this); }
  [[nodiscard]] const auto& value() const& { return pick(*this); }
  [[nodiscard]] detail::result_t<T> value() && {
    return static_cast<detail::result_t<T>&&>(pick(*this));
  }

 private:
  template <class Self>
  static auto& pick(Self& self) {
    if constexpr (std::is_reference_v<T>)
      return *self.value_;
    else
      return self.value_;
  }
  std::size_t index_;
  detail::stored_t<T> value_;
};

namespace detail {

/// The completion rule of when_any: the first success stops the others. Without a success the last
/// failure is thrown.
template <class Derived>
class one_succeeds : public concurrent_awaiter<Derived> {
 public:
  template <class One>
  void ended(One& one) noexcept {
    if (winner_ != nobody) {
      one.drop();
    } else if (one.take(error_)) {
      winner_ = static_cast<Derived*>(this)->place_of(one);
      this->stop_others();
    }
    this->child_completed();
  }

 protected:
  std::size_t winner() {
    if (winner_ == nobody) std::rethrow_exception(std::exchange(error_, nullptr));
    return winner_;
  }

 private:
  static constexpr std::size_t nobody = std::numeric_limits<std::size_t>::max();
  std::size_t winner_ = nobody;
  std::exception_ptr error_;
};

template <class... As>
class [[nodiscard("co_await it")]] when_any_tuple final
    : public one_succeeds<when_any_tuple<As...>> {
  using answer = when_any_result<value_of<As>...>;

 public:
  explicit when_any_tuple(As&&... awaitables) : children_{std::move(awaitables)...} {}

  answer await_resume() { return pick<0>(this->winner()); }

  bool begin(continuation waiter, stop_token outer) noexcept {
    return this->begin_each(waiter, outer, sizeof...(As), [this] {
      std::apply([&](auto&... one) { (one.start(*this), ...); }, children_);
    });
  }
  template <class One>
  [[nodiscard]] std::size_t place_of(const One& winner) const noexcept {
    auto const is_winner = [&winner](const auto& one) {
      return static_cast<const void*>(&one) == static_cast<const void*>(&winner);
    };
    return std::apply(
        [&](const auto&... one) {
          std::size_t place = 0;
          static_cast<void>(((is_winner(one) || (++place, false)) || ...));
          return place;
        },
        children_);
  }

 private:
  template <std::size_t I>
  answer pick(std::size_t winner) {
    if constexpr (I + 1 < sizeof...(As))
      if (winner != I) return pick<I + 1>(winner);
    return answer{std::in_place_index<I>, std::get<I>(children_).kept_value()};
  }
  std::tuple<child<when_any_tuple, As>...> children_;
};

template <class A>
class [[nodiscard("co_await it")]] when_any_range final : public one_succeeds<when_any_range<A>> {
 public:
  template <class R>
  explicit when_any_range(R&& range) : children_{children_of<when_any_range, A>(range)} {
    if (children_.empty()) throw_error(-EINVAL, "when_any (an empty range)");
  }

  when_any_range_result<value_of<A>> await_resume() {
    std::size_t const place = this->winner();
    return {place, children_[place].kept_value()};
  }

  bool begin(continuation waiter, stop_token outer) noexcept {
    return this->begin_each(waiter, outer, children_.size(), [this] {
      for (auto& one : children_) one.start(*this);
    });
  }
  [[nodiscard]] std::size_t place_of(const child<when_any_range, A>& winner) const noexcept {
    return static_cast<std::size_t>(&winner - children_.data());
  }

 private:
  std::vector<child<when_any_range, A>> children_;
};

}  // namespace detail

/// Awaits all `awaitables` concurrently and yields a when_any_result. The first one to succeed
/// wins; the others are stopped, and the await waits until they have ended. If all fail, the last
/// failure is rethrown. If a loser succeeds because its stop came too late, its result is
/// destroyed, which for example closes the descriptor that it opened. A stop request reaches all of
/// them.
///
///     auto first = co_await iowq::when_any(iowq::recv(socket, buffer), quit.wait());
///     if (first.index() == 0) use(first.get<0>());
template <class... As>
  requires(sizeof...(As) != 0 && (awaitable<As> && ...))
[[nodiscard("co_await it")]] auto when_any(As... awaitables) {
  return detail::when_any_tuple<As...>{std::move(awaitables)...};
}

/// The same for a range of awaitables. This call iterates over the range and moves its elements
/// out. Yields a when_any_range_result. An empty range throws invalid_argument, because it has no
/// winner.
template <detail::iterable R>
  requires(!awaitable<R>)
[[nodiscard("co_await it")]] auto when_any(R&& range) {
  return detail::when_any_range<detail::element_of<R>>{range};
}

}  // namespace iowq::inline v0
