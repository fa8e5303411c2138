// SPDX-License-Identifier: BSL-1.0
// op/vector, and read_all of op/file.
#include <iowq/op/vector.hpp>  // first and alone

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>
#include <iowq/op/open.hpp>

#include "leak_check.hpp"
#include "manual.hpp"
#include "waiting.hpp"
#include "ways.hpp"

namespace {
using iowq::task;
using iowq_test::way;
constexpr int new_file = O_RDWR | O_CREAT | O_TRUNC;
}  // namespace

TEST_SUITE("op/vector") {
  TEST_CASE("the parts are read and written in order, as by readv(2), pwritev(2) and theirs") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::scratch dir;
      auto const body = [](way w, iowq_test::scratch& in) -> task<> {
        iowq::fd file = co_await iowq::open(in / "file", new_file);
        std::string const body_text = "world";
        CHECK(co_await as(w, iowq::writev(file, {"hello ", body_text})) == 11);
        CHECK(::lseek(file.get(), 0, SEEK_CUR) == 11);
        std::string bang = "!!";
        ::iovec const borrowed[] = {{bang.data(), 1}, {nullptr, 0}, {bang.data(), 2}};
        CHECK(co_await as(w, iowq::pwritev(file, borrowed, 11)) == 3);
        CHECK(::lseek(file.get(), 0, SEEK_CUR) == 11);

        std::array<char, 4> head{};
        std::vector<std::byte> rest(100);
        CHECK(co_await as(w, iowq::preadv(file, {head, rest}, 2)) == 12);
        CHECK(std::string_view{head.data(), 4} == "llo ");
        CHECK(rest[0] == std::byte{'w'});
        CHECK(::lseek(file.get(), 0, SEEK_SET) == 0);
        auto stored = iowq::readv(file, {head, std::span(rest).first(2)});
        CHECK(co_await as(w, std::move(stored)) == 6);
        CHECK(std::string_view{head.data(), 4} == "hell");
        CHECK(co_await as(w, iowq::preadv(file, head, 14)) == 0);
        std::vector<::iovec> const none;
        CHECK(co_await as(w, iowq::readv(file, none)) == 0);
      };
      iowq::run(body(go, dir));
    }
  }

  TEST_CASE(
      "hazard-89: offsets below 0, too many parts and bad descriptors are errors of the await") {
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      auto const body = [](way w) -> task<> {
        char byte = 0;
        iowq::mutable_bytes const one{&byte, 1};
        auto const negative = co_await iowq::as_result(as(w, iowq::preadv(0, one, -1)));
        CHECK(negative.error() == std::errc::invalid_argument);
        auto const before = co_await iowq::as_result(as(w, iowq::pwritev(0, "x", -2)));
        CHECK(before.error() == std::errc::invalid_argument);
        std::vector<::iovec> const many(IOV_MAX + 1, ::iovec{&byte, 1});
        CHECK(::readv(0, many.data(), IOV_MAX + 1) == -1);
        CHECK(errno == EINVAL);
        auto const refused = co_await iowq::as_result(as(w, iowq::readv(0, many)));
        CHECK(refused.error() == std::errc::invalid_argument);
        auto const closed = co_await iowq::as_result(as(w, iowq::writev(1'000'000, {"a", "b"})));
        CHECK(closed.error() == std::errc::bad_file_descriptor);
      };
      iowq::run(body(go));
    }
  }

  TEST_CASE("hazard-81, hazard-85: pipes are waited for, O_NONBLOCK or not, and raise no signal") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways)
      for (int const flags : {O_CLOEXEC, O_CLOEXEC | O_NONBLOCK}) {
        CAPTURE(go);
        CAPTURE(flags);
        auto const body = [](way w, int f) -> task<> {
          iowq_test::pipe_pair pipe{f};
          std::size_t arrived = 0;
          auto const reader = [](way v, int file, std::size_t& n) -> task<> {
            std::array<char, 1> one{};
            std::array<char, 4> four{};
            n = co_await as(v, iowq::readv(file, {one, four}));
            CHECK(one[0] == 'a');
            CHECK(four[1] == 'c');
          };
          iowq::executor::current().spawn(reader(w, pipe.in.get(), arrived));
          co_await iowq_test::until_waiting("readv");
          CHECK(arrived == 0);
          CHECK(co_await as(w, iowq::writev(pipe.out, {"a", "bc"})) == 3);
          co_await iowq_test::until([&] { return arrived == 3; });
          pipe.in.reset();
          auto const broken = co_await iowq::as_result(as(w, iowq::writev(pipe.out, {"a", "b"})));
          CHECK(broken.error() == std::errc::broken_pipe);
        };
        iowq::run(body(go, flags));
      }
  }

  TEST_CASE("a readv that waits is cancelled, and takes nothing") {
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      auto const body = [](way w) -> task<> {
        iowq_test::pipe_pair pipe;
        iowq::stop_source source;
        std::error_code end;
        auto const waiter = [](way v, int file, iowq::stop_token token,
                               std::error_code& e) -> task<> {
          co_await iowq_test::under{token};
          std::array<char, 4> room{};
          auto const r = co_await iowq::as_result(as(v, iowq::readv(file, room)));
          e = r.error();
        };
        iowq::executor::current().spawn(waiter(w, pipe.in.get(), source.get_token(), end));
        co_await iowq_test::until_waiting("readv");
        source.request_stop();
        co_await iowq_test::until([&] { return end.value() != 0; });
        CHECK(end == std::errc::operation_canceled);
        CHECK(co_await iowq::writev(pipe.out, {"x"}) == 1);
        char byte = 0;
        CHECK(co_await iowq::read(pipe.in, iowq::mutable_bytes{&byte, 1}) == 1);
      };
      iowq::run(body(go));
    }
  }

  TEST_CASE("read_all has a file, a pipe and a file of /proc as a whole") {
    iowq_test::leak_check books;
    iowq_test::scratch dir;
    auto const body = [](iowq_test::scratch& in) -> task<> {
      std::string text;
      for (int i = 0; text.size() < 300'000; ++i) text += std::to_string(i);
      iowq::fd file = co_await iowq::open(in / "file", new_file);
      co_await iowq::write_all(file, text);
      CHECK(co_await iowq::read_all(file) == "");  // from the file position on
      CHECK(::lseek(file.get(), 0, SEEK_SET) == 0);
      CHECK(co_await iowq::read_all(file) == text);
      CHECK(::lseek(file.get(), 0, SEEK_SET) == 0);
      auto const bytes = co_await iowq::read_all<std::vector<std::byte>>(file);
      CHECK(iowq::const_bytes{bytes}.size() == text.size());

      iowq_test::pipe_pair pipe;
      auto const writer = [](iowq::fd& to, const std::string& all) -> task<> {
        co_await iowq::write_all(to, all);
        to.reset();
      };
      iowq::executor::current().spawn(writer(pipe.out, text));
      CHECK(co_await iowq::read_all(pipe.in) == text);

      iowq::fd of_proc = co_await iowq::open("/proc/self/maps", O_RDONLY);  // says that it is empty
      CHECK((co_await iowq::read_all(of_proc)).find("[stack]") != std::string::npos);
      iowq::fd directory = co_await iowq::open(in.path(), O_RDONLY);
      auto const kind = co_await iowq::as_result(iowq::read_all(directory));
      CHECK(kind.error() == std::errc::is_a_directory);
    };
    iowq::run(body(dir));
  }
}
