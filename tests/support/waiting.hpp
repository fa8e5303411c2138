// SPDX-License-Identifier: BSL-1.0
// Bounded waits for coroutines: until a condition holds, or until an operation is seen waiting.
//
// A case that checks that an operation does not complete, or that a stop request ends it while it
// waits, must first know that it waits. A loop of N yield() does not show that: yield() only runs
// what is ready, and all N may run before the loop submits anything.
//
//     here.spawn(reader(pipe.in));
//     co_await iowq_test::until_waiting("read");
//     CHECK_FALSE(ended);
//     co_await iowq::write(pipe.out, "x");
//     co_await iowq_test::until([&] { return ended; });
#pragma once

#include <chrono>
#include <iostream>
#include <ostream>
#include <source_location>
#include <sstream>
#include <string>
#include <string_view>

#include <iowq/coro/as_result.hpp>
#include <iowq/coro/task.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/op/time.hpp>

#include "bounded.hpp"

namespace iowq_test {

/// Stops the program after the deadline, and prints what the executor of this thread has in flight.
inline void check(const wait_limit& limit, const char* missing) {
  if (!limit.is_over()) return;
  iowq::executor::current().dump(std::cerr);
  limit.fail(missing);
}

/// Yields until `holds()` is true. Everything else that is ready runs in between.
template <class Condition>
iowq::task<> until(Condition holds, std::source_location at = std::source_location::current()) {
  wait_limit const limit{at};
  while (!holds()) {
    check(limit, "what this line waits for");
    co_await iowq::yield();
  }
}

/// The places of the operations of one name, as executor::dump() reports them.
struct places {
  int all = 0;
  int in_kernel = 0;  // an SQE was written for it
  int in_pool = 0;    // a worker runs it, or it is queued for a worker
  int elsewhere = 0;  // waits by epoll, for a timer, for a coroutine, or for users of a descriptor
  int all_in_pool = 0;      // operations of any name
  int blocked_workers = 0;  // run an item, and sleep in it

  [[nodiscard]] bool workers_are_blocked() const { return blocked_workers >= all_in_pool; }
  [[nodiscard]] int waiting() const {
    return in_kernel + elsewhere + (workers_are_blocked() ? in_pool : 0);
  }
};

/// Returns whether `name` is `wanted` or, if `wanted` ends in '*', begins with the text before the
/// '*'.
inline bool is_called(std::string_view name, std::string_view wanted) {
  if (!wanted.ends_with('*')) return name == wanted;
  wanted.remove_suffix(1);
  return name.starts_with(wanted);
}

/// Reads dump(); `name` as is_called() takes it. Printing it takes and releases the pool's lock, so
/// a worker that was waiting for that lock is awake afterwards, when its state is read.
inline places look_at(std::string_view name) {
  std::stringstream report;
  iowq::executor::current().dump(report);
  places found;
  for (std::string line; std::getline(report, line);) {
    if (line.starts_with("  worker ")) {  // "  worker 1234 node 0 running: work 0x..."
      auto const number = line.substr(9, line.find(' ', 9) - 9);
      if (line.find(": work ") != line.npos) found.blocked_workers += is_asleep(number);
      continue;
    }
    // "read fd 5: ring, 0 ms, ..."
    auto const name_end = line.find_first_of(" :");
    auto const place = line.find(": ");
    if (place == line.npos || name_end > place || line.find(" ms, ") == line.npos) continue;
    auto const is_at = [&](std::string_view where) {
      return line.compare(place + 2, where.size(), where) == 0;
    };
    bool const in_pool = is_at("pool,");
    found.all_in_pool += in_pool;
    if (!is_called(std::string_view{line}.substr(0, name_end), name)) continue;
    ++found.all;
    found.in_pool += in_pool;
    found.in_kernel += is_at("ring,");
    found.elsewhere += is_at("poll,") || is_at("timer,") || is_at("waiting,") ||
                       is_at("waiting for the users of its descriptor,");
  }
  return found;
}

/// Returns when `count` operations wait whose name in dump() is `name`, or begins with it where
/// `name` ends in '*'. An operation waits if the kernel has accepted its SQE and has not completed
/// it, or if it waits by epoll, or if all workers that run an operation sleep in it. Two checks in
/// a row must find that. Between them is a turn of the loop, which submits pending operations and
/// reaps completed ones.
inline iowq::task<> until_waiting(std::string_view name, int count = 1,
                                  std::source_location at = std::source_location::current()) {
  wait_limit const limit{at};
  std::string const missing = std::to_string(count) + " " + std::string{name} + " waiting";
  for (int looks_in_a_row = 0;;) {
    looks_in_a_row = look_at(name).waiting() >= count ? looks_in_a_row + 1 : 0;
    if (looks_in_a_row == 2) co_return;
    check(limit, missing.c_str());
    // The loop sleeps in the kernel during this time, and workers get a processor. A request_stop()
    // of the executor ends the sleep, but must not end the wait.
    auto const slept = co_await iowq::as_result(iowq::sleep_for(std::chrono::microseconds{200}));
    if (!slept) co_await iowq::yield();
  }
}

/// The moment when a case acts on an operation that it has spawned.
enum class moment {
  spawned,    // not started
  submitted,  // started: the kernel or a worker may not have seen it yet
  waiting,    // as until_waiting() finds it
};
inline std::ostream& operator<<(std::ostream& out, moment when) {
  constexpr std::string_view names[] = {"spawned", "submitted", "waiting"};
  return out << names[static_cast<int>(when)];
}
inline constexpr moment all_moments[] = {moment::spawned, moment::submitted, moment::waiting};

inline iowq::task<> reach(moment when, std::string_view name, int count = 1,
                          std::source_location at = std::source_location::current()) {
  if (when == moment::submitted) co_await iowq::yield();
  if (when == moment::waiting) co_await until_waiting(name, count, at);
}

}  // namespace iowq_test
