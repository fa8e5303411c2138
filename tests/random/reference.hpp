// SPDX-License-Identifier: BSL-1.0
// The reference: one thread, simple lists, no coroutine. It is told each step of the library, and
// says whether that step was possible. So a schedule need not be predicted where several are
// permitted, and a wrong one is named at the step where it went wrong.
//
// R1  A child ends before the scope that started it; an ended one takes no step.
// R2  Locks, permits, events and channels serve in the order of the waits. A stopped wait leaves
//     its queue, and does not take back a grant.
// R3  Woken and yielding tasks continue in one common order.
// R4  A stop reaches everything below its scope, and nothing else; a second stop is not reported.
// R5  The first failure ends an `all`, a group, a for_each; the first success ends an `any`.
// R6  Timers fire in the order of deadlines, equal ones in the order of arming.
// R7  Calls of a key run one after the other, in the order awaited; a cancelled call never ran.
// R8  When no task continues by itself any more, every task waits for something.
#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "log.hpp"

namespace iowq_random {

/// The library did what it must not.
struct wrong : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class reference {
 public:
  explicit reference(std::deque<call_record> calls) : calls_{std::move(calls)} {
    beings_[0] = {.sort = being::scope, .what = verb::do_};
    free_permits_[0] = 1;
    free_permits_[1] = 2;
    for (int i = 0; i < channels; ++i) lines_[i].capacity = capacities[i];
  }

  /// Throws `wrong`.
  void take(const step& s) {
    if (s.how != step::stopped) look_at_stops();
    switch (s.how) {
      case step::task_begin:
        return begin(s, being::task);
      case step::wait_begin:
        begin(s, being::wait);
        return begin_wait(at(s.who), s);
      case step::scope_begin:
        begin(s, being::scope);
        at(s.who).count = s.n;
        return;
      case step::stopped:
        return stop(at(s.who), s);
      case step::task_end:
        return end(at(s.who), s);
      case step::wait_end:
        return end_wait(at(s.who), s);
      case step::scope_end:
        return end_scope(at(s.who), s);
      case step::deed:
        return act(s);
      case step::unlock:
        need(holder_[at(s.who).thing] == s.who, "unlocked by who does not hold it");
        return hand_on(at(s.who).thing);
      case step::give_back:
        return give_permit(s.thing);
      case step::spawned:
        ++at(s.who).count;
        return;
      case step::joins:
        at(s.who).joined = true;
        return;
      case step::unhandled:
        unhandled_.push_back(s.end);
        return;
      case step::quiet:
        return look_at_quiet();
      case step::finished:
        return look_at_end(s);
    }
  }

 private:
  static constexpr int capacities[channels] = {0, 1, 3};

  struct being {
    enum kind { task, wait, scope } sort = task;
    enum fate { undecided, in_line, given, refused };
    name who = 0;
    name parent = -1;
    verb what = verb::none;
    int thing = 0;
    int place = 0;
    int limit = 0;
    std::int64_t began = 0;
    std::int64_t deadline = 0;
    bool stopped = false;
    bool under_stop = false;
    std::int64_t stopped_at = 0;
    bool over = false;
    outcome end{};
    // A wait.
    fate luck = undecided;
    outcome due{};
    int value = 0;
    // A scope.
    int count = 0;
    bool joined = false;
    bool asked = false;
    bool own_failure = false;
    std::vector<name> children{};
    std::vector<name> ended{};  // in this order
    std::map<name, bool> asked_before{};
    int last_task = -1;
  };
  enum class reason { no, may, must };

  struct channel_lines {
    int capacity = 0;
    bool closed = false;
    std::deque<int> values{};
    std::deque<name> senders{}, receivers{};
  };

  static void need(bool holds, const std::string& what) {
    if (!holds) throw wrong{what};
  }
  static std::string call(const being& one) {
    static constexpr const char* sorts[] = {"task", "wait", "scope"};
    return std::string{sorts[one.sort]}.append(" #").append(std::to_string(one.who));
  }
  being& at(name who) {
    auto const found = beings_.find(who);
    need(found != beings_.end(), "a step of one who was never begun");
    return found->second;
  }

  // ---- Beginnings and ends ----

  void begin(const step& s, being::kind sort) {
    being& parent = at(s.whose);
    need(!parent.over, "R1: " + call(parent) + " is over, and something of it begins");
    need(parent.sort != being::wait, "a wait has no children");
    being& one = beings_[s.who];
    one = {.sort = sort,
           .who = s.who,
           .parent = s.whose,
           .what = s.what,
           .thing = s.thing,
           .place = s.n,
           .limit = s.value,
           .began = s.now,
           .deadline = s.when,
           .under_stop = s.under_stop};
    parent.children.push_back(s.who);
    if (parent.sort != being::scope || parent.who == 0) return;
    bool const walked = parent.what == verb::for_each || parent.what == verb::transform;
    int living = 0;
    bool stops = at(parent.parent).stopped;
    for (name const child : parent.children) {
      living += !at(child).over;
      stops = stops || at(child).stopped;
    }
    need(parent.what != verb::for_each || s.n < parent.limit || !stops,
         "R5: " + call(parent) + " is to end, and goes on with another item");
    need(!walked || living <= parent.limit, call(parent) + " has more in work than its limit");
    for (name const child : parent.children)
      need(child == s.who || at(child).place != s.n,
           "the same child of " + call(parent) + " twice");
    if (sort == being::task && !walked) {
      need(s.n > parent.last_task, "tasks of " + call(parent) + " begin out of order");
      parent.last_task = s.n;
    }
  }

  void end(being& one, const step& s) {
    need(!one.over, "R1: " + call(one) + " ends twice");
    for (name const child : one.children)
      need(at(child).over, "R1: " + call(at(child)) + " outlives " + call(one));
    one.over = true;
    one.end = s.end;
    being& parent = at(one.parent);
    parent.ended.push_back(one.who);
    parent.asked_before[one.who] = parent.asked;
  }

  // ---- Stops ----

  void stop(being& one, const step& s) {
    need(!one.over, "R4: a stop reaches " + call(one) + ", which is over");
    need(!one.stopped, "R4: " + call(one) + " is stopped twice");
    one.stopped = true;
    one.stopped_at = s.now;
    stops_are_new_ = true;
    if (one.luck == being::in_line) leave(one);
    if (one.parent == 0 && !executor_stopped_) {
      executor_stopped_ = true;
      need(executor_asked_, "R4: the executor stops, and nobody asked it to");
      for (auto& [who, other] : beings_)
        if (other.luck == being::in_line && !other.over) leave(other);
    }
  }

  void leave(being& one) {
    auto const drop = [&](std::deque<name>& line) {
      line.erase(std::find(line.begin(), line.end(), one.who));
    };
    switch (one.what) {
      case verb::lock:
        drop(lock_line_[one.thing]);
        break;
      case verb::acquire:
        drop(permit_line_[one.thing]);
        break;
      case verb::wait:
        drop(event_line_[one.thing]);
        break;
      case verb::send:
        drop(lines_[one.thing].senders);
        break;
      default:
        drop(lines_[one.thing].receivers);
    }
    one.luck = being::refused;
    one.due = {outcome::cancelled};
  }

  [[nodiscard]] bool has_failed(const being& scope) {
    return std::any_of(scope.ended.begin(), scope.ended.end(),
                       [this](name child) { return !at(child).end.good(); });
  }
  [[nodiscard]] bool has_succeeded(const being& scope) {
    return std::any_of(scope.ended.begin(), scope.ended.end(),
                       [this](name child) { return at(child).end.good(); });
  }

  /// Why one of `parent` should be stopped by now.
  reason why(const being& one, const being& parent) {
    if (parent.who == 0) return executor_stopped_ ? reason::must : reason::no;
    if (parent.sort == being::task) return parent.stopped ? reason::must : reason::no;
    bool const outer = at(parent.parent).stopped;
    auto const either = [](bool must, bool may) {
      return must ? reason::must : may ? reason::may : reason::no;
    };
    switch (parent.what) {
      case verb::all:
        return either(outer || has_failed(parent), false);
      case verb::any:
        return either(outer || has_succeeded(parent), false);
      case verb::timeout:
        return either(outer, one.stopped_at >= parent.deadline || executor_stopped_);
      case verb::with_stop:
        return either(parent.thing >= 0 && cancelled_.count(parent.thing) != 0, false);
      case verb::group:
        return either((outer && (parent.joined || parent.thing == 1)) || parent.asked,
                      has_failed(parent) || executor_stopped_);
      case verb::for_each:
        return either(outer, has_failed(parent) || executor_stopped_);
      case verb::transform:
        return either(has_failed(parent), outer);
      default:
        return either(outer, false);
    }
  }

  /// R4, whenever a cascade of stops is over.
  void look_at_stops(bool for_good = false) {
    if (!std::exchange(stops_are_new_, false) && !for_good) return;
    for (auto& [who, one] : beings_) {
      if (one.over || one.sort == being::scope) continue;
      reason const r = why(one, at(one.parent));
      need(!one.stopped || r != reason::no, "R4: " + call(one) + " is stopped for no reason");
      bool const must = r == reason::must ||
                        (for_good && r == reason::may && at(one.parent).what != verb::timeout);
      need(one.stopped || !must, "R4: no stop reached " + call(one));
    }
  }

  // ---- Waits ----

  void begin_wait(being& one, const step& s) {
    stops_are_new_ = true;  // it may begin under a stop
    one.value = s.value;
    auto const give = [&](int value = 0) {
      one.luck = being::given;
      one.due = {outcome::value, value};
    };
    auto const queue = [&](std::deque<name>& line) {
      one.luck = being::in_line;
      line.push_back(one.who);
    };
    bool const takes = one.what == verb::lock || one.what == verb::acquire ||
                       one.what == verb::wait || one.what == verb::send || one.what == verb::recv;
    if (takes && one.under_stop) {  // it must not take anything
      one.luck = being::refused;
      one.due = {outcome::cancelled};
      return;
    }
    switch (one.what) {
      case verb::lock:
        if (holder_[one.thing] != 0) return queue(lock_line_[one.thing]);
        holder_[one.thing] = one.who;
        return give();
      case verb::acquire:
        if (free_permits_[one.thing] == 0) return queue(permit_line_[one.thing]);
        --free_permits_[one.thing];
        return give();
      case verb::wait:
        return set_[one.thing] ? give() : queue(event_line_[one.thing]);
      case verb::send: {
        int const sent = send(one.thing, s.value);
        if (sent > 0) return give();
        if (sent == 0) return queue(lines_[one.thing].senders);
        one.luck = being::refused;
        one.due = {outcome::closed};
        return;
      }
      case verb::recv: {
        auto& all = lines_[one.thing];
        if (!all.values.empty() || !all.senders.empty()) return give(receive(all));
        return all.closed ? give(-1) : queue(all.receivers);
      }
      case verb::yield:
        order_.push_back(one.who);
        return;
      case verb::sleep:
        sleepers_.push_back(one.who);
        return;
      default:
        if (one.thing != 0) keyed_[one.thing].push_back(one.who);
    }
  }

  /// Grants the wait: by R3 it continues after the tasks that were woken before.
  void wake(name who, int value = 0) {
    being& one = at(who);
    one.luck = being::given;
    one.due = {outcome::value, value};
    order_.push_back(who);
  }
  void refuse(name who, outcome::kind how) {
    at(who).luck = being::refused;
    at(who).due = {how};
    order_.push_back(who);
  }
  void hand_on(int mutex) {
    holder_[mutex] = 0;
    auto& line = lock_line_[mutex];
    if (line.empty()) return;
    holder_[mutex] = line.front();
    line.pop_front();
    wake(holder_[mutex]);
  }
  void give_permit(int semaphore) {
    auto& line = permit_line_[semaphore];
    if (line.empty()) {
      ++free_permits_[semaphore];
      return;
    }
    name const first = line.front();
    line.pop_front();
    wake(first);
  }
  /// 1: sent, 0: no room, -1: closed.
  int send(int channel, int value) {
    auto& all = lines_[channel];
    if (all.closed) return -1;
    if (!all.receivers.empty()) {
      name const first = all.receivers.front();
      all.receivers.pop_front();
      wake(first, value);
      return 1;
    }
    if (static_cast<int>(all.values.size()) == all.capacity) return 0;
    all.values.push_back(value);
    return 1;
  }
  int receive(channel_lines& all) {
    int value = 0;
    bool const kept = !all.values.empty();
    if (kept) {
      value = all.values.front();
      all.values.pop_front();
    }
    if (!all.senders.empty()) {
      name const first = all.senders.front();
      all.senders.pop_front();
      if (kept)
        all.values.push_back(at(first).value);
      else
        value = at(first).value;
      wake(first);
    }
    return value;
  }

  void end_wait(being& one, const step& s) {
    bool const cancelled = s.end.how == outcome::cancelled;
    bool const may_be_cancelled = one.stopped || executor_stopped_;
    if (auto const place = std::find(order_.begin(), order_.end(), one.who);
        place != order_.end()) {
      need(place == order_.begin(),
           "R3: " + call(one) + " goes on before " + call(at(order_.front())));
      order_.pop_front();
    }
    switch (one.what) {
      case verb::yield:
        need(s.end == outcome{} || cancelled, call(one) + " ends as no yield does");
        need(cancelled == one.stopped, "a yield is cancelled if, and only if, it is stopped");
        break;
      case verb::sleep:
        need(s.end.good() || cancelled, call(one) + " ends as no sleep does");
        need(!cancelled || may_be_cancelled, "R4: " + call(one) + " is cancelled for no reason");
        need(cancelled || !one.under_stop, "R4: it began under a stop, and slept");
        if (!cancelled) end_sleep(one, s);
        std::erase(sleepers_, one.who);
        break;
      case verb::punt:
        end_call(one, s, may_be_cancelled);
        break;
      default:
        need(one.luck == being::given || one.luck == being::refused,
             "R2: " + call(one) + " goes on, and nobody gave it what it waits for");
        need(s.end == one.due,
             "R2: " + call(one) + " ends with " + text_of(s.end) + ", not " + text_of(one.due));
    }
    end(one, s);
  }

  void end_sleep(const being& one, const step& s) {
    need(s.now >= one.deadline, "R6: " + call(one) + " ends too early");
    for (name const who : sleepers_) {
      const being& other = at(who);
      if (who == one.who || other.stopped) continue;
      bool const sooner =
          other.deadline < one.deadline || (other.deadline == one.deadline && other.who < one.who);
      // Armed before `one` can have fired.
      need(!sooner || other.began >= one.deadline || executor_stopped_,
           "R6: " + call(one) + " ends before " + call(other) + ", which is due sooner");
    }
  }

  void end_call(const being& one, const step& s, bool may_be_cancelled) {
    bool const ran = std::any_of(calls_.begin(), calls_.end(),
                                 [&](const call_record& c) { return c.who == one.who; });
    if (s.end.how == outcome::cancelled) {
      need(may_be_cancelled, "R4: " + call(one) + " is cancelled for no reason");
      return need(!ran, "R7: " + call(one) + " is cancelled, and ran");
    }
    need(ran, "R7: " + call(one) + " ends, and never ran");
    need(!one.under_stop, "R4: it began under a stop, and ran");
    need(s.end.n == one.who && (s.end.good() || s.end.how == outcome::thrown),
         call(one) + " yields what is another's: " + text_of(s.end));
  }

  void act(const step& s) {
    auto& all = lines_[s.what == verb::try_send || s.what == verb::try_recv || s.what == verb::close
                           ? s.thing
                           : 0];
    switch (s.what) {
      case verb::set:
        set_[s.thing] = true;
        for (name const who : std::exchange(event_line_[s.thing], {})) wake(who);
        break;
      case verb::reset:
        set_[s.thing] = false;
        break;
      case verb::release:
        give_permit(s.thing);
        break;
      case verb::try_send:
        need((send(s.thing, s.value) > 0) == (s.end.n == 1), "R2: try_send answers wrong");
        break;
      case verb::try_recv: {
        bool const some = !all.values.empty() || !all.senders.empty();
        need(s.end.n == (some ? receive(all) : -1), "R2: try_recv yields " + text_of(s.end));
        break;
      }
      case verb::close:
        all.closed = true;
        for (name const who : std::exchange(all.receivers, {})) wake(who, -1);
        for (name const who : std::exchange(all.senders, {})) refuse(who, outcome::closed);
        break;
      case verb::cancel:
        cancelled_[s.thing] = true;
        stops_are_new_ = true;
        break;
      case verb::halt:
        at(s.whose).asked = true;
        at(s.whose).own_failure = at(s.whose).own_failure || s.value == 1;
        stops_are_new_ = true;
        break;
      case verb::stop:
        executor_asked_ = true;
        break;
      default:
        break;
    }
  }

  // ---- Several together ----

  void end_scope(being& one, const step& s) {
    for (name const child : one.children)
      need(at(child).over, "R1: " + call(at(child)) + " outlives " + call(one));
    bool const walked = one.what == verb::for_each || one.what == verb::transform;
    bool const whole = static_cast<int>(one.children.size()) == one.count;
    need(whole || walked, call(one) + " ends, and not all of it began");
    auto const allowed = ends_of(one, whole, s);
    need(std::find(allowed.begin(), allowed.end(), simple(s.end)) != allowed.end(),
         "R5: " + call(one) + " ends with " + text_of(s.end) +
             (allowed.empty() ? "" : ", not " + text_of(allowed.front())));
    if (s.end.good()) look_at_values(one, s);
    end(one, s);
  }

  /// The value of several is looked at apart.
  static outcome simple(outcome end) { return end.good() ? outcome{} : end; }

  /// The outcomes with which `one` may end, after its children have ended.
  std::vector<outcome> ends_of(const being& one, bool whole, const step& s) {
    std::vector<outcome> allowed;
    bool const outer = at(one.parent).stopped || executor_stopped_;
    switch (one.what) {
      case verb::any:
        if (has_succeeded(one)) return {{}};
        return {at(one.ended.back()).end};
      case verb::timeout: {
        const being& child = at(one.children[0]);
        if (child.end.how != outcome::cancelled) return {simple(child.end)};
        bool const expired = s.now >= one.deadline && (child.stopped || executor_stopped_);
        if (expired) allowed.push_back({outcome::timed_out});
        if (!child.stopped || outer) allowed.push_back({outcome::cancelled});
        return allowed;
      }
      case verb::all:
      case verb::transform:
      case verb::for_each: {
        for (name const child : one.ended)
          if (!at(child).end.good()) return {at(child).end};
        if (whole) return {{}};
        if (outer) allowed.push_back({outcome::cancelled});
        return allowed;
      }
      case verb::group: {
        for (name const child : one.ended) {
          outcome const end = at(child).end;
          if (end.good()) continue;
          bool const asked = one.asked && end.how == outcome::cancelled;
          if (asked && one.asked_before.at(child)) continue;  // it was stopped: no failure
          allowed.push_back(end);
          if (!asked) return allowed;  // else it may have ended just before it was asked
        }
        allowed.push_back(one.own_failure ? outcome{outcome::thrown, -2} : outcome{});
        return allowed;
      }
      default:
        return {simple(at(one.children[0]).end)};
    }
  }

  void look_at_values(const being& one, const step& s) {
    std::vector<int> values;
    if (one.what == verb::any) {
      for (name const child : one.ended)
        if (at(child).end.good()) {
          need(at(child).place == s.n, "R5: another wins than the first to succeed");
          values.push_back(at(child).end.n);
          break;
        }
    } else if (one.what != verb::group && one.what != verb::for_each) {
      std::map<int, int> by_place;
      for (name const child : one.children) by_place[at(child).place] = at(child).end.n;
      for (auto const& [place, value] : by_place) values.push_back(value);
    }
    need(values == s.values, call(one) + " yields other values than its children");
  }

  // ---- Rest and end ----

  /// R8.
  void look_at_quiet() {
    look_at_stops(true);
    for (auto& [who, one] : beings_) {
      if (one.over || who == 0) continue;
      if (one.sort == being::wait) {
        bool const may_wait = one.luck == being::in_line || one.what == verb::sleep;
        need(may_wait, "R8: " + call(one) + " has all it needs, and does not go on");
        continue;
      }
      int living = 0;
      for (name const child : one.children) living += !at(child).over;
      bool const still_open = one.what == verb::group && !one.joined;
      need(living != 0 || still_open,
           "R8: " + call(one) + " has nothing to wait for, and does not go on");
      bool const walked = one.what == verb::for_each || one.what == verb::transform;
      need(one.sort == being::task || walked || static_cast<int>(one.children.size()) == one.count,
           "R8: a child of " + call(one) + " was never begun");
    }
  }

  void look_at_end(const step& s) {
    for (auto& [who, one] : beings_)
      need(who == 0 || one.over, "R1: run() returned before " + call(one) + " was over");
    need(s.n == 0, std::to_string(s.n) + " frames of coroutines are left");
    const being& everything = at(0);
    const being& root = at(1);
    need(s.end == root.end, "run() yields another end than its task: " + text_of(s.end));
    std::vector<outcome> expected;
    for (name const child : everything.ended)
      if (outcome const end = at(child).end; child != 1 && !end.good()) expected.push_back(end);
    // Cancelled ones are told of or not, according to when the stop was made known.
    auto const no_cancel = [](std::vector<outcome> ends) {
      std::erase_if(ends, [](outcome o) { return o.how == outcome::cancelled; });
      return ends;
    };
    need(no_cancel(expected) == no_cancel(unhandled_),
         "the executor was told of other failures than there were");
    for (auto const& [key, line] : keyed_) look_at_key(line);
  }

  /// R7.
  void look_at_key(const std::vector<name>& line) {
    int last = 0;
    for (name const who : line)
      for (const call_record& c : calls_) {
        if (c.who != who) continue;
        need(c.began > last, "R7: a call of a key begins before the one before has ended");
        last = c.ended;
      }
  }

  std::map<name, being> beings_;
  bool stops_are_new_ = false;
  bool executor_asked_ = false;
  bool executor_stopped_ = false;
  std::map<int, bool> cancelled_;
  std::map<int, name> holder_;
  std::map<int, int> free_permits_;
  std::map<int, bool> set_;
  std::map<int, std::deque<name>> lock_line_, permit_line_, event_line_;
  channel_lines lines_[channels];
  std::deque<name> order_;
  std::vector<name> sleepers_;
  std::map<int, std::vector<name>> keyed_;
  std::vector<outcome> unhandled_;
  std::deque<call_record> calls_;
};

/// Those up to the `i`th.
[[nodiscard]] inline std::string last_steps(const history& log, std::size_t i) {
  std::string text;
  for (std::size_t n = i < 40 ? 0 : i - 40; n <= i; ++n)
    text.append(n == i ? "  > " : "    ").append(text_of(log[n])).append("\n");
  return text;
}

/// The fault of `log`; empty if it has none.
[[nodiscard]] inline std::string judge(const history& log, std::deque<call_record> calls) {
  reference model{std::move(calls)};
  for (std::size_t i = 0; i < log.size(); ++i) try {
      model.take(log[i]);
    } catch (const wrong& what) {
      return std::string{what.what()}.append("\n").append(last_steps(log, i));
    }
  return {};
}

}  // namespace iowq_random
