// SPDX-License-Identifier: BSL-1.0
#include <iowq/op/registered/in_slot.hpp>  // first and alone

#include <sys/mman.h>
#include <sys/resource.h>

#include <array>
#include <chrono>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>
#include <iowq/op/linked.hpp>
#include <iowq/op/open.hpp>
#include <iowq/op/time.hpp>

#include "death.hpp"
#include "leak_check.hpp"
#include "loopback.hpp"
#include "manual.hpp"
#include "turns.hpp"
#include "waiting.hpp"
#include "ways.hpp"
#include "without.hpp"

namespace {
using iowq::fixed_file;
using iowq::fixed_files;
using iowq::task;
using iowq_test::listening;
using iowq_test::turns;
using iowq_test::way;
using iowq_test::without;

/// What a kernel lacks that has no tables.
[[nodiscard]] iowq::detail::lacking tables() {
  iowq::detail::lacking all;
  all.features = iowq::detail::compat::feature_rw_attr;
  return all;
}

/// Can this kernel have tables, and do executors of this run have rings?
[[nodiscard]] bool grants_tables() {
  auto const body = []() -> task<bool> {
    fixed_files one{1};
    static_cast<void>(iowq::detail::known_here(one.table()));
    co_return one.is_registered();
  };
  return iowq::run(body());
}

/// With the kernel's table, if there is one; in a table that found the place taken; and on a kernel
/// that has none.
template <class Body>
void in_all_tables(Body body) {
  for (int which = 0; which < 3; ++which) {
    CAPTURE(which);
    iowq_test::leak_check books;
    std::optional<without> hidden;
    if (which == 2) hidden.emplace(tables());
    auto const root = [](int w, Body& inner) -> task<> {
      fixed_files first{1}, second{1};
      if (w == 1) static_cast<void>(iowq::detail::known_here(first.table()));
      co_await inner();
      static_cast<void>(iowq::detail::known_here(second.table()));
      if (w == 1) CHECK_FALSE(second.is_registered());
    };
    iowq::run(root(which, body));
  }
}

/// What became of an operation that ran beside the test.
struct outcome {
  bool over = false;
  std::error_code error;
};
task<> recv_until_end(const fixed_file& from, iowq::mutable_bytes into, outcome& end) {
  auto const got = co_await iowq::as_result(iowq::recv(from, into));
  end = {true, got.error()};
}
task<> accept_under(iowq::stop_token token, const listening& from, fixed_files& into,
                    std::optional<fixed_file>& got, outcome& end) {
  co_await iowq_test::under{token};
  auto one = co_await iowq::as_result(iowq::accept_into(from.socket, into));
  end = {true, one.error()};
  if (one) got = std::move(*one);
}

/// A connection in a slot, and the executor that it is with, which does not run any more.
struct kept_by_an_executor {
  kept_by_an_executor() { here.run(accept()); }
  task<> accept() {
    iowq::fd client = listener.call();
    server = co_await iowq::accept_into(listener.socket, files);
  }
  listening listener;
  fixed_files files{1};
  iowq::executor here;
  fixed_file server;
};

/// Everything that a connection in a slot is for; says what came of it.
task<std::string> everything() {
  std::ostringstream said;
  listening listener;
  fixed_files files{3};
  iowq::fd client = listener.call();
  fixed_file server = co_await iowq::accept_into(listener.socket, files);
  char bytes[64];
  iowq::mutable_bytes const room{bytes, sizeof bytes};
  auto const text = [&](std::size_t n) { return std::string_view{bytes, n}; };

  said << "send " << co_await iowq::send(server, "one") << '\n';
  said << "got " << text(co_await iowq::recv(client, room)) << '\n';
  said << "write " << co_await iowq::write(server, "two") << '\n';
  said << "got " << text(co_await iowq::recv(client, room)) << '\n';
  ::iovec part{const_cast<char*>("three"), 5}, into{bytes, sizeof bytes};
  ::msghdr out{}, in{};
  out.msg_iov = &part, in.msg_iov = &into;
  out.msg_iovlen = in.msg_iovlen = 1;
  said << "sendmsg " << co_await iowq::sendmsg(server, out) << '\n';
  said << "got " << text(co_await iowq::recv(client, room)) << '\n';
  said << "nothing yet "
       << (co_await iowq::as_result(iowq::recv(server, room, MSG_DONTWAIT))).error().value()
       << '\n';
  co_await iowq::send(client, "four");
  said << "poll " << (co_await iowq::poll(server, POLLIN | POLLOUT) & (POLLIN | POLLOUT)) << '\n';
  said << "recv " << text(co_await iowq::recv(server, room)) << '\n';
  co_await iowq::send(client, "five");
  said << "read " << text(co_await iowq::read(server, room)) << '\n';
  co_await iowq::send(client, "six");
  said << "recvmsg " << text(co_await iowq::recvmsg(server, in)) << '\n';
  co_await iowq::send(client, "seveneight");
  said << "whole " << text(co_await iowq::recv(server, iowq::mutable_bytes{bytes, 10}, MSG_WAITALL))
       << '\n';
  said << "fsync " << (co_await iowq::as_result(iowq::fsync(server))).error().value() << '\n';
  said << "all " << co_await iowq::send_all(server, "nine") << '\n';
  said << "got " << text(co_await iowq::recv(client, room)) << '\n';
  {
    iowq::fd const same = co_await iowq::dup(server);
    said << "dup " << ::fcntl(same.get(), F_GETFD) << ' '
         << (iowq::endpoint::local_of(same.get()).port() == listener.where.port()) << '\n';
  }
  auto const both = co_await iowq::linked(iowq::send(server, "ten"), iowq::recv(client, room));
  said << "linked " << std::get<0>(both).value() << ' ' << text(std::get<1>(both).value()) << '\n';
  co_await iowq::shutdown(server, SHUT_WR);
  said << "end " << co_await iowq::recv(client, room) << '\n';
  said << "EPIPE " << (co_await iowq::as_result(iowq::send(server, "x"))).error().value() << '\n';
  client.reset();
  said << "end " << co_await iowq::recv(server, room) << '\n';
  co_await iowq::close(std::move(server));

  fixed_file also = files.add(std::move(listener.socket));  // a listener that has one itself
  iowq::fd second = listener.call();
  fixed_file accepted = co_await iowq::accept_into(also, files);
  said << "taken " << files.taken() << '\n';
  co_await iowq::send(second, "eleven");
  said << "got " << text(co_await iowq::recv(accepted, room)) << '\n';
  iowq::fd third = listener.call();
  iowq::fd plain = co_await iowq::accept(also);
  said << "plain " << ::fcntl(plain.get(), F_GETFD) << '\n';

  fixed_file file = files.add(iowq::fd{::memfd_create("file", MFD_CLOEXEC)});
  said << "full " << files.taken() << '\n';
  said << "write " << co_await iowq::write(file, "twelve") << '\n';
  said << "pwrite " << co_await iowq::pwrite(file, "thirteen", 100) << '\n';
  said << "pread " << text(co_await iowq::pread(file, room, 100)) << '\n';
  said << "negative " << (co_await iowq::as_result(iowq::pread(file, room, -1))).error().value()
       << '\n';
  iowq::fixed_buffers buffers{2, 100};
  buffers[1][0] = std::byte{'f'};
  said << "fixed " << co_await iowq::write_fixed(file, buffers, 1, 100, 3) << '\n';
  said << "fixed " << co_await iowq::read_fixed(file, buffers, 0, 100, 3) << ' '
       << static_cast<char>(buffers[0][0]) << '\n';
  co_await iowq::fsync(file);
  co_await iowq::fdatasync(file);
  said << "not a socket " << (co_await iowq::as_result(iowq::send(file, "x"))).error().value()
       << '\n';
  co_await iowq::close(std::move(file));
  said << "taken " << files.taken() << '\n';
  co_return said.str();
}
}  // namespace

TEST_SUITE("op/fixed_file") {
  TEST_CASE(
      "hazard-43: a file in a slot does the same in every table, and whatever a kernel lacks") {
    iowq_test::leak_check books;
    std::string const expected = iowq::run(everything(), {.backend = iowq::backend_kind::poll});
    CHECK(std::count(expected.begin(), expected.end(), '\n') > 30);
    CHECK(iowq::run(everything()) == expected);
    CHECK(iowq::run(everything(), {.punt = iowq::punt_policy::kernel}) == expected);
    in_all_tables([&]() -> task<> { CHECK(co_await everything() == expected); });
    for (int const opcode :
         {IORING_OP_ACCEPT, IORING_OP_CLOSE, IORING_OP_READ, IORING_OP_WRITE, IORING_OP_FSYNC,
          IORING_OP_RECV, IORING_OP_SEND, IORING_OP_RECVMSG, IORING_OP_SENDMSG, IORING_OP_SHUTDOWN,
          IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED, IORING_OP_FILES_UPDATE,
          static_cast<io_uring_op>(iowq::detail::compat::op_fixed_fd_install)}) {
      CAPTURE(opcode);
      iowq::detail::lacking one;
      one.opcodes.set(static_cast<std::size_t>(opcode));
      without const hidden{one};
      CHECK(iowq::run(everything()) == expected);
    }
  }

  TEST_CASE("a connection accepted into a slot has no descriptor, and on_pool() reports that") {
    if (!grants_tables()) return;  // then it has one
    iowq_test::leak_check books;
    auto const body = []() -> task<> {
      listening listener;
      fixed_files files{2};
      iowq::fd client = listener.call();
      int const before = iowq_test::open_descriptors();
      fixed_file server = co_await iowq::accept_into(listener.socket, files);
      CHECK(iowq_test::open_descriptors() == before);
      CHECK(files.is_registered());
      auto const pooled = co_await iowq::as_result(iowq::on_pool(iowq::send(server, "x")));
      CHECK(pooled.error() == std::errc::not_supported);
      auto const ordered = co_await iowq::as_result(iowq::hashed(1, iowq::send(server, "x")));
      CHECK(ordered.error() == std::errc::not_supported);
      fixed_file other = co_await iowq::on_pool(
          iowq::accept_into(listener.socket, (client = listener.call(), files)));
      CHECK(iowq_test::open_descriptors() == before + 1);  // by a worker it got one
      CHECK(co_await iowq::on_pool(iowq::send(other, "x")) == 1);
      CHECK(co_await iowq::send(other, "y") == 1);
      co_await iowq::on_ring(iowq::close(std::move(other)));
      CHECK(iowq_test::open_descriptors() == before);
    };
    iowq::run(body());
  }

  TEST_CASE("an added file goes every way, and writes to it are ordered as without a slot") {
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      in_all_tables([go]() -> task<> {
        iowq_test::scratch dir;
        fixed_files files{1};
        fixed_file file = files.add(co_await iowq::open(dir / "file", O_RDWR | O_CREAT, 0600));
        char bytes[10];
        CHECK(co_await as(go, iowq::pwrite(file, "abc", 0)) == 3);
        CHECK(co_await as(go, iowq::pread(file, bytes, 1)) == 2);
        CHECK(std::string_view{bytes, 2} == "bc");
        CHECK(co_await as(go, iowq::poll(file, POLLIN)) == POLLIN);
        co_await as(go, iowq::fsync(file));
        iowq::fd const same = co_await as(go, iowq::dup(file));
        CHECK(::lseek(same.get(), 0, SEEK_END) == 3);
        for (const auto& line : iowq::executor::current().stats().operations)
          if (line.name == std::string_view{"write"} && go == way::usual)
            CHECK(line.punted_ops == 1);
        int const before = iowq_test::open_descriptors();
        co_await as(go, iowq::close(std::move(file)));
        CHECK(iowq_test::open_descriptors() == before - 1);
        CHECK_FALSE(file);
        auto const none = co_await iowq::as_result(as(go, iowq::pread(file, bytes, 0)));
        CHECK(none.error() == std::errc::bad_file_descriptor);
        auto const twice = co_await iowq::as_result(as(go, iowq::close(std::move(file))));
        CHECK(twice.error() == std::errc::bad_file_descriptor);
      });
    }
  }

  TEST_CASE("a full table takes no connection out of the backlog, and says so") {
    in_all_tables([]() -> task<> {
      listening listener;
      fixed_files files{2};
      iowq::fd clients[] = {listener.call(), listener.call(), listener.call()};
      fixed_file first = co_await iowq::accept_into(listener.socket, files);
      fixed_file second = co_await iowq::accept_into(listener.socket, files);
      CHECK(first.index() != second.index());
      auto const third = co_await iowq::as_result(iowq::accept_into(listener.socket, files));
      CHECK(third.error() == std::errc::too_many_files_open_in_system);
      iowq::fd spare{::dup(listener.socket.get())};
      CHECK_THROWS_AS(static_cast<void>(files.add(std::move(spare))), std::system_error);
      CHECK(spare);  // still ours
      co_await iowq::close(std::move(first));
      first = co_await iowq::accept_into(listener.socket, files);
      co_await iowq::send(clients[2], "x");
      char byte[2];
      CHECK(co_await iowq::recv(first, byte) == 1);
    });
    CHECK_THROWS_AS(fixed_files{0}, std::system_error);
    CHECK_THROWS_AS(fixed_files{iowq::detail::file_table::most + 1}, std::system_error);
    iowq::fd none;
    fixed_files one{1};
    CHECK_THROWS_AS(static_cast<void>(one.add(std::move(none))), std::system_error);
    CHECK(one.taken() == 0);
  }

  TEST_CASE("a table with more slots than permitted descriptors is kept in user space") {
    iowq_test::leak_check books;
    auto const body = []() -> task<> {
      ::rlimit before{};
      ::getrlimit(RLIMIT_NOFILE, &before);
      ::rlimit const few{200, before.rlim_max};
      ::setrlimit(RLIMIT_NOFILE, &few);
      listening listener;
      fixed_files many{300};
      iowq::fd client = listener.call();
      fixed_file server = co_await iowq::accept_into(listener.socket, many);
      CHECK_FALSE(many.is_registered());
      CHECK(co_await iowq::send(server, "x") == 1);
      ::rlimit after{};
      ::getrlimit(RLIMIT_NOFILE, &after);
      CHECK(after.rlim_cur == 200);  // and nobody raised it
      ::setrlimit(RLIMIT_NOFILE, &before);
    };
    iowq::run(body());
  }

  TEST_CASE("hazard-05, 06, 08: a stopped accept returns its slot, or the connection in it") {
    in_all_tables([]() -> task<> {
      listening listener;
      fixed_files files{1};
      for (int round = 0; round < 40; ++round) {
        CAPTURE(round);
        iowq::stop_source source;
        std::optional<fixed_file> got;
        outcome end;
        bool const comes = round % 4 != 0;
        iowq::fd early, late;
        if (round % 4 == 3) early = listener.call();
        if (round % 5 == 4) source.request_stop();  // before it is awaited
        iowq::executor::current().spawn(
            accept_under(source.get_token(), listener, files, got, end));
        co_await turns(round % 3);
        if (comes && !early) late = listener.call();
        if (round % 2 == 1) co_await turns(round % 7 == 0 ? 1 : 0);
        source.request_stop();
        co_await iowq_test::until([&] { return end.over; });
        CHECK(static_cast<bool>(got) != (end.error == std::errc::operation_canceled));
        got.reset();
        CHECK(files.taken() == 0);
        if (!comes) continue;
        // It was taken and closed, or waits to be taken: none is lost in between.
        iowq::fd const& client = early ? early : late;
        bool const closed = [&] {
          char byte;
          return ::recv(client.get(), &byte, 1, MSG_DONTWAIT) == 0;
        }();
        if (closed) continue;
        fixed_file next = co_await iowq::accept_into(listener.socket, files);
        CHECK(co_await iowq::send(next, "x") == 1);
        char byte;
        CHECK(::recv(client.get(), &byte, 1, 0) == 1);
      }
    });
  }

  TEST_CASE("hazard-40, 83: a slot that is closed and filled again meets none of its old users") {
    in_all_tables([]() -> task<> {
      listening listener;
      fixed_files files{4};
      struct connection {
        iowq::fd client;
        fixed_file server;
        outcome end;
        char bytes[16] = {};
      };
      std::array<connection, 4> all;
      unsigned seed = 1;
      for (int round = 0; round < 200; ++round) {
        seed = seed * 1664525U + 1013904223U;
        connection& one = all[seed >> 30];
        if (one.server) {
          REQUIRE_FALSE(one.end.over);
          if ((seed >> 28 & 1) != 0) {  // closed under a receive, which ends first
            co_await iowq::close(std::move(one.server));
            CHECK(one.end.over);
            CHECK(one.end.error == std::errc::operation_canceled);
          } else {  // what was sent is received by whom it was sent to
            std::string const text = "round " + std::to_string(round);
            REQUIRE(::send(one.client.get(), text.data(), text.size(), 0) > 0);
            co_await iowq_test::until([&] { return one.end.over; });
            CHECK(one.bytes == text);
            if ((seed >> 27 & 1) != 0)
              one.server.reset();
            else
              co_await iowq::close(std::move(one.server));
          }
          char byte;
          CHECK(::recv(one.client.get(), &byte, 1, 0) == 0);  // the file is closed indeed
        }
        one.client = listener.call();
        one.server = co_await iowq::accept_into(listener.socket, files);
        one.end = {};
        std::fill(std::begin(one.bytes), std::end(one.bytes), '\0');
        iowq::executor::current().spawn(recv_until_end(one.server, one.bytes, one.end));
        co_await iowq::yield();
        co_await turns(static_cast<int>(seed >> 26 & 1));  // young, or known to the census
      }
      for (connection& one : all)
        if (one.server) co_await iowq::close(std::move(one.server));
      CHECK(files.taken() == 0);
    });
  }

  TEST_CASE("dump() names the slot") {
    if (!grants_tables()) return;
    auto const body = []() -> task<> {
      listening listener;
      fixed_files files{1};
      iowq::fd client = listener.call();
      fixed_file server = co_await iowq::accept_into(listener.socket, files);
      char bytes[4];
      outcome end;
      iowq::executor::current().spawn(recv_until_end(server, bytes, end));
      co_await iowq_test::until_waiting("recv");
      std::ostringstream said;
      iowq::executor::current().dump(said);
      CHECK(said.str().find("recv slot 0: ring") != std::string::npos);
      co_await iowq::close(std::move(server));
    };
    iowq::run(body());
  }

  TEST_CASE("an accepted file ends with its executor; an added one works on the next executor") {
    for (bool plain : {false, true}) {
      CAPTURE(plain);
      iowq_test::leak_check books;
      std::optional<without> hidden;
      if (plain) hidden.emplace(tables());
      fixed_files files{3};
      listening listener;
      iowq_test::pipe_pair pipe;
      iowq::fd client = listener.call();
      std::optional<fixed_file> accepted;
      fixed_file added = files.add(std::move(pipe.out));
      auto const first = [&]() -> task<> {
        accepted = co_await iowq::accept_into(listener.socket, files);
        CHECK(co_await iowq::write(added, "a") == 1);
      };
      iowq::run(first());
      char byte;
      CHECK(::recv(client.get(), &byte, 1, 0) == 0);
      auto const second = [&]() -> task<> {
        CHECK(co_await iowq::write(added, "b") == 1);
        CHECK(co_await iowq::read(pipe.in, iowq::mutable_bytes{&byte, 1}) == 1);
        auto const gone = co_await iowq::as_result(iowq::send(*accepted, "x"));
        CHECK(gone.error() == std::errc::bad_file_descriptor);
        auto const closed = co_await iowq::as_result(iowq::close(std::move(*accepted)));
        CHECK(closed.error() == std::errc::bad_file_descriptor);
        CHECK(files.taken() == 1);
      };
      iowq::run(second());
    }
  }

  TEST_CASE("a table goes before or after its files, its executor, or both") {
    in_all_tables([]() -> task<> {
      listening listener;
      std::optional<fixed_files> files{std::in_place, 2};
      iowq::fd client = listener.call();
      fixed_file server = co_await iowq::accept_into(listener.socket, *files);
      files.reset();
      CHECK(co_await iowq::send(server, "x") == 1);
      server.reset();
      for (int i = 0; i < 3; ++i) {  // the one before has given its place back
        fixed_files brief{1};
        client = listener.call();
        fixed_file one = co_await iowq::accept_into(listener.socket, brief);
        CHECK(co_await iowq::send(one, "x") == 1);
      }
    });
    iowq_test::leak_check books;
    listening listener;
    iowq::fd client = listener.call();
    fixed_file orphan;
    auto const body = [&]() -> task<> {
      fixed_files files{2};
      orphan = co_await iowq::accept_into(listener.socket, files);
    };
    iowq::run(body());  // file, but no table and no executor any more
    CHECK(orphan);
    {
      iowq::executor here;
      here.run([](listening& from, iowq::fd& to, fixed_file& slot) -> task<> {
        to = from.call();
        fixed_files files{2};
        slot = co_await iowq::accept_into(from.socket, files);
      }(listener, client, orphan));
      orphan.reset();  // outside of run()
      char byte;
      CHECK(::recv(client.get(), &byte, 1, 0) == 0);
    }
  }

  TEST_CASE("wrong use of a slot ends the program with a sentence") {
    auto const in_use = iowq_test::death_output([] {
      auto const body = []() -> task<> {
        listening listener;
        fixed_files files{1};
        iowq::fd client = listener.call();
        fixed_file server = co_await iowq::accept_into(listener.socket, files);
        char bytes[4];
        outcome end;
        iowq::executor::current().spawn(recv_until_end(server, bytes, end));
        co_await iowq_test::until_waiting("recv");
        server.reset();
      };
      iowq::run(body());
    });
    CHECK(in_use.signal == SIGABRT);
    CHECK(in_use.says("in use by recv"));
    auto const elsewhere = iowq_test::death_output([] {
      kept_by_an_executor own;
      std::thread other{[&] {
        iowq::run([](fixed_file& f) -> task<> { co_await iowq::send(f, "x"); }(own.server));
      }};
      other.join();
    });
    CHECK(elsewhere.signal == SIGABRT);
    CHECK(elsewhere.says("on another executor than the one that it is with"));
    if (!grants_tables()) return;
    auto const thread = iowq_test::death_output([] {
      kept_by_an_executor own;
      std::thread other{[&] { own.server.reset(); }};
      other.join();
    });
    CHECK(thread.signal == SIGABRT);
    CHECK(thread.says("on a thread that is not its executor's"));
  }
}
