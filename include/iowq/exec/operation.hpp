// SPDX-License-Identifier: BSL-1.0
// iowq/exec/operation.hpp -- what `co_await pread(…)` is made of: the life of one operation.
//
// It is tried at once, by a call that does not block. Most often that succeeds, and the coroutine
// goes on without a turn of the loop: a round by way of epoll would cost two system calls more.
//
// An operation is written as a small struct, the call (exec/call.hpp); operation<Call> gives it a
// life.
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

namespace iowq {

namespace detail {

/// The pool's view of an operation; made when the operation is punted, not before.
template <class Call>
class punted final : public work {
 public:
  punted(work_flags flags, Call& call, operation_base& op, answer& result, loop& owner) noexcept
      : work{flags}, call_{call}, op_{op}, answer_{result}, owner_{owner} {}
  void execute(const stop_token& stop) noexcept override { answer_.set(call_.call(stop)); }
  void finished(bool cancelled) noexcept override {
    if (cancelled) answer_.set(error() != 0 ? -error() : -ECANCELED);
    owner_.post(op_);
  }

 private:
  Call& call_;
  operation_base& op_;
  answer& answer_;
  loop& owner_;
};
struct never_punted {};

/// In place where the pool is the rule, elsewhere where it is the exception.
template <class Call>
using room_for_work = std::conditional_t<
    !has_call<Call>, never_punted,
    std::conditional_t<Call::row.first == route::pool, lazy<punted<Call>>, recycled<punted<Call>>>>;

}  // namespace detail

}  // namespace iowq

namespace iowq::detail {

/// The route, first match wins: what the user forces; a key of the user's, which only the pool
/// keeps; the kernel's own workers instead of ours, if the policy says so; what the operation
/// itself chose. A form that is missing, or an opcode this kernel lacks, leaves the other one.
/// Where there is no ring, what has a call that never blocks goes by that, on the same way.
[[nodiscard]] inline route decide(const operation_row& row, placement chosen, const wish& wished,
                                  forms has, punt_policy policy,
                                  const ring_features& features) noexcept {
  bool ring_can = has.sqe && (row.opcode == operation_row::no_opcode || features.has(row.opcode));
  if (!features.open) ring_can = has.once || wished.has_way();  // on_ring() shall be told
  route way = chosen.way;
  if (policy == punt_policy::kernel && features.open && way == route::pool) way = route::ring;
  if (wished.has_key) way = route::pool;
  if (wished.has_way()) way = wished.way();
  if (way == route::ring && !ring_can && has.call) return route::pool;
  if (way != route::ring && !has.call) return route::ring;
  return way;
}

}  // namespace iowq::detail

namespace iowq {

template <class Call>
class operation;

namespace detail {

/// The part of operation<Call> that only an executor without a ring needs. Owner thread only.
template <class Call>
class without_ring {
 public:
  using self = operation<Call>;

  /// False: it is over already, the coroutine goes on.
  IOWQ_NOINLINE static bool begin(self& op, loop& here) noexcept {
    if constexpr (!forms_of<Call>().once) {
      return op.at_once(here, -ENOTSUP);
    } else {
      if (op.wish_.has_way()) return op.at_once(here, -ENOTSUP);  // on_ring()
      if (!has_answer(op, here)) return true;
      if (here.poller()->may_end_at_once()) {
        here.template count<Call::row>(&ledger_entry::inline_ops);
        return op.at_once(here, op.answer_.res());
      }
      op.acts(&self::on_item);
      here.end_soon(op, op.answer_.res());
      return true;
    }
  }

  static readiness waits_for(const operation_base& op) noexcept {
    return readiness_of(static_cast<const self&>(op).call_);
  }

 private:
  /// Tries. False: it waits for its descriptor, or a worker has it.
  static bool has_answer(self& op, loop& here) noexcept {
    int const r = op.call_.once();
    op.acts(&on_ripe);
    if (r == -EAGAIN && here.poller()->arm(op)) return false;
    bool const would_wait = r == -EAGAIN && readiness_of(op.call_).events != 0;
    if (!would_wait && r != -EOPNOTSUPP) {
      op.answer_.set(r);
      return true;
    }
    here.template count<Call::row>(&ledger_entry::bounced);
    op.start_work(here, {route::pool, Call::row.unbound, {}, any_node});
    return false;
  }

  /// Out of the ready queue: its descriptor is ready, or it shall not wait any longer.
  static void on_ripe(loop_item* item) noexcept {
    auto& op = *static_cast<self*>(static_cast<operation_base*>(item));
    loop& here = *this_thread_loop;
    if (op.is(self::cancel_wanted))
      op.answer_.set(-ECANCELED);
    else if (!has_answer(op, here))
      return;
    op.settle(here);
    here.template finish<Call::row>(op, &ledger_entry::ring_ops);
  }
};

}  // namespace detail
}  // namespace iowq

namespace iowq {

/// One operation, from its arguments to its result: an awaitable that may be stored, and moved
/// until it is awaited. Awaited once, on an executor's thread; yields its value or throws
/// std::system_error (see as_result()). Buffers stay valid and untouched until it has ended.
template <class Call>
class [[nodiscard("co_await it, or it never happens")]] operation : public detail::operation_base {
  using base = detail::operation_base;
  static constexpr detail::forms forms = detail::forms_of<Call>();
  static_assert(forms.sqe || forms.call);
  static constexpr bool may_be_young =
      forms.sqe && Call::row.first == route::ring && !detail::is_particular<Call>;

  friend detail::without_ring<Call>;

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
      if (is(punted)) work_.destroy();
  }

  void wish_for(route way) noexcept { wish_.set_way(way); }  // before it is awaited, both
  void wish_for_key(std::uint64_t key) noexcept {
    wish_.has_key = true;
    key_ = key;
  }
  [[nodiscard]] Call& arguments() noexcept { return call_; }
  [[nodiscard]] const Call& arguments() const noexcept { return call_; }

  bool await_ready() const noexcept {
    IOWQ_ASSERT(is_fresh(), "an operation was awaited twice");
    return false;
  }

  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> waiter) noexcept {
    stage_ = detail::stage::ring;  // the rule, and one store with those of the constructor
    detail::loop& here = detail::loop::current();
    waiter_ = waiter;
    if constexpr (may_be_young)
      if (begin_young(here, detail::stop_of(waiter))) [[likely]]
        return true;
    return begin(here, detail::stop_of(waiter));
  }

  /// Begins with a listener in the place of a coroutine (coro/detail/continuation.hpp).
  bool start(detail::listener& waiter, stop_token token) noexcept {
    hear(waiter);
    return begin(detail::loop::current(), token);
  }

  decltype(auto) await_resume() {
    stage_ = detail::stage::over;
    if constexpr (!requires { typename Call::answers_itself; })
      if (answer_.res() < 0) [[unlikely]]
        fail();
    return value();
  }

  /// As await_resume(), without an exception.
  auto await_resume_result()
    requires(!requires { typename Call::may_throw; })
  {
    stage_ = detail::stage::over;
    using answer = result<decltype(value())>;
    if constexpr (!requires { typename Call::answers_itself; })
      if (answer_.res() < 0) return answer{to_error(answer_.res())};
    if constexpr (std::is_void_v<decltype(value())>)
      return answer{};
    else
      return answer{value()};
  }

 private:
  decltype(auto) value() { return detail::what_it_yields(call_, answer_); }

  [[noreturn]] IOWQ_COLD void fail() const {
    bool const needs_ring = wish_.has_way() ? wish_.way() == route::ring : !forms.call;
    if (needs_ring && answer_.res() == -ENOTSUP) detail::loop::current().fail_for_ring(row());
    throw_error(answer_.res(), row().name);
  }

  /// What is the rule: on the ring, under the executor's own token, and there is room.
  IOWQ_ALWAYS_INLINE bool begin_young(detail::loop& here, stop_token token) noexcept {
    if (wish_.is_any() || token != here.ambient()) return false;
    if constexpr (requires { call_.check(); })
      if (call_.check() < 0) return false;
    if constexpr (Call::row.opcode != operation_row::no_opcode)
      if (!here.backend().features().has(Call::row.opcode)) return false;
    if constexpr (requires { call_.ring_can(here.backend().features()); })
      if (!call_.ring_can(here.backend().features())) return false;
    io_uring_sqe* const sqe = here.backend().sqe_at_once();
    if (sqe == nullptr) return false;
    call_.prepare(*sqe);
    sqe->user_data = detail::whose::of(*this, detail::whose::young);
    here.template count<Call::row>(&ledger_entry::ring_ops);
    detail::annotate_release(static_cast<base*>(this));
    return true;
  }

  /// The rest. False: it is over already, the coroutine goes on.
  IOWQ_NOINLINE bool begin(detail::loop& here, stop_token token) noexcept {
    if constexpr (may_be_young)
      if (here.backend().finds_sqes() && begin_young(here, token)) return true;
    if constexpr (requires { call_.check(); })
      if (int const bad = call_.check(); bad < 0) [[unlikely]]
        return at_once(here, bad);
    bool const ambient = token == here.ambient();
    if constexpr (Call::row.cancellable)
      if (ambient ? here.stopping() : token.stop_requested()) [[unlikely]] {
        here.template count<Call::row>(&ledger_entry::cancelled);
        return at_once(here, -ECANCELED);
      }
    if constexpr (requires { call_.closes(); })
      if (acts(&on_item); detail::evict(here, *this)) return true;
    placement place{Call::row.first, Call::row.unbound, {}, any_node};
    if constexpr (requires { call_.place(place); })
      if (!wish_.has_way() || wish_.way() == route::pool) call_.place(place);
    auto const& kernel = here.backend().features();
    switch (detail::decide(Call::row, place, wish_, detail::forms_of(call_, kernel), here.punting(),
                           kernel)) {
      case route::inline_:
        if (int const r = detail::attempt(call_, here.devices()); r != -EAGAIN || !forms.call) {
          here.template count<Call::row>(&ledger_entry::inline_ops);
          return at_once(here, r);
        }
        place.way = route::pool;
        [[fallthrough]];
      case route::pool:
        if (!ambient && !detail::stop_hook::prepare(here, *this, token)) [[unlikely]]
          return at_once(here, -ENOMEM);
        if (wish_.has_key) place.key = key_;
        start_work(here, place);
        break;
      case route::ring:
        if constexpr (forms.sqe) {
          if (!ambient && !detail::stop_hook::prepare(here, *this, token)) [[unlikely]]
            return at_once(here, -ENOMEM);
          if constexpr (requires { call_.insist(); })
            if (wish_.has_way() || here.punting() == punt_policy::kernel) call_.insist();
          if (io_uring_sqe* const sqe = here.backend().sqe(); sqe != nullptr) [[likely]] {
            stage_ = detail::stage::ring;
            call_.prepare(*sqe);
            sqe->user_data = detail::whose::of(*this);
            detail::annotate_release(static_cast<base*>(this));
          } else if (here.has_ring()) {
            acts(&on_item);  // it may be cancelled in line
            here.backend().line_up(*this);
          } else if (!detail::without_ring<Call>::begin(*this, here)) {
            detail::stop_hook::drop(*this);
            return false;
          }
        }
        break;
    }
    here.watch(*this, token, ambient);
    return true;
  }

  bool at_once(detail::loop& here, int res) noexcept {
    answer_.set(res);
    stage_ = detail::stage::over;
    settle(here);
    return false;
  }

  void settle(detail::loop& here) noexcept { detail::settle(call_, here.devices()); }

  void start_work(detail::loop& here, placement place) noexcept {
    if constexpr (forms.call) {
      if constexpr (requires { call_.may_wait(); }) place.unbound = call_.may_wait();
      if (place.key) {
        set(keyed);
        key_ = *place.key;
      }
      acts(&on_item);
      work_flags const flags{
          .unbound = place.unbound, .key = place.key, .node = place.node, .brief = place.brief};
      work* const item = work_.emplace(flags, call_, static_cast<base&>(*this), answer_, here);
      if (item != nullptr) set(punted);
      here.start_work(*this, item);
    }
  }

  static void on_cqe(base& self, detail::answer what) noexcept {
    auto& op = static_cast<operation&>(self);
    detail::loop& here = *detail::this_thread_loop;
    // A notification only says that buffers are free again; the result came before it.
    if ((what.flags() & IORING_CQE_F_NOTIF) == 0) [[likely]]
      op.answer_ = what;
    if ((what.flags() & IORING_CQE_F_MORE) != 0) [[unlikely]]
      return;
    if constexpr (forms.call) {
      if (detail::bounces(op.call_, op.answer_.res()) || op.was_dropped()) [[unlikely]]
        return op.bounce(here);
    }
    // Some paths answer a cancel with EINTR (io_uring_cancelation(7)), splice with ERESTARTSYS.
    constexpr int restart = -512;
    if (int const r = op.answer_.res(); op.is(cancel_wanted) && (r == -EINTR || r == restart))
      op.answer_.set(-ECANCELED);
    op.settle(here);
    here.template finish<Call::row>(op, &ledger_entry::ring_ops);
  }

  /// The kernel wanted one of its own workers for it and got none: it then cancels what nobody
  /// asked it to. Of a chain that is how the rest of one that broke ends, too; and what waits for
  /// somebody else may have been cancelled by the program itself, through raw().
  [[nodiscard]] bool was_dropped() const noexcept {
    if (answer_.res() != -ECANCELED || is(cancel_wanted | heard)) [[likely]]
      return false;
    if constexpr (requires { call_.may_wait(); })
      return !call_.may_wait();
    else
      return !Call::row.unbound;
  }

  /// The ring cannot do it without blocking: a worker can.
  IOWQ_NOINLINE void bounce(detail::loop& here) noexcept {
    if (is(cancel_wanted)) {
      answer_.set(-ECANCELED);
      settle(here);
      return here.template finish<Call::row>(*this, &ledger_entry::ring_ops);
    }
    here.template count<Call::row>(&ledger_entry::bounced);
    start_work(here, {route::pool, Call::row.unbound, {}, any_node});
  }

  /// Out of the inbox or the ready queue: a worker ended it, it never began, or it may begin now.
  static void on_item(detail::loop_item* self) noexcept {
    auto& op = *static_cast<operation*>(static_cast<base*>(self));
    detail::loop& here = *detail::this_thread_loop;
    if constexpr (requires { op.call_.closes(); })
      if (op.stage_ == detail::stage::closing) return op.begin(here, {}) ? void() : here.resume(op);
    bool const was_punted = op.is(punted);
    if (was_punted) here.pool().came_back();
    op.settle(here);
    here.template finish<Call::row>(
        op, was_punted ? &ledger_entry::punted_ops : &ledger_entry::ring_ops);
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
      detail::first_number<operation, Call>(),
      forms.once ? &detail::without_ring<Call>::waits_for : nullptr,
      detail::second_number<operation, Call>()};

  Call call_;
  [[no_unique_address]] detail::room_for_work<Call> work_;
};

}  // namespace iowq

namespace iowq {

/// Forces an operation onto the pool: it runs as a system call on a worker.
template <class Call>
[[nodiscard("co_await it")]] operation<Call> on_pool(operation<Call> op) {
  static_assert(detail::has_call<Call>, "this operation has no system-call form");
  op.wish_for(route::pool);
  return op;
}

/// Leaves an operation to the ring, whatever the policy.
template <class Call>
[[nodiscard("co_await it")]] operation<Call> on_ring(operation<Call> op) {
  static_assert(detail::has_sqe<Call>, "this operation has no SQE form");
  op.wish_for(route::ring);
  return op;
}

/// Orders an operation by `key`: it never runs beside another of that key, and in the order
/// awaited. Runs on the pool, which keeps the order.
template <class Call>
[[nodiscard("co_await it")]] operation<Call> hashed(std::uint64_t key, operation<Call> op) {
  static_assert(detail::has_call<Call>, "this operation has no system-call form");
  op.wish_for_key(key);
  return op;
}

}  // namespace iowq
