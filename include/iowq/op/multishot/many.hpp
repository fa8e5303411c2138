// SPDX-License-Identifier: BSL-1.0
// iowq/op/multishot/many.hpp -- accept_many and poll_many: streams of connections and of readiness.
//
// Where the kernel supports multishot (5.19 for accept, 5.13 for poll), one request reports every
// connection or every wake-up; elsewhere each next() is an operation of its own. The items are the
// same. The difference is read-ahead: a multishot request accepts connections while the consumer
// is busy, up to a limit, and then pauses until all of them have been taken.
#pragma once

#include <poll.h>
#include <sys/epoll.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <source_location>
#include <utility>
#include <vector>

#include <iowq/base/fd.hpp>
#include <iowq/coro/as_result.hpp>
#include <iowq/coro/stream.hpp>
#include <iowq/op/detail/multishot_request.hpp>
#include <iowq/op/poll.hpp>
#include <iowq/op/socket.hpp>

namespace iowq::inline v0 {

namespace detail {

/// accept4(2), multishot.
struct accept_many_call {
  static constexpr operation_row row{.name = "accept_many",
                                     .opcode = IORING_OP_ACCEPT,
                                     .first = route::ring,
                                     .unbound = true,
                                     .late = discard::close_descriptor,
                                     .reason = "one request for all; without multishot as accept"};
  static constexpr std::size_t enough = 64;  // then pause: the backlog holds the others

  accept_many_call(int from, int mode) : listener{from}, flags{mode} { waiting.reserve(enough); }
  ~accept_many_call() { drop_all(); }

  [[nodiscard]] int descriptor() const noexcept { return listener; }
  void prepare(io_uring_sqe& sqe) const noexcept {
    accept_call{listener, flags}.prepare(sqe);
    sqe.ioprio = IORING_ACCEPT_MULTISHOT;
  }
  bool keep(int res, std::uint32_t) noexcept {
    if (res < 0) return false;
    try {
      waiting.push_back(res);
    } catch (...) {  // no memory for the entry: close the connection
      fd{res}.reset();
    }
    return !empty();
  }
  [[nodiscard]] bool empty() const noexcept { return taken == waiting.size(); }
  [[nodiscard]] bool full() const noexcept { return waiting.size() - taken >= enough; }
  [[nodiscard]] fd take() noexcept {
    fd one{waiting[taken++]};
    if (empty()) waiting.clear(), taken = 0;
    return one;
  }
  void drop_all() noexcept {
    while (!empty()) take().reset();
  }

  int listener, flags;
  std::vector<int> waiting;  // the first `taken` entries have been taken
  std::size_t taken = 0;
};

/// poll(2), multishot. Events that arrive before the previous ones were taken are merged.
struct poll_many_call {
  static constexpr operation_row row{.name = "poll_many",
                                     .opcode = IORING_OP_POLL_ADD,
                                     .first = route::ring,
                                     .unbound = true,
                                     .reason = "one request for all; without multishot as poll"};
  [[nodiscard]] int descriptor() const noexcept { return file; }
  void prepare(io_uring_sqe& sqe) const noexcept {
    poll_call{file, events}.prepare(sqe);
    sqe.len = IORING_POLL_ADD_MULTI;
  }
  bool keep(int res, std::uint32_t) noexcept {
    if (res > 0) seen = static_cast<short>(seen | res);
    return res > 0;
  }
  [[nodiscard]] bool empty() const noexcept { return seen == 0; }
  [[nodiscard]] static bool full() noexcept { return false; }
  [[nodiscard]] short take() noexcept { return std::exchange(seen, short{0}); }
  void drop_all() noexcept { seen = 0; }

  int file;
  short events;
  short seen = 0;
};

/// Returns true if this loop's kernel supports the multishot request that `knows` asks about, and
/// `how` permits it.
[[nodiscard]] IOWQ_NOINLINE inline bool by_one_request(multishot how, bool (ring_features::*knows)()
                                                                          const noexcept) noexcept {
  return how == multishot::automatic && (loop::current().backend().features().*knows)();
}

/// Returns true for the errors that accept(2) reports for one connection that failed before it was
/// accepted, as opposed to a failure of the listener.
[[nodiscard]] inline bool is_of_a_peer(int res) noexcept {
  switch (-res) {
    case ECONNABORTED:
    case EPROTO:
    case ENETDOWN:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case ENONET:
    case EHOSTUNREACH:
    case ENETUNREACH:
      return true;
    default:
      return false;
  }
}

/// Reports readiness as a multishot poll does, by means of single polls: an edge-triggered epoll
/// set of one descriptor, which is polled in the place of the descriptor.
class edge_poller {
 public:
  edge_poller(int file, short events) noexcept : set_{::epoll_create1(EPOLL_CLOEXEC)} {
    ::epoll_event event{.events = EPOLLET | static_cast<unsigned short>(events), .data = {}};
    if (!set_ || ::epoll_ctl(set_.get(), EPOLL_CTL_ADD, file, &event) != 0) error_ = -errno;
  }
  [[nodiscard]] int error() const noexcept { return error_; }
  [[nodiscard]] int set() const noexcept { return set_.get(); }
  [[nodiscard]] short take() const noexcept {
    ::epoll_event event{};
    return ::epoll_wait(set_.get(), &event, 1, 0) == 1 ? static_cast<short>(event.events)
                                                       : short{0};
  }

 private:
  fd set_;
  int error_ = 0;
};

}  // namespace detail

/// A stream of the connections that arrive at `listener`, close-on-exec. Destroying the stream
/// stops accepting; a connection that the kernel accepts after that is closed. At most 64 accepted
/// connections wait to be taken, plus those that the kernel accepts before it pauses; others wait
/// in the listener's backlog. Throws what accept() throws, but skips errors of a single connection,
/// such as ECONNABORTED. `flags`: SOCK_NONBLOCK.
///
///     auto connections = iowq::accept_many(listener);
///     while (auto one = co_await connections.next()) others.spawn(serve(std::move(*one)));
template <class = void>
[[nodiscard]] stream<fd> accept_many(descriptor listener, int flags = 0,
                                     multishot how = multishot::automatic,
                                     std::source_location at = std::source_location::current()) {
  if (!detail::by_one_request(how, &detail::ring_features::accepts_many)) {
    for (;;) {
      auto one = co_await as_result(accept(listener.get(), flags, at));
      if (one)
        co_yield std::move(*one);
      else if (!detail::is_of_a_peer(-one.error().value()))
        detail::throw_error(one.error(), "accept_many");
    }
  }
  detail::multishot_owner<detail::accept_many_call> all{at, listener.get(), flags};
  for (;;) {
    co_await all->next(at);
    if (all->has_answer()) {
      fd one = all->call().take();
      co_yield std::move(one);
      continue;
    }
    int const end = all->take_end();
    if (end == -EAGAIN)  // O_NONBLOCK
      static_cast<void>(co_await poll(listener, POLLIN, at));
    else if (end < 0 && !detail::is_of_a_peer(end))
      detail::throw_error(end, "accept_many");
  }
}

/// A stream of the readiness of `file` for `events`. Yields the events since the last next(),
/// including POLLERR and POLLHUP; the first item is the current readiness. Read or write until the
/// call would block before you await the next item: it only reports later events. Spurious items
/// are possible.
template <class = void>
[[nodiscard]] stream<short> poll_many(descriptor file, short events,
                                      multishot how = multishot::automatic,
                                      std::source_location at = std::source_location::current()) {
  if (!detail::by_one_request(how, &detail::ring_features::polls_many)) {
    detail::edge_poller edge{file.get(), events};
    if (edge.error() == -EPERM)  // a regular file: always ready
      for (;;) co_yield co_await poll(file, events, at);
    if (edge.error() < 0) detail::throw_error(edge.error(), "poll_many");
    for (;;) {
      static_cast<void>(co_await poll(edge.set(), POLLIN, at));
      short const now = edge.take();
      if (now != 0) co_yield now;
    }
  }
  detail::multishot_owner<detail::poll_many_call> all{at, file.get(), events};
  for (;;) {
    co_await all->next(at);
    if (all->has_answer()) {
      co_yield all->call().take();
      continue;
    }
    if (int const end = all->take_end(); end < 0) detail::throw_error(end, "poll_many");
  }
}

}  // namespace iowq::inline v0
