// SPDX-License-Identifier: BSL-1.0
// iowq/exec/call.hpp -- what an operation is written as, and what it means where it says nothing.
//
// An operation is written as a small struct, the call: a static `row`, its arguments, and
//
//   void prepare(io_uring_sqe&) noexcept       SQE form                          } one of the
//   int  call(const stop_token&) noexcept      blocking form: answer or -errno   } two, or both
//   int  try_nonblocking() noexcept                       form without a ring or a thread, which
//   never blocks:
//                                              answer; -EAGAIN, waits_for() would tell when to try
//                                              again; -EOPNOTSUPP, the blocking form must do it
//   readiness waits_for() const noexcept       see there; where try_nonblocking() answers -EAGAIN
//   T    value(int answer[, flags])            what the await yields; default: nothing
//   int  validate() const noexcept                -errno of a bad argument, before anything happens
//   void choose_placement(placement&) noexcept            changes what the row says, from the
//   arguments int  try_inline(devices&) noexcept            inline form; -EAGAIN sends it to the
//   pool bool supported_by(const ring_features&) const  does the opcode do it right, with these
//   arguments? void allow_kernel_blocking() noexcept                     the ring shall finish it,
//   blocking or not bool is_unbound() const noexcept             on the pool: unbound? default: as
//   the row says bool would_block(int answer) const noexcept    does the ring's answer mean "would
//   block"? void on_complete(devices&) noexcept             on the owner, when it is over int
//   descriptor() const noexcept           which one it uses; second_descriptor(): and which void
//   closes_descriptor()                              it closes that: what uses it has to end before
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

/// Has a say in where it goes, or something to do at its end.
template <class Call>
concept needs_slow_path =
    has_choose_placement<Call> || has_kernel_blocking<Call> || has_on_complete<Call>;

/// What a call can do at all.
struct forms {
  bool sqe;          // has an SQE form
  bool call;         // has a blocking system-call form
  bool nonblocking;  // has one that never blocks
};
template <class Call>
[[nodiscard]] constexpr forms forms_of() noexcept {
  return {has_sqe<Call>, has_call<Call>, has_nonblocking<Call>};
}

/// What this one can do on this kernel.
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
