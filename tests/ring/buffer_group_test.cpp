// SPDX-License-Identifier: BSL-1.0
#include <iowq/ring/detail/buffer_group.hpp>  // first and alone

#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/base/fd.hpp>
#include <iowq/ring/detail/ring.hpp>

#include "death.hpp"
#include "leak_check.hpp"

namespace {
using iowq::detail::buffer_group;

/// Receives one datagram into a buffer of the kernel's choice: its id, or -errno.
struct receive : iowq::detail::cqe_handler {
  receive() noexcept : cqe_handler{&take} {}
  static void take(cqe_handler* self, int r, std::uint32_t flags) noexcept {
    auto& me = *static_cast<receive*>(self);
    me.res = r;
    me.id = static_cast<std::uint16_t>(flags >> IORING_CQE_BUFFER_SHIFT);
    me.over = true;
  }
  int operator()(iowq::detail::ring& ring, int socket, const buffer_group& from) {
    io_uring_sqe* const sqe = ring.get();
    sqe->opcode = IORING_OP_RECV;
    sqe->fd = socket;
    sqe->flags = IOSQE_BUFFER_SELECT;
    sqe->buf_group = from.group();
    sqe->user_data = user_data();
    for (over = false; !over; ring.reap(1)) static_cast<void>(ring.enter(!ring.ready()));
    return res < 0 ? res : id;
  }
  int res = 0;
  std::uint16_t id = 0;
  bool over = false;
};
}  // namespace

TEST_SUITE("ring/buffer_group") {
  TEST_CASE("hazard-32: a buffer has one holder, through any number of loans and returns") {
    buffer_group all{64, 100};
    std::vector<std::uint16_t> held;
    unsigned seed = 1;
    for (int i = 0; i < 1'000'000; ++i) {
      seed = seed * 1664525U + 1013904223U;
      if (unsigned const dice = seed >> 16; (dice & 1) != 0 || held.empty()) {
        std::uint16_t const id = all.take();
        REQUIRE((id == buffer_group::none) == (held.size() == 64));
        if (id == buffer_group::none) continue;
        REQUIRE(all.data(id)[0] == std::byte{0});
        all.data(id)[0] = std::byte{1};
        held.push_back(id);
      } else {
        std::size_t const which = dice / 2 % held.size();
        all.data(held[which])[0] = std::byte{0};
        all.put_back(held[which]);
        held.erase(held.begin() + static_cast<std::ptrdiff_t>(which));
      }
      REQUIRE(all.taken() == held.size());
    }
    for (auto id : held) all.put_back(id);
  }

  TEST_CASE("hazard-32: a buffer that is given back twice stops the program") {
    auto const twice = iowq_test::death_output([] {
      buffer_group all{4, 16};
      auto const id = all.take();
      all.put_back(id);
      all.put_back(id);
    });
    CHECK(twice.signal == SIGABRT);
    CHECK(twice.says("a buffer was given back twice"));
    auto const kept = iowq_test::death_output([] {
      buffer_group all{4, 16};
      static_cast<void>(all.take());
    });
    CHECK(kept.says("freed before its buffers came back"));
  }

  TEST_CASE("the kernel takes each buffer in turn, also when its ring has wrapped around") {
    iowq_test::leak_check books;
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) == 0);
    iowq::fd const in{ends[0]}, out{ends[1]};
    iowq::detail::ring ring;
    REQUIRE(ring.open(8, 0) == 0);
    if (!ring.features().buffer_rings()) return;
    buffer_group four{4, 16}, other{2, 16};
    REQUIRE(four.offer(ring.resources()) == 0);
    REQUIRE(other.offer(ring.resources()) == 0);
    CHECK(four.group() != other.group());
    CHECK(four.take() == buffer_group::none);  // they are the kernel's
    receive one;
    std::vector<std::uint16_t> held;
    for (unsigned i = 0; i < 200'000; ++i) {  // the tail has 16 bits
      REQUIRE(::write(out.get(), &i, sizeof i) == sizeof i);
      int const id = one(ring, in.get(), four);
      REQUIRE(id >= 0);
      four.mark_taken(static_cast<std::uint16_t>(id));
      unsigned got = ~i;
      std::memcpy(&got, four.data(static_cast<std::uint16_t>(id)), sizeof got);
      REQUIRE(got == i);
      held.push_back(static_cast<std::uint16_t>(id));
      if (held.size() < i % 4 + 1) continue;
      for (; !held.empty(); held.pop_back()) four.put_back(held.back());
    }
    while (four.taken() < 4) {
      REQUIRE(::write(out.get(), "x", 1) == 1);
      held.push_back(static_cast<std::uint16_t>(one(ring, in.get(), four)));
      four.mark_taken(held.back());
    }
    REQUIRE(::write(out.get(), "x", 1) == 1);
    CHECK(one(ring, in.get(), four) == -ENOBUFS);
    for (auto id : held) four.put_back(id);
    CHECK(one(ring, in.get(), four) >= 0);
    four.mark_taken(one.id);
    four.put_back(one.id);
  }

  TEST_CASE("a group outlives its ring, and serves the next") {
    iowq_test::leak_check books;
    buffer_group all{4, 16};
    for (int round = 0; round < 3; ++round) {
      iowq::detail::ring ring;
      REQUIRE(ring.open(8, 0) == 0);
      if (!ring.features().buffer_rings()) return;
      CHECK(all.host() == nullptr);
      REQUIRE(all.offer(ring.resources()) == 0);
      CHECK(all.host() != nullptr);
      buffer_group mine{4, 16};  // and one that goes first
      REQUIRE(mine.offer(ring.resources()) == 0);
    }
    auto const id = all.take();  // without one they are its own
    CHECK(id != buffer_group::none);
    all.put_back(id);
  }
}
