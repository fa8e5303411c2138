// SPDX-License-Identifier: BSL-1.0
// iowq/op/linked.hpp -- operations one after the other, without the program between them.
//
// If every operation of a chain would go to the ring, the chain does: its SQEs are taken together,
// linked, and submitted by one system call, so the kernel begins each where the one before has
// ended. A single one that belongs elsewhere (an fsync next_in_ring a write: the pool's) would not
// be waited for there. Then each is begun when the one before is over, by its own route. Either way
// what a failure or a short transfer does to the rest is the kernel's rule.
//
// Those that are workers' in a row are not linked in the pool (work::then) either. That would save
// each the way by the owner: of a write and its fdatasync a seventh on ext4, more on tmpfs, where
// nobody needs the second. But it would begin them without their turn: a stop, a check or a place
// of one is asked when it begins, and what a short transfer means would be told a second time.
//
// L1  The SQEs of a chain are taken in a row, with no submission in between.
// L2  A cancel finds only the one that has begun. So when one has ended, the next is asked again.
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

/// How much `call` must move for the chain to go on.
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
  } else if constexpr (has_length<Call>) {  // splice and theirs
    return std::min<std::size_t>(call.length, most_at_once);
  } else {
    return 0;
  }
}

/// What a chain does with an operation, whatever it is.
struct chain_link {
  static void set_callback(operation_base& op, completion_callback& waiter) noexcept {
    op.set_callback(waiter);
  }
  /// A chain is begun as a whole, or not at all.
  [[nodiscard]] static bool prepare(operation_base& op, loop& here, stop_token token) noexcept {
    return token == here.ambient() || stop_hook::prepare(here, op, token);
  }
  static void drop(operation_base& op) noexcept { stop_hook::drop(op); }
  [[nodiscard]] static const route_override& forced(const operation_base& op) noexcept {
    return op.override_;
  }
  /// L2
  static void cancel_again(operation_base& op, loop& here) noexcept {
    if (op.stage_ != stage::ring || !op.is(operation_base::cancel_wanted)) return;
    here.backend().cancel(op, true);
  }
};

/// And with one that it knows.
template <class Call>
struct link_of {
  using op = operation<Call>;

  /// Would it go to the ring, and be finished there?
  [[nodiscard]] static bool fits(op& one, loop& here) noexcept {
    if constexpr (!has_sqe<Call>) {
      return false;
    } else {
      if (!here.has_ring()) return false;
      Call& call = one.arguments();
      if constexpr (requires { call.validate(); })
        if (call.validate() < 0) return false;
      if constexpr (requires { call.descriptor(); }) {
        // With O_NONBLOCK the ring says "would block" where the pool would wait. Before 5.18 one
        // that is not open cancels those before it, too. AT_FDCWD is below -1 as slots are.
        int const number = call.descriptor();
        int const mode = is_slot(number) ? 0 : ::fcntl(number, F_GETFL);
        if (mode < 0 || (mode & O_NONBLOCK) != 0) return false;
      }
      placement place{Call::row.first, Call::row.unbound, {}, any_node};
      if constexpr (requires { call.choose_placement(place); })
        if (!chain_link::forced(one).has_way()) call.choose_placement(place);
      auto const& kernel = here.backend().features();
      return decide(Call::row, place, chain_link::forced(one), forms_of(call, kernel),
                    here.punting(), kernel) == route::ring;
    }
  }

  static void begin(op& one, loop& here, completion_callback& waiter, stop_token token,
                    bool more) noexcept {
    if constexpr (has_sqe<Call>) {
      chain_link::set_callback(one, waiter);
      Call& call = one.arguments();
      if constexpr (requires { call.allow_kernel_blocking(); }) call.allow_kernel_blocking();
      io_uring_sqe* const sqe = here.backend().sqe();
      IOWQ_ASSERT(sqe != nullptr, "a chain's SQEs are reserved together");  // L1
      call.prepare(*sqe);
      if (more) sqe->flags = static_cast<std::uint8_t>(sqe->flags | IOSQE_IO_LINK);
      sqe->user_data = user_data_tag::of(one);
      annotate_release(static_cast<operation_base*>(&one));
      here.watch(one, token, token == here.ambient());
    }
  }
};

template <class Call>
using linked_result = decltype(std::declval<operation<Call>&>().await_resume_result());

}  // namespace detail

/// What linked() makes. Movable until it is awaited.
template <class... Calls>
class [[nodiscard("co_await it, or it detail::never happens")]] linked_operations
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
  /// Of each, in order: what it yields, or why not.
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
  /// Without memory to register them none is begun here: one by one the first says so.
  bool prepare(detail::loop& here) noexcept {
    return std::apply(
        [&](auto&... each) {
          bool const all = (detail::chain_link::prepare(each, here, token_) && ...);
          if (!all) (detail::chain_link::drop(each), ...);
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

  /// In the kernel. True: all are over.
  bool one_less() noexcept {
    if (--running_ == 0) {
      take_all(std::make_index_sequence<count>{});
      return true;
    }
    detail::loop& here = detail::loop::current();
    std::apply([&](auto&... each) { (detail::chain_link::cancel_again(each, here), ...); }, all_);
    return false;
  }
  template <std::size_t... I>
  void take_all(std::index_sequence<I...>) noexcept {
    (std::get<I>(results_).emplace(std::get<I>(all_).await_resume_result()), ...);
  }

  /// One by one: takes the one that is over, begins the next. True: all are over.
  bool go_on() noexcept {
    while (next_ != 2 * count) {
      std::size_t const step = next_++;
      if (at(step, std::make_index_sequence<count>{})) return false;
    }
    return true;
  }
  /// Step 2i begins the i-th, step 2i + 1 takes it. True: it is under way.
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
      if (!broken_) broken_ = **result < detail::whole(one.arguments());
    return false;
  }

  std::tuple<operation<Calls>...> all_;
  std::tuple<std::optional<detail::linked_result<Calls>>...> results_;
  detail::continuation waiter_;
  stop_token token_;
  std::size_t running_ = 0;  // in the kernel
  std::size_t next_ = 0;     // one by one
  bool chained_ = false;
  bool broken_ = false;
};

/// One after the other: each begins when the one before it has succeeded, in the kernel if all of
/// them go there. When one fails, or a read, write or splice moves less than it was to (a file that
/// ends is enough; with MSG_WAITALL a recv or send, too), those next_in_ring it are not begun and
/// fail with operation_canceled. Never throws: yields a tuple with the result<T> of each.
///
///     auto both = co_await iowq::linked(iowq::write(log, text), iowq::fsync(log));
///     std::size_t const written = std::get<0>(both).value();
template <class... Calls>
  requires(sizeof...(Calls) >= 1)
[[nodiscard("co_await it")]] linked_operations<Calls...> linked(operation<Calls>... all) noexcept {
  return linked_operations<Calls...>{std::move(all)...};
}

}  // namespace iowq::inline v0
