// SPDX-License-Identifier: BSL-1.0
// iowq/exec/await.hpp -- what `co_await pread(…)` is made of.
// Layer exec; needs coro. Next in the book: exec/force.hpp.
//
// An operation is written as a small struct, the call (exec/call.hpp); operation<Call> gives it a
// life.
#pragma once

#include <coroutine>
#include <cstdint>
#include <source_location>
#include <type_traits>
#include <utility>

#include <iowq/base/result.hpp>
#include <iowq/coro/promise.hpp>
#include <iowq/exec/call.hpp>
#include <iowq/exec/evict.hpp>
#include <iowq/exec/loop.hpp>
#include <iowq/exec/punted.hpp>
#include <iowq/exec/route.hpp>
#include <iowq/exec/stop_hook.hpp>
#include <iowq/exec/without_ring.hpp>

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

  /// Begins with a listener in the place of a coroutine (coro/continuation.hpp).
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
