// SPDX-License-Identifier: BSL-1.0
// iowq/exec/punted.hpp -- how the pool sees an operation.
// Layer exec; needs nothing more. Next in the book: exec/stop_hook.hpp.
#pragma once

#include <cerrno>
#include <type_traits>

#include <iowq/base/stop.hpp>
#include <iowq/exec/call.hpp>
#include <iowq/exec/lazy.hpp>
#include <iowq/exec/loop.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/pool/work.hpp>

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
