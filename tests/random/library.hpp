// SPDX-License-Identifier: BSL-1.0
// A program, run by the library. Every wait and every task notes its beginning, its end and the
// stop that reaches it; a wait by itself, too, that no coroutine awaits.
#pragma once

#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <coroutine>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <ranges>
#include <system_error>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include <iowq/iowq.hpp>

#include "log.hpp"

namespace iowq_random {

/// What a program throws.
struct boom {
  int n;
};

[[nodiscard]] inline outcome outcome_of(std::error_code error) {
  if (error == std::errc::operation_canceled) return {outcome::cancelled};
  if (error == std::errc::timed_out) return {outcome::timed_out};
  if (error == std::errc::broken_pipe) return {outcome::closed};
  return {outcome::other, error.value()};
}
[[nodiscard]] inline outcome outcome_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const boom& b) {
    return {outcome::thrown, b.n};
  } catch (const std::system_error& e) {
    return outcome_of(e.code());
  } catch (...) {
    return {outcome::other, -1};
  }
}

[[nodiscard]] inline std::int64_t now_ns() {
  return std::chrono::steady_clock::now().time_since_epoch().count();
}

/// All that the statements of one program share.
class world {
 public:
  world() = default;
  world(const world&) = delete;
  world& operator=(const world&) = delete;

  name note(step s) {
    s.now = now_ns();
    log.push_back(std::move(s));
    return log.back().who;
  }
  /// Notes the beginning of somebody new.
  name begin(step s) {
    s.who = ++names_;
    return note(std::move(s));
  }

  history log;
  iowq::mutex mutex[mutexes];
  iowq::semaphore semaphore[semaphores] = {iowq::semaphore{1}, iowq::semaphore{2}};
  iowq::event event[events];
  iowq::channel<int> channel[channels] = {iowq::channel<int>{0}, iowq::channel<int>{1},
                                          iowq::channel<int>{3}};
  iowq::stop_source source[sources];
  int sent = 0;              // values are numbers, each once
  int living = 0;            // tasks that nobody awaits, the root among them
  int soon = 0;              // sleeps and calls that will end by themselves
  std::int64_t expired = 0;  // when the last time limit will be
  int frames = 0;            // of coroutines
  bool ending = false;       // the executor was told to stop
  std::atomic<int> stamps{0};
  std::mutex calls_mutex;
  std::deque<call_record> calls;  // under the mutex while workers run

 private:
  name names_ = 0;
};

struct counted_frame {
  explicit counted_frame(world& w) : all{w} { ++all.frames; }
  counted_frame(const counted_frame&) = delete;
  counted_frame& operator=(const counted_frame&) = delete;
  ~counted_frame() { --all.frames; }
  world& all;
};

/// What a wait or a task yields: a number, and what it holds until it is destroyed.
class reply {
 public:
  explicit reply(int n = 0) noexcept : value{n} {}
  reply(world& all, name who, iowq::mutex::guard held) noexcept
      : all_{&all}, who_{who}, held_{std::move(held)} {}
  reply(world& all, name who, int semaphore) noexcept
      : all_{&all}, who_{who}, semaphore_{semaphore} {}
  reply(reply&& other) noexcept
      : value{other.value},
        all_{std::exchange(other.all_, nullptr)},
        who_{other.who_},
        semaphore_{other.semaphore_},
        held_{std::move(other.held_)} {}
  reply& operator=(reply&&) = delete;
  ~reply() {
    if (all_ == nullptr) return;
    if (held_) {
      all_->note({.how = step::unlock, .who = who_});
    } else {
      all_->note({.how = step::give_back, .who = who_, .thing = semaphore_});
      all_->semaphore[semaphore_].release();
    }
  }
  int value = 0;

 private:
  world* all_ = nullptr;
  name who_ = 0;
  int semaphore_ = 0;
  iowq::mutex::guard held_{};
};

/// A call on a worker: for so many steps of 50 us; from 10 on it throws.
struct timed_call {
  world* all;
  int key;
  name who;
  int steps;
  int operator()() const {
    int const began = ++all->stamps;
    timespec const pause{0, 50'000L * (steps % 10)};
    if (pause.tv_nsec != 0) ::nanosleep(&pause, nullptr);
    int const ended = ++all->stamps;
    {
      std::lock_guard const held{all->calls_mutex};
      all->calls.push_back({who, key, began, ended});
    }
    if (steps >= 10) throw boom{who};
    return who;
  }
};

/// One wait of a program, of whatever sort, with a note of all that happens to it.
class [[nodiscard]] noted_wait final : iowq::detail::completion_callback {
  using call_operation =
      decltype(iowq::punt(std::declval<timed_call>(), std::declval<iowq::punt_options>()));
  using operations =
      std::variant<decltype(std::declval<iowq::mutex&>().lock()),
                   decltype(std::declval<iowq::semaphore&>().acquire()),
                   decltype(std::declval<iowq::event&>().wait()),
                   decltype(std::declval<iowq::channel<int>&>().send(0)),
                   decltype(std::declval<iowq::channel<int>&>().recv()),
                   decltype(iowq::sleep_for(std::chrono::nanoseconds{})), call_operation>;
  static constexpr std::size_t punting = 6;

 public:
  noted_wait(world& all, const node& what, name whose, int place)
      : completion_callback{&over},
        all_{all},
        what_{what},
        whose_{whose},
        place_{place},
        value_{what.what == verb::send ? ++all.sent : 0},
        operation_{made(all, what, value_)} {}
  noted_wait(noted_wait&& other) noexcept
      : completion_callback{&over},
        all_{other.all_},
        what_{other.what_},
        whose_{other.whose_},
        place_{other.place_},
        value_{other.value_},
        operation_{std::move(other.operation_)} {}

  static bool await_ready() noexcept { return false; }
  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> waiter) noexcept {
    return begin(waiter, iowq::detail::stop_of(waiter));
  }
  bool start(completion_callback& waiter, iowq::stop_token token) noexcept {
    return begin(waiter, token);
  }

  reply await_resume() {
    auto end = await_resume_result();
    if (!end) throw std::system_error{end.error(), "a wait"};
    return *std::move(end);
  }
  iowq::result<reply> await_resume_result() {
    told_.reset();
    if (ends_by_itself()) --all_.soon;
    try {
      auto end = std::visit([this](auto& operation) { return finish(operation); }, operation_);
      note_end(end ? outcome{outcome::value, end->value} : outcome_of(end.error()));
      return end;
    } catch (...) {
      note_end(outcome_of(std::current_exception()));
      throw;
    }
  }
  static const iowq::operation_row& row() noexcept {
    static constexpr iowq::operation_row all_of_them{
        .name = "a wait", .first = iowq::route::inline_, .reason = "noted"};
    return all_of_them;
  }

 private:
  static operations made(world& all, const node& what, int value) {
    using std::in_place_index;
    switch (what.what) {
      case verb::lock:
        return operations{in_place_index<0>, all.mutex[what.a].lock()};
      case verb::acquire:
        return operations{in_place_index<1>, all.semaphore[what.a].acquire()};
      case verb::wait:
        return operations{in_place_index<2>, all.event[what.a].wait()};
      case verb::send:
        return operations{in_place_index<3>, all.channel[what.a].send(value)};
      case verb::recv:
        return operations{in_place_index<4>, all.channel[what.a].recv()};
      case verb::sleep:
        // A wait that begins now is nearer to the deadline than one that is only made now.
        return operations{in_place_index<5>, iowq::sleep_for(std::chrono::hours{0})};
      default: {
        return operations{in_place_index<punting>, call_of(all, what, 0)};
      }
    }
  }
  static call_operation call_of(world& all, const node& what, name who) {
    timed_call const call{&all, what.a, who, what.b};
    iowq::punt_options options;
    if (what.a != 0) options.key = static_cast<std::uint64_t>(what.a);
    return iowq::punt(call, options);
  }
  [[nodiscard]] bool ends_by_itself() const noexcept {
    return what_.what == verb::punt || (what_.what == verb::sleep && what_.a >= 0);
  }

  bool begin(iowq::detail::continuation waiter, iowq::stop_token token) noexcept {
    waiter_ = waiter;
    if (ends_by_itself()) ++all_.soon;
    auto const after = std::chrono::microseconds{250} * what_.a;
    iowq::detail::time_point const deadline =
        what_.a < 0 ? iowq::detail::never : iowq::detail::linux_policy::now() + after;
    who_ = all_.begin({.how = step::wait_begin,
                       .whose = whose_,
                       .n = place_,
                       .what = what_.what,
                       .thing = what_.a,
                       .value = value_,
                       .under_stop = token.stop_requested(),
                       .when = deadline.time_since_epoch().count()});
    told_.emplace(token, note_stop{this});
    if (what_.what == verb::sleep) operation_.emplace<5>(iowq::sleep_until(deadline));
    if (what_.what == verb::punt) operation_.emplace<punting>(call_of(all_, what_, who_));
    return std::visit([&](auto& operation) { return operation.start(*this, token); }, operation_);
  }
  static void over(completion_callback* self) noexcept {
    static_cast<noted_wait*>(self)->waiter_.run();
  }

  template <class Operation>
  iowq::result<reply> finish(Operation& operation) {
    if constexpr (std::is_same_v<Operation, call_operation>) {
      try {
        return reply{operation.await_resume()};
      } catch (const std::system_error& error) {
        return error.code();
      }
    } else {
      auto end = operation.await_resume_result();
      if (!end) return end.error();
      if (what_.what == verb::acquire) return reply{all_, who_, what_.a};
      if constexpr (requires { end->unlock(); })
        return reply{all_, who_, *std::move(end)};
      else if constexpr (requires { end->has_value(); })
        return reply{end->value_or(-1)};
      else
        return reply{};
    }
  }
  void note_end(outcome end) {
    all_.note({.how = step::wait_end,
               .who = who_,
               .whose = whose_,
               .what = what_.what,
               .thing = what_.a,
               .end = end});
  }

  struct note_stop {
    noted_wait* self;
    void operator()() const noexcept { self->all_.note({.how = step::stopped, .who = self->who_}); }
  };

  world& all_;
  const node& what_;
  name whose_;
  int place_;
  int value_;
  name who_ = 0;
  iowq::detail::continuation waiter_;
  std::optional<iowq::stop_callback<note_stop>> told_;
  operations operation_;
};
static_assert(iowq::detail::startable<noted_wait>);

// ---- Statements ----

inline iowq::task<int> run_block(world& all, const node& block, name me);
inline iowq::task<int> run_statement(world& all, const node& n, name me);

/// A coroutine of its own for a block.
inline iowq::task<reply> run_task(world& all, const node& block, name whose, int place) {
  counted_frame const frame{all};
  name const me = all.begin({.how = step::task_begin, .whose = whose, .n = place});
  iowq::stop_token const token = co_await iowq::ambient_stop();
  auto const note_stop = [&all, me] { all.note({.how = step::stopped, .who = me}); };
  std::exception_ptr error;
  int value = 0;
  {
    iowq::stop_callback<decltype(note_stop)> const told{token, note_stop};
    try {
      auto body = run_block(all, block, me);
      value = co_await body;
    } catch (...) {
      error = std::current_exception();
    }
  }
  outcome const end = error ? outcome_of(error) : outcome{outcome::value, value};
  all.note({.how = step::task_end, .who = me, .whose = whose, .end = end});
  if (error) std::rethrow_exception(error);
  co_return reply{value};
}

inline iowq::task<> run_in_group(world& all, const node& block, name group, int place) {
  auto body = run_task(all, block, group, place);
  static_cast<void>(co_await body);
}

inline iowq::task<> run_alone(world& all, const node& block, int place) {
  struct leaves {
    world& all;
    ~leaves() { --all.living; }
  } const at_end{all};
  auto body = run_task(all, block, 0, place);
  static_cast<void>(co_await body);
}

inline std::variant<iowq::task<reply>, noted_wait> child_of(world& all, const node& kid, name scope,
                                                            int place) {
  if (is_wait(kid.what)) return noted_wait{all, kid, scope, place};
  return run_task(all, kid, scope, place);
}

/// Notes how several together ended; yields, or goes on throwing, what they did.
struct scope_note {
  world& all;
  name who;
  std::exception_ptr error{};
  std::vector<int> values{};
  int index = 0;

  void fail() noexcept { error = std::current_exception(); }
  int end() {
    int value = 0;
    for (int const v : values) value = (value * 31 + v) % 1'000'003;
    outcome const end = error ? outcome_of(error) : outcome{outcome::value, value};
    all.note({.how = step::scope_end, .who = who, .n = index, .end = end, .values = values});
    if (error) std::rethrow_exception(error);
    return value;
  }
};

template <class Several>
iowq::task<> await_all(Several several, scope_note& note) {
  auto replies = co_await several;
  if constexpr (requires { replies.size(); })
    for (const reply& one : replies) note.values.push_back(one.value);
  else
    std::apply([&](const auto&... one) { (note.values.push_back(one.value), ...); }, replies);
  // Else what they hold would be let go in an order that is the compiler's choice.
  if constexpr (requires { replies.size(); })
    while (!replies.empty()) replies.pop_back();
}
template <class Several>
iowq::task<> await_any(Several several, scope_note& note) {
  auto first = co_await several;
  note.index = static_cast<int>(first.index());
  if constexpr (requires { first.value(); })
    note.values.push_back(first.value().value);
  else
    note.values.push_back(first.index() == 0 ? first.template get<0>().value
                                             : first.template get<1>().value);
}

/// Two of different sorts, or a range of one sort.
template <class Await>
iowq::task<> run_several(world& all, const node& n, scope_note& note, Await await) {
  if (n.a == 0 && n.kids.size() == 2) {
    auto first = child_of(all, n.kids[0], note.who, 0);
    auto second = child_of(all, n.kids[1], note.who, 1);
    auto both =
        std::visit([&](auto& a, auto& b) { return await.pair(std::move(a), std::move(b), note); },
                   first, second);
    co_await both;
    co_return;
  }
  bool waits_only = true;
  for (const node& kid : n.kids) waits_only = waits_only && is_wait(kid.what);
  if (waits_only) {
    std::vector<noted_wait> ones;
    ones.reserve(n.kids.size());
    for (std::size_t i = 0; i < n.kids.size(); ++i)
      ones.emplace_back(all, n.kids[i], note.who, static_cast<int>(i));
    auto those = await.range(std::move(ones), note);
    co_await those;
  } else {
    std::vector<node> const* const kids = &n.kids;
    std::vector<iowq::task<reply>> ones;
    for (std::size_t i = 0; i < kids->size(); ++i)
      ones.push_back(run_task(all, (*kids)[i], note.who, static_cast<int>(i)));
    auto those = await.range(std::move(ones), note);
    co_await those;
  }
}
struct as_all {
  template <class A, class B>
  iowq::task<> pair(A a, B b, scope_note& note) const {
    return await_all(iowq::when_all(std::move(a), std::move(b)), note);
  }
  template <class Range>
  iowq::task<> range(Range ones, scope_note& note) const {
    return await_all(iowq::when_all(std::move(ones)), note);
  }
};
struct as_any {
  template <class A, class B>
  iowq::task<> pair(A a, B b, scope_note& note) const {
    return await_any(iowq::when_any(std::move(a), std::move(b)), note);
  }
  template <class Range>
  iowq::task<> range(Range ones, scope_note& note) const {
    return await_any(iowq::when_any(std::move(ones)), note);
  }
};

template <class Wrapped>
iowq::task<> await_one(Wrapped wrapped, scope_note& note) {
  reply const one = co_await wrapped;
  note.values.push_back(one.value);
}
template <class Wrap>
iowq::task<> run_one(world& all, const node& kid, scope_note& note, Wrap wrap) {
  auto child = child_of(all, kid, note.who, 0);
  auto awaited =
      std::visit([&](auto& one) { return await_one(wrap(std::move(one)), note); }, child);
  co_await awaited;
}

inline iowq::task<> run_group(world& all, const node& n, name me, name group_name) {
  iowq::stop_token const outer = co_await iowq::ambient_stop();
  iowq::task_group plain;
  iowq::task_group inheriting{outer};
  iowq::task_group& group = n.a == 0 ? plain : inheriting;
  std::exception_ptr error;
  int place = 0;
  try {
    for (std::size_t i = 0; i < n.kids.size(); ++i) {
      const node& kid = n.kids[i];
      if (kid.what == verb::do_) {
        all.note({.how = step::spawned, .who = group_name});
        group.spawn(run_in_group(all, kid, group_name, place++));
      } else if (kid.what == verb::halt) {
        all.note({.how = step::deed, .whose = group_name, .what = verb::halt});
        group.request_stop();
      } else {
        auto own = run_statement(all, kid, me);
        static_cast<void>(co_await own);
      }
    }
  } catch (...) {
    error = std::current_exception();
  }
  if (error) {
    all.note({.how = step::deed, .whose = group_name, .what = verb::halt, .value = 1});
    group.request_stop();
  }
  all.note({.how = step::joins, .who = group_name});
  std::exception_ptr joined;
  try {
    co_await group.join();
  } catch (...) {
    joined = std::current_exception();
  }
  if (joined) std::rethrow_exception(joined);
  if (error) throw boom{-2};  // its own failure, which is the program's affair
}

inline iowq::task<int> run_statement(world& all, const node& n, name me) {
  counted_frame const frame{all};
  iowq::stop_token const token = co_await iowq::ambient_stop();
  // What begins under a shield after the executor was told to stop would be nobody's to end.
  if (all.ending && !token.stop_requested())
    throw std::system_error{ECANCELED, std::system_category()};
  auto const deed = [&](int value, outcome end = {}) {
    all.note(
        {.how = step::deed, .whose = me, .what = n.what, .thing = n.a, .value = value, .end = end});
  };
  switch (n.what) {
    case verb::do_:
    case verb::halt:
    case verb::go:
    case verb::none: {
      auto body = run_block(all, n, me);
      co_return co_await body;
    }
    case verb::lock:
    case verb::acquire:
    case verb::wait:
    case verb::send:
    case verb::recv:
    case verb::sleep:
    case verb::punt: {
      noted_wait wait{all, n, me, 0};
      reply const held = co_await wait;
      auto body = run_block(all, n, me);
      int const inner = co_await body;
      co_return held.value + inner;
    }
    case verb::yield: {
      name const who = all.begin({.how = step::wait_begin, .whose = me, .what = verb::yield});
      auto const note_stop = [&all, who] { all.note({.how = step::stopped, .who = who}); };
      std::error_code stopped;
      {
        iowq::stop_callback<decltype(note_stop)> const told{token, note_stop};
        try {
          co_await iowq::yield();
        } catch (const std::system_error& error) {
          stopped = error.code();
        }
      }
      outcome const end = stopped ? outcome_of(stopped) : outcome{};
      all.note({.how = step::wait_end, .who = who, .whose = me, .what = verb::yield, .end = end});
      if (stopped) throw std::system_error{stopped};
      co_return 0;
    }
    case verb::throw_:
      throw boom{n.a};
    case verb::set:
      deed(0);
      all.event[n.a].set();
      co_return 0;
    case verb::reset:
      deed(0);
      all.event[n.a].reset();
      co_return 0;
    case verb::release:
      deed(0);
      all.semaphore[n.a].release();
      co_return 0;
    case verb::try_send: {
      int value = ++all.sent;
      bool const sent = all.channel[n.a].try_send(std::move(value));
      deed(value, {outcome::value, sent ? 1 : 0});
      co_return 0;
    }
    case verb::try_recv: {
      auto const got = all.channel[n.a].try_recv();
      deed(0, {outcome::value, got ? *got : -1});
      co_return got ? *got : 0;
    }
    case verb::close:
      deed(0);
      all.channel[n.a].close();
      co_return 0;
    case verb::cancel:
      deed(0);
      all.source[n.a].request_stop();
      co_return 0;
    case verb::stop:
      deed(0);
      all.ending = true;
      iowq::executor::current().request_stop();
      co_return 0;
    case verb::try_: {
      try {
        auto body = run_block(all, n, me);
        co_return co_await body;
      } catch (...) {
      }
      co_return 7;
    }
    case verb::spawn: {
      ++all.living;
      iowq::executor::current().spawn(run_alone(all, n, 0));
      co_return 0;
    }
    default:
      break;
  }

  // Several together, of which there must be one.
  bool const empty = n.kids.empty() && n.what != verb::call && n.what != verb::for_each &&
                     n.what != verb::transform && n.what != verb::group;
  if (empty) co_return 0;
  bool const shield = n.what == verb::with_stop;
  if (shield && all.ending) throw std::system_error{ECANCELED, std::system_category()};
  int const count = n.what == verb::for_each || n.what == verb::transform ? n.a
                    : n.what == verb::group                               ? 0
                    : n.what == verb::all || n.what == verb::any ? static_cast<int>(n.kids.size())
                                                                 : 1;
  auto const limit = std::chrono::microseconds{300} * n.a;
  std::int64_t const expires = now_ns() + std::chrono::nanoseconds{limit}.count();
  if (n.what == verb::timeout) all.expired = std::max(all.expired, expires);
  scope_note note{all, all.begin({.how = step::scope_begin,
                                  .whose = me,
                                  .n = count,
                                  .what = n.what,
                                  .thing = n.a,
                                  .value = n.b,
                                  .when = expires})};
  try {
    switch (n.what) {
      case verb::call: {
        auto body = run_task(all, n, note.who, 0);
        reply const one = co_await body;
        note.values.push_back(one.value);
        break;
      }
      case verb::all: {
        auto several = run_several(all, n, note, as_all{});
        co_await several;
        break;
      }
      case verb::any: {
        auto several = run_several(all, n, note, as_any{});
        co_await several;
        break;
      }
      case verb::timeout: {
        auto const wrap = [limit]<class A>(A&& one) {
          return iowq::timeout(std::forward<A>(one), limit);
        };
        auto one = run_one(all, n.kids[0], note, wrap);
        co_await one;
        break;
      }
      case verb::with_stop: {
        iowq::stop_token const other = n.a < 0 ? iowq::stop_token{} : all.source[n.a].get_token();
        auto const wrap = [other]<class A>(A&& one) {
          return iowq::with_stop(other, std::forward<A>(one));
        };
        auto one = run_one(all, n.kids[0], note, wrap);
        co_await one;
        break;
      }
      case verb::group: {
        auto group = run_group(all, n, me, note.who);
        co_await group;
        break;
      }
      case verb::for_each: {
        auto const each = [&all, &n, &note](int i) { return run_in_group(all, n, note.who, i); };
        auto items = iowq::for_each(std::views::iota(0, n.a), static_cast<std::size_t>(n.b), each);
        co_await items;
        break;
      }
      default: {
        auto const each = [&all, &n, &note](int i) { return run_task(all, n, note.who, i); };
        auto items = iowq::transform(std::views::iota(0, n.a), static_cast<std::size_t>(n.b), each);
        while (auto item = co_await items.next()) note.values.push_back(item->value);
        break;
      }
    }
  } catch (...) {
    note.fail();
  }
  co_return note.end();
}

inline iowq::task<int> run_block(world& all, const node& block, name me) {
  counted_frame const frame{all};
  int value = 0;
  for (const node& one : block.kids) {
    auto statement = run_statement(all, one, me);
    value = (value * 7 + co_await statement) % 1'000'003;
  }
  co_return value;
}

/// Ends what waits for something that will never come.
inline iowq::task<> run_keeper(world& all) {
  try {
    for (;;) {
      std::size_t const before = all.log.size();
      bool const by_itself = all.soon != 0 || now_ns() <= all.expired;
      for (int turn = 0; turn < 24 && all.living != 0; ++turn) co_await iowq::yield();
      if (all.living == 0) co_return;
      if (by_itself) {
        auto pause = iowq::sleep_for(std::chrono::microseconds{100});
        co_await pause;
      } else if (all.log.size() == before) {
        break;
      }
    }
  } catch (const std::system_error&) {
    co_return;  // a stop is on its way already
  }
  all.note({.how = step::quiet});
  all.note({.how = step::deed, .what = verb::stop});
  all.ending = true;
  iowq::executor::current().request_stop();
}

inline iowq::task<reply> run_root(world& all, const node& program) {
  struct leaves {
    world& all;
    ~leaves() { --all.living; }
  } const at_end{all};
  auto body = run_task(all, program, 0, 0);
  co_return co_await body;
}

/// A stop that was asked for in the last turn of a run is kept for the next: this is it.
inline iowq::task<> absorb_stop() {
  try {
    co_await iowq::yield();
  } catch (const std::system_error&) {
  }
}

/// Runs `program`; what happened is then in `all`.
inline void run_program(iowq::executor& here, world& all, const node& program) {
  all.living = 1;
  here.spawn(run_keeper(all));
  outcome end;
  try {
    end = {outcome::value, here.run(run_root(all, program)).value};
  } catch (...) {
    end = outcome_of(std::current_exception());
  }
  all.note({.how = step::finished, .n = all.frames, .end = end});
  if (all.ending) here.run(absorb_stop());
}

}  // namespace iowq_random
