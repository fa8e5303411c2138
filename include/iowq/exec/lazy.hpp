// SPDX-License-Identifier: BSL-1.0
// iowq/exec/lazy.hpp -- room for an object that most operations never need.
// Layer exec; needs coro. Next in the book: exec/row.hpp.
#pragma once

#include <memory>
#include <new>
#include <utility>

#include <iowq/coro/frames.hpp>

namespace iowq::detail {

/// std::optional without the flag: its owner keeps that beside its other flags, where all are
/// cleared by one store. The owner also calls destroy().
template <class T>
class lazy {
 public:
  lazy() noexcept {}
  lazy(const lazy&) = delete;
  lazy& operator=(const lazy&) = delete;
  ~lazy() {}

  template <class... Arguments>
  T* emplace(Arguments&&... arguments) noexcept {
    return std::construct_at(&object_, std::forward<Arguments>(arguments)...);
  }
  void destroy() noexcept { std::destroy_at(&object_); }
  [[nodiscard]] T& object() noexcept { return object_; }

 private:
  union {
    T object_;
  };
};

/// The same, but a pointer wide: the object is made in recycled memory (coro/frames.hpp). For what
/// is so rare that every frame of every coroutine should not be larger for it: a thousand waiting
/// connections are a thousand frames, and each page of them is a TLB entry a turn.
template <class T>
class recycled {
 public:
  recycled() noexcept {}  // no store

  /// Null: there is no memory.
  template <class... Arguments>
  T* emplace(Arguments&&... arguments) noexcept {
    void* memory = nullptr;
    try {
      memory = allocate_frame(sizeof(T));
    } catch (const std::bad_alloc&) {
      return nullptr;
    }
    object_ = ::new (memory) T(std::forward<Arguments>(arguments)...);
    return object_;
  }
  void destroy() noexcept {
    std::destroy_at(object_);
    free_frame(object_, sizeof(T));
  }
  [[nodiscard]] T& object() const noexcept { return *object_; }

 private:
  T* object_;
};

}  // namespace iowq::detail
