// SPDX-License-Identifier: BSL-1.0
#include <iowq/op/open.hpp>  // first and alone

#include <string>

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/op/file.hpp>

#include "leak_check.hpp"
#include "ways.hpp"

namespace {
using iowq::task;
using iowq_test::way;

bool closes_on_exec(const iowq::fd& file) {
  return (::fcntl(file.get(), F_GETFD) & FD_CLOEXEC) != 0;
}
}  // namespace

TEST_SUITE("op/descriptor") {
  TEST_CASE("a pipe has two ends, with the flags asked for and close-on-exec") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      auto const body = [](way w) -> task<> {
        auto [in, out] = co_await as(w, iowq::pipe());
        CHECK(closes_on_exec(in));
        CHECK(closes_on_exec(out));
        CHECK(::fcntl(in.get(), F_GETFL) == O_RDONLY);
        CHECK(::fcntl(out.get(), F_GETFL) == O_WRONLY);
        CHECK(co_await iowq::write(out, "abc") == 3);
        std::string text(3, '?');
        CHECK(co_await iowq::read(in, text) == 3);
        CHECK(text == "abc");
        auto const hasty = co_await as(w, iowq::pipe(O_NONBLOCK));
        CHECK((::fcntl(hasty.second.get(), F_GETFL) & O_NONBLOCK) != 0);
        auto const odd = co_await iowq::as_result(as(w, iowq::pipe(O_APPEND)));
        CHECK(odd.error() == std::errc::invalid_argument);
      };
      iowq::run(body(go));
    }
  }

  TEST_CASE("dup names the same open file, close-on-exec") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      auto const body = [](way w) -> task<> {
        iowq_test::pipe_pair pipe;
        iowq::fd again = co_await as(w, iowq::dup(pipe.out));
        CHECK(again.get() != pipe.out.get());
        CHECK(closes_on_exec(again));
        pipe.out.reset();
        CHECK(co_await iowq::write(again, "x") == 1);
        char byte = 0;
        CHECK(co_await iowq::read(pipe.in, iowq::mutable_bytes{&byte, 1}) == 1);
        CHECK(byte == 'x');
        auto const bad = co_await iowq::as_result(as(w, iowq::dup(1'000'000)));
        CHECK(bad.error() == std::errc::bad_file_descriptor);
      };
      iowq::run(body(go));
    }
  }
}
