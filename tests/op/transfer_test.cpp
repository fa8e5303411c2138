// SPDX-License-Identifier: BSL-1.0
#include <iowq/op/transfer.hpp>  // first and alone

#include <sys/socket.h>

#include <csignal>
#include <string>
#include <string_view>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>
#include <iowq/op/file.hpp>
#include <iowq/op/open.hpp>
#include <iowq/op/poll.hpp>

#include "leak_check.hpp"
#include "manual.hpp"
#include "waiting.hpp"
#include "ways.hpp"

namespace {
using iowq::task;
using iowq_test::way;
constexpr int new_file = O_RDWR | O_CREAT | O_TRUNC;

task<std::string> contents(int file, std::size_t size) {
  std::string text(size, '?');
  text.resize(co_await iowq::read_exactly(file, text));
  co_return text;
}

struct socket_pair {
  socket_pair() {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    here.reset(ends[0]);
    there.reset(ends[1]);
  }
  iowq::fd here, there;
};

/// Awaits `op` under `token`; how it ended.
template <class Op>
task<> under_token(Op op, iowq::stop_token token, iowq::result<std::size_t>& end, bool& ended) {
  co_await iowq_test::under{token};
  end = co_await iowq::as_result(std::move(op));
  ended = true;
}

/// Lets `op` wait, if need be until some has arrived at `other_end`, then stops it.
template <class Op>
task<iowq::result<std::size_t>> stopped(Op op, int other_end = -1) {
  iowq::stop_source source;
  iowq::result<std::size_t> end;
  bool ended = false;
  std::string_view const name = iowq::detail::operation_access::base(op).row().name;
  iowq::executor::current().spawn(under_token(std::move(op), source.get_token(), end, ended));
  if (other_end >= 0) (void)co_await iowq::poll(other_end, POLLIN);
  co_await iowq_test::until_waiting(name);
  CHECK_FALSE(ended);
  source.request_stop();
  co_await iowq_test::until([&] { return ended; });
  co_return end;
}
}  // namespace

TEST_SUITE("op/transfer") {
  TEST_CASE("copy_file_range copies, moves positions where no offset is given, and refuses") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::scratch dir;
      auto const body = [](way w, iowq_test::scratch& in) -> task<> {
        iowq::fd from = co_await iowq::open(in / "from", new_file);
        iowq::fd to = co_await iowq::open(in / "to", new_file);
        co_await iowq::write_all(from, "0123456789");
        CHECK(co_await as(w, iowq::copy_file_range(from, 2, to, 5, 4)) == 4);
        CHECK(::lseek(from.get(), 0, SEEK_CUR) == 10);
        CHECK(::lseek(to.get(), 0, SEEK_CUR) == 0);
        CHECK(co_await contents(to.get(), 20) == std::string_view{"\0\0\0\0\0"
                                                                  "2345",
                                                                  9});
        CHECK(::lseek(from.get(), 7, SEEK_SET) == 7);
        CHECK(co_await as(w, iowq::copy_file_range(from, {}, to, {}, 100)) == 3);
        CHECK(::lseek(from.get(), 0, SEEK_CUR) == 10);
        CHECK(::lseek(to.get(), 0, SEEK_CUR) == 12);
        CHECK(co_await as(w, iowq::copy_file_range(from, {}, to, {}, 100)) == 0);
        auto const self = co_await iowq::as_result(as(w, iowq::copy_file_range(to, 0, to, 1, 5)));
        CHECK(self.error() == std::errc::invalid_argument);  // they overlap
        auto const less =
            co_await iowq::as_result(as(w, iowq::copy_file_range(from, -1, to, 0, 1)));
        CHECK(less.error() == std::errc::invalid_argument);
        iowq::fd top = co_await iowq::open(in.path(), O_RDONLY);
        auto const kind = co_await iowq::as_result(as(w, iowq::copy_file_range(top, 0, to, 0, 1)));
        CHECK(kind.error() == std::errc::is_a_directory);
      };
      iowq::run(body(go, dir));
    }
  }

  TEST_CASE("sendfile sends to sockets, pipes and files as sendfile(2) does") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::scratch dir;
      auto const body = [](way w, iowq_test::scratch& in) -> task<> {
        std::string const text(3 << 20, 's');
        iowq::fd file = co_await iowq::open(in / "file", new_file);
        co_await iowq::write_all(file, text);
        CHECK(::lseek(file.get(), 1, SEEK_SET) == 1);

        socket_pair sockets;
        std::string got;
        auto const receiver = [](int from, std::string& all) -> task<> {
          all = co_await iowq::read_all(from);
        };
        iowq::executor::current().spawn(receiver(sockets.there.get(), got));
        // All of it, though it is more than fits; and to the end of file, from the position.
        CHECK(co_await as(w, iowq::sendfile(sockets.here, file, 0, text.size())) == text.size());
        CHECK(::lseek(file.get(), 0, SEEK_CUR) == 1);
        CHECK(co_await as(w, iowq::sendfile(sockets.here, file, {}, 1 << 30)) == text.size() - 1);
        CHECK((::fcntl(sockets.here.get(), F_GETFL) & O_NONBLOCK) == 0);
        sockets.here.reset();
        co_await iowq_test::until([&] { return !got.empty(); });
        CHECK(got.size() == 2 * text.size() - 1);

        iowq_test::pipe_pair pipe;
        auto const room = static_cast<std::size_t>(::fcntl(pipe.in.get(), F_GETPIPE_SZ));
        CHECK(co_await as(w, iowq::sendfile(pipe.out, file, 4096, text.size())) == room);
        iowq::fd copy = co_await iowq::open(in / "copy", new_file);
        CHECK(co_await as(w, iowq::sendfile(copy, file, 0, 10)) == 10);
        iowq::fd null = co_await iowq::open("/dev/null", O_WRONLY);
        CHECK(co_await as(w, iowq::sendfile(null, file, 0, 10)) == 10);
        auto const kind = co_await iowq::as_result(as(w, iowq::sendfile(copy, pipe.in, {}, 10)));
        CHECK(kind.error() == std::errc::invalid_argument);
        auto const less = co_await iowq::as_result(as(w, iowq::sendfile(copy, file, -1, 10)));
        CHECK(less.error() == std::errc::invalid_argument);
        pipe.in.reset();
        auto const broken = co_await iowq::as_result(as(w, iowq::sendfile(pipe.out, file, 0, 1)));
        CHECK(broken.error() == std::errc::broken_pipe);
        sigset_t pending;
        ::sigpending(&pending);
        CHECK(::sigismember(&pending, SIGPIPE) == 0);
      };
      iowq::run(body(go, dir));
    }
  }

  TEST_CASE("hazard-76: a sendfile that is stopped says how much was sent") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::scratch dir;
      auto const body = [](way w, iowq_test::scratch& in) -> task<> {
        std::string const text(3 << 20, 's');
        iowq::fd file = co_await iowq::open(in / "file", new_file);
        co_await iowq::write_all(file, text);
        socket_pair sockets;
        auto const sent = co_await stopped(as(w, iowq::sendfile(sockets.here, file, 0, 3 << 20)),
                                           sockets.there.get());
        REQUIRE(sent.has_value());
        CHECK(*sent > 0);
        CHECK((::fcntl(sockets.here.get(), F_GETFL) & O_NONBLOCK) == 0);
        // What the socket holds already: nothing was sent of the second.
        auto const none = co_await stopped(as(w, iowq::sendfile(sockets.here, file, 0, 100'000)));
        std::size_t const more = none.has_value() ? *none : 0;
        CHECK((none.has_value() || none.error() == std::errc::operation_canceled));
        sockets.here.reset();
        CHECK((co_await iowq::read_all(sockets.there)).size() == *sent + more);
      };
      iowq::run(body(go, dir));
    }
  }

  TEST_CASE("splice moves between pipes, files and sockets as splice(2) does; tee takes nothing") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::scratch dir;
      auto const body = [](way w, iowq_test::scratch& in) -> task<> {
        iowq::fd file = co_await iowq::open(in / "file", new_file);
        iowq_test::pipe_pair one, two;
        socket_pair sockets;
        co_await iowq::write_all(one.out, "0123456789");
        CHECK(co_await as(w, iowq::tee(one.in, two.out, 4)) == 4);
        CHECK(co_await contents(two.in.get(), 4) == "0123");
        CHECK(co_await as(w, iowq::splice(one.in, {}, two.out, {}, 3)) == 3);
        CHECK(co_await contents(two.in.get(), 3) == "012");
        CHECK(co_await as(w, iowq::splice(one.in, {}, file, 100, 3)) == 3);
        CHECK(co_await as(w, iowq::splice(one.in, {}, file, {}, 1000)) == 4);
        CHECK(::lseek(file.get(), 0, SEEK_CUR) == 4);
        CHECK(co_await as(w, iowq::splice(file, 0, one.out, {}, 4)) == 4);
        CHECK(co_await as(w, iowq::splice(one.in, {}, sockets.here, {}, 4)) == 4);
        CHECK(co_await as(w, iowq::splice(sockets.there, {}, two.out, {}, 1000)) == 4);
        CHECK(co_await contents(two.in.get(), 4) == "6789");
        CHECK(co_await as(w, iowq::splice(file, 1000, one.out, {}, 4)) == 0);  // its end

        auto const hasty = co_await iowq::as_result(
            as(w, iowq::splice(one.in, {}, two.out, {}, 1, SPLICE_F_NONBLOCK)));
        CHECK(hasty.error() == std::errc::resource_unavailable_try_again);
        auto const seeks = co_await iowq::as_result(as(w, iowq::splice(one.in, 1, file, 1, 1)));
        CHECK(seeks.error() == std::errc::invalid_seek);
        auto const no_pipe = co_await iowq::as_result(as(w, iowq::splice(file, 0, file, 1, 1)));
        CHECK(no_pipe.error() == std::errc::invalid_argument);
        auto const less = co_await iowq::as_result(as(w, iowq::splice(file, -1, two.out, {}, 1)));
        CHECK(less.error() == std::errc::invalid_argument);
        auto const no_tee = co_await iowq::as_result(as(w, iowq::tee(file, two.out, 1)));
        CHECK(no_tee.error() == std::errc::invalid_argument);
        one.out.reset();
        CHECK(co_await as(w, iowq::splice(one.in, {}, file, {}, 10)) == 0);
        CHECK(co_await as(w, iowq::tee(one.in, two.out, 10)) == 0);
        two.in.reset();
        auto const broken = co_await iowq::as_result(as(w, iowq::splice(file, 0, two.out, {}, 4)));
        CHECK(broken.error() == std::errc::broken_pipe);
        sigset_t pending;
        ::sigpending(&pending);
        CHECK(::sigismember(&pending, SIGPIPE) == 0);
      };
      iowq::run(body(go, dir));
    }
  }

  TEST_CASE("splice and tee wait for either end, O_NONBLOCK or not, and are cancelled there") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways)
      for (int const flags : {O_CLOEXEC, O_CLOEXEC | O_NONBLOCK}) {
        CAPTURE(go);
        CAPTURE(flags);
        auto const body = [](way w, int f) -> task<> {
          iowq_test::pipe_pair one{f}, two{f};
          auto const empty = co_await stopped(as(w, iowq::splice(one.in, {}, two.out, {}, 1)));
          CHECK(empty.error() == std::errc::operation_canceled);
          auto const no_tee = co_await stopped(as(w, iowq::tee(one.in, two.out, 1)));
          CHECK(no_tee.error() == std::errc::operation_canceled);

          bool ended = false;
          iowq::result<std::size_t> end;
          iowq::executor::current().spawn(
              under_token(as(w, iowq::splice(one.in, {}, two.out, {}, 1)), {}, end, ended));
          co_await iowq_test::until_waiting("splice");
          CHECK_FALSE(ended);
          co_await iowq::write_all(one.out, "x");
          co_await iowq_test::until([&] { return ended; });
          CHECK(*end == 1);

          // Now the other end: one page a write, so that no slot of the pipe is left.
          iowq_test::pipe_pair full{f};
          std::string const page(4096, 'p');
          for (int left = ::fcntl(full.in.get(), F_GETPIPE_SZ); left > 0; left -= 4096)
            co_await iowq::write_all(full.out, page);
          co_await iowq::write_all(one.out, "y");
          auto const no_room = co_await stopped(as(w, iowq::splice(one.in, {}, full.out, {}, 1)));
          CHECK(no_room.error() == std::errc::operation_canceled);
          CHECK(co_await contents(one.in.get(), 1) == "y");  // it is still there
        };
        iowq::run(body(go, flags));
      }
  }
}
