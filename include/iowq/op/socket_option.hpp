// SPDX-License-Identifier: BSL-1.0
// iowq/op/socket_option.hpp -- getsockopt and setsockopt: reads and sets options of a socket.
#pragma once

#include <sys/socket.h>

#include <cerrno>
#include <cstddef>
#include <source_location>
#include <type_traits>

#include <iowq/base/fd.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/bytes.hpp>

namespace iowq::inline v0 {

namespace detail {

/// An option that is a plain value: an int, a linger, a timeval. The kernel uses an int for a bool.
template <class T>
concept option_value = std::is_trivially_copyable_v<T> && !std::is_array_v<T> &&
                       !std::is_pointer_v<T> && !byte_range<T>;
template <class T>
using option_storage = std::conditional_t<std::is_same_v<T, bool>, int, T>;

/// getsockopt(2).
template <option_value T>
struct getsockopt_call {
  static constexpr operation_row row{
      .name = "getsockopt",
      .first = route::inline_,
      .reason = "takes the socket's lock, which no thread holds while it waits"};
  int socket, level, name;
  option_storage<T> answer{};

  [[nodiscard]] int descriptor() const noexcept { return socket; }
  int call(const stop_token&) noexcept {
    ::socklen_t size = sizeof answer;
    return or_errno(::getsockopt(socket, level, name, &answer, &size));
  }
  [[nodiscard]] T value(int) const noexcept { return static_cast<T>(answer); }
};

/// setsockopt(2) with a plain value.
template <option_value T>
struct setsockopt_call {
  static constexpr operation_row row{
      .name = "setsockopt",
      .first = route::inline_,
      .reason = "takes the socket's lock, which no thread holds while it waits"};
  int socket, level, name;
  option_storage<T> wanted;

  [[nodiscard]] int descriptor() const noexcept { return socket; }
  int call(const stop_token&) const noexcept {
    return or_errno(::setsockopt(socket, level, name, &wanted, sizeof wanted));
  }
};

/// setsockopt(2) with bytes, such as the name of a device.
struct setsockopt_bytes_call {
  static constexpr operation_row row = setsockopt_call<int>::row;
  int socket, level, name;
  const_bytes wanted;

  [[nodiscard]] int descriptor() const noexcept { return socket; }
  int call(const stop_token&) const noexcept {
    return or_errno(::setsockopt(socket, level, name, wanted.data(), wanted.length()));
  }
};

}  // namespace detail

/// getsockopt(2) of an option of type `T`. Yields its value.
///
///     int const room = co_await iowq::getsockopt(socket, SOL_SOCKET, SO_SNDBUF);
///     auto const how = co_await iowq::getsockopt<::linger>(socket, SOL_SOCKET, SO_LINGER);
template <detail::option_value T = int>
[[nodiscard("co_await it")]] operation<detail::getsockopt_call<T>> getsockopt(
    descriptor socket, int level, int name,
    std::source_location at = std::source_location::current()) {
  return operation<detail::getsockopt_call<T>>{
      at, detail::getsockopt_call<T>{socket.get(), level, name}};
}

/// setsockopt(2). Copies `value`; a bool is passed as the int that the kernel expects.
///
///     co_await iowq::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, true);
template <detail::option_value T>
[[nodiscard("co_await it")]] operation<detail::setsockopt_call<T>> setsockopt(
    descriptor socket, int level, int name, const T& value,
    std::source_location at = std::source_location::current()) {
  return operation<detail::setsockopt_call<T>>{
      at, detail::setsockopt_call<T>{socket.get(), level, name, value}};
}
/// setsockopt(2) of an option that is bytes, such as SO_BINDTODEVICE. `value` is borrowed until the
/// operation has completed.
template <class = void>
[[nodiscard("co_await it")]] operation<detail::setsockopt_bytes_call> setsockopt(
    descriptor socket, int level, int name, const_bytes value,
    std::source_location at = std::source_location::current()) {
  return operation<detail::setsockopt_bytes_call>{
      at, detail::setsockopt_bytes_call{socket.get(), level, name, value}};
}

}  // namespace iowq::inline v0
