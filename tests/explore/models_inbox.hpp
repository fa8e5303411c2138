// SPDX-License-Identifier: BSL-1.0
// queue/inbox.hpp: producers post, the consumer drains and parks.
#pragma once

#include <iowq/queue/inbox.hpp>

#include "model.hpp"

namespace explore {

struct letter {
  letter* next = nullptr;
  var<int> text;
};
using inbox = iowq::detail::inbox<&letter::next, policy>;

/// A consumer that sleeps on a futex while it is parked, as a loop does in the kernel.
struct consumer {
  inbox box;
  atomic<std::uint32_t> bell{0};

  void post(letter& one, int text) {
    one.text.set(text);
    if (box.post(one)) ring();
  }
  void ring() {
    bell.store(1, std::memory_order_relaxed);
    policy::futex_wake(bell, 1);
  }
  /// Drains until `count` letters have come; sleeps in between. Their texts, in order, as digits.
  int take(int count) {
    int texts = 0;
    while (count > 0) {
      letter* next = box.drain();
      if (next == nullptr && box.park()) {
        while (bell.load(std::memory_order_relaxed) == 0)
          (void)policy::futex_wait(bell, 0, iowq::detail::never);
        bell.store(0, std::memory_order_relaxed);
        continue;
      }
      for (; next != nullptr; --count) {
        letter& now = *std::exchange(next, next->next);
        texts = texts * 10 + now.text.get();
        now.text.set(0);  // it is ours now
      }
    }
    return texts;
  }
};

EXPLORE_MODEL(inbox, post_against_park, "a post is drained, or wakes the consumer that parked") {
  consumer owner;
  letter one;
  thread producer{"producer", [&] { owner.post(one, 1); }};
  check(owner.take(1) == 1, "the letter is not what was posted");
}

EXPLORE_MODEL(inbox, two_producers, "of two producers nothing is lost, and both are published") {
  consumer owner;
  letter one, two;
  thread first{"first", [&] { owner.post(one, 1); }};
  thread second{"second", [&] { owner.post(two, 2); }};
  int const texts = owner.take(2);
  check(texts == 12 || texts == 21, "the letters are not what was posted");
}

EXPLORE_MODEL(inbox, fifo, "one producer's letters come in the order of its posts") {
  consumer owner;
  letter one, two, three;
  thread producer{"producer", [&] {
                    owner.post(one, 1);
                    owner.post(two, 2);
                    owner.post(three, 3);
                  }};
  check(owner.take(3) == 123, "the order is not that of the posts");
}

EXPLORE_MODEL(inbox, chain_post,
              "a chain arrives as one, in order, between the letters of others") {
  consumer owner;
  letter one, two, three;
  thread first{"first", [&] {
                 one.text.set(1);
                 two.text.set(2);
                 two.next = &one;
                 if (owner.box.post(two, one)) owner.ring();
               }};
  thread second{"second", [&] { owner.post(three, 3); }};
  int const texts = owner.take(3);
  check(texts == 123 || texts == 312, "the chain was broken");
}

EXPLORE_MODEL(inbox, one_wake, "of the posts that meet a parked consumer exactly one owes a wake") {
  inbox box;
  letter one, two;
  atomic<int> owed{0};
  check(box.park(), "an empty inbox can be parked");
  {
    auto post = [&](letter& which) {
      if (box.post(which)) owed.fetch_add(1, std::memory_order_relaxed);
    };
    thread first{"first", [&] { post(one); }};
    thread second{"second", [&] { post(two); }};
  }
  check(owed.load(std::memory_order_relaxed) == 1, "one wake is owed");
  check(box.drain() != nullptr, "the letters are there");
}

EXPLORE_MODEL(inbox, posted_again, "a letter that was drained may be posted again at once") {
  consumer owner;
  letter one, two;
  gate back;
  thread producer{"producer", [&] {
                    owner.post(one, 1);
                    back.wait();
                    owner.post(one, 3);
                  }};
  thread other{"other", [&] { owner.post(two, 2); }};
  int texts = owner.take(1);
  if (texts < 10 && texts == 2) texts = texts * 10 + owner.take(1);
  back.open();
  int const left = texts < 10 ? 2 : 1;
  texts = texts * (left == 2 ? 100 : 10) + owner.take(left);
  check(texts == 123 || texts == 132 || texts == 213, "the letters are not what was posted");
}

}  // namespace explore
