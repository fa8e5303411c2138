// SPDX-License-Identifier: BSL-1.0
// iowq/op/resolve.hpp -- looks up the addresses of a host name.
//
// getaddrinfo(3) may take half a minute, and nothing ends it early. So a worker calls it with state
// that it shares with the awaiting coroutine, which waits for an eventfd. A stop request ends that
// wait immediately, and the result of the call is discarded when it arrives.
#pragma once

#include <netdb.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <new>
#include <source_location>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <iowq/base/fd.hpp>
#include <iowq/base/policy.hpp>
#include <iowq/coro/as_result.hpp>
#include <iowq/coro/task.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/detail/blocking_wait.hpp>
#include <iowq/op/endpoint.hpp>
#include <iowq/pool/pool.hpp>

namespace iowq::inline v0 {

/// The category of the errors of getaddrinfo(3) (EAI_NONAME, EAI_SERVICE, …).
[[nodiscard]] inline const std::error_category& resolve_category() noexcept {
  class category final : public std::error_category {
    [[nodiscard]] const char* name() const noexcept override { return "getaddrinfo"; }
    [[nodiscard]] std::string message(int code) const override { return ::gai_strerror(code); }
  };
  static category const only;
  return only;
}

namespace detail {

using getaddrinfo_function = int(const char*, const char*, const ::addrinfo*, ::addrinfo**);

/// One call of getaddrinfo(3). Shared by the awaiting coroutine and the pool.
class lookup final : public work {
 public:
  lookup(std::string host, std::string service, int flags, getaddrinfo_function* ask)
      : work{work_flags{.unbound = true}},
        host_{std::move(host)},
        service_{std::move(service)},
        flags_{flags},
        ask_{ask},
        event_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)} {
    if (!event_) throw_error(-errno, "resolve");
  }

  /// Enqueues the lookup, which keeps itself alive until finished().
  static void start(const std::shared_ptr<lookup>& one, pool& workers) {
    one->self_ = one;
    workers.enqueue(*one);
  }

  void execute(const stop_token&) noexcept override {
    ::addrinfo hints{};
    hints.ai_flags = flags_;
    hints.ai_socktype = SOCK_STREAM;  // else each address is returned three times
    ::addrinfo* found = nullptr;
    int const r = ask_(host_.empty() ? nullptr : host_.c_str(),
                       service_.empty() ? nullptr : service_.c_str(), &hints, &found);
    if (r == EAI_SYSTEM)
      error_ = to_error(-errno);
    else if (r != 0)
      error_ = {r, resolve_category()};
    else
      keep(found);
    if (found != nullptr) ::freeaddrinfo(found);
  }
  void finished(bool cancelled) noexcept override {
    std::shared_ptr<lookup> const last_use = std::move(self_);
    if (cancelled) error_ = to_error(error() != 0 ? -error() : -ECANCELED);
    // release: pairs with the acquire in take(), and publishes the result.
    done_.store(true, std::memory_order_release);
    std::uint64_t const one = 1;
    // This cannot fail: nothing reads the eventfd, so its counter is 0.
    static_cast<void>(!::write(event_.get(), &one, sizeof one));
  }

  [[nodiscard]] int event() const noexcept { return event_.get(); }
  /// Returns the addresses or throws. Call it once event() is readable.
  [[nodiscard]] std::vector<endpoint> take() {
    // acquire: pairs with finished()'s release. The eventfd orders the two threads, but the
    // compiler does not know that.
    IOWQ_ASSERT(done_.load(std::memory_order_acquire), "a lookup rang before it had ended");
    if (error_) throw_error(error_, "resolve");
    return std::move(found_);
  }

 private:
  void keep(const ::addrinfo* found) noexcept {
    try {
      for (; found != nullptr; found = found->ai_next)
        found_.emplace_back(found->ai_addr, found->ai_addrlen);
    } catch (const std::bad_alloc&) {
      error_ = to_error(-ENOMEM);
    }
  }
  std::string host_, service_;
  int flags_;
  getaddrinfo_function* ask_;
  fd event_;
  std::vector<endpoint> found_;
  std::error_code error_;
  atomic<bool> done_{false};
  std::shared_ptr<lookup> self_;
};

/// Waits until a lookup has finished.
struct resolve_call {
  static constexpr operation_row row{
      .name = "resolve",
      .opcode = IORING_OP_POLL_ADD,
      .first = route::ring,
      .unbound = true,
      .reason = "a worker is in getaddrinfo(3), which nothing stops; this waits for its eventfd"};
  static constexpr bool value_may_throw = true;
  std::shared_ptr<lookup> asked;

  [[nodiscard]] int descriptor() const noexcept { return asked->event(); }
  void prepare(io_uring_sqe& sqe) const noexcept {
    sqe.opcode = IORING_OP_POLL_ADD;
    sqe.fd = asked->event();
    sqe.poll32_events = ring_backend::poll_mask(POLLIN);
  }
  int try_nonblocking() const noexcept { return look_for_events(asked->event(), POLLIN); }
  [[nodiscard]] readiness waits_for() const noexcept { return {asked->event(), POLLIN}; }
  int call(const stop_token& stop) const noexcept {
    return wait_for_events(asked->event(), POLLIN, stop);
  }
  [[nodiscard]] std::vector<endpoint> value(int) const { return asked->take(); }
};

template <class = void>
[[nodiscard]] task<std::vector<endpoint>> resolve_by(getaddrinfo_function* ask, std::string host,
                                                     std::string service, int flags,
                                                     std::source_location at) {
  if (host.find('\0') != host.npos || service.find('\0') != service.npos)
    throw_error(-EINVAL, "resolve");
  auto const asked = std::make_shared<lookup>(std::move(host), std::move(service), flags, ask);
  pool& workers = executor::current().pool();
  lookup::start(asked, workers);
  operation<resolve_call> answer{at, resolve_call{asked}};
  auto found = co_await as_result(std::move(answer));
  if (found) co_return std::move(*found);
  // Dequeue the lookup if no worker has it yet. Otherwise stopped lookups would occupy all
  // workers while a name server is down.
  if (found.error() == std::errc::operation_canceled) workers.cancel(*asked);
  throw_error(found.error(), "resolve");
}

}  // namespace detail

/// getaddrinfo(3): yields the addresses of `service` ("https", "443") on `host` ("example.org",
/// "::1"), best first. An empty `host` means this machine, or with AI_PASSIVE in `flags` any of its
/// addresses. Fails with an error of resolve_category(), or with a system error. A stop request
/// ends the wait immediately; a call that a worker has started continues, and the destructor of the
/// executor waits for it.
///
///     auto addresses = co_await iowq::resolve("example.org", "https");
template <class = void>
[[nodiscard("co_await it")]] task<std::vector<endpoint>> resolve(
    std::string_view host, std::string_view service, int flags = 0,
    std::source_location at = std::source_location::current()) {
  return detail::resolve_by(&::getaddrinfo, std::string{host}, std::string{service}, flags, at);
}

}  // namespace iowq::inline v0
