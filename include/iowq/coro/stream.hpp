// SPDX-License-Identifier: BSL-1.0
// iowq/coro/stream.hpp -- stream<T>, a coroutine that yields items, one after the other.
#pragma once

#include <coroutine>
#include <exception>
#include <optional>
#include <type_traits>
#include <utility>

#include <iowq/base/assert.hpp>
#include <iowq/coro/detail/promise.hpp>

namespace iowq::inline v0 {

template <class T>
class stream;

namespace detail {

/// Suspends the producer and resumes the consumer, after an item and at the end of the stream.
struct yield_awaiter {
  static bool await_ready() noexcept { return false; }
  template <carries_stop Promise>
  static void await_suspend(std::coroutine_handle<Promise> producer) noexcept {
    // Clear the continuation: a stream whose next() does not wait may be destroyed.
    auto const consumer = producer.promise().continuation();
    producer.promise().continuation({});
    consumer.run();
  }
  static void await_resume() noexcept {}
};

template <class T>
class stream_promise final : public promise_base {
 public:
  stream<T> get_return_object() noexcept;
  static std::suspend_always initial_suspend() noexcept { return {}; }
  static yield_awaiter final_suspend() noexcept { return {}; }

  template <class U = T>
    requires std::is_constructible_v<T, U>
  yield_awaiter yield_value(U&& value) {
    item.emplace(std::forward<U>(value));
    return {};
  }
  static void return_void() noexcept {}
  void unhandled_exception() noexcept {
    item.reset();
    error = std::current_exception();
  }

  std::optional<T> item;
  std::exception_ptr error;
};

}  // namespace detail

/// An asynchronous generator: a coroutine that yields items of type `T` by co_yield, and may await
/// between them. It has one consumer, on the owner thread. An item is valid until the following
/// call of next() is awaited. The producer runs under the stop token of the coroutine that awaits
/// next(). A stream may be destroyed between two items, but not while its next() waits.
///
///     while (auto entry = co_await entries.next()) use(*entry);
template <class T>
class [[nodiscard("a stream does nothing until next() is awaited")]] stream {
 public:
  using promise_type = detail::stream_promise<T>;
  using value_type = T;

  /// One item, or (converted to false) the end of the stream. The stream owns the value: move from
  /// it to keep it.
  class item {
   public:
    [[nodiscard]] explicit operator bool() const noexcept { return value_ != nullptr; }
    [[nodiscard]] T& operator*() const noexcept {
      IOWQ_ASSERT(value_ != nullptr, "an item was read after the end of its stream");
      return *value_;
    }
    [[nodiscard]] T* operator->() const noexcept { return &**this; }

   private:
    friend stream;
    explicit item(T* value) noexcept : value_{value} {}
    T* value_;
  };

  stream(stream&& other) noexcept : handle_{std::exchange(other.handle_, nullptr)} {}
  stream& operator=(stream&& other) noexcept {
    if (this != &other) {
      destroy();
      handle_ = std::exchange(other.handle_, nullptr);
    }
    return *this;
  }
  ~stream() { destroy(); }

  /// Awaits the next item. At the end of the stream, and on every later call, the item converts to
  /// false. Rethrows, once, an exception that the producer threw; the stream has then ended.
  [[nodiscard("co_await it")]] auto next() noexcept { return next_awaiter{handle_}; }

 private:
  friend promise_type;
  using handle_type = std::coroutine_handle<promise_type>;
  explicit stream(handle_type handle) noexcept : handle_{handle} {}

  struct next_awaiter {
    handle_type producer;

    bool await_ready() const noexcept {
      IOWQ_ASSERT(producer, "next() of a stream that had been moved away");
      IOWQ_ASSERT(!producer.promise().continuation(), "two next() of one stream at once");
      producer.promise().item.reset();
      return producer.done();
    }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> consumer) const noexcept {
      producer.promise().continuation(consumer);
      producer.promise().stop(detail::stop_of(consumer));
      detail::hand_over(producer);
    }
    item await_resume() const {
      auto& promise = producer.promise();
      if (promise.error) std::rethrow_exception(std::exchange(promise.error, nullptr));
      return item{promise.item ? &*promise.item : nullptr};
    }
  };

  void destroy() noexcept {
    if (!handle_) return;
    IOWQ_ASSERT(!handle_.promise().continuation(), "a stream was destroyed while its next() waits");
    handle_.destroy();
    handle_ = nullptr;
  }

  handle_type handle_;
};

template <class T>
stream<T> detail::stream_promise<T>::get_return_object() noexcept {
  return stream<T>{std::coroutine_handle<stream_promise>::from_promise(*this)};
}

}  // namespace iowq::inline v0
