// SPDX-License-Identifier: BSL-1.0
// Programs with a known mistake, each of which the search must find: the explorer, explored. And
// their corrected twins, which it must pass.
#pragma once

#include "model.hpp"

namespace explore {

EXPLORE_WRONG_MODEL(self, lost_update, "two threads add to a counter by a load and a store") {
  atomic<int> counter{0};
  auto add = [&] {
    counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  };
  {
    thread one{"one", add}, two{"two", add};
  }
  check(counter.load(std::memory_order_relaxed) == 2, "an addition is lost");
}

EXPLORE_WRONG_MODEL(self, deadly_embrace, "two threads take two mutexes in opposite order") {
  mutex a, b;
  thread one{"one", [&] {
               holder const first{a};
               holder const second{b};
             }};
  thread two{"two", [&] {
               holder const first{b};
               holder const second{a};
             }};
}

EXPLORE_WRONG_MODEL(self, lost_wake, "a sleeper looks, then sleeps, and does not say which value") {
  atomic<std::uint32_t> word{0};
  atomic<std::uint32_t> sleepers{0};
  thread sleeper{"sleeper", [&] {
                   if (word.load(std::memory_order_relaxed) == 0)
                     (void)policy::futex_wait(sleepers, 0, iowq::detail::never);
                 }};
  word.store(1, std::memory_order_relaxed);
  policy::futex_wake(sleepers, 1);
}

EXPLORE_WRONG_MODEL(self, relaxed_message, "data is published by a relaxed store") {
  var<int> data;
  atomic<bool> ready{false};
  thread reader{"reader", [&] {
                  if (ready.load(std::memory_order_acquire)) (void)data.get();
                }};
  data.set(1);
  ready.store(true, std::memory_order_relaxed);
}

EXPLORE_MODEL(self, message, "data that is published by a release is read after an acquire") {
  var<int> data;
  atomic<bool> ready{false};
  thread reader{"reader", [&] {
                  if (ready.load(std::memory_order_acquire))
                    check(data.get() == 1, "not all there");
                }};
  data.set(1);
  ready.store(true, std::memory_order_release);
}

EXPLORE_WRONG_MODEL(self, store_buffer,
                    "of two threads that write, then look, one sees the other") {
  atomic<int> x{0}, y{0};
  atomic<int> seen{0};
  auto side = [&](atomic<int>& mine, atomic<int>& yours) {
    mine.store(1, std::memory_order_release);
    seen.fetch_add(yours.load(std::memory_order_acquire), std::memory_order_relaxed);
  };
  {
    thread one{"one", [&] { side(x, y); }};
    thread two{"two", [&] { side(y, x); }};
  }
  check(seen.load(std::memory_order_relaxed) > 0, "neither saw the other");
}

EXPLORE_MODEL(self, store_buffer_in_order, "... and so it is if both are sequentially consistent") {
  atomic<int> x{0}, y{0};
  atomic<int> seen{0};
  auto side = [&](atomic<int>& mine, atomic<int>& yours) {
    mine.store(1);
    seen.fetch_add(yours.load(), std::memory_order_relaxed);
  };
  {
    thread one{"one", [&] { side(x, y); }};
    thread two{"two", [&] { side(y, x); }};
  }
  check(seen.load(std::memory_order_relaxed) > 0, "neither saw the other");
}

EXPLORE_WRONG_MODEL(self, endless, "a thread spins for what never comes") {
  atomic<bool> never_set{false};
  while (!never_set.load(std::memory_order_relaxed)) policy::relax();
}

EXPLORE_WRONG_MODEL(self, early_free, "an atomic dies while another thread may touch it") {
  auto* const word = new atomic<std::uint32_t>{0};
  thread other{"other", [&] { word->store(1, std::memory_order_relaxed); }};
  delete word;
}

EXPLORE_WRONG_MODEL(self, slow_repair, "a wake is lost, and a time-out repairs it after a second") {
  atomic<std::uint32_t> word{0};
  thread waker{"waker", [&] { word.store(1, std::memory_order_relaxed); }};
  while (word.load(std::memory_order_relaxed) == 0)
    (void)policy::futex_wait(word, 0, policy::now() + std::chrono::seconds{1});
}

EXPLORE_WRONG_MODEL(self, early_timeout, "a time-out does not pass while others work") {
  atomic<std::uint32_t> word{0};
  thread waker{"waker", [&] {
                 word.store(1, std::memory_order_relaxed);
                 policy::futex_wake(word, 1);
               }};
  bool timely = true;
  while (timely && word.load(std::memory_order_relaxed) == 0)
    timely = policy::futex_wait(word, 0, policy::now() + std::chrono::seconds{5});
  check(timely, "it did");
}

inline int* volatile lost;  // or the compiler leaves the allocation out

EXPLORE_WRONG_MODEL(self, leak, "what was allocated is given back") { lost = new int{1}; }

}  // namespace explore
