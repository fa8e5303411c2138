// SPDX-License-Identifier: BSL-1.0
// iowq/exec/operation.hpp -- the awaitable behind `co_await pread(…)`: the life of one operation.
//
// An operation is written as a small struct, the call (exec/call.hpp). operation<Call> is its
// awaiter: it chooses a route, submits the call there, takes the result and resumes the coroutine.
//
// With a ring, most awaits take begin_fast(): one SQE and no registration. Without a ring,
// poll_route tries the operation first, by a call that does not block. That call usually succeeds,
// and the coroutine continues without a turn of the loop. A wait through epoll would cost two more
// system calls.
#pragma once

#include <cerrno>
#include <coroutine>
#include <cstdint>
#include <source_location>
#include <type_traits>
#include <utility>

#include <iowq/base/result.hpp>
#include <iowq/base/stop_token.hpp>
#include <iowq/coro/detail/promise.hpp>
#include <iowq/exec/call.hpp>
#include <iowq/exec/detail/backend_poll.hpp>
#include <iowq/exec/detail/loop.hpp>
#include <iowq/exec/detail/operation_base.hpp>
#include <iowq/exec/detail/pending_close.hpp>
#include <iowq/exec/operation_row.hpp>
#include <iowq/pool/work.hpp>
#include <iowq/ring/features.hpp>

namespace iowq::inline v0 {

namespace detail {

/// The pool's view of an operation. Constructed when the operation is punted, not before.
template <class Call>
class punted_work final : public work {
 public:
  punted_work(work_flags flags, Call& call, operation_base& op, cqe_result& result,
              loop& owner) noexcept
      : work{flags}, call_{call}, op_{op}, result_{result}, owner_{owner} {}
  void execute(const stop_token& stop) noexcept override { result_.set(call_.call(stop)); }
  void finished(bool cancelled) noexcept override {
    if (cancelled) result_.set(error() != 0 ? -error() : -ECANCELED);
    owner_.post(op_);
  }

 private:
  Call& call_;
  operation_base& op_;
  cqe_result& result_;
  loop& owner_;
};
struct no_work_storage {};

/// Storage for punted_work: inside the operation if its first route is the pool, otherwise in
/// recycled memory, because it is then rarely needed.
template <class Call>
using work_storage =
    std::conditional_t<!has_call<Call>, no_work_storage,
                       std::conditional_t<Call::row.first == route::pool, lazy<punted_work<Call>>,
                                          recycled<punted_work<Call>>>>;

}  // namespace detail

}  // namespace iowq::inline v0

namespace iowq::inline v0::detail {

/// Returns the route of one await. The first rule that applies wins:
///   1. the route that the user forces;
///   2. the pool, if the user gave a key, because only the pool orders by key;
///   3. the ring instead of the pool, if the policy prefers the kernel's own workers;
///   4. the route that the operation itself chose.
/// If the call lacks the form that this route needs, or this kernel lacks the opcode, the other
/// form is used. Without a ring, a call with a non-blocking form also takes route::ring;
/// operation::begin() then runs it through poll_route.
[[nodiscard]] inline route decide(const operation_row& row, placement chosen,
                                  const route_override& forced, forms has, punt_policy policy,
                                  const ring_features& features) noexcept {
  bool ring_can = has.sqe && (row.opcode == operation_row::no_opcode || features.has(row.opcode));
  if (!features.open) ring_can = has.nonblocking || forced.has_way();  // on_ring() gets ENOTSUP
  route way = chosen.way;
  if (policy == punt_policy::kernel && features.open && way == route::pool) way = route::ring;
  if (forced.has_key) way = route::pool;
  if (forced.has_way()) way = forced.way();
  if (way == route::ring && !ring_can && has.call) return route::pool;
  if (way != route::ring && !has.call) return route::ring;
  return way;
}

}  // namespace iowq::inline v0::detail

namespace iowq::inline v0 {

template <class Call>
class operation;

namespace detail {

/// The part of operation<Call> that only an executor without a ring needs. Owner thread only.
template <class Call>
class poll_route {
 public:
  using self = operation<Call>;

  /// Returns false if the operation has completed: the coroutine continues without suspending.
  IOWQ_NOINLINE static bool begin(self& op, loop& here) noexcept {
    if constexpr (!forms_of<Call>().nonblocking) {
      return op.complete_inline(here, -ENOTSUP);
    } else {
      if (op.override_.has_way()) return op.complete_inline(here, -ENOTSUP);  // on_ring()
      if (!has_answer(op, here)) return true;
      if (here.may_continue()) {
        here.template count<Call::row>(&operation_stats::inline_ops);
        return op.complete_inline(here, op.result_.res());
      }
      op.set_action(&self::on_item);
      here.complete_later(op, op.result_.res());
      return true;
    }
  }

  static readiness waits_for(const operation_base& op) noexcept {
    return readiness_of(static_cast<const self&>(op).call_);
  }

 private:
  /// Tries the call and returns true if it has a result. False: `op` now waits for its descriptor,
  /// or a worker runs it.
  static bool has_answer(self& op, loop& here) noexcept {
    int const r = op.call_.try_nonblocking();
    op.set_action(&on_ready);
    if (r == -EAGAIN && here.poller()->arm(op)) return false;
    bool const would_wait = r == -EAGAIN && readiness_of(op.call_).events != 0;
    if (!would_wait && r != -EOPNOTSUPP) {
      op.result_.set(r);
      return true;
    }
    here.template count<Call::row>(&operation_stats::bounced);
    op.start_work(here, {route::pool, Call::row.unbound, {}, any_node});
    return false;
  }

  /// The action of an operation in the ready queue: its descriptor is ready, or it was cancelled.
  static void on_ready(loop_item* item) noexcept {
    auto& op = *static_cast<self*>(static_cast<operation_base*>(item));
    loop& here = *this_thread_loop;
    if (op.is(self::cancel_wanted))
      op.result_.set(-ECANCELED);
    else if (!has_answer(op, here))
      return;
    op.on_complete(here);
    here.template finish<Call::row>(op, &operation_stats::ring_ops);
  }
};

}  // namespace detail

/// One operation, from its arguments to its result: an awaitable that may be stored, and may be
/// moved until it is awaited. Await it once, on an executor's thread. The await yields the
/// operation's value or throws std::system_error; as_result() turns the exception into a value. A
/// stop request on the awaiting task's token cancels the operation if its row is `cancellable`.
/// Buffers must stay valid and untouched until the operation has completed.
template <class Call>
class [[nodiscard("co_await it, or it never happens")]] operation
    : protected detail::operation_base {
  using base = detail::operation_base;
  static constexpr detail::forms forms = detail::forms_of<Call>();
  static_assert(forms.sqe || forms.call);
  static constexpr bool has_fast_path =
      forms.sqe && Call::row.first == route::ring && !detail::needs_slow_path<Call>;

  friend detail::poll_route<Call>;
  friend detail::operation_access;

 public:
  template <class... Arguments>
  explicit operation(std::source_location at, Arguments&&... arguments) noexcept(
      std::is_nothrow_constructible_v<Call, Arguments...>)
      : base{kind, at}, call_{std::forward<Arguments>(arguments)...} {}

  operation(operation&& other) noexcept
      : base{std::move(other)},           // moves the base only
        call_{std::move(other.call_)} {}  // NOLINT(bugprone-use-after-move)
  ~operation() {
    if constexpr (forms.call)
      if (is(has_work)) work_.destroy();
  }

  bool await_ready() const noexcept {
    IOWQ_ASSERT(is_fresh(), "an operation was awaited twice");
    return false;
  }

  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> waiter) noexcept {
    stage_ = detail::stage::ring;  // the usual route; one store with those of the constructor
    detail::loop& here = detail::loop::current();
    waiter_ = waiter;
    if constexpr (has_fast_path)
      if (begin_fast(here, detail::stop_of(waiter))) [[likely]]
        return true;
    return begin(here, detail::stop_of(waiter));
  }

  /// As await_suspend(), but invokes a callback instead of resuming a coroutine
  /// (coro/detail/continuation.hpp).
  bool start(detail::completion_callback& waiter, stop_token token) noexcept {
    set_callback(waiter);
    return begin(detail::loop::current(), token);
  }

  decltype(auto) await_resume() {
    stage_ = detail::stage::completed;
    if constexpr (!requires { Call::keeps_errors; })
      if (result_.res() < 0) [[unlikely]]
        fail();
    return value();
  }

  /// As await_resume(), but returns an error as a value instead of throwing it.
  auto await_resume_result()
    requires(!requires { Call::value_may_throw; })
  {
    stage_ = detail::stage::completed;
    using answer = result<decltype(value())>;
    if constexpr (!requires { Call::keeps_errors; })
      if (result_.res() < 0) return answer{detail::to_error(result_.res())};
    if constexpr (std::is_void_v<decltype(value())>)
      return answer{};
    else
      return answer{value()};
  }

 private:
  decltype(auto) value() { return detail::value_of_call(call_, result_); }

  [[noreturn]] IOWQ_COLD void fail() const {
    bool const needs_ring = override_.has_way() ? override_.way() == route::ring : !forms.call;
    if (needs_ring && result_.res() == -ENOTSUP) detail::loop::current().fail_for_ring(row());
    detail::throw_error(result_.res(), row().name);
  }

  /// The fast path: submits to the ring, under the executor's own token, if an SQE is free. Returns
  /// false, without any effect, if the general path has to be taken.
  IOWQ_ALWAYS_INLINE bool begin_fast(detail::loop& here, stop_token token) noexcept {
    if (override_.is_any() || token != here.ambient()) return false;
    if constexpr (requires { call_.validate(); })
      if (call_.validate() < 0) return false;
    if constexpr (Call::row.opcode != operation_row::no_opcode)
      if (!here.backend().features().has(Call::row.opcode)) return false;
    if constexpr (requires { call_.supported_by(here.backend().features()); })
      if (!call_.supported_by(here.backend().features())) return false;
    io_uring_sqe* const sqe = here.backend().try_sqe();
    if (sqe == nullptr) return false;
    call_.prepare(*sqe);
    sqe->user_data = detail::user_data_tag::of(*this, detail::user_data_tag::untracked);
    here.template count<Call::row>(&operation_stats::ring_ops);
    detail::annotate_release(static_cast<base*>(this));
    return true;
  }

  /// The general path. Returns false if the operation has completed: the coroutine continues
  /// without suspending.
  IOWQ_NOINLINE bool begin(detail::loop& here, stop_token token) noexcept {
    if constexpr (has_fast_path)
      if (here.backend().can_get_sqe() && begin_fast(here, token)) return true;
    if constexpr (requires { call_.validate(); })
      if (int const bad = call_.validate(); bad < 0) [[unlikely]]
        return complete_at_once(here, bad);
    bool const ambient = token == here.ambient();
    if constexpr (Call::row.cancellable)
      if (ambient ? here.stopping() : token.stop_requested()) [[unlikely]] {
        here.template count<Call::row>(&operation_stats::cancelled);
        return complete_at_once(here, -ECANCELED);
      }
    if constexpr (requires { call_.closes_descriptor(); })
      if (set_action(&on_item); detail::cancel_users(here, *this)) return true;
    detail::placement place{Call::row.first, Call::row.unbound, {}, any_node};
    if constexpr (requires { call_.choose_placement(place); })
      if (!override_.has_way() || override_.way() == route::pool) call_.choose_placement(place);
    auto const& kernel = here.backend().features();
    switch (detail::decide(Call::row, place, override_, detail::forms_of(call_, kernel),
                           here.punting(), kernel)) {
      case route::inline_:
        if (int const r = detail::try_inline(call_, here.devices()); r != -EAGAIN || !forms.call) {
          here.template count<Call::row>(&operation_stats::inline_ops);
          return complete_at_once(here, r);
        }
        place.way = route::pool;
        [[fallthrough]];
      case route::pool:
        if (!ambient && !detail::stop_hook::prepare(here, *this, token)) [[unlikely]]
          return complete_inline(here, -ENOMEM);
        if (override_.has_key) place.key = key_;
        start_work(here, place);
        break;
      case route::ring:
        if constexpr (forms.sqe) {
          if (!ambient && !detail::stop_hook::prepare(here, *this, token)) [[unlikely]]
            return complete_inline(here, -ENOMEM);
          if constexpr (requires { call_.allow_kernel_blocking(); })
            if (override_.has_way() || here.punting() == punt_policy::kernel)
              call_.allow_kernel_blocking();
          if (io_uring_sqe* const sqe = here.backend().sqe(); sqe != nullptr) [[likely]] {
            stage_ = detail::stage::ring;
            call_.prepare(*sqe);
            sqe->user_data = detail::user_data_tag::of(*this);
            detail::annotate_release(static_cast<base*>(this));
          } else if (here.has_ring()) {
            set_action(&on_item);  // a stop request may cancel it while it waits for an SQE
            here.backend().line_up(*this);
          } else if (!detail::poll_route<Call>::begin(*this, here)) {
            detail::stop_hook::drop(*this);
            return false;
          }
        }
        break;
    }
    here.watch(*this, token, ambient);
    return true;
  }

  /// Completes an operation that neither the ring nor the pool has seen. Returns false if the
  /// coroutine continues without suspending, which a turn permits a limited number of times.
  bool complete_at_once(detail::loop& here, int res) noexcept {
    if (here.may_continue()) [[likely]]
      return complete_inline(here, res);
    set_action(&on_completed_item);
    here.complete_later(*this, res);
    here.watch(*this, {}, true);
    return true;
  }
  static void on_completed_item(detail::loop_item* self) noexcept {
    auto& op = *static_cast<operation*>(static_cast<base*>(self));
    detail::loop& here = *detail::this_thread_loop;
    detail::in_flight_registry::remove(op);
    op.on_complete(here);
    here.left(op);
    here.resume(op);
  }

  bool complete_inline(detail::loop& here, int res) noexcept {
    result_.set(res);
    stage_ = detail::stage::completed;
    on_complete(here);
    return false;
  }

  void on_complete(detail::loop& here) noexcept { detail::on_complete(call_, here.devices()); }

  void start_work(detail::loop& here, detail::placement place) noexcept {
    if constexpr (forms.call) {
      if constexpr (requires { call_.is_unbound(); }) place.unbound = call_.is_unbound();
      if (place.key) {
        set(keyed);
        key_ = *place.key;
      }
      set_action(&on_item);
      work_flags const flags{
          .unbound = place.unbound, .key = place.key, .node = place.node, .brief = place.brief};
      work* const item = work_.emplace(flags, call_, static_cast<base&>(*this), result_, here);
      if (item != nullptr) set(has_work);
      here.start_work(*this, item);
    }
  }

  static void on_cqe(base& self, detail::cqe_result what) noexcept {
    auto& op = static_cast<operation&>(self);
    detail::loop& here = *detail::this_thread_loop;
    // A notification only reports that the buffers may be reused. The result came in an earlier
    // CQE.
    if ((what.flags() & IORING_CQE_F_NOTIF) == 0) [[likely]]
      op.result_ = what;
    if ((what.flags() & IORING_CQE_F_MORE) != 0) [[unlikely]]
      return;
    if constexpr (forms.call) {
      if (detail::would_block(op.call_, op.result_.res()) || op.was_dropped()) [[unlikely]]
        return op.bounce(here);
    }
    // Some paths report a cancel as EINTR (io_uring_cancelation(7)), splice as ERESTARTSYS.
    constexpr int restart = -512;
    if (int const r = op.result_.res(); op.is(cancel_wanted) && (r == -EINTR || r == restart))
      op.result_.set(-ECANCELED);
    op.on_complete(here);
    here.template finish<Call::row>(op, &operation_stats::ring_ops);
  }

  /// True if the kernel dropped the request because it could not create one of its own workers. It
  /// then reports ECANCELED although no cancel was requested. Never true for an operation with a
  /// callback: it may be part of a linked chain, where ECANCELED means that an earlier request
  /// failed. Never true for an unbound operation: it may wait for another party, and the program
  /// itself may have cancelled it through raw().
  [[nodiscard]] bool was_dropped() const noexcept {
    if (result_.res() != -ECANCELED || is(cancel_wanted | has_callback)) [[likely]]
      return false;
    if constexpr (requires { call_.is_unbound(); })
      return !call_.is_unbound();
    else
      return !Call::row.unbound;
  }

  /// Moves an operation that the ring cannot finish without blocking to a worker.
  IOWQ_NOINLINE void bounce(detail::loop& here) noexcept {
    if (is(cancel_wanted)) {
      result_.set(-ECANCELED);
      on_complete(here);
      return here.template finish<Call::row>(*this, &operation_stats::ring_ops);
    }
    here.template count<Call::row>(&operation_stats::bounced);
    start_work(here, {route::pool, Call::row.unbound, {}, any_node});
  }

  /// The action of an operation in the inbox or the ready queue. A worker completed it, it was
  /// never submitted, or it is a close() that may start now.
  static void on_item(detail::loop_item* self) noexcept {
    auto& op = *static_cast<operation*>(static_cast<base*>(self));
    detail::loop& here = *detail::this_thread_loop;
    if constexpr (requires { op.call_.closes_descriptor(); })
      if (op.stage_ == detail::stage::closing) return op.begin(here, {}) ? void() : here.resume(op);
    bool const was_punted = op.is(has_work);
    if (was_punted) here.pool().on_completed();
    op.on_complete(here);
    here.template finish<Call::row>(
        op, was_punted ? &operation_stats::punted_ops : &operation_stats::ring_ops);
  }

  static void prepare(base& op, io_uring_sqe& sqe) noexcept {
    if constexpr (forms.sqe) static_cast<operation&>(op).call_.prepare(sqe);
  }
  static work& as_work(base& op) noexcept {
    if constexpr (forms.call)
      return static_cast<operation&>(op).work_.object();
    else
      std::abort();
  }

  static constexpr detail::operation_kind kind{
      &Call::row,
      forms.sqe ? &on_cqe : nullptr,
      forms.sqe ? &prepare : nullptr,
      forms.call ? &as_work : nullptr,
      nullptr,
      detail::descriptor_accessor<operation, Call>(),
      forms.nonblocking ? &detail::poll_route<Call>::waits_for : nullptr,
      detail::second_descriptor_accessor<operation, Call>()};

  Call call_;
  [[no_unique_address]] detail::work_storage<Call> work_;
};

/// Forces an operation onto the pool: a worker runs it as a system call.
template <class Call>
[[nodiscard("co_await it")]] operation<Call> on_pool(operation<Call> op) {
  static_assert(detail::has_call<Call>, "this operation has no system-call form");
  detail::operation_access::force_route(op, route::pool);
  return op;
}

/// Forces an operation onto the ring, whatever the punt policy. On an executor without a ring the
/// await throws std::system_error with ENOTSUP.
template <class Call>
[[nodiscard("co_await it")]] operation<Call> on_ring(operation<Call> op) {
  static_assert(detail::has_sqe<Call>, "this operation has no SQE form");
  detail::operation_access::force_route(op, route::ring);
  return op;
}

/// Orders an operation by `key`: it never runs concurrently with another operation of that key, and
/// operations of one key run in the order in which they are awaited. The operation runs on the
/// pool, which keeps that order.
template <class Call>
[[nodiscard("co_await it")]] operation<Call> hashed(std::uint64_t key, operation<Call> op) {
  static_assert(detail::has_call<Call>, "this operation has no system-call form");
  detail::operation_access::force_key(op, key);
  return op;
}

}  // namespace iowq::inline v0
