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

/// A CQE's two words, kept as the one that they are in memory: to store two and then load one, as
/// compilers do with two members, costs a store-forwarding stall an operation.
class cqe_result {
 public:
  cqe_result() noexcept {}  // no store
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
  /// No error, and none of `flags`.
  [[nodiscard]] bool is_plain(std::uint32_t flags) const noexcept {
    std::uint64_t const error = std::uint64_t{1} << (lower + 31);
    return (both_ & (std::uint64_t{flags} << upper | error)) == 0;
  }

 private:
  static constexpr int lower = std::endian::native == std::endian::little ? 0 : 32;
  static constexpr int upper = 32 - lower;
  std::uint64_t both_;
};

/// Takes the CQEs of one submitted SQE. Stays where it is from the moment its SQE is filled until
/// it was called with the last CQE, whatever the results say before: a cancel's answer ends
/// nothing.
class cqe_handler {
 public:
  /// `res` and `flags` are the CQE's. Without IORING_CQE_F_MORE in them it is the last.
  using function = void(cqe_handler* self, int res, std::uint32_t flags) noexcept;

  explicit cqe_handler(function* take) noexcept : take_{take} {}

  void complete(int res, std::uint32_t flags) noexcept { take_(this, res, flags); }

  /// As an SQE carries it. 0 is nobody: the CQE of a cancel request.
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
