// SPDX-License-Identifier: BSL-1.0
// iowq/op/connect_to.hpp -- connects to a host by name, and opens listening sockets.
//
// A host has several addresses, and the first may never answer. So the next address is tried when
// an attempt has failed or after 250 ms, while the earlier attempts continue (RFC 8305, "Happy
// Eyeballs"); IPv6 and IPv4 addresses alternate. All attempts and a timer are in one epoll set,
// and the coroutine waits for that set.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <iowq/base/fd.hpp>
#include <iowq/coro/as_result.hpp>
#include <iowq/coro/task.hpp>
#include <iowq/op/endpoint.hpp>
#include <iowq/op/poll.hpp>
#include <iowq/op/resolve.hpp>
#include <iowq/op/socket.hpp>
#include <iowq/op/socket_option.hpp>

namespace iowq::inline v0 {

namespace detail {

/// Alternates the families, beginning with that of the first address. Within a family the order
/// is kept.
[[nodiscard]] inline std::vector<endpoint> interleave(const std::vector<endpoint>& all) {
  std::vector<endpoint> firsts, others, mixed;
  for (const endpoint& one : all)
    (one.family() == all.front().family() ? firsts : others).push_back(one);
  for (std::size_t i = 0; i < std::max(firsts.size(), others.size()); ++i) {
    if (i < firsts.size()) mixed.push_back(firsts[i]);
    if (i < others.size()) mixed.push_back(others[i]);
  }
  return mixed;
}

/// Several connects in parallel. No function blocks.
class connect_race {
 public:
  connect_race()
      : set_{::epoll_create1(EPOLL_CLOEXEC)},
        clock_{::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)} {
    if (!set_ || !clock_) throw_error(-errno, "connect_to");
    add(clock_.get(), EPOLLIN);
  }

  [[nodiscard]] int set() const noexcept { return set_.get(); }
  [[nodiscard]] bool running() const noexcept { return !sockets_.empty(); }
  /// Returns true if an attempt has succeeded. take() returns its socket, in blocking mode.
  [[nodiscard]] bool won() const noexcept { return static_cast<bool>(winner_); }
  [[nodiscard]] fd take() {
    ::fcntl(winner_.get(), F_SETFL, ::fcntl(winner_.get(), F_GETFL) & ~O_NONBLOCK);
    return std::move(winner_);
  }
  [[nodiscard]] int error() const noexcept { return error_; }

  /// Starts one more attempt. Returns true if it is in progress, false if it has ended.
  bool start(const endpoint& where) {
    fd socket{::socket(where.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
    int const r =
        socket ? or_errno(::connect(socket.get(), where.address(), where.size())) : -errno;
    if (r == 0) {
      winner_ = std::move(socket);
    } else if (r == -EINPROGRESS) {
      add(socket.get(), EPOLLOUT);
      sockets_.push_back(std::move(socket));
      return true;
    } else {
      error_ = r;
    }
    return false;
  }

  /// Starts the delay until the next attempt.
  void arm_timer() noexcept {
    constexpr long delay = 250'000'000;
    ::itimerspec const once{.it_interval = {}, .it_value = {0, delay}};
    ::timerfd_settime(clock_.get(), 0, &once, nullptr);
  }

  /// Call it when set() is readable. Returns true if the next attempt is due.
  bool poll_once() {
    ::epoll_event events[8];
    int const n = ::epoll_wait(set_.get(), events, 8, 0);
    bool more = false;
    for (int i = 0; i < n && !won(); ++i) {
      if (events[i].data.fd == clock_.get()) {
        std::uint64_t times;
        more = ::read(clock_.get(), &times, sizeof times) > 0 || more;
      } else {
        more = !finish_attempt(events[i].data.fd) || more;
      }
    }
    return more;
  }

 private:
  void add(int file, std::uint32_t events) {
    ::epoll_event event{.events = events, .data = {.fd = file}};
    if (::epoll_ctl(set_.get(), EPOLL_CTL_ADD, file, &event) != 0)
      throw_error(-errno, "connect_to");
  }
  /// Ends the attempt of socket `file`. Returns true if it has succeeded.
  bool finish_attempt(int file) {
    auto const at = std::find_if(sockets_.begin(), sockets_.end(),
                                 [file](const fd& one) { return one.get() == file; });
    int error = 0;
    ::socklen_t size = sizeof error;
    if (::getsockopt(file, SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
    if (error == 0)
      winner_ = std::move(*at);
    else
      error_ = -error;
    sockets_.erase(at);
    return error == 0;
  }

  fd set_, clock_, winner_;
  std::vector<fd> sockets_;  // closing one removes it from set_
  int error_ = -EADDRNOTAVAIL;
};

template <class = void>
[[nodiscard]] task<fd> connect_to_named(std::string host, std::string service);

}  // namespace detail

/// Connects to the first of the addresses `where` that answers. Yields the socket. If all fail,
/// fails with the error of the last attempt.
template <class = void>
[[nodiscard("co_await it")]] task<fd> connect_to(std::vector<endpoint> where) {
  if (where.empty()) detail::throw_error(-EADDRNOTAVAIL, "connect_to");
  std::vector<endpoint> const all = detail::interleave(where);
  detail::connect_race race;
  std::size_t next = 0;
  for (bool more = true;;) {
    while (more && next < all.size() && !race.won()) more = !race.start(all[next++]);
    if (next < all.size()) race.arm_timer();
    if (race.won()) co_return race.take();
    if (!race.running()) detail::throw_error(race.error(), "connect_to");
    static_cast<void>(co_await poll(race.set(), POLLIN));
    more = race.poll_once();
  }
}

template <class>
task<fd> detail::connect_to_named(std::string host, std::string service) {
  std::vector<endpoint> where = co_await resolve(host, service);
  co_return co_await connect_to(std::move(where));
}

/// resolve(), then connects to the first address that answers. Yields the socket.
///
///     iowq::fd server = co_await iowq::connect_to("example.org", "https");
template <class = void>
[[nodiscard("co_await it")]] task<fd> connect_to(std::string_view host, std::string_view service) {
  return detail::connect_to_named(std::string{host}, std::string{service});
}

/// Yields a socket that listens at `where`. Sets SO_REUSEADDR, so an address that was in use a
/// moment ago is accepted. If the port is 0, endpoint::local_of() returns the port that was chosen.
template <class = void>
[[nodiscard("co_await it")]] task<fd> listen_on(endpoint where, int backlog = SOMAXCONN) {
  fd made = co_await socket(where.family(), SOCK_STREAM);
  if (where.family() != AF_UNIX) co_await setsockopt(made, SOL_SOCKET, SO_REUSEADDR, true);
  co_await bind(made, where);
  co_await listen(made, backlog);
  co_return made;
}

}  // namespace iowq::inline v0
