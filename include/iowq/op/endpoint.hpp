// SPDX-License-Identifier: BSL-1.0
// iowq/op/endpoint.hpp -- the address of a socket.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include <iowq/base/result.hpp>

namespace iowq::inline v0 {

/// A socket address of any family. A plain value.
class endpoint {
 public:
  endpoint() noexcept = default;
  /// Copies `size` bytes from `address`. An address longer than a sockaddr_storage is truncated,
  /// and the kernel refuses it.
  endpoint(const ::sockaddr* address, ::socklen_t size) noexcept
      : size_{std::min<::socklen_t>(size, sizeof storage_)} {
    std::memcpy(&storage_, address, size_);
  }

  /// A numeric IPv4 or IPv6 address ("127.0.0.1", "::1") and a port. Throws invalid_argument if
  /// `address` is not numeric.
  [[nodiscard]] static endpoint ip(std::string_view address, std::uint16_t port) {
    std::string const text{address};
    ::sockaddr_in v4{};
    ::sockaddr_in6 v6{};
    if (::inet_pton(AF_INET, text.c_str(), &v4.sin_addr) == 1) {
      v4.sin_family = AF_INET;
      v4.sin_port = htons(port);
      return {reinterpret_cast<::sockaddr*>(&v4), sizeof v4};
    }
    if (::inet_pton(AF_INET6, text.c_str(), &v6.sin6_addr) == 1) {
      v6.sin6_family = AF_INET6;
      v6.sin6_port = htons(port);
      return {reinterpret_cast<::sockaddr*>(&v6), sizeof v6};
    }
    detail::throw_error(-EINVAL,
                        ("endpoint: \"" + text + "\" is not an IPv4 or IPv6 address").c_str());
  }

  /// The path of a Unix socket, or an abstract name, which begins with NUL. Throws
  /// filename_too_long.
  [[nodiscard]] static endpoint local(std::string_view path) {
    ::sockaddr_un un{};
    un.sun_family = AF_UNIX;
    if (path.size() >= sizeof un.sun_path)
      detail::throw_error(-ENAMETOOLONG,
                          "endpoint: the path of a Unix socket has 107 bytes at most");
    std::copy(path.begin(), path.end(), un.sun_path);
    // A path ends with a NUL, which counts; an abstract name ends where the address ends.
    bool const abstract = !path.empty() && path.front() == '\0';
    auto const size = offsetof(::sockaddr_un, sun_path) + path.size() + (abstract ? 0 : 1);
    return {reinterpret_cast<::sockaddr*>(&un), static_cast<::socklen_t>(size)};
  }

  /// The address that `socket` is bound to: getsockname(2), which does not block. Throws
  /// std::system_error.
  [[nodiscard]] static endpoint local_of(int socket) { return ask(socket, ::getsockname); }
  /// The address that `socket` is connected to: getpeername(2), which does not block. Throws
  /// std::system_error.
  [[nodiscard]] static endpoint peer_of(int socket) { return ask(socket, ::getpeername); }

  [[nodiscard]] const ::sockaddr* address() const noexcept {
    return reinterpret_cast<const ::sockaddr*>(&storage_);
  }
  [[nodiscard]] ::socklen_t size() const noexcept { return size_; }
  [[nodiscard]] int family() const noexcept { return storage_.ss_family; }

  /// The port of an IPv4 or IPv6 address; 0 for other families.
  [[nodiscard]] std::uint16_t port() const noexcept {
    if (family() == AF_INET)
      return ntohs(reinterpret_cast<const ::sockaddr_in*>(&storage_)->sin_port);
    if (family() == AF_INET6)
      return ntohs(reinterpret_cast<const ::sockaddr_in6*>(&storage_)->sin6_port);
    return 0;
  }

  /// "127.0.0.1:80", "[::1]:80", or a Unix socket's path.
  [[nodiscard]] std::string to_string() const {
    char text[INET6_ADDRSTRLEN] = "";
    if (family() == AF_INET) {
      ::inet_ntop(AF_INET, &reinterpret_cast<const ::sockaddr_in*>(&storage_)->sin_addr, text,
                  sizeof text);
      return std::string{text} + ':' + std::to_string(port());
    }
    if (family() == AF_INET6) {
      ::inet_ntop(AF_INET6, &reinterpret_cast<const ::sockaddr_in6*>(&storage_)->sin6_addr, text,
                  sizeof text);
      return '[' + std::string{text} + "]:" + std::to_string(port());
    }
    if (family() == AF_UNIX)
      return std::string{reinterpret_cast<const ::sockaddr_un*>(&storage_)->sun_path};
    return {};
  }

 private:
  template <class Ask>
  static endpoint ask(int socket, Ask&& call) {
    endpoint made;
    made.size_ = sizeof made.storage_;
    if (call(socket, reinterpret_cast<::sockaddr*>(&made.storage_), &made.size_) != 0)
      detail::throw_error(-errno, "endpoint of a socket");
    return made;
  }

  ::sockaddr_storage storage_{};
  ::socklen_t size_ = 0;
};

}  // namespace iowq::inline v0
