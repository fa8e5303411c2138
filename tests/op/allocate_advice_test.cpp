// SPDX-License-Identifier: BSL-1.0
#include <iowq/op/allocate.hpp>  // first and alone

#include <string>

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/op/file.hpp>
#include <iowq/op/open.hpp>

#include "leak_check.hpp"
#include "ways.hpp"

namespace {
using iowq::task;
using iowq_test::way;
constexpr int new_file = O_RDWR | O_CREAT | O_TRUNC;
constexpr unsigned write_and_wait =
    SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
}  // namespace

TEST_SUITE("op/allocate_advice") {
  TEST_CASE("sync_file_range takes and refuses what sync_file_range(2) does") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::scratch dir;
      auto const body = [](way w, iowq_test::scratch& in) -> task<> {
        iowq::fd file = co_await iowq::open(in / "file", new_file);
        co_await iowq::write_all(file, std::string(100'000, 'x'));
        co_await as(w, iowq::sync_file_range(file, 0, 50'000, write_and_wait));
        co_await as(w, iowq::sync_file_range(file, 4096, 0, SYNC_FILE_RANGE_WRITE));
        co_await as(w, iowq::sync_file_range(file, 0, 5'000'000'000, write_and_wait));
        auto const before = co_await iowq::as_result(as(w, iowq::sync_file_range(file, -1, 1, 0)));
        CHECK(before.error() == std::errc::invalid_argument);
        auto const flags = co_await iowq::as_result(as(w, iowq::sync_file_range(file, 0, 1, 64)));
        CHECK(flags.error() == std::errc::invalid_argument);
        iowq_test::pipe_pair pipe;
        auto const kind = co_await iowq::as_result(
            as(w, iowq::sync_file_range(pipe.in, 0, 1, SYNC_FILE_RANGE_WRITE)));
        CHECK(kind.error() == std::errc::invalid_seek);
      };
      iowq::run(body(go, dir));
    }
  }

  TEST_CASE("fadvise takes and refuses what posix_fadvise(2) does, and sets flags inline") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::scratch dir;
      auto const body = [](way w, iowq_test::scratch& in) -> task<> {
        iowq::fd file = co_await iowq::open(in / "file", new_file);
        co_await iowq::write_all(file, std::string(100'000, 'x'));
        for (int const advice : {POSIX_FADV_NORMAL, POSIX_FADV_RANDOM, POSIX_FADV_SEQUENTIAL,
                                 POSIX_FADV_WILLNEED, POSIX_FADV_DONTNEED, POSIX_FADV_NOREUSE}) {
          CAPTURE(advice);
          co_await as(w, iowq::fadvise(file, 0, 0, advice));
          co_await as(w, iowq::fadvise(file, 4096, 5'000'000'000, advice));
        }
        auto const what = co_await iowq::as_result(as(w, iowq::fadvise(file, 0, 0, 1000)));
        CHECK(what.error() == std::errc::invalid_argument);
        auto const less =
            co_await iowq::as_result(as(w, iowq::fadvise(file, 0, -1, POSIX_FADV_NORMAL)));
        CHECK(less.error() == std::errc::invalid_argument);
        iowq_test::pipe_pair pipe;
        auto const kind =
            co_await iowq::as_result(as(w, iowq::fadvise(pipe.in, 0, 0, POSIX_FADV_WILLNEED)));
        CHECK(kind.error() == std::errc::invalid_seek);
        if (w == way::usual) {
          auto const before = iowq::executor::current().stats().inline_ops;
          co_await iowq::fadvise(file, 0, 0, POSIX_FADV_RANDOM);
          CHECK(iowq::executor::current().stats().inline_ops == before + 1);
        }
      };
      iowq::run(body(go, dir));
    }
  }
}
