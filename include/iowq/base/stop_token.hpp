// SPDX-License-Identifier: BSL-1.0
// iowq/base/stop_token.hpp -- stop sources, tokens and callbacks, without allocation.
//
// The design is that of C++26's std::inplace_stop_source: the source holds the state, callbacks are
// linked into it, and nothing is allocated. Two properties are our own. A callback may destroy the
// source that runs it; a when_any does so if a losing child frees the parent. The destructor of a
// callback that is running on another thread waits for it by spinning, because callbacks are short.
// base/detail/stop_state.hpp explains how the thread that created the source avoids the lock.
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

/// Shows whether a stop was requested from its source. Cheap to copy. A default-constructed token
/// never shows a stop. The source must outlive every use of the token. Any thread.
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

/// The object from which a stop is requested. Immovable; destroy it after its callbacks. A callback
/// may destroy its own stop_callback and then this source. On the thread that created the source,
/// registering a callback, unregistering it and requesting a stop do not wait for another thread,
/// unless that thread works on the same callback.
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

  /// Runs every callback on the calling thread: first the callbacks that the thread that created
  /// the source registered, then the others; in each group the newest first. A callback that is
  /// registered later runs in the constructor of its stop_callback. Returns false, and runs
  /// nothing, if a stop was already requested. Any thread. A callback may destroy this source.
  bool request_stop() noexcept { return list_.request(); }

 private:
  template <class F>
  friend class stop_callback;
  detail::stop_list<detail::linux_policy> list_;
};

inline bool stop_token::stop_requested() const noexcept {
  return source_ != nullptr && source_->stop_requested();
}

/// Calls `F` when a stop is requested from the token's source, on the requesting thread. If a stop
/// was already requested, the constructor calls `F`. The destructor unregisters `F` and waits for a
/// call that runs on another thread. `F` itself may destroy its stop_callback.
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
