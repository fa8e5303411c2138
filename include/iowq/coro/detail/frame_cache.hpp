// SPDX-License-Identifier: BSL-1.0
// iowq/coro/detail/frame_cache.hpp -- recycles the memory of coroutine frames.
//
// A coroutine that awaits a task in a loop allocates and frees a frame of the same size each time.
// With a free list per size class, this costs two loads and a store instead of a heap allocation.
// Each thread has its own lists and puts the frames that it frees on them. A frame may be allocated
// on one thread (by post) and freed on another (the owner). With AddressSanitizer nothing is
// recycled, because recycling would hide errors from it.
//
// A frame is aligned to a cache line. A resume touches the head of the frame and the awaiter behind
// it. With this alignment they occupy two or three cache lines instead of three or four. This
// matters because tens of coroutines in flight fill the first-level cache.
#pragma once

#include <bit>
#include <cstddef>
#include <new>

#include <iowq/base/config.hpp>

namespace iowq::inline v0::detail {

inline constexpr std::align_val_t frame_alignment{64};

/// The free lists of one thread. Up to 2 KiB, size classes are 64 bytes apart; up to 128 KiB, they
/// are powers of two. Each class keeps at most 256 KiB. The type is trivial, so that an access to
/// the thread_local variable needs no initialisation guard.
struct frame_cache {
  struct block {
    block* next;
  };
  static constexpr std::size_t step = 64;
  static constexpr std::size_t small_classes = 32;
  static constexpr std::size_t small_limit = step * small_classes;
  static constexpr std::size_t classes = small_classes + 6;
  static constexpr std::size_t limit = small_limit << 6;
  static constexpr std::size_t kept_bytes = 256 * 1024;

  block* free[classes];
  unsigned kept[classes];
  enum : unsigned char { unused, in_use, closed } state;

  [[nodiscard]] static constexpr std::size_t class_of(std::size_t size) noexcept {
    if (size <= small_limit) return (size - 1) / step;
    return small_classes + static_cast<std::size_t>(std::bit_width((size - 1) / small_limit)) - 1;
  }
  [[nodiscard]] static constexpr std::size_t bytes_of(std::size_t index) noexcept {
    return index < small_classes ? (index + 1) * step : small_limit << (index - small_classes + 1);
  }
};
static_assert(frame_cache::class_of(frame_cache::limit) == frame_cache::classes - 1);
static_assert(frame_cache::bytes_of(frame_cache::classes - 1) == frame_cache::limit);
static_assert(frame_cache::class_of(frame_cache::small_limit + 1) == frame_cache::small_classes);

inline constinit thread_local frame_cache this_thread_frames{};

/// Frees the frames that a thread has kept when the thread ends. The thread's first slow allocation
/// creates it.
struct frame_cache_end {
  ~frame_cache_end() {
    frame_cache& cache = this_thread_frames;
    cache.state = frame_cache::closed;  // frames freed later go to the heap
    for (frame_cache::block*& list : cache.free)
      while (list != nullptr) {
        frame_cache::block* const block = list;
        list = block->next;
        ::operator delete(block, frame_alignment);
      }
  }
};

IOWQ_NOINLINE inline void* allocate_frame_slowly(std::size_t size) {
  frame_cache& cache = this_thread_frames;
  if (cache.state == frame_cache::unused) {
    static thread_local frame_cache_end end_of_thread;
    static_cast<void>(end_of_thread);
    cache.state = frame_cache::in_use;
  }
  return ::operator new(
      size > frame_cache::limit ? size : frame_cache::bytes_of(frame_cache::class_of(size)),
      frame_alignment);
}

/// Memory for a coroutine frame, aligned to a cache line. Throws std::bad_alloc. Any thread.
inline void* allocate_frame(std::size_t size) {
#if !IOWQ_ASAN
  if (size <= frame_cache::limit) {
    frame_cache& cache = this_thread_frames;
    std::size_t const index = frame_cache::class_of(size);
    if (frame_cache::block* const block = cache.free[index]; block != nullptr) {
      cache.free[index] = block->next;
      --cache.kept[index];
      return block;
    }
  }
#endif
  return allocate_frame_slowly(size);
}

/// Frees or keeps a frame that allocate_frame(size) returned on any thread. Any thread.
inline void free_frame(void* frame, std::size_t size) noexcept {
#if !IOWQ_ASAN
  if (size <= frame_cache::limit) {
    frame_cache& cache = this_thread_frames;
    std::size_t const index = frame_cache::class_of(size);
    bool const room =
        (cache.kept[index] + 1) * frame_cache::bytes_of(index) <= frame_cache::kept_bytes;
    if (room && cache.state == frame_cache::in_use) {
      cache.free[index] = ::new (frame) frame_cache::block{cache.free[index]};
      ++cache.kept[index];
      return;
    }
  }
#else
  static_cast<void>(size);
#endif
  ::operator delete(frame, frame_alignment);
}

/// Base class of promises: the frames of their coroutines are recycled.
struct recycled_frame {
  static void* operator new(std::size_t size) { return allocate_frame(size); }
  static void operator delete(void* frame, std::size_t size) noexcept { free_frame(frame, size); }
};

}  // namespace iowq::inline v0::detail
