// SPDX-License-Identifier: BSL-1.0
#include <iowq/ring/detail/ring.hpp>  // first and alone

#include <signal.h>

#include <array>
#include <chrono>
#include <deque>
#include <thread>

#include <doctest/doctest.h>

#include "leak_check.hpp"

namespace {
using namespace std::chrono_literals;

struct counter : iowq::detail::cqe_handler {
  counter() noexcept : cqe_handler{&take} {}
  static void take(cqe_handler* self, int res, std::uint32_t) noexcept {
    auto& me = *static_cast<counter*>(self);
    ++me.calls;
    me.last = res;
  }
  int calls = 0;
  int last = 0;
};

template <class Ring>
bool nop(Ring& ring, counter& c) {
  io_uring_sqe* const sqe = ring.get();
  if (sqe == nullptr) return false;
  sqe->opcode = IORING_OP_NOP;
  sqe->fd = -1;
  sqe->user_data = c.user_data();
  return true;
}

/// The kernel, but enter() answers what the script says first.
struct scripted_kernel : iowq::detail::linux_kernel {
  static inline std::deque<int> script;
  static int enter(int fd, unsigned submit, unsigned wait, unsigned flags, void* argument,
                   unsigned long size) noexcept {
    if (!script.empty()) {
      int const answer = script.front();
      script.pop_front();
      if (answer < 0) return answer;
      submit = static_cast<unsigned>(answer);  // takes no more than so many
      wait = 0;
    }
    return linux_kernel::enter(fd, submit, wait, flags, argument, size);
  }
};
}  // namespace

TEST_SUITE("ring/ring") {
  TEST_CASE("every SQE comes back as one CQE, whatever the sizes; hazard-24: none overflows away") {
    iowq_test::leak_check books;
    for (unsigned const entries : {1U, 8U, 64U}) {
      CAPTURE(entries);
      iowq::detail::ring ring;
      REQUIRE(ring.open(entries, 1) == 0);
      counter c;
      int sent = 0;
      while (sent < 10'000) {  // never reaped: far beyond the CQ
        if (nop(ring, c))
          ++sent;
        else if (int const r = ring.enter(false); r == -EBUSY || r == -EAGAIN)
          ring.reap(1000);
      }
      while (c.calls < sent) {
        (void)ring.enter(ring.pending() != 0 || !ring.ready());
        ring.reap(7);
      }
      CHECK(c.calls == sent);
      CHECK(ring.stats().submitted == static_cast<std::uint64_t>(sent));
      CHECK(ring.stats().completed == static_cast<std::uint64_t>(sent));
    }
  }

  TEST_CASE("hazard-4, 26: what an enter did not take is kept for the next") {
    using ring_type = iowq::detail::basic_ring<scripted_kernel>;
    ring_type ring;
    REQUIRE(ring.open(8, 1) == 0);
    counter c;
    for (int i = 0; i < 8; ++i) REQUIRE(nop(ring, c));
    CHECK_FALSE(nop(ring, c));
    scripted_kernel::script = {-EAGAIN, -EBUSY, -ENOMEM, -EINTR, 3};
    for (int const error : {EAGAIN, EBUSY, ENOMEM, EINTR}) {
      CHECK(ring.enter(true) == -error);
      CHECK(ring.pending() == 8);
    }
    CHECK(ring.enter(true) == 0);
    CHECK(ring.pending() == 5);
    ring.reap(100);
    CHECK(c.calls == 3);
    while (c.calls < 8) {
      CHECK(ring.enter(true) == 0);
      ring.reap(100);
    }
    CHECK(c.calls == 8);
  }

  TEST_CASE("hazard-25: a signal or a stop ends a wait early, and the deadline stays") {
    iowq::detail::ring ring;
    REQUIRE(ring.open(8, 1) == 0);
    struct sigaction action{}, before{};
    action.sa_handler = [](int) {};
    ::sigaction(SIGUSR1, &action, &before);
    auto const owner = ::pthread_self();
    std::atomic<bool> over{false};
    std::thread storm{[&] {
      while (!over) {
        ::pthread_kill(owner, SIGUSR1);
        std::this_thread::yield();
      }
    }};
    auto const deadline = iowq::detail::linux_policy::now() + 30ms;
    int r = 0;
    do r = ring.enter(true, deadline);
    while (r == -EINTR);
    over = true;
    storm.join();
    ::sigaction(SIGUSR1, &before, nullptr);
    CHECK((r == -ETIME || r == 0));  // 0: the deadline had passed before it could wait again
    CHECK(iowq::detail::linux_policy::now() >= deadline);
  }

  TEST_CASE("features come from the kernel; errors of the set-up are answers") {
    iowq::detail::ring ring;
    CHECK(ring.open(0, 1) == -EINVAL);
    REQUIRE(ring.open(8, 1) == 0);
    CHECK(ring.features().has(IORING_OP_NOP));
    CHECK_FALSE(ring.features().has(250));
    CHECK_FALSE(ring.features().has(-1));
    CHECK(ring.features().has_feature(IORING_FEAT_NODROP));
  }
}
