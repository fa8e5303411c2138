// SPDX-License-Identifier: BSL-1.0
#include <iowq/op/process.hpp>  // first and alone

#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>
#include <iowq/op/file.hpp>
#include <iowq/op/open.hpp>

#include "leak_check.hpp"
#include "manual.hpp"
#include "waiting.hpp"
#include "ways.hpp"

namespace {
using iowq::task;
using iowq_test::way;

/// What a program writes to its standard output and error.
task<std::string> output_of(way w, iowq::argument_list program, iowq::spawn_options options) {
  auto [in, out] = co_await iowq::pipe();
  options.out = options.err = out.get();
  iowq::process const child = co_await as(w, iowq::spawn_process(std::move(program), options));
  out.reset();
  std::string const text = co_await iowq::read_all(in);
  iowq::exit_status const end = co_await as(w, iowq::wait_for(child));
  CHECK(end.success());
  co_return text;
}
}  // namespace

TEST_SUITE("op/process") {
  TEST_CASE("a program gets arguments, descriptors, environment and directory, and says its code") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::scratch dir;
      auto const body = [](way w, iowq_test::scratch& there) -> task<> {
        iowq::argument_list echo{"echo", "a b", "", "c"};
        CHECK(co_await output_of(w, std::move(echo), {}) == "a b  c\n");
        iowq::argument_list where{"pwd"};
        iowq::spawn_options in_directory{.directory = there.path()};
        CHECK(co_await output_of(w, std::move(where), in_directory) == there.path() + '\n');
        std::vector<std::string> const variables{"ONE=1", "TWO=2"};
        iowq::argument_list env{"/usr/bin/env"};
        iowq::spawn_options with{.environment = std::span{variables}};
        CHECK(co_await output_of(w, std::move(env), with) == "ONE=1\nTWO=2\n");

        auto [in, out] = co_await iowq::pipe();
        std::vector<std::string> const words{"sh", "-c",
                                             "read line; test \"$line\" = yes; exit $?"};
        iowq::process const child = co_await as(w, iowq::spawn_process(words, {.in = in.get()}));
        CHECK(co_await iowq::write(out, "yes\n") == 4);
        CHECK((co_await as(w, iowq::wait_for(child))).success());
        std::vector<std::string> const failing{"sh", "-c", "exit 7"};
        iowq::process const other = co_await as(w, iowq::spawn_process(failing));
        iowq::exit_status const end = co_await as(w, iowq::wait_for(other));
        CHECK(end.exited());
        CHECK(end.code() == 7);
        CHECK(end.signal() == 0);
        auto const again = co_await iowq::as_result(as(w, iowq::wait_for(other)));
        CHECK(again.error() == std::errc::no_child_process);
      };
      iowq::run(body(go, dir));
    }
  }

  TEST_CASE("a program has no signal blocked, though the worker that starts it has them all") {
    auto const body = []() -> task<> {
      iowq::argument_list grep{"grep", "SigBlk", "/proc/self/status"};
      CHECK(co_await output_of(way::usual, std::move(grep), {}) == "SigBlk:\t0000000000000000\n");
    };
    iowq::run(body());
  }

  TEST_CASE("standard descriptors may change places") {
    // The child's output goes where our error goes and the other way round; both are pipes here.
    iowq_test::leak_check books;
    auto const body = []() -> task<> {
      iowq_test::pipe_pair for_out, for_err;
      iowq::fd const old_out{::fcntl(1, F_DUPFD_CLOEXEC, 3)};
      iowq::fd const old_err{::fcntl(2, F_DUPFD_CLOEXEC, 3)};
      iowq::argument_list sh{"sh", "-c", "echo out; echo err >&2"};
      auto start = iowq::spawn_process(std::move(sh), {.out = 2, .err = 1});
      REQUIRE(::dup2(for_out.out.get(), 1) == 1);
      REQUIRE(::dup2(for_err.out.get(), 2) == 2);
      auto const child = co_await iowq::as_result(std::move(start));
      ::dup2(old_out.get(), 1);
      ::dup2(old_err.get(), 2);
      REQUIRE(child.has_value());
      for_out.out.reset();
      for_err.out.reset();
      CHECK((co_await iowq::wait_for(*child)).success());
      CHECK(co_await iowq::read_all(for_out.in) == "err\n");
      CHECK(co_await iowq::read_all(for_err.in) == "out\n");
    };
    iowq::run(body());
  }

  TEST_CASE("what cannot be started says why") {
    iowq_test::leak_check books;
    auto const body = []() -> task<> {
      std::vector<std::string> const missing{"/nowhere/program"};
      auto const none = co_await iowq::as_result(iowq::spawn_process(missing));
      CHECK(none.error() == std::errc::no_such_file_or_directory);
      std::vector<std::string> const directory{"/etc"};
      auto const kind = co_await iowq::as_result(iowq::spawn_process(directory));
      CHECK(kind.error() == std::errc::permission_denied);
      std::vector<std::string> const nothing;
      auto const empty = co_await iowq::as_result(iowq::spawn_process(nothing));
      CHECK(empty.error() == std::errc::invalid_argument);
      std::vector<std::string> const nul{"echo", std::string{"a\0b", 3}};
      auto const cut = co_await iowq::as_result(iowq::spawn_process(nul));
      CHECK(cut.error() == std::errc::invalid_argument);
      std::vector<std::string> const truth{"true"};
      auto const bad = co_await iowq::as_result(iowq::spawn_process(truth, {.in = 1'000'000}));
      CHECK(bad.error() == std::errc::bad_file_descriptor);
      auto const no_place =
          co_await iowq::as_result(iowq::spawn_process(truth, {.directory = "/nowhere"}));
      CHECK(no_place.error() == std::errc::no_such_file_or_directory);
    };
    iowq::run(body());
  }

  TEST_CASE("waiting for a child is cancelled, and its end is still there to be awaited") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      auto const body = [](way w) -> task<> {
        std::vector<std::string> const sleeper{"sleep", "1000"};
        iowq::process const child = co_await iowq::spawn_process(sleeper);
        iowq::stop_source source;
        std::error_code end;
        auto const waiter = [](way v, const iowq::process& of, iowq::stop_token token,
                               std::error_code& e) -> task<> {
          co_await iowq_test::under{token};
          auto const r = co_await iowq::as_result(as(v, iowq::wait_for(of)));
          e = r.error();
        };
        auto& here = iowq::executor::current();
        here.spawn(waiter(w, child, source.get_token(), end));
        co_await iowq_test::until_waiting("waitid");
        CHECK_FALSE(end);
        source.request_stop();
        co_await iowq_test::until([&] { return end.value() != 0; });
        CHECK(end == std::errc::operation_canceled);
        child.signal(SIGTERM);
        iowq::exit_status const how = co_await as(w, iowq::wait_for(child));
        CHECK_FALSE(how.exited());
        CHECK(how.signal() == SIGTERM);
        CHECK(how.code() == -1);
        CHECK_THROWS_AS(child.signal(SIGTERM), std::system_error);
      };
      iowq::run(body(go));
    }
  }

  TEST_CASE("waitid says what waitid(2) says: any child, a stop, nothing yet, none at all") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      auto const body = [](way w) -> task<> {
        std::vector<std::string> const sleeper{"sleep", "1000"};
        iowq::process const child = co_await iowq::spawn_process(sleeper);
        auto const id = static_cast<::id_t>(child.id());
        ::siginfo_t told = co_await as(w, iowq::waitid(P_PID, id, WEXITED | WNOHANG));
        CHECK(told.si_pid == 0);
        child.signal(SIGSTOP);
        told = co_await as(w, iowq::waitid(P_PID, id, WEXITED | WSTOPPED));
        CHECK(told.si_code == CLD_STOPPED);
        CHECK(told.si_status == SIGSTOP);
        CHECK(told.si_pid == child.id());
        child.signal(SIGKILL);
        told = co_await as(w, iowq::waitid(P_PID, id, WEXITED | WNOWAIT));
        CHECK(told.si_code == CLD_KILLED);
        told = co_await as(w, iowq::waitid(P_ALL, 0, WEXITED));
        CHECK(told.si_pid == child.id());
        CHECK(told.si_signo == SIGCHLD);
        auto const none = co_await iowq::as_result(as(w, iowq::waitid(P_PID, id, WEXITED)));
        CHECK(none.error() == std::errc::no_child_process);
        auto const odd = co_await iowq::as_result(as(w, iowq::waitid(P_PID, id, 0)));
        CHECK(odd.error() == std::errc::invalid_argument);
      };
      iowq::run(body(go));
    }
  }
}
