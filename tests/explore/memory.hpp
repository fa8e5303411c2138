// SPDX-License-Identifier: BSL-1.0
// The memory of one execution. An execution that is cut short leaves its fibers where they
// stand, and nobody runs their destructors: so all that a model allocates lies in one region that
// begins anew with the next execution. Nothing in it is used twice, so what is used after it was
// freed is found: it reads 0xdd.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace explore {

class arena {
 public:
  /// For its lifetime, what is allocated is the model's.
  class entered {
   public:
    explicit entered(bool in = true) noexcept : before_{inside_} { inside_ = in; }
    entered(const entered&) = delete;
    entered& operator=(const entered&) = delete;
    ~entered() { inside_ = before_; }

   private:
    bool before_;
  };

  static void clear() noexcept {
    if (base_ == nullptr) {
      void* const got = ::mmap(nullptr, room, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (got == MAP_FAILED) std::abort();
      base_ = static_cast<std::byte*>(got);
    }
    next_ = base_;
    live_ = 0;
  }
  [[nodiscard]] static bool inside() noexcept { return inside_; }
  /// Whether this memory is the model's; its header may be read.
  [[nodiscard]] static bool owns(const void* at) noexcept {
    return at >= base_ && at < base_ + room;
  }
  /// Blocks that are in use.
  [[nodiscard]] static std::size_t live() noexcept { return live_; }

  [[nodiscard]] static void* take(std::size_t size, std::size_t alignment) noexcept {
    alignment = alignment < sizeof(header) ? sizeof(header) : alignment;
    std::size_t const used = static_cast<std::size_t>(next_ - base_) + sizeof(header);
    std::size_t const start = (used + alignment - 1) & ~(alignment - 1);
    if (start + size > room) return nullptr;
    std::byte* const block = base_ + start;
    auto* const head = reinterpret_cast<header*>(block) - 1;
    head->size = size;
    head->in_use = in_use;
    next_ = block + size;
    ++live_;
    return block;
  }
  /// False: it was given back before.
  [[nodiscard]] static bool give(void* block) noexcept {
    auto* const head = static_cast<header*>(block) - 1;
    if (head->in_use != in_use) return false;
    std::memset(block, 0xdd, head->size);
    head->in_use = 0;
    --live_;
    return true;
  }

 private:
  struct alignas(16) header {
    std::size_t size;
    std::size_t in_use;
  };
  static constexpr std::size_t in_use = 0x5be5be5be5be5be5;
  static constexpr std::size_t room = std::size_t{64} << 20;
  static inline std::byte* base_ = nullptr;
  static inline std::byte* next_ = nullptr;
  static inline std::size_t live_ = 0;
  static inline bool inside_ = false;
};

}  // namespace explore
