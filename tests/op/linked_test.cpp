// SPDX-License-Identifier: BSL-1.0
#include <iowq/op/linked.hpp>  // first and alone

#include <array>
#include <chrono>
#include <string>
#include <tuple>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>
#include <iowq/op/open.hpp>
#include <iowq/op/poll.hpp>
#include <iowq/op/time.hpp>

#include "leak_check.hpp"
#include "manual.hpp"
#include "skip.hpp"
#include "waiting.hpp"
#include "ways.hpp"

namespace {
using iowq::task;
using iowq_test::way;

constexpr std::errc canceled = std::errc::operation_canceled;

std::uint64_t count_of(const char* name, std::uint64_t iowq::operation_stats::* how) {
  for (const auto& line : iowq::executor::current().stats().operations)
    if (std::string_view{line.name} == name) return line.*how;
  return 0;
}
}  // namespace

TEST_SUITE("op/linked") {
  TEST_CASE("a write and its fsync: in order and with both results, in the kernel or one by one") {
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::leak_check books;
      auto const body = [](way w) -> task<> {
        iowq_test::scratch dir;
        iowq::fd file = co_await iowq::open(dir / "log", O_RDWR | O_CREAT | O_APPEND, 0600);
        for (int i = 0; i < 50; ++i) {
          auto all = co_await iowq::linked(
              as(w, iowq::write(file, "first ")), as(w, iowq::fsync(file)),
              as(w, iowq::write(file, "second ")), as(w, iowq::fdatasync(file)));
          CHECK(std::get<0>(all).value() == 6);
          CHECK(std::get<1>(all));
          CHECK(std::get<2>(all).value() == 7);
          CHECK(std::get<3>(all));
        }
        std::string expected;
        for (int i = 0; i < 50; ++i) expected += "first second ";
        ::lseek(file.get(), 0, SEEK_SET);
        CHECK(co_await iowq::read_all(file) == expected);
        bool const in_kernel = w == way::ring && iowq_test::on_a_ring();
        CHECK(count_of("fsync", in_kernel ? &iowq::operation_stats::ring_ops
                                          : &iowq::operation_stats::punted_ops) == 100);
      };
      iowq::run(body(go));
    }
  }

  TEST_CASE("hazard-33: a failure cancels the rest, and so does a short transfer") {
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::leak_check books;
      auto const body = [](way w) -> task<> {
        iowq_test::scratch dir;
        iowq::fd file = co_await iowq::open(dir / "file", O_RDWR | O_CREAT, 0600);
        co_await iowq::write(file, "ten bytes.");
        std::array<char, 10> ten;
        std::array<char, 11> eleven;
        auto whole = co_await iowq::linked(as(w, iowq::pread(file, ten, 0)),
                                           as(w, iowq::pread(file, eleven, 0)),
                                           as(w, iowq::pread(file, ten, 0)));
        CHECK(std::get<0>(whole).value() == 10);
        CHECK(std::get<1>(whole).value() == 10);  // one less than was asked for
        CHECK(std::get<2>(whole).error() == canceled);
        auto failed =
            co_await iowq::linked(as(w, iowq::pread(file, ten, 0)), as(w, iowq::fsync(-1)),
                                  as(w, iowq::fsync(file)), as(w, iowq::pread(file, ten, 0)));
        CHECK(std::get<0>(failed).value() == 10);
        CHECK(std::get<1>(failed).error() == std::errc::bad_file_descriptor);
        CHECK(std::get<2>(failed).error() == canceled);
        CHECK(std::get<3>(failed).error() == canceled);
        auto refused = co_await iowq::linked(as(w, iowq::pread(file, ten, 0)),
                                             as(w, iowq::pread(file, ten, -5)),
                                             as(w, iowq::pread(file, ten, 0)));
        CHECK(std::get<0>(refused).value() == 10);
        CHECK(std::get<1>(refused).error() == std::errc::invalid_argument);
        CHECK(std::get<2>(refused).error() == canceled);
        std::array<::iovec, 2> parts{{{ten.data(), 6}, {eleven.data(), 6}}};
        auto vector =
            co_await iowq::linked(as(w, iowq::preadv(file, parts, 0)), as(w, iowq::fsync(file)));
        CHECK(std::get<0>(vector).value() == 10);
        CHECK(std::get<1>(vector).error() == canceled);
      };
      iowq::run(body(go));
    }
  }

  TEST_CASE("hazard-33: a short recv or send breaks a chain with MSG_WAITALL only") {
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::leak_check books;
      auto const body = [](way w) -> task<> {
        int ends[2];
        REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
        iowq::fd const here{ends[0]};
        iowq::fd there{ends[1]};
        std::array<char, 8> buffer;
        auto echo = co_await iowq::linked(
            as(w, iowq::send(there, "abc")), as(w, iowq::recv(here, buffer)),
            as(w, iowq::send(here, "defg")), as(w, iowq::recv(there, buffer)));
        CHECK(std::get<1>(echo).value() == 3);
        CHECK(std::get<3>(echo).value() == 4);
        co_await iowq::send(there, "end");
        there.reset();
        auto cut = co_await iowq::linked(as(w, iowq::recv(here, buffer, MSG_WAITALL)),
                                         as(w, iowq::recv(here, buffer)));
        CHECK(std::get<0>(cut).value() == 3);
        CHECK(std::get<1>(cut).error() == canceled);
      };
      iowq::run(body(go));
    }
  }

  TEST_CASE("hazard-33: a stop at any place ends the chain there; what was done is reported") {
    for (way go : iowq_test::all_ways)
      for (unsigned done = 0; done < 3; ++done) {
        CAPTURE(go);
        CAPTURE(done);
        iowq_test::leak_check books;
        auto const body = [](way w, unsigned n) -> task<> {
          std::array<iowq_test::pipe_pair, 3> pipes;
          std::array<std::array<char, 1>, 3> bytes;
          std::array<std::error_code, 3> errors;
          iowq::stop_source source;
          bool over = false;
          auto const waits = [&](iowq::stop_token token) -> task<> {
            co_await iowq_test::under{token};
            auto all = co_await iowq::linked(as(w, iowq::read(pipes[0].in, bytes[0])),
                                             as(w, iowq::read(pipes[1].in, bytes[1])),
                                             as(w, iowq::read(pipes[2].in, bytes[2])));
            errors = {std::get<0>(all).error(), std::get<1>(all).error(), std::get<2>(all).error()};
            over = true;
          };
          iowq::executor::current().spawn(waits(source.get_token()));
          for (unsigned i = 0; i < n; ++i) {
            co_await iowq_test::until_waiting("read");
            REQUIRE(::write(pipes[i].out.get(), "x", 1) == 1);
          }
          // When the next one waits, and also before anything has begun.
          if (n != 0) co_await iowq_test::until_waiting("read");
          source.request_stop();
          co_await iowq_test::until([&] { return over; });
          for (unsigned i = n; i < 3; ++i) CHECK(errors[i] == canceled);
          bool broken = false;
          for (unsigned i = 0; i < 3; ++i) {
            broken = broken || errors[i];
            CHECK(bool(errors[i]) == broken);  // none after one that failed
          }
        };
        iowq::run(body(go, done));
      }
  }

  TEST_CASE(
      "hazard-34: a chain is never split, and one that is larger than the ring is a chain, too") {
    for (unsigned const entries : {1U, 2U, 4U, 8U}) {
      CAPTURE(entries);
      iowq_test::leak_check books;
      auto const body = []() -> task<> {
        iowq_test::pipe_pair pipe;
        std::array<char, 6> got;
        int noisy = 3;
        auto const noise = [](int to, int& left) -> task<> {
          for (int i = 0; i < 300; ++i) static_cast<void>(co_await iowq::poll(to, POLLOUT));
          --left;
        };
        for (int i = 0; i < 3; ++i) iowq::executor::current().spawn(noise(pipe.out.get(), noisy));
        for (int i = 0; i < 200; ++i) {
          auto all = co_await iowq::linked(iowq::write(pipe.out, "ab"), iowq::write(pipe.out, "cd"),
                                           iowq::write(pipe.out, "ef"), iowq::read(pipe.in, got));
          CHECK(std::get<3>(all).value() == 6);
          CHECK(std::string_view{got.data(), 6} == "abcdef");
          if (i % 3 == 0) co_await iowq::yield();
        }
        co_await iowq_test::until([&] { return noisy == 0; });
      };
      iowq::run(body(), {.entries = entries});
    }
  }

  TEST_CASE("descriptors with O_NONBLOCK are waited for in a chain") {
    iowq_test::leak_check books;
    auto const body = []() -> task<> {
      iowq_test::pipe_pair pipe{O_CLOEXEC | O_NONBLOCK};
      std::array<char, 1> byte;
      bool over = false;
      auto const reader = [&]() -> task<> {
        auto all = co_await iowq::linked(iowq::read(pipe.in, byte), iowq::read(pipe.in, byte));
        CHECK(std::get<0>(all).value() == 1);
        CHECK(std::get<1>(all).value() == 1);
        over = true;
      };
      iowq::executor::current().spawn(reader());
      for (int i = 0; i < 2; ++i) {
        co_await iowq_test::until_waiting("read");
        REQUIRE(::write(pipe.out.get(), "x", 1) == 1);
      }
      co_await iowq_test::until([&] { return over; });
    };
    iowq::run(body());
  }

  TEST_CASE("a chain goes to the kernel as one when all of it goes there") {
    if (!iowq_test::rings_allowed()) SKIP_CASE("no ring");
    auto const body = []() -> task<> {
      iowq_test::pipe_pair pipe;
      std::array<char, 2> got;
      co_await iowq::sleep_for(std::chrono::seconds{0});  // the loop's own request is behind us
      auto const before = iowq::executor::current().stats();
      auto all = co_await iowq::linked(iowq::write(pipe.out, "ab"), iowq::read(pipe.in, got),
                                       iowq::write(pipe.out, "cd"), iowq::read(pipe.in, got));
      auto const after = iowq::executor::current().stats();
      CHECK(std::get<3>(all).value() == 2);
      CHECK(after.submitted - before.submitted == 4);
      CHECK(after.entered - before.entered <= 2);
    };
    iowq::run(body());
  }

  TEST_CASE("under punt_policy::kernel a write and its fsync are one chain of the kernel's") {
    if (!iowq_test::rings_allowed()) SKIP_CASE("no ring");
    iowq_test::leak_check books;
    auto const body = []() -> task<> {
      iowq_test::scratch dir;
      iowq::fd file = co_await iowq::open(dir / "log", O_RDWR | O_CREAT, 0600);
      auto all = co_await iowq::linked(iowq::pwrite(file, "text", 0), iowq::fsync(file));
      CHECK(std::get<0>(all).value() == 4);
      CHECK(std::get<1>(all));
      CHECK(count_of("write", &iowq::operation_stats::ring_ops) == 1);
      CHECK(count_of("fsync", &iowq::operation_stats::ring_ops) == 1);
      auto const hashed =
          co_await iowq::linked(iowq::hashed(1, iowq::pwrite(file, "more", 0)), iowq::fsync(file));
      CHECK(std::get<0>(hashed).has_value());  // a key is the pool's: one by one, then
      CHECK(count_of("write", &iowq::operation_stats::punted_ops) == 1);
    };
    iowq::run(body(), {.punt = iowq::punt_policy::kernel});
  }
}
