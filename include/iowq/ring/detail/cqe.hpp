// SPDX-License-Identifier: BSL-1.0
// iowq/ring/detail/cqe.hpp -- the result of a CQE, and objects that receive CQEs.
#pragma once

#include <linux/io_uring.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <iowq/base/config.hpp>

namespace iowq::inline v0::detail {

/// The two words `res` and `flags` of a CQE, kept as one 64-bit word, as they are in memory. With
/// two members, compilers store two words and load one, which costs a store-forwarding stall per
/// operation.
class cqe_result {
 public:
  cqe_result() noexcept {}  // not initialised: saves a store
  explicit cqe_result(const io_uring_cqe& cqe) noexcept {
    static_assert(offsetof(io_uring_cqe, flags) == offsetof(io_uring_cqe, res) + 4);
    std::memcpy(&both_, &cqe.res, sizeof both_);
  }
  void set(int res, std::uint32_t flags = 0) noexcept {
    both_ = std::uint64_t{flags} << upper | std::uint64_t{static_cast<std::uint32_t>(res)} << lower;
  }
  [[nodiscard]] int res() const noexcept { return static_cast<int>(both_ >> lower); }
  [[nodiscard]] std::uint32_t flags() const noexcept {
    return static_cast<std::uint32_t>(both_ >> upper);
  }
  /// Returns true if `res` is not an error and each bit of `flags` is clear.
  [[nodiscard]] bool is_plain(std::uint32_t flags) const noexcept {
    std::uint64_t const error = std::uint64_t{1} << (lower + 31);
    return (both_ & (std::uint64_t{flags} << upper | error)) == 0;
  }

 private:
  static constexpr int lower = std::endian::native == std::endian::little ? 0 : 32;
  static constexpr int upper = 32 - lower;
  std::uint64_t both_;
};

/// Receives the CQEs of one submitted SQE. It must not move or be destroyed from the moment its SQE
/// is filled until complete() is called with the last CQE. Earlier results do not change that: in
/// particular, a successful cancel request does not end the wait for the last CQE.
class cqe_handler {
 public:
  /// `res` and `flags` are those of the CQE. If `flags` lacks IORING_CQE_F_MORE, it is the last
  /// CQE.
  using function = void(cqe_handler* self, int res, std::uint32_t flags) noexcept;

  explicit cqe_handler(function* take) noexcept : take_{take} {}

  void complete(int res, std::uint32_t flags) noexcept { take_(this, res, flags); }

  /// The user_data of the SQE. 0 means no handler, as for a cancel request.
  [[nodiscard]] std::uint64_t user_data() const noexcept {
    return reinterpret_cast<std::uintptr_t>(this);
  }
  [[nodiscard]] static cqe_handler* from(std::uint64_t user_data) noexcept {
    return reinterpret_cast<cqe_handler*>(static_cast<std::uintptr_t>(user_data));
  }

 private:
  function* take_;
};

}  // namespace iowq::inline v0::detail
