// SPDX-License-Identifier: BSL-1.0
// iowq/exec/punted.hpp -- what forms a call has, and how the pool sees it.
// Layer exec; needs nothing more. Next in the book: exec/stop_hook.hpp.
#pragma once

#include <cerrno>
#include <concepts>

#include <iowq/base/stop.hpp>
#include <iowq/exec/loop.hpp>
#include <iowq/exec/operation.hpp>
#include <iowq/exec/row.hpp>
#include <iowq/pool/work.hpp>

namespace iowq {

namespace detail {

template <class Call>
concept has_sqe = requires(Call& c, io_uring_sqe& sqe) {
  c.prepare(sqe);
};
template <class Call>
concept has_call = requires(Call& c, const stop_token& stop) {
  { c.call(stop) } -> std::same_as<int>;
};

/// Has a say in where it goes, or something to do at its end.
template <class Call>
concept is_particular = requires(Call& c, placement& p) {
  c.place(p);
}
|| requires(Call& c) { c.insist(); }
|| requires(Call& c, devices& d) { c.settle(d); };

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
}  // namespace detail

}  // namespace iowq
