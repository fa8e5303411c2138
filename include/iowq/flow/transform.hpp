// SPDX-License-Identifier: BSL-1.0
// iowq/flow/transform.hpp -- an ordered stream of results for the items of a range.
//
// A ring of `limit` slots: the consumer awaits the oldest slot, takes its result and reuses the
// slot. An item that finishes early keeps its result in its slot. So the limit bounds both the
// memory and the work ahead of the consumer.
#pragma once

#include <cerrno>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <iterator>
#include <memory>
#include <optional>
#include <ranges>
#include <type_traits>
#include <utility>

#include <iowq/base/assert.hpp>
#include <iowq/base/result.hpp>
#include <iowq/base/stop_token.hpp>
#include <iowq/coro/as_result.hpp>
#include <iowq/coro/detail/promise.hpp>
#include <iowq/coro/stream.hpp>
#include <iowq/coro/task.hpp>
#include <iowq/flow/detail/concurrent.hpp>
#include <iowq/flow/detail/range_traits.hpp>
#include <iowq/flow/with_stop.hpp>

namespace iowq::inline v0 {

namespace detail {

/// The items in progress, oldest first. `A` is the awaitable for an `Item`. Owner thread only.
template <class Item, class A>
class window {
 public:
  explicit window(std::size_t limit) : slots_{new slot[limit]}, limit_{limit} {}
  window(const window&) = delete;
  window& operator=(const window&) = delete;
  ~window() {
    IOWQ_ASSERT(running_ == 0,
                "the stream of a transform was dropped while items of it are in work: take it to "
                "its end, or co_await finish(stream)");
  }

  /// Returns true if there is no item to wait for and no exception to throw.
  [[nodiscard]] bool empty() const noexcept { return used_ == 0 && !error_; }
  [[nodiscard]] bool has_room() const noexcept { return used_ < limit_ && !stop_.stop_requested(); }
  [[nodiscard]] stop_token token() const noexcept { return stop_.get_token(); }
  void request_stop() noexcept { stop_.request_stop(); }

  template <class F>
  void start(F& function, Item item) {
    slot& fresh = slots_[(first_ + used_) % limit_];
    // The slot keeps the item, because the work may refer to it.
    if constexpr (std::is_reference_v<Item>) {
      fresh.work.emplace(function(static_cast<Item>(item)));
    } else {
      fresh.item.emplace(std::move(item));
      fresh.work.emplace(function(std::move(*fresh.item)));
    }
    ++used_;
    ++running_;
    fresh.work->start(*this);
  }

  void ended(child<window, A>& one) noexcept {
    if (error_)
      one.drop();
    else if (!one.take(error_))
      stop_.request_stop();
    --running_;
    if (waiter_ && oldest_is_over()) std::exchange(waiter_, {}).run();
  }

  /// Waits for the oldest item to complete, and yields its result. After a failure it waits for all
  /// items to complete, and throws.
  auto oldest() noexcept {
    struct awaiter {
      window& all;
      bool await_ready() const noexcept { return all.oldest_is_over(); }
      void await_suspend(std::coroutine_handle<> producer) const noexcept {
        all.waiter_ = producer;
      }
      value_of<A> await_resume() const {
        if (all.error_) std::rethrow_exception(std::exchange(all.error_, nullptr));
        auto& slot = all.slots_[all.first_];
        value_of<A> result = slot.work->take_result();
        slot.work.reset();
        slot.item.reset();
        all.first_ = (all.first_ + 1) % all.limit_;
        --all.used_;
        return result;
      }
    };
    return awaiter{*this};
  }
  /// Records an exception of the range or of `f` itself.
  void failed(std::exception_ptr error) noexcept {
    if (!error_) error_ = std::move(error);
    stop_.request_stop();
  }

 private:
  struct slot {
    std::optional<stored_t<Item>> item;
    std::optional<child<window, A>> work;
  };
  [[nodiscard]] bool oldest_is_over() const noexcept {
    return error_ ? running_ == 0 : slots_[first_].work->has_value();
  }

  std::unique_ptr<slot[]> slots_;
  std::size_t limit_;
  std::size_t first_ = 0;
  std::size_t used_ = 0;
  std::size_t running_ = 0;
  stop_source stop_;
  continuation waiter_;
  std::exception_ptr error_;
};

template <class R, class F>
using work_on = std::remove_cvref_t<std::invoke_result_t<F&, item_of<R>>>;

/// `R` is a reference if the caller keeps the range, else the range itself.
template <class R, class F>
stream<value_of<work_on<R, F>>> transform_of(R range, std::size_t limit, F function) {
  using item_type = item_of<R>;
  window<item_type, work_on<R, F>> in_work{limit};
  auto next = std::ranges::begin(range);
  auto const end = std::ranges::end(range);
  for (;;) {
    std::optional<value_of<work_on<R, F>>> result;
    {
      // Registered only while next() is awaited: between two calls of next() its token may be gone.
      auto const pass_on = [&in_work] { in_work.request_stop(); };
      stop_token const token = co_await ambient_stop();
      stop_callback<decltype(pass_on)> const inherited{token, pass_on};
      try {
        while (in_work.has_room() && next != end) {
          item_type one = *next;
          ++next;
          in_work.start(function, static_cast<item_type&&>(one));
        }
      } catch (...) {
        in_work.failed(std::current_exception());
      }
      if (in_work.empty()) {
        if (token.stop_requested() && next != end) throw_error(-ECANCELED, "transform");
        co_return;
      }
      auto oldest = in_work.oldest();
      result.emplace(co_await oldest);
    }
    co_yield std::move(*result);
  }
}

}  // namespace detail

/// Returns a stream of the results of `f(item)` for every item of `range`, in the order of the
/// range. At most `limit` items are in progress or finished ahead of the consumer. `f` returns a
/// task or an operation that yields a value. A range given as an lvalue is borrowed and must
/// outlive the stream; an rvalue is moved in. `f` is moved in. The first exception stops the other
/// items, and next() rethrows it after they have ended. A limit of 0 throws invalid_argument.
///
///     auto sizes = iowq::transform(paths, 64, [](const std::string& p) { return size_of(p); });
///     while (auto size = co_await sizes.next()) sum += *size;
///
/// Items also run between two calls of next(). Before a consumer destroys the stream early, it must
/// `co_await finish(sizes)`.
template <detail::iterable R, class F>
[[nodiscard("it does nothing until next() is awaited")]] auto transform(R&& range,
                                                                        std::size_t limit, F f) {
  static_assert(std::is_object_v<detail::value_of<detail::work_on<R, F>>>,
                "transform needs an f that yields a value: for nothing there is for_each");
  if (limit == 0) detail::throw_error(-EINVAL, "transform (limit 0)");
  // An lvalue deduces R as a reference, which transform_of then holds; an rvalue is moved in.
  return detail::transform_of<R, F>(std::forward<R>(range), limit, std::move(f));
}

/// Ends a stream early: requests a stop of the items in progress, waits until they have ended, and
/// discards their results and failures.
template <class T>
[[nodiscard("co_await it")]] task<> finish(stream<T>& unwanted) {
  stop_source stopped;
  stopped.request_stop();
  for (bool more = true; more;) {
    auto next = as_result(with_stop(stopped.get_token(), unwanted.next()));
    auto const item = co_await next;
    more = item.has_value() && *item;
  }
}

}  // namespace iowq::inline v0
