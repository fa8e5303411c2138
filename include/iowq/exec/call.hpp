// SPDX-License-Identifier: BSL-1.0
// iowq/exec/call.hpp -- what an operation is written as, and what it means where it says nothing.
//
// An operation is written as a small struct, the call: a static `row`, its arguments, and
//
//   void prepare(io_uring_sqe&) noexcept       SQE form                          } one of the
//   int  call(const stop_token&) noexcept      blocking form: answer or -errno   } two, or both
//   int  once() noexcept                       form without a ring or a thread, which never blocks:
//                                              answer; -EAGAIN, waits_for() would tell when to try
//                                              again; -EOPNOTSUPP, the blocking form must do it
//   readiness waits_for() const noexcept       see there; where once() answers -EAGAIN
//   T    value(int answer[, flags])            what the await yields; default: nothing
//   int  check() const noexcept                -errno of a bad argument, before anything happens
//   void place(placement&) noexcept            changes what the row says, from the arguments
//   int  attempt(devices&) noexcept            inline form; -EAGAIN sends it to the pool
//   bool ring_can(const ring_features&) const  does the opcode do it right, with these arguments?
//   void insist() noexcept                     the ring shall finish it, blocking or not
//   bool may_wait() const noexcept             on the pool: unbound? default: as the row says
//   bool bounces(int answer) const noexcept    does the ring's answer mean "would block"?
//   void settle(devices&) noexcept             on the owner, when it is over
//   int  descriptor() const noexcept           which one it uses; other_descriptor(): and which
//   void closes()                              it closes that: what uses it has to end before
#pragma once

#include <cerrno>
#include <concepts>

#include <iowq/base/stop_token.hpp>
#include <iowq/exec/detail/fd_cache.hpp>
#include <iowq/exec/detail/operation_base.hpp>
#include <iowq/exec/operation_row.hpp>
#include <iowq/ring/detail/cqe.hpp>
#include <iowq/ring/features.hpp>

namespace iowq::detail {

template <class Call>
concept has_sqe = requires(Call& c, io_uring_sqe& sqe) { c.prepare(sqe); };
template <class Call>
concept has_call = requires(Call& c, const stop_token& stop) {
  { c.call(stop) } -> std::same_as<int>;
};

template <class Call>
concept has_once = requires(Call& c) { c.once(); };
template <class Call>
concept has_place = requires(Call& c, placement& p) { c.place(p); };
template <class Call>
concept has_insist = requires(Call& c) { c.insist(); };
template <class Call>
concept has_settle = requires(Call& c, devices& d) { c.settle(d); };

/// Has a say in where it goes, or something to do at its end.
template <class Call>
concept is_particular = has_place<Call> || has_insist<Call> || has_settle<Call>;

/// What a call can do at all.
struct forms {
  bool sqe;   // has an SQE form
  bool call;  // has a blocking system-call form
  bool once;  // has one that never blocks
};
template <class Call>
[[nodiscard]] constexpr forms forms_of() noexcept {
  return {has_sqe<Call>, has_call<Call>, has_once<Call>};
}

/// What this one can do on this kernel.
template <class Call>
[[nodiscard]] forms forms_of(const Call& call, const ring_features& kernel) noexcept {
  forms has = forms_of<Call>();
  if constexpr (requires { call.ring_can(kernel); }) has.sqe = call.ring_can(kernel);
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
[[nodiscard]] int attempt(Call& call, devices& known) noexcept {
  if constexpr (requires { call.attempt(known); })
    return call.attempt(known);
  else if constexpr (has_call<Call>)
    return call.call(stop_token{});
  else
    return -EAGAIN;
}

template <class Call>
[[nodiscard]] bool bounces(const Call& call, int res) noexcept {
  if constexpr (requires { call.bounces(res); })
    return call.bounces(res);
  else
    return res == -EAGAIN;
}

template <class Call>
void settle(Call& call, devices& known) noexcept {
  if constexpr (requires { call.settle(known); }) call.settle(known);
}

template <class Call>
[[nodiscard]] decltype(auto) what_it_yields(Call& call, answer what) {
  if constexpr (requires { call.value(what.res(), what.flags()); })
    return call.value(what.res(), what.flags());
  else if constexpr (requires { call.value(what.res()); })
    return call.value(what.res());
}

}  // namespace iowq::detail
