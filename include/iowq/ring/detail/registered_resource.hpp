// SPDX-License-Identifier: BSL-1.0
// iowq/ring/detail/registered_resource.hpp -- the base of buffers and files that are registered
// with a ring.
//
// A ring's end takes every registration with it. Whoever registered something learns so from a
// null pointer, and no destructor has to come before another.
#pragma once

#include <liburing.h>

#include <iowq/base/assert.hpp>

namespace iowq::inline v0::detail {

class registrar;

/// Has something registered with a ring, as long as host() says with which.
class registered_resource {
 public:
  registered_resource() noexcept = default;
  /// `on_ring_closed` is called when the ring is gone.
  explicit registered_resource(void (*on_ring_closed)(registered_resource&) noexcept) noexcept
      : on_ring_closed_{on_ring_closed} {}
  registered_resource(const registered_resource&) = delete;
  registered_resource& operator=(const registered_resource&) = delete;

  /// Null: with none, or it has been closed.
  [[nodiscard]] io_uring* host() const noexcept { return ring_; }

 protected:
  ~registered_resource() { leave(); }
  inline void enter(registrar& owner) noexcept;
  void leave() noexcept {
    if (ring_ == nullptr) return;
    ring_ = nullptr;
    *link_ = next_;
    if (next_ != nullptr) next_->link_ = link_;
  }

 private:
  friend registrar;
  void (*const on_ring_closed_)(registered_resource&) noexcept = nullptr;
  io_uring* ring_ = nullptr;
  registered_resource* next_ = nullptr;
  registered_resource** link_ = nullptr;
};

/// All of a ring's. Owner thread only.
class registrar {
 public:
  explicit registrar(io_uring& host) noexcept : ring_{host} {}
  registrar(const registrar&) = delete;
  registrar& operator=(const registrar&) = delete;
  ~registrar() {
    while (registered_resource* const one = first_) {
      one->leave();
      if (one->on_ring_closed_ != nullptr) one->on_ring_closed_(*one);
    }
  }
  [[nodiscard]] io_uring& host() const noexcept { return ring_; }

 private:
  friend registered_resource;
  io_uring& ring_;
  registered_resource* first_ = nullptr;
};

inline void registered_resource::enter(registrar& owner) noexcept {
  IOWQ_ASSERT(ring_ == nullptr, "something was registered with two rings");
  ring_ = &owner.ring_;
  next_ = owner.first_;
  link_ = &owner.first_;
  if (next_ != nullptr) next_->link_ = &next_;
  owner.first_ = this;
}

}  // namespace iowq::inline v0::detail
