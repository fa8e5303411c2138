// SPDX-License-Identifier: BSL-1.0
#include <iowq/op/allocate.hpp>  // first and alone

#include <fcntl.h>
#include <sys/stat.h>

#include <atomic>
#include <cstddef>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>
#include <iowq/exec/punt.hpp>
#include <iowq/op/file.hpp>
#include <iowq/op/open.hpp>

#include "jobs.hpp"
#include "leak_check.hpp"
#include "manual.hpp"
#include "waiting.hpp"
#include "ways.hpp"

namespace {
using iowq::task;
using iowq_test::way;
constexpr int new_file = O_RDWR | O_CREAT | O_TRUNC;

off_t size_of(int file) {
  struct ::stat now;
  return ::fstat(file, &now) == 0 ? now.st_size : -1;
}
}  // namespace

TEST_SUITE("op/allocate") {
  TEST_CASE("fallocate and ftruncate do what fallocate(2) and ftruncate(2) do") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::scratch dir;
      auto const body = [](way w, iowq_test::scratch& in) -> task<> {
        iowq::fd file = co_await iowq::open(in / "file", new_file);
        co_await as(w, iowq::fallocate(file, 0, 0, 10'000));
        CHECK(size_of(file.get()) == 10'000);
        co_await as(w, iowq::fallocate(file, FALLOC_FL_KEEP_SIZE, 0, 50'000));
        CHECK(size_of(file.get()) == 10'000);
        co_await as(w, iowq::ftruncate(file, 17));
        CHECK(size_of(file.get()) == 17);
        co_await as(w, iowq::ftruncate(file, 5'000'000'000));
        CHECK(size_of(file.get()) == 5'000'000'000);
        auto negative = co_await as_result(as(w, iowq::ftruncate(file, -1)));
        CHECK(negative.error() == std::errc::invalid_argument);
        auto nothing = co_await as_result(as(w, iowq::fallocate(file, 0, 0, 0)));
        CHECK(nothing.error() == std::errc::invalid_argument);
        iowq::fd readable = co_await iowq::open(in / "file", O_RDONLY);
        auto refused = co_await as_result(as(w, iowq::fallocate(readable, 0, 0, 1)));
        CHECK(refused.error() == std::errc::bad_file_descriptor);
      };
      iowq::run(body(go, dir));
    }
  }

  TEST_CASE("wq-37: fallocate and ftruncate never overlap buffered writes to the same inode") {
    // Goal: see one of them run while the file's key is busy, or out of order. Method: keep the
    // key busy by an item of ours, through another descriptor; then let all go at once.
    iowq_test::scratch dir;
    auto const body = [](iowq_test::scratch& in) -> task<> {
      for (int round = 0; round < 50; ++round) {
        iowq::fd file = co_await iowq::open(in / "file", new_file);
        iowq::fd again = co_await iowq::open(in / "file", O_WRONLY);
        std::atomic<int> ended{0};
        iowq_test::gate inside, hold;
        auto keep = [&] {
          inside.open();
          (void)hold.wait();
        };
        std::uint64_t const key = iowq::detail::note_of(file.get()).key();
        auto keeper = [](auto& call, std::uint64_t of) -> task<> {
          co_await iowq::punt(call, {.key = of});
        };
        auto writes = [](iowq::fd& to, std::atomic<int>& count) -> task<> {
          CHECK(co_await iowq::pwrite(to, "0123456789", 0) == 10);
          CHECK(++count == 1);
        };
        auto cuts = [](iowq::fd& to, std::atomic<int>& count) -> task<> {
          co_await iowq::ftruncate(to, 4);
          CHECK(++count == 2);
        };
        auto makes_room = [](iowq::fd& to, std::atomic<int>& count) -> task<> {
          co_await iowq::fallocate(to, 0, 0, 7);
          CHECK(++count == 3);
        };
        auto& here = iowq::executor::current();
        here.spawn(keeper(keep, key));
        here.spawn(writes(file, ended));
        here.spawn(cuts(again, ended));
        here.spawn(makes_room(file, ended));
        // Others may run on the pool all the while; these four may not.
        while (here.stats().pool.bound.queued < 3) co_await iowq::punt([] {});
        CHECK(inside.wait());
        CHECK(ended == 0);
        hold.open();
        co_await iowq_test::until([&] { return ended == 3; });
        CHECK(size_of(file.get()) == 7);
        std::string text(7, '?');
        CHECK(co_await iowq::pread(file, text, 0) == 7);
        CHECK(text == std::string{"0123\0\0\0", 7});
      }
    };
    iowq::run(body(dir));
  }
}
