// SPDX-License-Identifier: BSL-1.0
// One execution of a model: its fibers, of which one runs at a time, and the points where the
// search may switch between them.
//
// A *turn* comes before every operation whose effect another fiber could see: taking a mutex,
// accessing an atomic, a futex call, a wait. There the search chooses the fiber that continues.
// Between two turns a fiber uses no shared data, so that code runs as one step.
//
// No turn is needed
//   - before an unlock, a start of a thread or a signal: any action of another
//     fiber just before it can also happen just after it, at the same price;
//   - before an access to an atomic whose accesses by two fibers are always ordered by something
//     else, such as M. The search learns which atomics these are (`shared_`): the first unordered
//     access to another atomic begins the search again. If an execution with such an access
//     existed, then nothing before that access would depend on an omitted turn, so the search
//     would see it.
//
// Two executions are in the same state if their fibers read from the same writes, and the writes
// have the same order. `history` is a hash of that for each fiber, and the sum of these hashes
// identifies the state. A state that was seen with no fewer deviations left is not followed a
// second time. The policy does not show stop tokens, so the sum also includes whether the token of
// each worker is stopped.
//
// A *deviation* is an event that does not happen on a nearly idle machine: a fiber that can
// continue loses the processor, a time-out passes while a fiber can continue, a read returns an
// overwritten value, a sleeper wakes up for no reason. The search bounds their number.
#pragma once

#include <sys/mman.h>
#include <boost/context/detail/fcontext.hpp>

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <source_location>

#include <iowq/base/policy.hpp>

#include "clock.hpp"
#include "memory.hpp"

namespace explore {

using context = boost::context::detail::fcontext_t;
using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;
using where = std::source_location;

struct fiber {
  int id = 0;
  char name[16] = {};
  context at = nullptr;
  void* (*body)(void*) = nullptr;
  void* argument = nullptr;

  clock_vector clock;
  std::uint64_t history = 0;

  // It waits while *watched < wanted; for `what`, at `on`, at most until `deadline`.
  const std::uint64_t* watched = nullptr;
  std::uint64_t wanted = 0;
  const char* what = "";
  const void* on = nullptr;
  iowq::detail::time_point deadline = iowq::detail::never;
  bool spinning = false;    // it waits only until another fiber moves
  bool spurious = false;    // it was woken for no reason
  std::uint64_t woken = 0;  // its futex was
  std::uint64_t queued = 0;
  std::uint64_t ended = 0;

  iowq::detail::time_point::duration skew{};  // its own clock: a spin takes time
  void* worker = nullptr;
  unsigned cpu = 0;

  [[nodiscard]] bool ready() const noexcept { return watched == nullptr || *watched >= wanted; }
};

enum class outcome { passed, failed, cut };

/// A decision of the search, as it is remembered for an execution.
struct choice {
  std::uint8_t taken = 0;
  std::uint8_t options = 0;
  std::uint8_t left = 0;    // deviations, before it
  std::uint32_t costs = 0;  // bit n: option n is a deviation
};

/// Makes the choice of each turn.
class chooser {
 public:
  virtual ~chooser() = default;
  /// One of `options`, of which at least one costs nothing unless deviations are left.
  virtual unsigned choose(unsigned options, std::uint32_t costs, unsigned left) = 0;
  /// Whether the execution need not continue from this state.
  virtual bool known(std::uint64_t state, unsigned left) = 0;
};

struct step {
  const char* what;
  std::uint64_t value;
  unsigned place;
  int fiber;
  where at;
};

class world {
 public:
  static constexpr unsigned step_limit = 20'000;
  // A lost wake-up is often repaired by a time-out, seconds later. It remains an error: a
  // fiber that could continue only after a time-out as long as this counts as unable to continue.
  static constexpr std::chrono::milliseconds patience{500};
  static constexpr std::size_t stack_size = 128 * 1024;
  static constexpr unsigned places_limit = 1024;
  static constexpr unsigned clock_place = 0;
  static constexpr unsigned trace_length = 64;

  // ---- The search's side ----

  unsigned bound = 0;
  bool (*stop_requested)(void* worker) = nullptr;
  chooser* search = nullptr;

  outcome run(void (*model)()) {
    arena::clear();
    count_ = 0;
    steps_ = spent_ = places_ = spinning_ = 0;
    moves_ = state_ = 0;
    std::memcpy(shared_before_, shared_, sizeof shared_);
    time_ = iowq::detail::time_point{std::chrono::seconds{1000}};
    time_history_ = 1;
    clock_uses_ = {};
    traced_ = 0;
    learnt_ = false;
    message_[0] = 0;
    outcome_ = outcome::passed;
    spurious_wakes = spinners_are_free = false;
    model_ = model;
    current_ = 0;
    (void)add_fiber("main", [](void*) -> void* { return here_model(); }, nullptr);
    previous_ = nullptr;
    {
      arena::entered const in;
      (void)jump_fcontext(fibers_[0].at, nullptr);
    }
    total_steps_ += steps_;
    return outcome_;
  }
  [[nodiscard]] const char* message() const noexcept { return message_; }
  [[nodiscard]] bool learnt() const noexcept { return learnt_; }
  [[nodiscard]] std::uint64_t total_steps() const noexcept { return total_steps_ + steps_; }
  /// Takes nothing as known of the places; or that each of them takes turns.
  void forget(bool all_take_turns) noexcept {
    std::memset(shared_, all_take_turns ? 1 : 0, sizeof shared_);
  }
  /// The state in which the execution ended.
  [[nodiscard]] std::uint64_t state() const noexcept { return state_; }
  /// Calls `with` for each place that took turns from the beginning of this execution.
  template <class With>
  void each_shared(With&& with) const {
    for (unsigned i = 0; i < places_limit; ++i)
      if (shared_before_[i]) with(i);
  }
  void print_trace() const {
    unsigned const shown = traced_ < trace_length ? traced_ : trace_length;
    for (unsigned i = traced_ - shown; i != traced_; ++i) {
      const step& one = trace_[i % trace_length];
      const char* file = std::strstr(one.at.file_name(), "iowq/");
      for (const char* next = file; next != nullptr; next = std::strstr(next + 1, "iowq/"))
        file = next;
      if (file == nullptr) file = one.at.file_name();
      std::printf("  %2d %-16s %-22s", one.fiber,
                  one.fiber < count_ ? fibers_[one.fiber].name : "?", one.what);
      if (one.place != 0)
        std::printf(" #%-3u = %-18llx", one.place, static_cast<unsigned long long>(one.value));
      else
        std::printf(" %25s", "");
      std::printf(" %s:%u\n", file, one.at.line());
    }
  }

  // ---- The model's side ----

  // Options of the model. It sets them first.
  bool spurious_wakes = false;  // a futex may be woken for no reason
  // A spinning fiber has a processor of its own, so another one continues beside it without
  // a deviation. Then no spin may be endless.
  bool spinners_are_free = false;

  [[nodiscard]] fiber& me() noexcept { return fibers_[current_]; }
  [[nodiscard]] fiber& of(int id) noexcept { return fibers_[id]; }
  [[nodiscard]] int fibers() const noexcept { return count_; }

  /// Ends the execution.
  [[noreturn]] __attribute__((format(printf, 2, 3))) void fail(const char* text, ...) {
    va_list arguments;
    va_start(arguments, text);
    std::vsnprintf(message_, sizeof message_, text, arguments);
    va_end(arguments);
    leave(outcome::failed);
  }

  /// Ends the execution: all is well so far.
  [[noreturn]] void enough() { leave(outcome::passed); }

  /// The search chooses the fiber that continues. Returns when that is the calling fiber: the
  /// condition for which it waits holds, or its time-out has passed, or it was woken for no reason.
  void turn() {
    if (++steps_ > step_limit) fail("no end after %u steps: a fiber may spin", step_limit);
    int const next = choose();
    ++moves_;
    if (next != current_) switch_to(next);
  }

  /// Waits until *watched >= wanted. False: not so, see turn().
  bool wait(const std::uint64_t& watched, std::uint64_t wanted, const char* what,
            iowq::detail::time_point deadline = iowq::detail::never) {
    fiber& self = me();
    self.watched = &watched;
    self.wanted = wanted;
    self.what = what;
    self.deadline = deadline;
    turn();
    bool const so = self.ready();
    self.watched = nullptr;
    self.deadline = iowq::detail::never;
    return so;
  }

  /// Lets the other fibers move, if one can. Takes a microsecond.
  void relax() {
    fiber& self = me();
    self.skew += std::chrono::microseconds{1};
    self.spinning = true;
    ++spinning_;
    if (spinners_are_free)
      turn();
    else
      (void)wait(moves_, moves_ + 1, "a spin");
    --spinning_;
    self.spinning = false;
    happened(7);
  }

  /// The calling fiber did something that `with` tells from everything else.
  void happened(std::uint64_t with) noexcept {
    fiber& self = me();
    state_ -= mix(self.history);
    self.history = mix(self.history ^ (with * 0x9e3779b97f4a7c15u));
    state_ += mix(self.history);
  }
  /// ... and it is a step of its own.
  moment tick() noexcept { return ++me().clock.of[current_]; }

  void trace(const char* what, unsigned place, std::uint64_t value, const where& at) noexcept {
    trace_[traced_++ % trace_length] = {what, value, place, current_, at};
  }

  /// A fiber that will run `body(argument)`; it knows what we know.
  int start(void* (*body)(void*), void* argument, const char* name) {
    if (count_ == max_fibers) fail("more than %d threads in one execution", max_fibers);
    int const made = add_fiber(name, body, argument);
    fibers_[made].clock = me().clock;
    fibers_[made].cpu = me().cpu;
    fibers_[made].history = mix(me().history ^ 0x57a87);
    state_ += mix(fibers_[made].history);
    (void)tick();
    happened(11);
    return made;
  }
  void join(int id, const where& at = where::current()) {
    trace("join", 0, 0, at);
    (void)wait(fibers_[id].ended, 1, "the end of a thread");
    me().clock.join(fibers_[id].clock);
    (void)tick();
    happened(fibers_[id].history);
  }

  // Places: whatever can be touched by more than one.

  [[nodiscard]] unsigned new_place() noexcept { return ++places_; }
  [[nodiscard]] bool shared(unsigned place) const noexcept {
    return place >= places_limit || shared_[place];
  }
  /// Two fibers touched it without an order. From now on, a turn comes before each access.
  void share(unsigned place) noexcept {
    if (shared(place)) return;
    shared_[place] = true;
    learnt_ = true;
  }

  /// The clock is a place like others: it is written when a time-out passes.
  [[nodiscard]] iowq::detail::time_point now() noexcept {
    if (shared(clock_place))
      turn();
    else if (!clock_uses_.ordered(me().clock, false))
      share(clock_place);
    clock_uses_.add(current_, tick(), false);
    happened(time_history_);
    return time_ + me().skew;
  }

  /// One of several values that a load may find; 0 is the newest.
  [[nodiscard]] unsigned choose_value(unsigned options) {
    unsigned const left = bound - spent_;
    if (options < 2 || left == 0) return 0;
    return decide(options, ~1u, left);
  }

 private:
  static void* here_model();

  int add_fiber(const char* name, void* (*body)(void*), void* argument) {
    int const id = count_++;
    fiber& made = fibers_[id];
    made = fiber{};
    made.id = id;
    std::snprintf(made.name, sizeof made.name, "%s", name);
    made.body = body;
    made.argument = argument;
    made.at = make_fcontext(stack_top(id), stack_size, &world::enter);
    return id;
  }

  static void* stack_top(int id) {
    static void* stacks[max_fibers];
    if (stacks[id] == nullptr) {
      std::size_t const page = 4096;
      void* const got = ::mmap(nullptr, stack_size + page, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (got == MAP_FAILED || ::mprotect(got, page, PROT_NONE) != 0) std::abort();
      stacks[id] = static_cast<char*>(got) + page + stack_size;
    }
    return stacks[id];
  }

  static void enter(transfer_t from) noexcept;
  void body_of_fiber() {
    happened(13);
    fiber& self = me();
    (void)self.body(self.argument);
    // The thread of the model's body has ended: so has the execution.
    if (current_ == 0) leave(outcome::passed);
    (void)tick();
    self.ended = 1;
    happened(17);
    static constexpr std::uint64_t nothing = 0;
    (void)wait(nothing, 1, "nothing");
  }

  [[noreturn]] void leave(outcome how) {
    outcome_ = how;
    (void)jump_fcontext(root_, nullptr);
    std::abort();
  }

  void switch_to(int next) {
    previous_ = &me();
    current_ = next;
    transfer_t const from = jump_fcontext(fibers_[next].at, nullptr);
    previous_->at = from.fctx;
  }

  struct option {
    int fiber;
    bool time_out;
    bool spurious;
  };

  int choose() {
    fiber& self = me();
    bool const on = self.ready();
    unsigned const left = bound - spent_;
    std::uint64_t state = state_ ^ mix(self.history + 1);
    if (spinning_ > 0)
      for (int i = 0; i < count_; ++i)
        if (fibers_[i].spinning && fibers_[i].ready()) state += mix(fibers_[i].history + 2);
    for (int i = 0; i < count_; ++i)
      if (fibers_[i].worker != nullptr && stop_requested(fibers_[i].worker))
        state += mix(fibers_[i].history + 3);
    if (search->known(state, left)) leave(outcome::cut);
    if (on && left == 0 && !(spinning_ > 0 && spinners_are_free)) return current_;  // no choice

    option options[3 * max_fibers];
    unsigned n = 0;
    std::uint32_t costs = 0;
    auto add = [&](option one, bool deviates) {
      if (n == 32) return;
      if (deviates) costs |= 1u << n;
      options[n++] = one;
    };
    if (on) add({current_, false, false}, false);
    for (int k = 1; k < count_; ++k) {
      fiber const& other = fibers_[(current_ + k) % count_];
      bool const free = !on || (spinners_are_free && (self.spinning || other.spinning));
      if (other.ready() && (left > 0 || free)) add({other.id, false, false}, !free);
    }
    if (n == 0 && spinning_ > 0)  // only spinning fibers can move, and they find nothing new
      for (int i = 0; i < count_; ++i)
        if (fibers_[i].spinning) add({i, false, false}, false);
    int soonest = -1;
    if (n == 0) {
      for (int i = 0; i < count_; ++i)
        if (fibers_[i].deadline != iowq::detail::never &&
            (soonest < 0 || fibers_[i].deadline < fibers_[soonest].deadline))
          soonest = i;
      if (soonest < 0) stuck("for ever");
      if (fibers_[soonest].deadline - time_ > patience) stuck("before a long time-out");
      add({soonest, true, false}, false);
    }
    if (left > 0)
      for (int i = 0; i < count_; ++i) {
        fiber const& other = fibers_[i];
        if (other.ready() || i == soonest) continue;
        if (other.deadline != iowq::detail::never) add({i, true, false}, true);
        if (spurious_wakes && other.queued != 0) add({i, false, true}, true);
      }
    option const chosen = options[n == 1 ? 0 : decide(n, costs, left)];
    fiber& lucky = fibers_[chosen.fiber];
    if (chosen.time_out) {
      if (lucky.deadline > time_) time_ = lucky.deadline;
      time_history_ = mix(time_history_ ^ lucky.history);
      if (!clock_uses_.ordered(lucky.clock, true)) share(clock_place);
      clock_uses_.add(lucky.id, ++lucky.clock.of[lucky.id], true);
    }
    lucky.spurious = chosen.spurious;
    return chosen.fiber;
  }

  unsigned decide(unsigned options, std::uint32_t costs, unsigned left) {
    unsigned const taken = search->choose(options, costs, left);
    spent_ += costs >> taken & 1;
    return taken;
  }

  [[noreturn]] void stuck(const char* how_long) {
    char list[400];
    std::size_t used = 0;
    list[0] = 0;
    for (int i = 0; i < count_; ++i) {
      if (fibers_[i].ended != 0 || used >= sizeof list) continue;
      int const more = std::snprintf(list + used, sizeof list - used, "%s%s/%d waits for %s",
                                     used == 0 ? "" : ", ", fibers_[i].name, i, fibers_[i].what);
      used += static_cast<std::size_t>(more);
    }
    fail("no fiber can continue, %s: %s", how_long, list);
  }

  // State of this execution.
  fiber fibers_[max_fibers];
  int count_ = 0;
  int current_ = 0;
  fiber* previous_ = nullptr;
  context root_ = nullptr;
  void (*model_)() = nullptr;
  unsigned steps_ = 0;
  std::uint64_t moves_ = 0;
  unsigned spent_ = 0;
  unsigned places_ = 0;
  unsigned spinning_ = 0;
  std::uint64_t state_ = 0;
  iowq::detail::time_point time_{};
  std::uint64_t time_history_ = 0;
  accesses clock_uses_;
  outcome outcome_ = outcome::passed;
  char message_[512] = {};

  // State of all executions.
  bool shared_[places_limit] = {};
  bool shared_before_[places_limit] = {};
  bool learnt_ = false;
  std::uint64_t total_steps_ = 0;
  step trace_[trace_length] = {};
  unsigned traced_ = 0;
};

inline world here;

inline void* world::here_model() {
  here.model_();
  return nullptr;
}

inline void world::enter(transfer_t from) noexcept {
  if (here.previous_ == nullptr)
    here.root_ = from.fctx;
  else
    here.previous_->at = from.fctx;
  here.body_of_fiber();
}

}  // namespace explore
