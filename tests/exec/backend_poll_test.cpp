// SPDX-License-Identifier: BSL-1.0
#include <iowq/exec/detail/backend_poll.hpp>  // first and alone

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <sstream>
#include <string>

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/flow/timeout.hpp>
#include <iowq/op/connect_to.hpp>
#include <iowq/op/file.hpp>
#include <iowq/op/open.hpp>
#include <iowq/op/poll.hpp>
#include <iowq/op/raw.hpp>
#include <iowq/op/socket.hpp>
#include <iowq/op/time.hpp>
#include <iowq/op/vector.hpp>

#include "leak_check.hpp"
#include "manual.hpp"
#include "waiting.hpp"
#include "ways.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::executor;
using iowq::task;
using iowq_test::pipe_pair;

iowq::executor_options by_poll() { return {.backend = iowq::backend_kind::poll}; }

/// On an executor without a ring.
template <class... Parameters, class... Arguments>
iowq::executor_stats run_by_poll(task<> (*body)(Parameters...), Arguments&&... arguments) {
  executor here{by_poll()};
  here.run(body(std::forward<Arguments>(arguments)...));
  return here.stats();
}

iowq::operation_stats line(const iowq::executor_stats& stats, std::string_view name) {
  for (const auto& entry : stats.operations)
    if (name == entry.name) return entry;
  return {};
}

task<> read_one(int from, char& into, int& ended) {
  CHECK(co_await iowq::read(from, iowq::mutable_bytes{&into, 1}) == 1);
  ++ended;
}
task<> wait_for(int file, short events, short& told, int& ended) {
  told = co_await iowq::poll(file, events);
  ++ended;
}
task<> count_error(iowq::stop_token token, int from, std::error_code& error, int& ended) {
  co_await iowq_test::under{token};
  char byte;
  auto op = iowq::read(from, iowq::mutable_bytes{&byte, 1});
  error = (co_await iowq::as_result(std::move(op))).error();
  ++ended;
}
iowq::stop_token executor_token() { return iowq::detail::loop::current().ambient(); }
task<> until(const int& count, int wanted) {
  while (count != wanted) co_await iowq::sleep_for(100us);
}
}  // namespace

TEST_SUITE("exec/backend_poll") {
  TEST_CASE("who waits for one descriptor, each way and through a duplicate, is told, in order") {
    iowq_test::leak_check books;
    auto const stats = run_by_poll(+[]() -> task<> {
      int ends[2];
      REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
      iowq::fd here{ends[0]}, there{ends[1]}, twin{::dup(ends[0])};
      std::array<char, 3> got{};
      short writable = 0, hung_up = 0;
      int readers = 0, waiters = 0;
      executor& loop = executor::current();
      for (char& byte : got) loop.spawn(read_one(here.get(), byte, readers));
      loop.spawn(wait_for(here.get(), POLLOUT, writable, waiters));
      loop.spawn(wait_for(twin.get(), POLLRDHUP, hung_up, waiters));
      co_await until(waiters, 1);
      CHECK(writable == POLLOUT);
      CHECK(readers == 0);
      for (int i = 0; i < 3; ++i) {
        char const sent = static_cast<char>('a' + i);
        REQUIRE(::write(there.get(), &sent, 1) == 1);
        co_await until(readers, i + 1);
      }
      CHECK(std::string_view{got.data(), got.size()} == "abc");
      there.reset();
      co_await until(waiters, 2);
      CHECK((hung_up & POLLRDHUP) != 0);
    });
    CHECK(line(stats, "read").ring_ops == 3);
    CHECK(stats.pool.created == 0);
  }

  TEST_CASE("no worker waits for a socket, a pipe, an eventfd, a timer or a connection") {
    iowq_test::leak_check books;
    auto const stats = run_by_poll(+[]() -> task<> {
      iowq::fd event{::eventfd(0, EFD_CLOEXEC)};
      iowq::fd timer{::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC)};
      ::itimerspec const soon{.it_interval = {}, .it_value = {0, 2'000'000}};
      pipe_pair pipe;
      int woken = 0;
      short told = 0;
      auto const reader = [](int from, int& ended) -> task<> {
        std::array<std::byte, 8> counter;
        CHECK(co_await iowq::read(from, counter) == 8);
        ++ended;
      };
      executor::current().spawn(reader(event.get(), woken));
      executor::current().spawn(wait_for(timer.get(), POLLIN, told, woken));
      char byte;
      executor::current().spawn(read_one(pipe.in.get(), byte, woken));
      co_await iowq::yield();
      REQUIRE(::timerfd_settime(timer.get(), 0, &soon, nullptr) == 0);
      CHECK(co_await iowq::write(pipe.out, "x") == 1);
      std::uint64_t const one = 1;  // by hand: eventfds know no RWF_NOWAIT for writes
      REQUIRE(::write(event.get(), &one, sizeof one) == sizeof one);
      co_await until(woken, 3);

      iowq::fd listener = co_await iowq::listen_on(iowq::endpoint::ip("127.0.0.1", 0));
      auto const serve = [](const iowq::fd& from, int& ended) -> task<> {
        iowq::fd peer = co_await iowq::accept(from);
        std::array<char, 4> text;
        CHECK(co_await iowq::recv(peer, text) == 4);
        CHECK(co_await iowq::send(peer, text) == 4);
        ++ended;
      };
      executor::current().spawn(serve(listener, woken));
      co_await iowq::yield();
      iowq::fd client = co_await iowq::socket(AF_INET, SOCK_STREAM);
      co_await iowq::connect(client, iowq::endpoint::local_of(listener.get()));
      CHECK((::fcntl(client.get(), F_GETFL) & O_NONBLOCK) == 0);
      CHECK(co_await iowq::send(client, "ping") == 4);
      std::array<char, 8> text;
      CHECK(co_await iowq::recv(client, text) == 4);
      co_await until(woken, 4);
    });
    // Before Linux 6.4 a pipe that is ready is a worker's: one read, one write.
    pipe_pair pipe;
    char byte;
    ::iovec const one{&byte, 1};
    bool const known = ::preadv2(pipe.in.get(), &one, 1, -1, RWF_NOWAIT) == -1 && errno == EAGAIN;
    CHECK(stats.punted_ops == (known ? 0 : 2));
    CHECK((stats.pool.created == 0) == known);
  }

  TEST_CASE("the same number means another file later, and who waits then is told of that one") {
    run_by_poll(+[]() -> task<> {
      pipe_pair first;
      iowq::fd const alive{::dup(first.in.get())};  // so epoll keeps its entry
      int const number = first.in.get();
      iowq::stop_source stop;
      std::error_code error;
      int ended = 0;
      executor::current().spawn(count_error(stop.get_token(), number, error, ended));
      co_await iowq::yield();
      stop.request_stop();
      co_await until(ended, 1);
      CHECK(error == std::errc::operation_canceled);
      first.in.reset();
      pipe_pair second;
      if (second.in.get() != number) {
        REQUIRE(::dup3(second.in.get(), number, O_CLOEXEC) == number);
        second.in.reset(number);
      }
      char byte = 0;
      executor::current().spawn(read_one(number, byte, ended));
      co_await iowq::yield();
      REQUIRE(::write(first.out.get(), "1", 1) == 1);  // of the old one
      co_await iowq::sleep_for(1ms);
      CHECK(ended == 1);
      REQUIRE(::write(second.out.get(), "2", 1) == 1);
      co_await until(ended, 2);
      CHECK(byte == '2');
    });
  }

  TEST_CASE("a stop reaches who waits, from a token of its own or the executor's") {
    iowq_test::leak_check books;
    struct outcome {
      pipe_pair pipe;
      std::error_code first, second;
      int ended = 0;
      char byte = 0;
    } seen;
    run_by_poll(
        +[](outcome& all) -> task<> {
          iowq::stop_source stop;
          int const from = all.pipe.in.get();
          executor::current().spawn(count_error(stop.get_token(), from, all.first, all.ended));
          executor::current().spawn(count_error(executor_token(), from, all.second, all.ended));
          co_await iowq::yield();
          std::ostringstream text;
          executor::current().dump(text);
          CHECK(text.str().find(": poll, ") != std::string::npos);
          stop.request_stop();
          co_await until(all.ended, 1);
          auto waits = iowq::read(from, iowq::mutable_bytes{&all.byte, 1});
          auto const late = co_await iowq::as_result(iowq::timeout(std::move(waits), 1ms));
          CHECK(late.error() == std::errc::timed_out);
          executor::current().request_stop();
        },
        seen);
    CHECK(seen.ended == 2);
    CHECK(seen.first == std::errc::operation_canceled);
    CHECK(seen.second == std::errc::operation_canceled);
  }

  TEST_CASE("a peer that never lets it wait does not keep the others waiting") {
    run_by_poll(+[]() -> task<> {
      bool flooded = false, others = false;
      auto const flood = [](const bool& stop, bool& ended) -> task<> {
        iowq::fd zero = co_await iowq::open("/dev/zero", O_RDONLY);
        std::array<std::byte, 16> bytes;
        while (!stop) CHECK(co_await iowq::read(zero, bytes) == 16);
        ended = true;
      };
      executor::current().spawn(flood(others, flooded));
      co_await iowq::sleep_for(1ms);
      others = true;
      co_await iowq_test::until([&] { return flooded; });
    });
  }

  TEST_CASE("a read is as whole as on the ring: what is not cached is read, and 0 is the end") {
    iowq_test::scratch dir;
    std::string const text(100'000, 't');
    iowq::fd file{::open((dir / "file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
    REQUIRE(::write(file.get(), text.data(), text.size()) == 100'000);
    REQUIRE(::fsync(file.get()) == 0);
    // Of a file system that knows RWF_NOWAIT: some pages are cached, the rest is not.
    (void)::posix_fadvise(file.get(), 8192, 0, POSIX_FADV_DONTNEED);
    run_by_poll(
        +[](int from) -> task<> {
          std::string all(200'000, '\0');
          CHECK(co_await iowq::pread(from, all, 0) == 100'000);
          CHECK(co_await iowq::pread(from, all, 100'000) == 0);
          (void)::posix_fadvise(from, 8192, 0, POSIX_FADV_DONTNEED);
          REQUIRE(::lseek(from, 10, SEEK_SET) == 10);
          CHECK(co_await iowq::read(from, all) == 99'990);
          CHECK(::lseek(from, 0, SEEK_CUR) == 100'000);
          CHECK(co_await iowq::read(from, all) == 0);
          std::string head(10, '\0');
          CHECK(co_await iowq::preadv(from, {head, all}, 50'000) == 50'000);
        },
        file.get());
  }

  TEST_CASE("an open leaves the descriptor blocking, as it was asked to") {
    run_by_poll(+[]() -> task<> {
      iowq::fd file = co_await iowq::open("/etc/passwd", O_RDONLY);
      CHECK((::fcntl(file.get(), F_GETFL) & O_NONBLOCK) == 0);
      iowq::fd other = co_await iowq::open("/etc/passwd", O_RDONLY | O_NONBLOCK);
      CHECK((::fcntl(other.get(), F_GETFL) & O_NONBLOCK) != 0);
      iowq::fd path = co_await iowq::open("/etc", O_PATH);
      CHECK((::fcntl(path.get(), F_GETFL) & O_PATH) != 0);
    });
  }

  TEST_CASE("MSG_DONTWAIT does not wait, and a bad descriptor is told at once") {
    run_by_poll(+[]() -> task<> {
      int ends[2];
      REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
      iowq::fd here{ends[0]}, there{ends[1]};
      std::array<char, 4> text;
      auto const none = co_await iowq::as_result(iowq::recv(here, text, MSG_DONTWAIT));
      CHECK(none.error() == std::errc::resource_unavailable_try_again);
      auto const bad = co_await iowq::as_result(iowq::recv(-1, text));
      CHECK(bad.error() == std::errc::bad_file_descriptor);
      auto const unpolled = co_await iowq::as_result(iowq::poll(1'000'000, POLLIN));
      CHECK(unpolled.error() == std::errc::bad_file_descriptor);
    });
  }

  TEST_CASE("what only a ring can do says so") {
    run_by_poll(+[]() -> task<> {
      auto const nop = co_await iowq::raw([](io_uring_sqe& s) { s.opcode = IORING_OP_NOP; });
      CHECK(nop.res == -ENOTSUP);
      pipe_pair pipe;
      auto forced = iowq::on_ring(iowq::poll(pipe.out, POLLOUT));
      std::string said;
      try {
        co_await forced;
      } catch (const std::system_error& error) {
        CHECK(error.code() == std::errc::not_supported);
        said = error.what();
      }
      CHECK(said.find("poll (needs a ring; none here: backend_kind::poll)") == 0);
    });
  }

  TEST_CASE("a deadline ends the sleep, to the microsecond where the kernel can") {
    auto const stats = run_by_poll(+[]() -> task<> {
      for (int i = 0; i < 20; ++i) {
        auto const before = std::chrono::steady_clock::now();
        co_await iowq::sleep_for(50us);
        CHECK(std::chrono::steady_clock::now() - before >= 50us);
      }
    });
    CHECK(stats.entered >= 20);
    CHECK(stats.submitted == 0);
  }
}
