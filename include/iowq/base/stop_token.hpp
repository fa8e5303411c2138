// SPDX-License-Identifier: BSL-1.0
// iowq/base/stop_token.hpp -- stop sources, tokens and callbacks, without allocation.
//
// The shape of C++26's std::inplace_stop_source: the state lives in the source, a callback is
// linked into it, nothing is allocated. Two things are ours: a callback may destroy the source
// that runs it (a when_any whose loser frees the parent does just that), and a callback that is
// running on another thread is waited for when it is destroyed, by a spin: callbacks are short.
// How that goes without a lock on the thread that made the source is told in
// base/detail/stop_state.hpp.
#pragma once

#include <concepts>
#include <type_traits>
#include <utility>

#include <iowq/base/detail/stop_state.hpp>
#include <iowq/base/policy.hpp>

namespace iowq::inline v0 {

class stop_source;
template <class F>
class stop_callback;

namespace detail {

using stop_node = basic_stop_node<linux_policy>;

}  // namespace detail

/// Asks whether its source was requested to stop. Cheap to copy; a default one never stops.
/// The source outlives its use. Any thread.
class stop_token {
 public:
  template <class F>
  using callback_type = stop_callback<F>;

  stop_token() noexcept = default;
  [[nodiscard]] inline bool stop_requested() const noexcept;
  [[nodiscard]] bool stop_possible() const noexcept { return source_ != nullptr; }
  void swap(stop_token& other) noexcept { std::swap(source_, other.source_); }
  friend bool operator==(const stop_token&, const stop_token&) noexcept = default;

 private:
  friend stop_source;
  template <class F>
  friend class stop_callback;
  explicit stop_token(stop_source* source) noexcept : source_{source} {}
  stop_source* source_ = nullptr;
};

/// Where a stop is requested. Immovable; destroy it after its callbacks. A callback may end its
/// own registration and then this source, too. On the thread that made it neither a registration
/// nor its end nor a request waits for another thread, unless that has a hand in the same callback.
class stop_source {
 public:
  stop_source() noexcept = default;
  stop_source(const stop_source&) = delete;
  stop_source& operator=(const stop_source&) = delete;

  [[nodiscard]] stop_token get_token() const noexcept {
    return stop_token{const_cast<stop_source*>(this)};
  }
  [[nodiscard]] static constexpr bool stop_possible() noexcept { return true; }
  [[nodiscard]] bool stop_requested() const noexcept { return list_.is_requested(); }

  /// Runs every callback on this thread: first those that were registered by the thread that made
  /// the source, then the others; the newest first. Later registrations run at once. False if it
  /// had been requested before. Any thread. A callback may destroy this source.
  bool request_stop() noexcept { return list_.request(); }

 private:
  template <class F>
  friend class stop_callback;
  detail::stop_list<detail::linux_policy> list_;
};

inline bool stop_token::stop_requested() const noexcept {
  return source_ != nullptr && source_->stop_requested();
}

/// Calls `F` when the token's source is requested to stop: on the requesting thread, or at once
/// in the constructor if that has happened. The destructor waits for a call that another thread
/// is in; it may run inside its own call.
template <class F>
class [[nodiscard("it is unregistered when destroyed")]] stop_callback : detail::stop_node {
 public:
  using callback_type = F;

  template <class Init>
    requires std::constructible_from<F, Init>
  explicit stop_callback(stop_token token, Init&& init)
      : detail::stop_node{&invoke}, call_(std::forward<Init>(init)) {
    attach(token.source_ != nullptr ? &token.source_->list_ : nullptr);
  }
  ~stop_callback() { detach(); }

 private:
  static void invoke(detail::stop_node* node) noexcept {
    static_cast<stop_callback*>(node)->call_();
  }
  F call_;
};

template <class F>
stop_callback(stop_token, F) -> stop_callback<F>;

}  // namespace iowq::inline v0
