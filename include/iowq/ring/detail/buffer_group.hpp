// SPDX-License-Identifier: BSL-1.0
// iowq/ring/detail/buffer_group.hpp -- a group of provided buffers.
//
// A buffer is free, given to the kernel, or taken. The kernel takes the buffers in the order in
// which they were given to it, so a bundle CQE (one CQE for several buffers) names only the first
// one. This class therefore remembers each buffer's position. Without a ring, the free buffers are
// a stack, and each receive operation takes a buffer itself.
//
// B1  Each taken buffer is put back exactly once, by its holder.
// B2  The kernel's ring never holds more buffers than it has slots, so no entry is overwritten.
#pragma once

#include <sys/mman.h>

#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <new>
#include <system_error>
#include <vector>

#include <iowq/base/assert.hpp>
#include <iowq/base/result.hpp>
#include <iowq/ring/detail/kernel.hpp>
#include <iowq/ring/detail/registered_resource.hpp>

namespace iowq::inline v0::detail {

/// A group of `count` buffers of one size. Owner thread only.
template <class Kernel = linux_kernel>
class basic_buffer_group : public registered_resource {
 public:
  static constexpr unsigned most = 1U << 15;  // the kernel's limit
  static constexpr std::uint16_t none = 0xffff;

  /// Allocates `count` buffers of `size` bytes each; `count` is rounded up to a power of two.
  /// Throws std::system_error: invalid_argument, not_enough_memory.
  basic_buffer_group(unsigned count, std::size_t size) : size_{size} {
    if (count == 0 || count > most || size == 0 || size > 0x7fffffff)
      throw_error(-EINVAL, "buffer_ring");
    count_ = std::bit_ceil(count);
    slots_.resize(count_);
    length_ = entries_size() + count_ * stride();
    void* const memory = ::mmap(nullptr, length_, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw_error(-errno, "buffer_ring");
    memory_ = static_cast<std::byte*>(memory);
    for (unsigned i = count_; i-- != 0;) push(static_cast<std::uint16_t>(i));
  }
  ~basic_buffer_group() {
    IOWQ_ASSERT(taken_ == 0, "a buffer_ring's memory was freed before its buffers came back");
    withdraw();
    ::munmap(memory_, length_);
  }

  [[nodiscard]] unsigned count() const noexcept { return count_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  /// The number of taken buffers. If it equals count(), operations that need a buffer wait.
  [[nodiscard]] unsigned taken() const noexcept { return taken_; }
  [[nodiscard]] std::byte* data(std::uint16_t id) noexcept {
    return memory_ + entries_size() + id * stride();
  }
  /// The group's id in an SQE.
  [[nodiscard]] std::uint16_t group() const noexcept { return group_; }

  /// Registers the group with the ring of `owner` and gives it the free buffers. Does nothing if
  /// the group is registered there already. Returns 0 or -errno.
  int offer(registrar& owner) noexcept {
    if (host() != nullptr) {
      IOWQ_ASSERT(host() == &owner.host(), "a buffer_ring was used by two executors at once");
      return 0;
    }
    reclaim();
    io_uring_buf_reg what{};
    what.ring_addr = reinterpret_cast<std::uintptr_t>(memory_);
    what.ring_entries = count_;
    int r = -EEXIST;
    for (unsigned id = 0; r == -EEXIST && id < 0xffff; ++id) {  // few rings have several groups
      what.bgid = static_cast<std::uint16_t>(id);
      r = Kernel::register_buffer_ring(owner.host(), what);
    }
    if (r < 0) return r;
    group_ = what.bgid;
    enter(owner);
    tail() = 0;
    tail_ = 0;
    while (free_ != none) add(pop());
    publish();
    return 0;
  }

  /// Records that the kernel has taken buffer `id`.
  void mark_taken(std::uint16_t id) noexcept {
    slot& s = slots_[id];
    IOWQ_ASSERT(s.state == where::given, "the kernel answered with a buffer that it did not have");
    s.state = where::taken;
    ++taken_;
    --given_;
  }
  /// The buffer after `id` in the kernel's ring: the next one of a bundle.
  [[nodiscard]] std::uint16_t next_in_ring(std::uint16_t id) noexcept {
    return entry((slots_[id].position + 1U) & (count_ - 1)).bid;
  }

  /// Takes a buffer that was not given to the kernel. Returns `none` if no buffer is free.
  [[nodiscard]] std::uint16_t take() noexcept {
    reclaim();
    if (free_ == none) return none;
    std::uint16_t const id = pop();
    slots_[id].state = where::taken;
    ++taken_;
    return id;
  }

  /// Puts back a taken buffer (B1): to the ring if the group is registered, else to the free ones.
  void put_back(std::uint16_t id) noexcept {
    IOWQ_ASSERT(slots_[id].state == where::taken, "a buffer was given back twice");
    --taken_;
    if (host() == nullptr) return push(id);
    add(id);
    publish();
  }

  /// For a taken buffer that is in a queue of its user: its successor there, and the bytes it
  /// holds.
  [[nodiscard]] std::uint16_t& next(std::uint16_t id) noexcept { return slots_[id].next; }
  [[nodiscard]] std::uint32_t& length(std::uint16_t id) noexcept { return slots_[id].length; }

 private:
  enum class where : std::uint8_t { free, given, taken };
  struct slot {
    std::uint32_t length = 0;
    std::uint16_t next = none;
    std::uint16_t position = 0;  // in the kernel's ring, set when it was given
    where state = where::free;
  };

  /// Does not use io_uring_buf_ring::bufs: in C++, older headers place it eight bytes too far.
  [[nodiscard]] io_uring_buf& entry(unsigned position) noexcept {
    return reinterpret_cast<io_uring_buf*>(memory_)[position];
  }
  [[nodiscard]] std::uint16_t& tail() noexcept { return entry(0).resv; }
  [[nodiscard]] std::size_t entries_size() const noexcept {
    return (count_ * sizeof(io_uring_buf) + 4095) & ~std::size_t{4095};
  }
  /// Buffers share no cache line: the kernel may write one while the program reads another.
  [[nodiscard]] std::size_t stride() const noexcept { return (size_ + 63) & ~std::size_t{63}; }

  void push(std::uint16_t id) noexcept {
    slots_[id].state = where::free;
    slots_[id].next = free_;
    free_ = id;
  }
  [[nodiscard]] std::uint16_t pop() noexcept {
    std::uint16_t const id = free_;
    free_ = slots_[id].next;
    return id;
  }
  void add(std::uint16_t id) noexcept {
    slot& s = slots_[id];
    s.state = where::given;
    s.position = static_cast<std::uint16_t>(tail_ & (count_ - 1));  // B2
    io_uring_buf& mine = entry(s.position);
    mine.addr = reinterpret_cast<std::uintptr_t>(data(id));
    mine.len = static_cast<std::uint32_t>(size_);
    mine.bid = id;
    ++tail_;
    ++given_;
  }
  void publish() noexcept {
    // release: pairs with the kernel's acquire; it sees the entries before the tail.
    __atomic_store_n(&tail(), tail_, __ATOMIC_RELEASE);
  }
  /// If the ring has been closed: frees the buffers that were given to it.
  void reclaim() noexcept {
    if (given_ == 0 || host() != nullptr) return;
    given_ = 0;
    for (unsigned i = count_; i-- != 0;)
      if (slots_[i].state == where::given) push(static_cast<std::uint16_t>(i));
  }
  void withdraw() noexcept {
    if (host() == nullptr) return;
    static_cast<void>(Kernel::unregister_buffer_ring(*host(), group_));
    leave();
  }

  std::size_t const size_;
  unsigned count_ = 0;
  unsigned taken_ = 0;
  unsigned given_ = 0;  // buffers given to the kernel that it has not taken yet
  std::uint16_t free_ = none;
  std::uint16_t tail_ = 0;
  std::uint16_t group_ = 0;
  std::byte* memory_ = nullptr;
  std::size_t length_ = 0;
  std::vector<slot> slots_;
};

using buffer_group = basic_buffer_group<>;

}  // namespace iowq::inline v0::detail
