// SPDX-License-Identifier: BSL-1.0
// iowq/exec/call.hpp -- the hooks of an operation's call, and the default of each hook.
//
// An operation is written as a small struct, the call. It has a static `row`, its arguments, and at
// least one of these two forms:
//
//   void prepare(io_uring_sqe&) noexcept      fills the SQE
//   int call(const stop_token&) noexcept      blocking form: returns the result or -errno
//
// Everything else is optional:
//
//   int try_nonblocking() noexcept
//       Form that needs neither a ring nor a thread and never blocks. Returns the result or -errno.
//       -EAGAIN: try again when waits_for() says. -EOPNOTSUPP: only the blocking form can do it.
//   readiness waits_for() const noexcept
//       The descriptor and events to wait for after try_nonblocking() returned -EAGAIN.
//   T value(int result[, flags])
//       The value that the await yields. Default: void.
//   int validate() const noexcept
//       -errno for a bad argument, checked before anything is submitted.
//   void choose_placement(placement&) noexcept
//       Changes the placement that the row gives, according to the arguments.
//   int try_inline(devices&) noexcept
//       Inline form. -EAGAIN sends the operation to the pool.
//   bool supported_by(const ring_features&) const
//       False if this kernel's opcode does not handle these arguments correctly.
//   void allow_kernel_blocking() noexcept
//       Called before prepare() if the ring has to finish the operation even if that blocks.
//   bool is_unbound() const noexcept
//       True if the operation is unbound on the pool. Default: as the row says.
//   bool would_block(int result) const noexcept
//       True if this result of the ring means "would block". Default: -EAGAIN does.
//   void on_complete(devices&) noexcept
//       Called on the owner thread when the operation completes.
//   int descriptor() const noexcept, int second_descriptor() const noexcept
//       The descriptors that the operation uses.
//   void closes_descriptor()
//       Declares that the operation closes descriptor(): operations that use it must end first.
//   static constexpr bool keeps_errors = true
//       A negative result does not throw: value() handles it.
//   static constexpr bool value_may_throw = true
//       value() may throw, so the operation has no await_resume_result().
#pragma once

#include <cerrno>
#include <concepts>

#include <iowq/base/stop_token.hpp>
#include <iowq/exec/detail/fd_cache.hpp>
#include <iowq/exec/detail/operation_base.hpp>
#include <iowq/exec/operation_row.hpp>
#include <iowq/ring/detail/cqe.hpp>
#include <iowq/ring/features.hpp>

namespace iowq::inline v0::detail {

template <class Call>
concept has_sqe = requires(Call& c, io_uring_sqe& sqe) { c.prepare(sqe); };
template <class Call>
concept has_call = requires(Call& c, const stop_token& stop) {
  { c.call(stop) } -> std::same_as<int>;
};

template <class Call>
concept has_nonblocking = requires(Call& c) { c.try_nonblocking(); };
template <class Call>
concept has_choose_placement = requires(Call& c, placement& p) { c.choose_placement(p); };
template <class Call>
concept has_kernel_blocking = requires(Call& c) { c.allow_kernel_blocking(); };
template <class Call>
concept has_on_complete = requires(Call& c, devices& d) { c.on_complete(d); };

/// True if the call has hooks that exclude the fast path: it influences its placement, or acts when
/// it completes.
template <class Call>
concept needs_slow_path =
    has_choose_placement<Call> || has_kernel_blocking<Call> || has_on_complete<Call>;

/// The forms that a call has.
struct forms {
  bool sqe;          // has an SQE form
  bool call;         // has a blocking system-call form
  bool nonblocking;  // has a form that never blocks
};
template <class Call>
[[nodiscard]] constexpr forms forms_of() noexcept {
  return {has_sqe<Call>, has_call<Call>, has_nonblocking<Call>};
}

/// The forms that this call has on this kernel.
template <class Call>
[[nodiscard]] forms forms_of(const Call& call, const ring_features& kernel) noexcept {
  forms has = forms_of<Call>();
  if constexpr (requires { call.supported_by(kernel); }) has.sqe = call.supported_by(kernel);
  return has;
}

template <class Call>
[[nodiscard]] readiness readiness_of(const Call& call) noexcept {
  if constexpr (requires { call.waits_for(); })
    return call.waits_for();
  else
    return {};
}

template <class Call>
[[nodiscard]] int try_inline(Call& call, devices& known) noexcept {
  if constexpr (requires { call.try_inline(known); })
    return call.try_inline(known);
  else if constexpr (has_call<Call>)
    return call.call(stop_token{});
  else
    return -EAGAIN;
}

template <class Call>
[[nodiscard]] bool would_block(const Call& call, int res) noexcept {
  if constexpr (requires { call.would_block(res); })
    return call.would_block(res);
  else
    return res == -EAGAIN;
}

template <class Call>
void on_complete(Call& call, devices& known) noexcept {
  if constexpr (requires { call.on_complete(known); }) call.on_complete(known);
}

template <class Call>
[[nodiscard]] decltype(auto) value_of_call(Call& call, cqe_result what) {
  if constexpr (requires { call.value(what.res(), what.flags()); })
    return call.value(what.res(), what.flags());
  else if constexpr (requires { call.value(what.res()); })
    return call.value(what.res());
}

}  // namespace iowq::inline v0::detail
