// SPDX-License-Identifier: BSL-1.0
// iowq/ring/detail/registered_resource.hpp -- the base of buffers and files that are registered
// with a ring.
//
// A ring's end takes every registration with it. Whoever registered something learns so from a
// null pointer, and no destructor has to come before another.
#pragma once

#include <liburing.h>

#include <iowq/base/assert.hpp>

namespace iowq {

class ring_guests;

/// Has something registered with a ring, as long as host() says with which.
class ring_guest {
 public:
  ring_guest() noexcept = default;
  /// `evicted` is called when the ring is gone.
  explicit ring_guest(void (*evicted)(ring_guest&) noexcept) noexcept : evicted_{evicted} {}
  ring_guest(const ring_guest&) = delete;
  ring_guest& operator=(const ring_guest&) = delete;

  /// Null: with none, or it has been closed.
  [[nodiscard]] io_uring* host() const noexcept { return host_; }

 protected:
  ~ring_guest() { leave(); }
  inline void enter(ring_guests& house) noexcept;
  void leave() noexcept {
    if (host_ == nullptr) return;
    host_ = nullptr;
    *link_ = next_;
    if (next_ != nullptr) next_->link_ = link_;
  }

 private:
  friend ring_guests;
  void (*const evicted_)(ring_guest&) noexcept = nullptr;
  io_uring* host_ = nullptr;
  ring_guest* next_ = nullptr;
  ring_guest** link_ = nullptr;
};

/// All of a ring's. Owner thread only.
class ring_guests {
 public:
  explicit ring_guests(io_uring& host) noexcept : host_{host} {}
  ring_guests(const ring_guests&) = delete;
  ring_guests& operator=(const ring_guests&) = delete;
  ~ring_guests() {
    while (ring_guest* const one = first_) {
      one->leave();
      if (one->evicted_ != nullptr) one->evicted_(*one);
    }
  }
  [[nodiscard]] io_uring& host() const noexcept { return host_; }

 private:
  friend ring_guest;
  io_uring& host_;
  ring_guest* first_ = nullptr;
};

inline void ring_guest::enter(ring_guests& house) noexcept {
  IOWQ_ASSERT(host_ == nullptr, "something was registered with two rings");
  host_ = &house.host_;
  next_ = house.first_;
  link_ = &house.first_;
  if (next_ != nullptr) next_->link_ = &next_;
  house.first_ = this;
}

}  // namespace iowq
