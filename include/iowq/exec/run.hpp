// SPDX-License-Identifier: BSL-1.0
// iowq/exec/run.hpp -- from main() into the first coroutine, and out again.
// Layer exec; needs coro. Next in the book: exec/runtime.hpp.
#pragma once

#include <utility>

#include <iowq/exec/executor.hpp>

namespace iowq {

/// Builds an executor on this thread, runs `root` and all that it spawns to their end, and
/// returns root's result or rethrows what left it.
///
///     int main(int, char** argv) { iowq::run(cat(argv[1])); }
template <class T>
T run(task<T> root, executor_options options = {}) {
  executor here{std::move(options)};
  return here.run(std::move(root));
}

namespace detail {

/// Goes to the end of the ready queue.
class [[nodiscard("co_await it")]] turn_awaiter : loop_item {
 public:
  turn_awaiter() noexcept : loop_item{&go_on} {}
  static bool await_ready() noexcept { return false; }
  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> waiter) noexcept {
    waiter_ = waiter;
    token_ = stop_of(waiter);
    loop::current().ready(*this);
  }
  void await_resume() const {
    if (token_.stop_requested()) [[unlikely]]
      throw_error(-ECANCELED, "yield");
  }

 private:
  static void go_on(loop_item* self) noexcept {
    static_cast<turn_awaiter*>(self)->waiter_.resume();
  }
  std::coroutine_handle<> waiter_;
  stop_token token_;
};

}  // namespace detail

/// `co_await yield()`: everything else that is ready runs first. Owner thread. Throws
/// operation_canceled if a stop was requested.
[[nodiscard("co_await it")]] inline detail::turn_awaiter yield() noexcept { return {}; }

}  // namespace iowq
