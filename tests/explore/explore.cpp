// SPDX-License-Identifier: BSL-1.0
// The schedule explorer. See README.md beside this.
//
//     explore [--model NAME | --group GROUP] [--bound N] [--more N] [--random N] [--seed N]
//     explore [--model NAME | --group GROUP] [--bound N] --verify
//     explore --model NAME --replay 2:17=1,40=2
//     explore --list
//     explore --groups GROUP...     whether these are all there are
namespace explore {
[[noreturn]] void belief_failed(const char* belief, const char* message, const char* file,
                                int line);
}
#define IOWQ_ASSERT(condition, ...)   \
  (__builtin_expect(!!(condition), 1) \
       ? static_cast<void>(0)         \
       : ::explore::belief_failed(#condition, "" __VA_ARGS__, __FILE__, __LINE__))

#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <set>
#include <string>

#include "memory.hpp"
#include "models_inbox.hpp"
#include "models_items.hpp"
#include "models_self.hpp"
#include "models_stop.hpp"
#include "models_workers.hpp"
#include "search.hpp"
#include "world.hpp"

// ---- The model's memory; see memory.hpp. malloc and its kin are wrapped by the linker ----

extern "C" {
void* __real_malloc(std::size_t);
void* __real_calloc(std::size_t, std::size_t);
void __real_free(void*);

void* __wrap_malloc(std::size_t size) {
  return explore::arena::inside() ? explore::arena::take(size, 16) : __real_malloc(size);
}
void* __wrap_calloc(std::size_t count, std::size_t size) {
  if (!explore::arena::inside()) return __real_calloc(count, size);
  void* const got = explore::arena::take(count * size, 16);
  return got != nullptr ? std::memset(got, 0, count * size) : nullptr;
}
void __wrap_free(void* block) {
  if (block == nullptr || !explore::arena::owns(block)) return __real_free(block);
  if (!explore::arena::give(block)) explore::here.fail("memory is freed twice");
}
}

static void* allocate(std::size_t size, std::size_t alignment) {
  void* const got =
      explore::arena::inside()
          ? explore::arena::take(size, alignment)
          : std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  if (got == nullptr) std::abort();
  return got;
}
void* operator new(std::size_t size) { return allocate(size, 16); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return allocate(size, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return allocate(size, 16); }
void operator delete(void* block) noexcept { __wrap_free(block); }
void operator delete(void* block, std::size_t) noexcept { __wrap_free(block); }
void operator delete(void* block, std::align_val_t) noexcept { __wrap_free(block); }
void operator delete(void* block, std::size_t, std::align_val_t) noexcept { __wrap_free(block); }

namespace explore {

[[noreturn]] void belief_failed(const char* belief, const char* message, const char* file,
                                int line) {
  const char* const name = std::strrchr(file, '/');
  here.fail("%s (%s is false, %s:%d)", *message != 0 ? message : "a belief of the library", belief,
            name != nullptr ? name + 1 : file, line);
}

namespace {

struct settings {
  const char* model = nullptr;
  const char* group = nullptr;
  const char* replay = nullptr;
  unsigned bound = 2;            // all executions up to that
  std::uint64_t more = 100'000;  // so many with one deviation more
  bool verify = false;
  std::uint64_t walks = 2000;  // at random
  std::uint64_t seed = 1;
};

const model* running = nullptr;
void (*running_body)() = nullptr;
std::string (*name_of_execution)() = nullptr;

depth_first the_search;
random_walk the_walk;

std::string searched() { return the_search.taken.name(here.bound); }
std::string walked() { return the_walk.taken.name(here.bound); }

bool is_stopped(void* record) {
  return static_cast<iowq::detail::worker<policy>*>(record)->stop->get_token().stop_requested();
}

/// Around every model: what may not be left behind.
void whole_model() {
  the_machine = {};
  for (descriptor& each : the_descriptors) each = {};
  running_body();
  for (int i = 1; i < here.fibers(); ++i)
    check(here.of(i).ended != 0, "a thread outlives the model");
  for (descriptor const& each : the_descriptors) check(!each.open, "an eventfd was not closed");
  check(arena::live() == 0, "memory was not freed");
}

void report(const char* message, const std::string& name) {
  std::printf("%s.%s: %s\n", running->group, running->name, message);
  std::printf("  must hold: %s\n  again:     explore --model %s.%s --replay %s\n", running->holds,
              running->group, running->name, name.c_str());
  std::printf("  the last steps:\n");
  here.print_trace();
  std::fflush(stdout);
}

/// A crash, or a loop that takes no turns, is a failure of the model like any other.
void on_signal(int number) {
  report(number == SIGPROF ? "a loop without an end" : ::strsignal(number), name_of_execution());
  std::_Exit(1);
}
std::uint64_t steps_at_last_look = 0;
void on_time(int number) {
  std::uint64_t const steps = here.total_steps();
  if (steps == steps_at_last_look && arena::inside()) on_signal(number);
  steps_at_last_look = steps;
}

void watch_out() {
  static char stack[1 << 16];
  stack_t alternative{};
  alternative.ss_sp = stack;
  alternative.ss_size = sizeof stack;
  ::sigaltstack(&alternative, nullptr);
  struct sigaction action{};
  action.sa_flags = SA_ONSTACK;
  action.sa_handler = on_signal;
  for (int const number : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT})
    ::sigaction(number, &action, nullptr);
  // What the library says to people is not for anybody here.
  if (std::freopen("/dev/null", "w", stderr) == nullptr) std::abort();
  action.sa_handler = on_time;
  ::sigaction(SIGPROF, &action, nullptr);
  itimerval const often{{1, 0}, {1, 0}};
  ::setitimer(ITIMER_PROF, &often, nullptr);
}

/// Looks at a model; true if all is as it should be.
bool explore_model(const model& one, const settings& wanted) {
  running = &one;
  running_body = one.run;
  here.forget(false);
  auto const began = std::chrono::steady_clock::now();
  std::uint64_t schedules = 0;
  std::size_t most_states = 0;
  std::string failed;

  auto walk = [&](std::uint64_t count, std::uint64_t seed) {
    name_of_execution = &walked;
    here.search = &the_walk;
    here.bound = 255;
    for (std::uint64_t i = 0; i < count && failed.empty(); ++i) {
      the_walk.begin(seed + i);
      ++schedules;
      if (here.run(&whole_model) == outcome::failed) failed = walked();
    }
  };
  auto search = [&](unsigned bound, std::uint64_t most) {
    name_of_execution = &searched;
    here.search = &the_search;
    here.bound = bound;
    for (bool again = true; again && failed.empty();) {
      again = false;
      the_search.begin();
      do {
        if (most-- == 0) return;
        ++schedules;
        if (here.run(&whole_model) == outcome::failed) failed = searched();
        again = here.learnt();
      } while (!again && failed.empty() && the_search.next());
    }
    if (the_search.states_seen() > most_states) most_states = the_search.states_seen();
  };

  for (unsigned bound = 0; bound <= wanted.bound && failed.empty(); ++bound)
    search(bound, ~std::uint64_t{0});
  if (failed.empty() && wanted.bound < states::most_left) search(wanted.bound + 1, wanted.more);
  if (failed.empty()) walk(wanted.walks, wanted.seed);

  double const took =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  bool const right = failed.empty() != one.fails;
  if (!failed.empty() && !one.fails) report(here.message(), failed);
  std::printf("%s %s.%s: bound %u, %llu schedules, %zu states, %.2f s%s%s\n",
              right ? "ok    " : "FAILED", one.group, one.name, wanted.bound,
              static_cast<unsigned long long>(schedules), most_states, took,
              one.fails ? (right ? "; found: " : "; its mistake was not found") : "",
              one.fails && right ? here.message() : "");
  std::fflush(stdout);
  return right;
}

/// Whether the search finds, with all that it leaves out, every end that it finds without.
bool verify_model(const model& one, const settings& wanted) {
  running = &one;
  running_body = one.run;
  name_of_execution = &searched;
  here.search = &the_search;
  here.bound = wanted.bound;
  std::set<std::uint64_t> ends[2];
  std::uint64_t schedules[2] = {};
  for (int plain = 0; plain < 2; ++plain) {
    here.forget(plain == 1);
    the_search.cut_nothing(plain == 1);
    for (bool again = true; again;) {
      again = false;
      the_search.begin();
      do {
        ++schedules[plain];
        outcome const how = here.run(&whole_model);
        if (how != outcome::cut) ends[plain].insert(mix(here.state()) ^ (how == outcome::failed));
        again = here.learnt();
      } while (!again && the_search.next());
    }
  }
  the_search.cut_nothing(false);
  bool const same = ends[0] == ends[1];
  std::printf("%s %s.%s: %zu ends in %llu schedules, %zu in all %llu of bound %u\n",
              same ? "ok    " : "FAILED", one.group, one.name, ends[0].size(),
              static_cast<unsigned long long>(schedules[0]), ends[1].size(),
              static_cast<unsigned long long>(schedules[1]), wanted.bound);
  std::fflush(stdout);
  return same;
}

int replay_model(const model& one, const char* name) {
  static std::string again;
  again = name;
  running = &one;
  running_body = one.run;
  name_of_execution = [] { return again; };
  replay once{name};
  here.bound = once.bound();
  here.search = &once;
  outcome const how = here.run(&whole_model);
  report(how == outcome::failed ? here.message() : "passed", again);
  return how == outcome::failed ? 1 : 0;
}

/// Whether `count` words name the group of every model.
int check_groups(int count, char** words) {
  int missing = 0;
  for (const model* one = model::first; one != nullptr; one = one->next) {
    bool named = false;
    for (int i = 0; i < count; ++i) named |= std::strcmp(words[i], one->group) == 0;
    if (!named) std::printf("%s.%s: nobody runs this group\n", one->group, one->name);
    missing += !named;
  }
  return missing == 0 ? 0 : 1;
}

int run(int count, char** words) {
  settings wanted;
  if (count > 1 && std::strcmp(words[1], "--groups") == 0)
    return check_groups(count - 2, words + 2);
  bool list = false;
  for (int i = 1; i < count; ++i) {
    std::string const word = words[i];
    const char* const value = i + 1 < count ? words[i + 1] : "";
    if (word == "--list") {
      list = true;
      continue;
    }
    if (word == "--verify") {
      wanted.verify = true;
      continue;
    }
    if (word == "--model")
      wanted.model = value;
    else if (word == "--group")
      wanted.group = value;
    else if (word == "--replay")
      wanted.replay = value;
    else if (word == "--bound")
      wanted.bound = static_cast<unsigned>(std::atoi(value));
    else if (word == "--more")
      wanted.more = std::strtoull(value, nullptr, 10);
    else if (word == "--random")
      wanted.walks = std::strtoull(value, nullptr, 10);
    else if (word == "--seed")
      wanted.seed = std::strtoull(value, nullptr, 10);
    else {
      std::fprintf(stderr, "explore: no such option: %s\n", words[i]);
      return 2;
    }
    ++i;
  }
  if (wanted.bound > states::most_left) wanted.bound = states::most_left;
  watch_out();
  here.stop_requested = &is_stopped;
  int looked_at = 0, failures = 0;
  for (const model* one = model::first; one != nullptr; one = one->next) {
    std::string const full = std::string{one->group} + '.' + one->name;
    if (wanted.model != nullptr && full != wanted.model) continue;
    if (wanted.group != nullptr && std::strcmp(one->group, wanted.group) != 0) continue;
    ++looked_at;
    if (list)
      std::printf("%-28s %s\n", full.c_str(), one->holds);
    else if (wanted.replay != nullptr)
      return replay_model(*one, wanted.replay);
    else if (wanted.verify)
      failures += !verify_model(*one, wanted);
    else
      failures += !explore_model(*one, wanted);
  }
  if (looked_at == 0) {
    std::fprintf(stderr, "explore: no such model\n");
    return 2;
  }
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace explore

int main(int count, char** words) { return explore::run(count, words); }
