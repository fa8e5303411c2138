// SPDX-License-Identifier: BSL-1.0
// Items linked behind each other by work::then().
#include <iowq/pool/pool.hpp>

#include <poll.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "jobs.hpp"
#include "leak_check.hpp"
#include "scripted_policy.hpp"
#include "small_stack.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::cancel_outcome;
using iowq_test::counter;
using iowq_test::eventually;
using iowq_test::gate;
using iowq_test::job;
using iowq_test::jobs;
using iowq_test::quiet;
using iowq_test::script;
using scripted_pool = iowq::basic_pool<iowq_test::scripted_policy>;

/// Who did what, in order.
class diary {
 public:
  void note(int who) {
    std::lock_guard lock(mutex_);
    pages_.push_back(who);
  }
  [[nodiscard]] std::vector<int> pages() {
    std::lock_guard lock(mutex_);
    return pages_;
  }

 private:
  std::mutex mutex_;
  std::vector<int> pages_;
};

/// Notes its number when it starts and its negative when it is finished.
job& noted(jobs& all, diary& book, int number, iowq::work_flags flags = {}, job::body also = {}) {
  job& made = all.add(
      [&book, number, also](const iowq::stop_token& stop) {
        book.note(number);
        if (also) also(stop);
      },
      flags);
  made.then = [&book, number](job&) { book.note(-number); };
  return made;
}
/// Whether the calling thread's manager went through a few milliseconds without a tick.
bool manager_is_parked() {
  std::string const name = "iow-mgr-" + std::to_string(iowq::detail::linux_policy::thread_id());
  auto const switches = [&] {
    long count = -1;
    for (auto const& task : std::filesystem::directory_iterator{"/proc/self/task"}) {
      std::string line;
      std::getline(std::ifstream{task.path() / "comm"}, line);
      if (line != name) continue;
      std::ifstream status{task.path() / "status"};
      while (std::getline(status, line))
        if (line.starts_with("voluntary_ctxt_switches:")) count = std::stol(line.substr(24));
    }
    return count;
  };
  long const before = switches();
  const timespec moment{0, 5'000'000};  // many times as long as the ticks of an idle pool
  ::ppoll(nullptr, 0, &moment, nullptr);
  return before >= 0 && switches() == before;
}
void link(jobs& all) {
  for (std::size_t i = 0; i + 1 < all.size(); ++i) all[i].iowq::work::then(all[i + 1]);
}
}  // namespace

TEST_SUITE("pool/link") {
  TEST_CASE("wq-48: a successor starts when its predecessor is finished, and not before") {
    // Each pair of neighbours differs in another way, so that some run inline and some do not.
    iowq::pool pool{{.max_workers = {4, 4}, .nodes = iowq::topology::of({{0}, {1}})}};
    for (int round = 0; round < 200; ++round) {
      jobs all;
      diary book;
      noted(all, book, 1);
      noted(all, book, 2);
      noted(all, book, 3, {.unbound = true});
      noted(all, book, 4, {.unbound = true, .key = 7});
      noted(all, book, 5, {.key = 7});
      noted(all, book, 6, {.node = 1});
      noted(all, book, 7, {.node = 0, .brief = true});
      link(all);
      pool.enqueue(all[0]);
      REQUIRE(all.wait_all());
      CHECK(book.pages() == std::vector<int>{1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6, 7, -7});
    }
    CHECK(eventually([&] { return quiet(pool); }));
    CHECK(pool.stats().keys == 0);
  }

  TEST_CASE("wq-49: a head that fails cancels all behind it, in order") {
    iowq::pool pool;
    jobs all;
    diary book;
    job* head = nullptr;
    head = &noted(all, book, 1, {}, [&head](const iowq::stop_token&) { head->fail(EIO); });
    for (int number = 2; number <= 5; ++number)
      noted(all, book, number, {.unbound = number % 2 == 0});
    link(all);
    pool.enqueue(*head);
    REQUIRE(all.wait_all());
    CHECK(book.pages() == std::vector<int>{1, -1, -2, -3, -4, -5});
    CHECK(head->error() == EIO);
    CHECK(head->cancellations() == 0);
    for (std::size_t i = 1; i < all.size(); ++i) {
      CHECK(all[i].cancellations() == 1);
      CHECK(all[i].error() == ECANCELED);
    }
  }

  TEST_CASE("wq-49: a queued head that is cancelled takes all behind it along, in order") {
    iowq::pool pool{{.max_workers = {1, 1}}};
    gate hold;
    job busy{[&](const iowq::stop_token&) { (void)hold.wait(); }};
    jobs all;
    diary book;
    for (int number = 1; number <= 4; ++number) noted(all, book, number);
    link(all);
    pool.enqueue(busy);
    REQUIRE(busy.wait_started());
    pool.enqueue(all[0]);
    CHECK(pool.cancel(all[0]) == cancel_outcome::dequeued);
    CHECK(book.pages() == std::vector<int>{-1, -2, -3, -4});  // before cancel() returned
    CHECK(pool.stats().cancelled == 4);
    hold.open();
    CHECK(busy.wait());
    CHECK(eventually([&] { return quiet(pool); }));
  }

  TEST_CASE("wq-49: of those that wait behind a running one, the tail can be cancelled") {
    iowq::pool pool;
    gate inside, hold;
    jobs all;
    diary book;
    noted(all, book, 1, {}, [&](const iowq::stop_token&) {
      inside.open();
      (void)hold.wait();
    });
    for (int number = 2; number <= 4; ++number) noted(all, book, number);
    link(all);
    pool.enqueue(all[0]);
    REQUIRE(inside.wait());
    CHECK(pool.cancel(all[2]) == cancel_outcome::dequeued);
    CHECK(pool.cancel(all[3]) == cancel_outcome::not_found);  // went with the one before it
    CHECK(book.pages() == std::vector<int>{1, -3, -4});
    hold.open();
    REQUIRE(all.wait_all());
    CHECK(book.pages() == std::vector<int>{1, -3, -4, -1, 2, -2});
  }

  TEST_CASE("cancel_all finds what is linked: behind queued, chained, running ones") {
    iowq::pool pool{{.max_workers = {1, 1}}};
    gate hold;
    job busy{[&](const iowq::stop_token&) { (void)hold.wait(); }, {.key = 1}};
    job behind_busy, chained{{}, {.key = 1}}, behind_chained, ready, behind_ready;
    busy.iowq::work::then(behind_busy);
    chained.iowq::work::then(behind_chained);
    ready.iowq::work::then(behind_ready);
    pool.enqueue(busy);
    REQUIRE(busy.wait_started());
    pool.enqueue(chained);
    pool.enqueue(ready);
    auto const linked = [&](const iowq::work& one) {
      return &one == &behind_busy || &one == &behind_chained || &one == &behind_ready;
    };
    CHECK(pool.cancel_all(linked) == cancel_outcome::dequeued);
    CHECK(behind_busy.cancellations() == 1);
    CHECK(behind_chained.cancellations() == 1);
    CHECK(behind_ready.cancellations() == 1);
    hold.open();
    CHECK(busy.wait());
    CHECK(chained.wait());
    CHECK(ready.wait());
    CHECK(ready.cancellations() + chained.cancellations() == 0);
  }

  TEST_CASE("wq-42: a successor about to be handed on is found, and does not run") {
    // Goal: cancel between its predecessor's end and its own insertion. Method: do it in the
    // predecessor's finished(), and demand a class of its own, so that it cannot run inline.
    iowq::pool pool;
    job head, successor{{}, {.unbound = true}}, last;
    head.iowq::work::then(successor);
    successor.iowq::work::then(last);
    cancel_outcome outcome{};
    head.then = [&](job&) { outcome = pool.cancel(successor); };
    pool.enqueue(head);
    REQUIRE(last.wait());
    CHECK(outcome == cancel_outcome::running);
    CHECK(successor.starts() == 0);
    CHECK(successor.cancellations() == 1);
    CHECK(last.cancellations() == 1);
  }

  TEST_CASE("wq-50: a hundred thousand links run, or are cancelled, on a small stack") {
    constexpr int length = 100'000;
    iowq::pool pool{{.stack_size = 64 * 1024}};
    std::atomic<int> ran{0}, order{0}, ended{0};
    struct link_work final : iowq::work {
      link_work(int n, std::atomic<int>& r, std::atomic<int>& o, std::atomic<int>& e)
          : number{n}, ran_{r}, order_{o}, ended_{e} {}
      void execute(const iowq::stop_token&) noexcept override { ++ran_; }
      void finished(bool) noexcept override {
        if (ended_++ == number) ++order_;
      }
      int number;
      std::atomic<int>&ran_, &order_, &ended_;
    };
    std::vector<std::unique_ptr<link_work>> all;
    for (int i = 0; i < length; ++i) {
      all.push_back(std::make_unique<link_work>(i, ran, order, ended));
      if (i > 0) all[static_cast<std::size_t>(i) - 1]->then(*all.back());
    }
    pool.enqueue(*all[0]);
    REQUIRE(eventually([&] { return ended == length; }));
    CHECK(ran == length);
    CHECK(order == length);

    ended = ran = order = 0;
    for (std::size_t i = 1; i < all.size(); ++i) all[i - 1]->then(*all[i]);
    struct failing final : iowq::work {
      void execute(const iowq::stop_token&) noexcept override { fail(EIO); }
      void finished(bool) noexcept override {}
    } head;
    head.then(*all[0]);
    pool.enqueue(head);
    REQUIRE(eventually([&] { return ended == length; }));
    CHECK(ran == 0);
    CHECK(order == length);
    REQUIRE(eventually([&] { return quiet(pool); }));
  }

  TEST_CASE("wq-68: two items of one key that both have a successor: each successor runs once") {
    for (iowq::work_flags const flags :
         {iowq::work_flags{}, iowq::work_flags{.unbound = true}, iowq::work_flags{.key = 1},
          iowq::work_flags{.key = 2}, iowq::work_flags{.concurrent = true}}) {
      iowq::pool pool{{.max_workers = {2, 2}}};
      gate hold;
      jobs heads, successors;
      diary book;
      for (int number = 1; number <= 4; ++number) {
        noted(heads, book, number, {.key = 1}, [&](const iowq::stop_token&) { (void)hold.wait(); });
        noted(successors, book, 10 + number, flags);
        heads[heads.size() - 1].iowq::work::then(successors[successors.size() - 1]);
      }
      heads.enqueue_all(pool);
      hold.open();
      REQUIRE(heads.wait_all());
      REQUIRE(successors.wait_all());
      pool.quiesce();
      CHECK(pool.stats().completed == 8);
      std::vector<int> const pages = book.pages();
      for (int number = 1; number <= 4; ++number) {
        CHECK(successors[static_cast<std::size_t>(number) - 1].starts() == 1);
        auto const ended = std::find(pages.begin(), pages.end(), -number);
        CHECK(std::find(ended, pages.end(), 10 + number) != pages.end());  // after its predecessor
      }
    }
  }

  TEST_CASE("wq-69: a key's next item runs while its worker is blocked in a successor") {
    // The successor ends only when the next item of the key has run. The manager is parked when
    // the key is given up, so it has to be called.
    for (bool const other_class : {false, true}) {
      CAPTURE(other_class);
      iowq::pool pool{{.max_workers = {2, 2}}};
      gate queued, next_ran;
      job head{[&](const iowq::stop_token&) { (void)queued.wait(); }, {.key = 7}};
      bool in_time = false;
      job successor{[&](const iowq::stop_token&) { in_time = next_ran.wait_at_most(10s); },
                    {.unbound = other_class}};
      job next{[&](const iowq::stop_token&) { next_ran.open(); }, {.key = 7}};
      head.iowq::work::then(successor);
      pool.enqueue(head);
      REQUIRE(head.wait_started());
      pool.enqueue(next);
      REQUIRE(iowq_test::within(10, manager_is_parked));
      queued.open();
      REQUIRE(next.wait());
      REQUIRE(successor.wait());
      CHECK(in_time);
      REQUIRE(head.wait());
    }
  }

  TEST_CASE("wq-51: an inline successor crosses neither class nor key nor the limit") {
    // The other class is full, the key is busy: whoever ran such a successor at once would show.
    iowq::pool pool{{.max_workers = {2, 1}}};
    gate hold_class, hold_key;
    job full{[&](const iowq::stop_token&) { (void)hold_class.wait(); }, {.unbound = true}};
    job holder{[&](const iowq::stop_token&) { (void)hold_key.wait(); }, {.key = 1}};
    pool.enqueue(full);
    pool.enqueue(holder);
    REQUIRE(full.wait_started());
    REQUIRE(holder.wait_started());
    job first, unbound{{}, {.unbound = true}};
    first.iowq::work::then(unbound);
    job second, keyed{{}, {.key = 1}};
    second.iowq::work::then(keyed);
    pool.enqueue(first);
    pool.enqueue(second);
    REQUIRE(first.wait());
    REQUIRE(second.wait());
    REQUIRE(eventually(
        [&] { return pool.stats().unbound.queued == 1 && pool.stats().bound.queued == 1; }));
    CHECK(unbound.starts() == 0);
    CHECK(keyed.starts() == 0);
    hold_class.open();
    CHECK(unbound.wait());
    CHECK(keyed.starts() == 0);
    hold_key.open();
    CHECK(keyed.wait());
    CHECK(full.wait());
    CHECK(holder.wait());
  }

  TEST_CASE("wq-64: the pool's end stops before the next link") {
    jobs all;
    diary book;
    gate started;
    noted(all, book, 1, {}, [&](const iowq::stop_token& stop) {
      started.open();
      CHECK(eventually([&] { return stop.stop_requested(); }));
    });
    for (int number = 2; number <= 4; ++number) noted(all, book, number, {.unbound = number == 3});
    link(all);
    {
      iowq::pool pool;
      pool.enqueue(all[0]);
      REQUIRE(started.wait());
    }
    CHECK(book.pages() == std::vector<int>{1, -2, -3, -4, -1});
  }

  TEST_CASE("wq-17: what is linked behind an item that gets no worker fails with it") {
    script script;
    script.refuse(ENOMEM, script::for_ever, 1);
    job head, successor;
    head.iowq::work::then(successor);
    scripted_pool pool;
    pool.enqueue(head);
    REQUIRE(successor.wait());
    CHECK(head.error() == ENOMEM);
    CHECK(successor.error() == ENOMEM);
    CHECK(successor.cancellations() == 1);
  }
}
