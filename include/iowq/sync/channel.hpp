// SPDX-License-Identifier: BSL-1.0
// iowq/sync/channel.hpp -- a bounded queue between coroutines, on the same or different threads.
//
// One lock, held only briefly, guards the whole channel. A sender that must wait keeps its value in
// its own coroutine frame; a receiver that must wait keeps the place for the value there. The
// coroutine of the other side moves the value and then completes the waiter. If the waiter belongs
// to another executor, it is posted to the inbox of that executor. So a thread is woken only if it
// sleeps, and one wake-up serves everything that arrives before it runs.
#pragma once

#include <cerrno>
#include <cstddef>
#include <optional>
#include <source_location>
#include <type_traits>
#include <utility>
#include <vector>

#include <iowq/base/assert.hpp>
#include <iowq/sync/detail/channel_wait.hpp>

namespace iowq::inline v0 {

template <class T>
class channel;

namespace detail {

template <class T>
class [[nodiscard("co_await it")]] channel_send final : public channel_wait<channel_send<T>> {
  using base = channel_wait<channel_send>;

 public:
  static constexpr operation_row row{
      .name = "channel.send", .first = route::inline_, .reason = "a queue in user space"};

  channel_send(channel<T>& to, T&& value, std::source_location at) noexcept
      : base{at, to}, value_(std::move(value)) {}

 private:
  friend channel<T>;
  friend base;
  friend parked_operation<channel_send>;

  static wait_queue& queue(channel_base& all) noexcept { return all.senders; }
  bool try_complete() noexcept {
    this->result_.set(static_cast<channel<T>&>(this->all_).put(value_));
    return this->result_.res() != -EAGAIN;
  }

  T value_;
};

template <class T>
class [[nodiscard("co_await it")]] channel_recv final : public channel_wait<channel_recv<T>> {
  using base = channel_wait<channel_recv>;

 public:
  static constexpr operation_row row{
      .name = "channel.recv", .first = route::inline_, .reason = "a queue in user space"};

  channel_recv(channel<T>& from, std::source_location at) noexcept : base{at, from} {}

 private:
  friend channel<T>;
  friend base;
  friend parked_operation<channel_recv>;

  static wait_queue& queue(channel_base& all) noexcept { return all.receivers; }
  bool try_complete() noexcept {
    this->result_.set(0);
    return static_cast<channel<T>&>(this->all_).get(value_) || this->all_.closed;
  }
  std::optional<T> value() noexcept { return std::move(value_); }

  std::optional<T> value_;  // guarded by the lock while the receiver waits
};

}  // namespace detail

/// A queue of at most `capacity` values between any number of senders and receivers, on any
/// executors. With a capacity of 0 a sender waits until its value is taken. Senders are served in
/// the order of their awaits, and so are receivers. The constructor allocates all memory. Destroy a
/// channel only when no coroutine or thread uses it; the destructor asserts that no coroutine
/// waits.
///
///     iowq::channel<std::string> names{16};
///     co_await names.send(std::move(name));                       // one side, then names.close()
///     while (auto name = co_await names.recv()) greet(*name);     // the other
template <class T>
class channel : private detail::channel_base {
  static_assert(
      std::is_nothrow_move_constructible_v<T>,
      "a channel moves its values under its lock: their move constructor must be noexcept");

 public:
  explicit channel(std::size_t capacity) : slots_(capacity) {}
  channel(const channel&) = delete;
  channel& operator=(const channel&) = delete;
  ~channel() {
    IOWQ_ASSERT(senders.empty() && receivers.empty(),
                "a channel was destroyed while coroutines wait for it");
  }

  /// Waits until there is room, then moves `value` into the channel. Throws broken_pipe if the
  /// channel is closed before that, and operation_canceled if a stop is requested before that. In
  /// both cases the value was not sent.
  [[nodiscard("co_await it")]] detail::channel_send<T> send(
      T value, std::source_location at = std::source_location::current()) noexcept {
    return {*this, std::move(value), at};
  }
  /// Waits for the next value and yields it. Yields std::nullopt once the channel is closed and
  /// empty. Throws operation_canceled if a stop is requested first.
  [[nodiscard("co_await it")]] detail::channel_recv<T> recv(
      std::source_location at = std::source_location::current()) noexcept {
    return {*this, at};
  }

  /// Sends `value` and returns true if there is room now. Otherwise returns false and does not move
  /// from `value`. Any thread.
  [[nodiscard]] bool try_send(T&& value) noexcept {
    lock const held{mutex};
    return put(value) == 0;
  }
  /// Returns the next value if there is one now, else std::nullopt. Any thread.
  [[nodiscard]] std::optional<T> try_recv() noexcept {
    lock const held{mutex};
    std::optional<T> value;
    get(value);
    return value;
  }

  /// Closes the channel. Values in it can still be received. Waiting senders fail with broken_pipe;
  /// waiting receivers yield std::nullopt. Another call has no effect. Any thread.
  void close() noexcept {
    lock const held{mutex};
    closed = true;
    while (auto* const waiting = receivers.pop())
      static_cast<detail::channel_recv<T>*>(waiting)->call(0);
    while (auto* const waiting = senders.pop())
      static_cast<detail::channel_send<T>*>(waiting)->call(-EPIPE);
  }
  [[nodiscard]] bool is_closed() const noexcept {
    lock const held{mutex};
    return closed;
  }
  /// The number of values in the channel, without the values of waiting senders. Any thread.
  [[nodiscard]] std::size_t size() const noexcept {
    lock const held{mutex};
    return used_;
  }
  [[nodiscard]] std::size_t capacity() const noexcept { return slots_.size(); }

 private:
  friend detail::channel_send<T>;
  friend detail::channel_recv<T>;

  /// Returns 0, -EPIPE if the channel is closed, or -EAGAIN if there is no room. Moves from `value`
  /// only if it returns 0. Call under `mutex`.
  int put(T& value) noexcept {
    if (closed) return -EPIPE;
    if (auto* const waiting = static_cast<detail::channel_recv<T>*>(receivers.pop())) {
      waiting->value_.emplace(std::move(value));
      waiting->call(0);
      return 0;
    }
    if (used_ == slots_.size()) return -EAGAIN;
    slots_[(first_ + used_++) % slots_.size()].emplace(std::move(value));
    return 0;
  }
  bool get(std::optional<T>& value) noexcept {
    auto* const waiting = static_cast<detail::channel_send<T>*>(senders.pop());
    if (used_ != 0) {
      value.emplace(std::move(*slots_[first_]));
      slots_[first_].reset();
      first_ = (first_ + 1) % slots_.size();
      --used_;
      if (waiting != nullptr)
        slots_[(first_ + used_++) % slots_.size()].emplace(std::move(waiting->value_));
    } else if (waiting != nullptr) {
      value.emplace(std::move(waiting->value_));
    }
    if (waiting != nullptr) waiting->call(0);
    return value.has_value();
  }

  // Guarded by `mutex`.
  std::vector<std::optional<T>> slots_;
  std::size_t first_ = 0;
  std::size_t used_ = 0;
};

}  // namespace iowq::inline v0
