// SPDX-License-Identifier: BSL-1.0
#include <iowq/op/registered/fixed_buffers.hpp>  // first and alone

#include <algorithm>
#include <string_view>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>
#include <iowq/op/open.hpp>

#include "leak_check.hpp"
#include "ways.hpp"

namespace {
using iowq::fixed_buffers;
using iowq::task;
using iowq_test::way;
}  // namespace

TEST_SUITE("op/fixed_buffers") {
  TEST_CASE("what is written from one buffer is read into another") {
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::leak_check books;
      auto const body = [](way w) -> task<> {
        iowq_test::scratch dir;
        iowq::fd file = co_await iowq::open(dir / "file", O_RDWR | O_CREAT, 0600);
        fixed_buffers first{4, 5000}, second{2, 5000};  // the second finds the place taken
        for (fixed_buffers* table : {&first, &second}) {
          std::ranges::fill((*table)[1], std::byte{'b'});
          CHECK(co_await as(w, iowq::write_fixed(file, *table, 1, 5000, 100)) == 5000);
          CHECK(co_await as(w, iowq::read_fixed(file, *table, 0, 5000, 200)) == 4900);
          CHECK((*table)[0][4899] == std::byte{'b'});
          CHECK((*table)[0][4900] == std::byte{0});
          CHECK(co_await as(w, iowq::read_fixed(file, *table, 0, 10, 6000)) == 0);
        }
      };
      iowq::run(body(go));
    }
  }

  TEST_CASE("no such buffer, or more than it holds, is refused before anything happens") {
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      auto const body = [](way w) -> task<> {
        iowq_test::pipe_pair pipe;
        fixed_buffers two{2, 100};
        auto const submitted = iowq::executor::current().stats().submitted;
        auto const index = co_await iowq::as_result(as(w, iowq::read_fixed(pipe.in, two, 2, 1, 0)));
        CHECK(index.error() == std::errc::invalid_argument);
        auto const size =
            co_await iowq::as_result(as(w, iowq::read_fixed(pipe.in, two, 0, 101, 0)));
        CHECK(size.error() == std::errc::invalid_argument);
        auto const offset =
            co_await iowq::as_result(as(w, iowq::write_fixed(pipe.out, two, 0, 1, -2)));
        CHECK(offset.error() == std::errc::invalid_argument);
        CHECK(iowq::executor::current().stats().submitted == submitted);
      };
      iowq::run(body(go));
    }
    CHECK_THROWS_AS((fixed_buffers{0, 1}), std::system_error);
    CHECK_THROWS_AS((fixed_buffers{1, 0}), std::system_error);
  }

  TEST_CASE("a table serves one executor after another, and may go before or after it") {
    iowq_test::leak_check books;
    fixed_buffers lasting{2, 64};
    for (int round = 0; round < 3; ++round) {
      auto const body = [](fixed_buffers& table) -> task<> {
        iowq_test::scratch dir;
        iowq::fd file = co_await iowq::open(dir / "file", O_RDWR | O_CREAT, 0600);
        table[0][0] = std::byte{'x'};
        CHECK(co_await as(way::ring, iowq::write_fixed(file, table, 0, 1, 0)) == 1);
        CHECK(co_await as(way::ring, iowq::read_fixed(file, table, 1, 1, 0)) == 1);
        CHECK(table[1][0] == std::byte{'x'});
        CHECK((table.host() != nullptr) == iowq_test::on_a_ring());
      };
      iowq::run(body(lasting));
      CHECK(lasting.host() == nullptr);
      auto const brief = []() -> task<> {
        iowq_test::scratch dir;
        iowq::fd file = co_await iowq::open(dir / "file", O_RDWR | O_CREAT, 0600);
        for (int i = 0; i < 3; ++i) {
          fixed_buffers table{2, 64};
          CHECK(co_await as(way::ring, iowq::read_fixed(file, table, 1, 1, 0)) == 0);
          CHECK((table.host() != nullptr) ==
                iowq_test::on_a_ring());  // the one before has given its place back
        }
      };
      iowq::run(brief());
    }
  }
}
