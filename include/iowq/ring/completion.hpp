// SPDX-License-Identifier: BSL-1.0
// iowq/ring/completion.hpp -- what an SQE's user_data points at.
// Layer ring; needs base. Next in the book: ring/ring.hpp.
#pragma once

#include <cstdint>

#include <iowq/base/config.hpp>

namespace iowq {

/// Takes the CQEs of one submitted SQE. Stays where it is from the moment its SQE is filled until
/// it was called with the last CQE, whatever the results say before: a cancel's answer ends
/// nothing.
class completion {
 public:
  /// `res` and `flags` are the CQE's. Without IORING_CQE_F_MORE in them it is the last.
  using function = void(completion* self, int res, std::uint32_t flags) noexcept;

  explicit completion(function* take) noexcept : take_{take} {}

  void complete(int res, std::uint32_t flags) noexcept { take_(this, res, flags); }

  /// As an SQE carries it. 0 is nobody: the CQE of a cancel request.
  [[nodiscard]] std::uint64_t user_data() const noexcept {
    return reinterpret_cast<std::uintptr_t>(this);
  }
  [[nodiscard]] static completion* from(std::uint64_t user_data) noexcept {
    return reinterpret_cast<completion*>(static_cast<std::uintptr_t>(user_data));
  }

 private:
  function* take_;
};

}  // namespace iowq
