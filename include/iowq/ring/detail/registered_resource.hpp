// SPDX-License-Identifier: BSL-1.0
// iowq/ring/detail/registered_resource.hpp -- the base of buffers and files that are registered
// with a ring.
//
// When a ring is closed, the kernel drops all its registrations. Each registered_resource of the
// ring then has a null host(). The ring and its resources can therefore be destroyed in any order.
#pragma once

#include <liburing.h>

#include <iowq/base/assert.hpp>

namespace iowq::inline v0::detail {

class registrar;

/// Something that can be registered with a ring. It is registered while host() is not null.
class registered_resource {
 public:
  registered_resource() noexcept = default;
  /// `on_ring_closed` is called after the ring has been closed.
  explicit registered_resource(void (*on_ring_closed)(registered_resource&) noexcept) noexcept
      : on_ring_closed_{on_ring_closed} {}
  registered_resource(const registered_resource&) = delete;
  registered_resource& operator=(const registered_resource&) = delete;

  /// The ring with which it is registered. Null: not registered, or the ring has been closed.
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

/// The list of a ring's registered resources. Owner thread only.
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
