// SPDX-License-Identifier: BSL-1.0
// iowq/op/bytes.hpp -- buffers as arguments of operations.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <ranges>
#include <span>
#include <string_view>
#include <type_traits>

namespace iowq::inline v0 {

namespace detail {
template <class T>
concept byte_like =
    std::same_as<T, std::byte> || std::same_as<T, char> || std::same_as<T, unsigned char>
#if defined(__cpp_char8_t)
    || std::same_as<T, char8_t>
#endif
    ;
template <class R>
concept byte_range = std::ranges::contiguous_range<R> && std::ranges::sized_range<R> &&
                     byte_like<std::remove_cv_t<std::ranges::range_value_t<R>>>;
template <class R>
concept writable_byte_range =
    byte_range<R> && !std::is_const_v<std::remove_reference_t<std::ranges::range_reference_t<R>>> &&
    (std::is_lvalue_reference_v<R> || std::ranges::borrowed_range<R>);

/// The most that one system call moves (MAX_RW_COUNT); an SQE's length has 32 bits only.
inline constexpr std::size_t most_at_once = 0x7ffff000;

/// The total length of all parts, but at most what one system call moves.
[[nodiscard]] inline std::size_t length_of(std::span<const ::iovec> parts) noexcept {
  std::size_t all = 0;
  for (const ::iovec& one : parts) all += one.iov_len;
  return std::min(all, most_at_once);
}
}  // namespace detail

/// Bytes to fill: a span, array, vector or string of std::byte, char or unsigned char. Does not own
/// them: they must stay valid until the operation has completed.
class mutable_bytes {
 public:
  template <detail::writable_byte_range R>
  mutable_bytes(R&& bytes) noexcept
      : data_{std::ranges::data(bytes)}, size_{std::ranges::size(bytes)} {}
  mutable_bytes(void* data, std::size_t size) noexcept : data_{data}, size_{size} {}

  [[nodiscard]] void* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  /// The size, but at most what one system call moves.
  [[nodiscard]] unsigned length() const noexcept {
    return static_cast<unsigned>(std::min(size_, detail::most_at_once));
  }
  /// Without the first `n`.
  [[nodiscard]] mutable_bytes after(std::size_t n) const noexcept {
    return {static_cast<std::byte*>(data_) + n, size_ - n};
  }

 private:
  void* data_;
  std::size_t size_;
};

/// Bytes to read from. Does not own them: they must stay valid until the operation has completed. A
/// string literal is taken without its terminator.
class const_bytes {
 public:
  template <detail::byte_range R>
    requires(!std::is_array_v<std::remove_reference_t<R>>)
  const_bytes(R&& bytes) noexcept
      : data_{std::ranges::data(bytes)}, size_{std::ranges::size(bytes)} {}
  template <detail::byte_like T, std::size_t N>
  const_bytes(T (&array)[N]) noexcept : data_{array}, size_{N} {}
  template <std::size_t N>
  const_bytes(const char (&literal)[N]) noexcept
      : const_bytes{std::string_view{literal, N - (N > 0 && literal[N - 1] == '\0' ? 1 : 0)}} {}
  const_bytes(const void* data, std::size_t size) noexcept : data_{data}, size_{size} {}

  [[nodiscard]] const void* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] unsigned length() const noexcept {
    return static_cast<unsigned>(std::min(size_, detail::most_at_once));
  }
  [[nodiscard]] const_bytes after(std::size_t n) const noexcept {
    return {static_cast<const std::byte*>(data_) + n, size_ - n};
  }

 private:
  const void* data_;
  std::size_t size_;
};

}  // namespace iowq::inline v0
