// SPDX-License-Identifier: BSL-1.0
// iowq/op/linked.hpp -- a chain of operations that run one after the other.
//
// If every operation of a chain would go to the ring, the chain does: its SQEs are taken together,
// linked, and submitted by one system call, and the kernel starts each operation when the previous
// one has completed. The ring cannot wait for an operation that runs elsewhere, such as an fsync on
// the pool after a write. If there is one, each operation of the chain is started by its own route
// when the previous one has completed. In both cases the kernel's rule says what a failure or a
// short transfer does to the rest of the chain.
//
// Consecutive operations of the pool are not linked there (work::then) either. That would save the
// detour of each through the owner: a seventh for a write and its fdatasync on ext4, and more on
// tmpfs, which does not need the fdatasync. But stop requests, validate() and choose_placement()
// are evaluated when an operation starts, and the pool would skip that. The rule for short
// transfers would also exist twice.
//
// L1  The SQEs of a chain are taken in a row, with no submission in between.
// L2  A cancel only finds the operation that has started. So when an operation of a cancelled chain
//     completes, the cancel of the next one is submitted again.
#pragma once

#include <fcntl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <concepts>
#include <coroutine>
#include <cstddef>
#include <optional>
#include <span>
#include <tuple>
#include <type_traits>
#include <utility>

#include <iowq/base/result.hpp>
#include <iowq/coro/detail/continuation.hpp>
#include <iowq/coro/detail/promise.hpp>
#include <iowq/exec/detail/in_flight.hpp>
#include <iowq/exec/detail/loop.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/op/bytes.hpp>
#include <iowq/op/file.hpp>
#include <iowq/op/socket.hpp>
#include <iowq/op/transfer.hpp>
#include <iowq/op/vector.hpp>

namespace iowq::inline v0 {

namespace detail {

template <class Call>
concept has_length = requires(const Call& c) {
  { c.length } -> std::convertible_to<std::size_t>;
};
template <class Call>
concept has_parts = requires(const Call& c) {
  { c.parts.data() } -> std::convertible_to<const ::iovec*>;
};

/// The number of bytes that `call` must transfer for the chain to continue.
template <class Call>
[[nodiscard]] std::size_t whole(const Call& call) noexcept {
  if constexpr (std::derived_from<Call, recv_call> || std::derived_from<Call, send_call>) {
    return (call.flags & MSG_WAITALL) != 0 ? call.bytes.length() : 0;
  } else if constexpr (requires {
                         call.bytes.length();
                         call.offset;
                       }) {  // reads and writes
    return call.bytes.length();
  } else if constexpr (has_parts<Call>) {
    return length_of({call.parts.data(), call.parts.size()});
  } else if constexpr (has_length<Call>) {  // splice and the like
    return std::min<std::size_t>(call.length, most_at_once);
  } else {
    return 0;
  }
}

/// Access of a chain to an operation, for any call.
struct chain_link {
  static void set_callback(operation_base& op, completion_callback& waiter) noexcept {
    op.set_callback(waiter);
  }
  /// Allocates what a stop request on the operation needs. A chain starts as a whole or not at all,
  /// so all allocations come first.
  [[nodiscard]] static bool prepare(operation_base& op, loop& here, stop_token token) noexcept {
    return token == here.ambient() || stop_hook::prepare(here, op, token);
  }
  static void drop(operation_base& op) noexcept { stop_hook::drop(op); }
  [[nodiscard]] static const route_override& forced(const operation_base& op) noexcept {
    return op.override_;
  }
  /// Submits the cancel of an operation again if it is in the ring and is to be cancelled (L2).
  static void cancel_again(operation_base& op, loop& here) noexcept {
    if (op.stage_ != stage::ring || !op.is(operation_base::cancel_wanted)) return;
    here.backend().cancel(op, true);
  }
};

/// Access of a chain to an operation<Call>.
template <class Call>
struct link_of {
  using op = operation<Call>;

  /// Returns true if the operation would go to the ring and complete there.
  [[nodiscard]] static bool fits(op& one, loop& here) noexcept {
    if constexpr (!has_sqe<Call>) {
      return false;
    } else {
      if (!here.has_ring()) return false;
      Call& call = operation_access::call(one);
      if constexpr (requires { call.validate(); })
        if (call.validate() < 0) return false;
      if constexpr (requires { call.descriptor(); }) {
        // On an O_NONBLOCK file the ring returns EAGAIN where the pool would wait. Before 5.18, an
        // SQE whose descriptor is not open also cancels the SQEs before it in the chain. AT_FDCWD
        // is below -1, as the numbers of slots are, and passes as one.
        int const number = call.descriptor();
        int const mode = is_slot(number) ? 0 : ::fcntl(number, F_GETFL);
        if (mode < 0 || (mode & O_NONBLOCK) != 0) return false;
      }
      placement place{Call::row.first, Call::row.unbound, {}, any_node};
      if constexpr (requires { call.choose_placement(place); })
        if (!chain_link::forced(operation_access::base(one)).has_way())
          call.choose_placement(place);
      auto const& kernel = here.backend().features();
      return decide(Call::row, place, chain_link::forced(operation_access::base(one)),
                    forms_of(call, kernel), here.punting(), kernel) == route::ring;
    }
  }

  static void begin(op& one, loop& here, completion_callback& waiter, stop_token token,
                    bool more) noexcept {
    if constexpr (has_sqe<Call>) {
      operation_base& base = operation_access::base(one);
      chain_link::set_callback(base, waiter);
      Call& call = operation_access::call(one);
      if constexpr (requires { call.allow_kernel_blocking(); }) call.allow_kernel_blocking();
      io_uring_sqe* const sqe = here.backend().sqe();
      IOWQ_ASSERT(sqe != nullptr, "a chain's SQEs are reserved together");  // L1
      call.prepare(*sqe);
      if (more) sqe->flags = static_cast<std::uint8_t>(sqe->flags | IOSQE_IO_LINK);
      sqe->user_data = user_data_tag::of(base);
      annotate_release(&base);
      here.watch(base, token, token == here.ambient());
    }
  }
};

template <class Call>
using linked_result = decltype(std::declval<operation<Call>&>().await_resume_result());

}  // namespace detail

/// The awaitable that linked() returns. Movable until it is awaited.
template <class... Calls>
class [[nodiscard("co_await it, or it never happens")]] linked_operations
    : detail::completion_callback {
  static constexpr std::size_t count = sizeof...(Calls);

 public:
  using value_type = std::tuple<detail::linked_result<Calls>...>;

  explicit linked_operations(operation<Calls>... all) noexcept
      : detail::completion_callback{&told}, all_{std::move(all)...} {}
  linked_operations(linked_operations&& other) noexcept
      : detail::completion_callback{&told}, all_{std::move(other.all_)} {}
  ~linked_operations() = default;

  bool await_ready() const noexcept { return false; }
  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> waiter) noexcept {
    return begin(waiter, detail::stop_of(waiter));
  }
  bool start(detail::completion_callback& waiter, stop_token token) noexcept {
    return begin(waiter, token);
  }
  /// The result<T> of each operation, in order: its value or its error.
  value_type await_resume() {
    return std::apply([](auto&... each) { return value_type{std::move(*each)...}; }, results_);
  }

 private:
  bool begin(detail::continuation waiter, stop_token token) noexcept {
    detail::loop& here = detail::loop::current();
    waiter_ = waiter;
    token_ = token;
    bool const stopped = token == here.ambient() ? here.stopping() : token.stop_requested();
    chained_ = !stopped && fit(here, std::make_index_sequence<count>{}) &&
               here.backend().has_room_for(count) && prepare(here);
    if (!chained_) return !go_on();
    running_ = count;
    begin_all(here, std::make_index_sequence<count>{});
    return true;
  }
  template <std::size_t... I>
  bool fit(detail::loop& here, std::index_sequence<I...>) noexcept {
    return (detail::link_of<Calls>::fits(std::get<I>(all_), here) && ...);
  }
  /// Returns false without memory for the stop callbacks. No operation is then started as a chain;
  /// the first one, started alone, reports ENOMEM.
  bool prepare(detail::loop& here) noexcept {
    return std::apply(
        [&](auto&... each) {
          bool const all =
              (detail::chain_link::prepare(detail::operation_access::base(each), here, token_) &&
               ...);
          if (!all) (detail::chain_link::drop(detail::operation_access::base(each)), ...);
          return all;
        },
        all_);
  }
  template <std::size_t... I>
  void begin_all(detail::loop& here, std::index_sequence<I...>) noexcept {
    (detail::link_of<Calls>::begin(std::get<I>(all_), here, *this, token_, I + 1 != count), ...);
  }

  static void told(detail::completion_callback* self) noexcept {
    auto& me = *static_cast<linked_operations*>(self);
    if (me.chained_ ? me.one_less() : me.go_on()) me.waiter_.run();
  }

  /// For a chain in the kernel, when an operation has completed. Returns true if all have.
  bool one_less() noexcept {
    if (--running_ == 0) {
      take_all(std::make_index_sequence<count>{});
      return true;
    }
    detail::loop& here = detail::loop::current();
    std::apply(
        [&](auto&... each) {
          (detail::chain_link::cancel_again(detail::operation_access::base(each), here), ...);
        },
        all_);
    return false;
  }
  template <std::size_t... I>
  void take_all(std::index_sequence<I...>) noexcept {
    (std::get<I>(results_).emplace(std::get<I>(all_).await_resume_result()), ...);
  }

  /// For operations started one by one: takes the result of the one that has completed and starts
  /// the next. Returns true if all have completed.
  bool go_on() noexcept {
    while (next_ != 2 * count) {
      std::size_t const step = next_++;
      if (at(step, std::make_index_sequence<count>{})) return false;
    }
    return true;
  }
  /// Step 2i starts operation i, step 2i + 1 takes its result. Returns true if an operation is in
  /// flight.
  template <std::size_t... I>
  bool at(std::size_t step, std::index_sequence<I...>) noexcept {
    return ((step / 2 == I && (step % 2 == 0 ? begin_one<I>() : take_one<I>())) || ...);
  }
  template <std::size_t I>
  bool begin_one() noexcept {
    return !broken_ && std::get<I>(all_).start(*this, token_);
  }
  template <std::size_t I>
  bool take_one() noexcept {
    auto& one = std::get<I>(all_);
    auto& result = std::get<I>(results_);
    if (broken_) {
      result.emplace(detail::to_error(-ECANCELED));
      return false;
    }
    result.emplace(one.await_resume_result());
    broken_ = !*result;
    if constexpr (std::is_same_v<typename std::remove_cvref_t<decltype(*result)>::value_type,
                                 std::size_t>)
      if (!broken_) broken_ = **result < detail::whole(detail::operation_access::call(one));
    return false;
  }

  std::tuple<operation<Calls>...> all_;
  std::tuple<std::optional<detail::linked_result<Calls>>...> results_;
  detail::continuation waiter_;
  stop_token token_;
  std::size_t running_ = 0;  // in the kernel, of a chain
  std::size_t next_ = 0;     // the step, when started one by one
  bool chained_ = false;
  bool broken_ = false;
};

/// Runs operations one after the other: each starts when the previous one has succeeded, inside the
/// kernel if all of them go to the ring. If an operation fails, or a read, write or splice
/// transfers less than requested (the end of a file is enough), the operations after it are not
/// started and fail with operation_canceled. That also holds for a recv or send with MSG_WAITALL.
/// Never throws: yields a tuple with the result<T> of each operation.
///
///     auto both = co_await iowq::linked(iowq::write(log, text), iowq::fsync(log));
///     std::size_t const written = std::get<0>(both).value();
template <class... Calls>
  requires(sizeof...(Calls) >= 1)
[[nodiscard("co_await it")]] linked_operations<Calls...> linked(operation<Calls>... all) noexcept {
  return linked_operations<Calls...>{std::move(all)...};
}

}  // namespace iowq::inline v0
