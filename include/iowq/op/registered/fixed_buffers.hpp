// SPDX-License-Identifier: BSL-1.0
// iowq/op/registered/fixed_buffers.hpp -- registered buffers.
//
// Direct I/O pins the pages of its buffer for each transfer. Registered buffers are pinned once
// and named by a number. A ring has one table of them, and the memory that may be locked is
// limited. If the registration fails, or without a ring, fixed_buffers is ordinary memory.
#pragma once

#include <sys/mman.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <new>
#include <source_location>
#include <span>
#include <vector>

#include <iowq/base/fd.hpp>
#include <iowq/base/result.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/bytes.hpp>
#include <iowq/op/detail/file_kind.hpp>
#include <iowq/op/file.hpp>
#include <iowq/ring/detail/kernel.hpp>
#include <iowq/ring/detail/registered_resource.hpp>

namespace iowq::inline v0 {

/// `count` buffers of `size` bytes each, page-aligned and zeroed, for read_fixed() and
/// write_fixed(). The first operation on an executor registers them with its ring, if the ring has
/// no other table. Must outlive every operation on it. The constructor throws std::system_error.
class fixed_buffers : public detail::registered_resource {
 public:
  static constexpr unsigned most = 1U << 14;  // the kernel's limit

  fixed_buffers(unsigned count, std::size_t size) : count_{count}, size_{size} {
    if (count == 0 || count > most || size == 0 || size > (std::size_t{1} << 30))
      detail::throw_error(-EINVAL, "fixed_buffers");
    void* const memory = ::mmap(nullptr, length(), PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) detail::throw_error(-errno, "fixed_buffers");
    memory_ = static_cast<std::byte*>(memory);
  }
  fixed_buffers(const fixed_buffers&) = delete;
  fixed_buffers& operator=(const fixed_buffers&) = delete;
  ~fixed_buffers() {
    if (host() != nullptr) static_cast<void>(detail::linux_kernel::unregister_buffers(*host()));
    leave();
    ::munmap(memory_, length());
  }

  [[nodiscard]] unsigned count() const noexcept { return count_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] std::span<std::byte> operator[](unsigned index) const noexcept {
    IOWQ_ASSERT(index < count_, "a fixed buffer was named that there is not");
    return {memory_ + index * stride(), size_};
  }

  /// For operations: returns true if the buffers are registered with this ring. Registers them if
  /// they are registered with none and the ring has not refused them before.
  [[nodiscard]] bool is_registered_with(detail::registrar& owner) noexcept {
    if (host() != nullptr) return host() == &owner.host();
    if (refused_by_ == &owner) return false;
    try {
      std::vector<::iovec> all;
      all.reserve(count_);
      for (unsigned i = 0; i < count_; ++i) all.push_back({memory_ + i * stride(), size_});
      if (detail::linux_kernel::register_buffers(owner.host(), all.data(), count_) == 0)
        enter(owner);
    } catch (const std::bad_alloc&) {
    }
    if (host() == nullptr) refused_by_ = &owner;
    return host() != nullptr;
  }

 private:
  [[nodiscard]] std::size_t stride() const noexcept { return (size_ + 4095) & ~std::size_t{4095}; }
  [[nodiscard]] std::size_t length() const noexcept { return count_ * stride(); }

  unsigned const count_;
  std::size_t const size_;
  std::byte* memory_ = nullptr;
  const detail::registrar* refused_by_ = nullptr;
};

namespace detail {

/// The first `length` bytes of buffer `index`.
struct fixed_part {
  fixed_buffers* table;
  unsigned index;
  std::size_t length;

  [[nodiscard]] bool is_none() const noexcept {
    return index >= table->count() || length > table->size();
  }
  /// Empty if there is no such part; validate() then returns -EINVAL.
  [[nodiscard]] std::span<std::byte> bytes() const noexcept {
    return is_none() ? std::span<std::byte>{} : (*table)[index].first(length);
  }
  void name_in(io_uring_sqe& sqe, std::uint8_t opcode) const noexcept {
    if (!table->is_registered_with(loop::current().backend().resources())) return;
    sqe.opcode = opcode;
    sqe.buf_index = static_cast<std::uint16_t>(index);
  }
};

/// pread(2) into a fixed buffer.
struct read_fixed_call : read_call {
  static constexpr operation_row row{.name = "read_fixed",
                                     .opcode = IORING_OP_READ,
                                     .first = route::ring,
                                     .reason = "READ_FIXED (4) once registered, else as read"};
  read_fixed_call(known_file from, fixed_part into, std::int64_t at) noexcept
      : read_call{from, into.bytes(), at}, part{into} {}

  [[nodiscard]] int validate() const noexcept {
    return part.is_none() ? -EINVAL : read_call::validate();
  }
  void prepare(io_uring_sqe& sqe) const noexcept {
    read_call::prepare(sqe);
    part.name_in(sqe, IORING_OP_READ_FIXED);
  }
  fixed_part part;
};

/// pwrite(2) from a fixed buffer.
struct write_fixed_call : write_call {
  static constexpr operation_row row{.name = "write_fixed",
                                     .opcode = IORING_OP_WRITE,
                                     .first = route::ring,
                                     .key = write_call::row.key,
                                     .reason = "WRITE_FIXED (5) once registered, else as write"};
  write_fixed_call(known_file to, fixed_part from, std::int64_t at) noexcept
      : write_call{to, from.bytes(), at}, part{from} {}

  [[nodiscard]] int validate() const noexcept {
    return part.is_none() ? -EINVAL : write_call::validate();
  }
  void prepare(io_uring_sqe& sqe) const noexcept {
    write_call::prepare(sqe);
    part.name_in(sqe, IORING_OP_WRITE_FIXED);
  }
  fixed_part part;
};

}  // namespace detail

/// pread(2) of at most `length` bytes into buffer `index`. Yields the number of bytes read. Fails
/// with invalid_argument, before any I/O, if there is no such buffer or it is smaller than
/// `length`.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::read_fixed_call> read_fixed(
    descriptor file, fixed_buffers& buffers, unsigned index, std::size_t length,
    std::int64_t offset, std::source_location at = std::source_location::current()) {
  return operation<detail::read_fixed_call>{at, file, detail::fixed_part{&buffers, index, length},
                                            detail::checked_offset(offset)};
}

/// pwrite(2) of the first `length` bytes of buffer `index`. Yields the number of bytes written.
/// Fails with invalid_argument as read_fixed() does.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::write_fixed_call> write_fixed(
    detail::known_descriptor file, fixed_buffers& buffers, unsigned index, std::size_t length,
    std::int64_t offset, std::source_location at = std::source_location::current()) {
  return operation<detail::write_fixed_call>{at, file, detail::fixed_part{&buffers, index, length},
                                             detail::checked_offset(offset)};
}

}  // namespace iowq::inline v0
