// SPDX-License-Identifier: BSL-1.0
#include <iowq/op/open.hpp>  // first and alone

#include <sys/stat.h>

#include <string>
#include <thread>

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>

#include "leak_check.hpp"
#include "waiting.hpp"
#include "ways.hpp"

namespace {
using iowq::task;
using iowq_test::way;

std::error_code error_of(way go, std::string path, int flags) {
  auto const body = [](way w, std::string p, int f) -> task<std::error_code> {
    auto opened = co_await iowq::as_result(as(w, iowq::open(p, f)));
    co_return opened.error();
  };
  return iowq::run(body(go, path, flags));
}
}  // namespace

TEST_SUITE("op/open") {
  TEST_CASE("open makes what open(2) makes: mode, umask, close-on-exec, O_EXCL, O_TMPFILE") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::scratch dir;
      auto const body = [](way w, iowq_test::scratch& in) -> task<> {
        mode_t const mask = ::umask(027);
        auto const flags = O_RDWR | O_CREAT | O_EXCL;
        iowq::fd made = co_await as(w, iowq::open(in / "new", flags, 0666));
        ::umask(mask);
        struct stat status{};
        REQUIRE(::fstat(made.get(), &status) == 0);
        CHECK((status.st_mode & 07777) == 0640);
        CHECK((::fcntl(made.get(), F_GETFD) & FD_CLOEXEC) != 0);
        CHECK((::fcntl(made.get(), F_GETFL) & O_ACCMODE) == O_RDWR);
        auto const again = co_await iowq::as_result(as(w, iowq::open(in / "new", flags)));
        CHECK(again.error() == std::errc::file_exists);
        iowq::fd nameless = co_await as(w, iowq::openat(made.get() >= 0 ? AT_FDCWD : -1, in.path(),
                                                        O_TMPFILE | O_WRONLY, 0600));
        CHECK(nameless);
        co_await as(w, iowq::close(std::move(nameless)));
        co_await as(w, iowq::close(made.release()));
      };
      iowq::run(body(go, dir));
    }
  }

  TEST_CASE("what cannot be opened says why") {
    iowq_test::scratch dir;
    REQUIRE(::mknod((dir / "file").c_str(), S_IFREG | 0600, 0) == 0);
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      CHECK(error_of(go, dir / "missing", O_RDONLY) == std::errc::no_such_file_or_directory);
      CHECK(error_of(go, dir / "file", O_RDONLY | O_DIRECTORY) == std::errc::not_a_directory);
      CHECK(error_of(go, dir.path(), O_WRONLY) == std::errc::is_a_directory);
      // hazard-87
      CHECK(error_of(go, std::string{"a\0b", 3}, O_RDONLY) == std::errc::invalid_argument);
      CHECK(error_of(go, std::string(5000, 'a'), O_RDONLY) == std::errc::filename_too_long);
      CHECK(error_of(go, "", O_RDONLY) == std::errc::no_such_file_or_directory);
    }
    auto const body = [](iowq_test::scratch& in) -> task<> {
      auto opening = iowq::open(in / "missing", O_RDONLY);  // the path's string is gone already
      co_await opening;
    };
    CHECK_THROWS_WITH(iowq::run(body(dir)), "open: No such file or directory");
  }

  TEST_CASE("hazard-88: RESOLVE_BENEATH keeps to the directory") {
    iowq_test::scratch dir;
    REQUIRE(::symlink("/etc", (dir / "out").c_str()) == 0);
    auto const body = [](way w, iowq_test::scratch& in) -> task<> {
      iowq::fd root = co_await iowq::open(in.path(), O_PATH | O_DIRECTORY);
      ::open_how how{};
      how.flags = O_RDONLY;
      how.resolve = RESOLVE_BENEATH;
      auto const up = co_await iowq::as_result(as(w, iowq::openat2(root, "../..", how)));
      CHECK(up.error().value() == EXDEV);
      auto const away = co_await iowq::as_result(as(w, iowq::openat2(root, "out/hosts", how)));
      CHECK(away.error().value() == EXDEV);
      auto const here = co_await iowq::as_result(as(w, iowq::openat2(root, ".", how)));
      CHECK(here.has_value());
    };
    for (way go : iowq_test::all_ways) iowq::run(body(go, dir));
  }

  TEST_CASE("hazard-82: a FIFO opened for writing waits for its reader, and no one else does") {
    iowq_test::scratch dir;
    REQUIRE(::mkfifo((dir / "fifo").c_str(), 0600) == 0);
    std::thread reader;
    auto const body = [&](iowq_test::scratch& in) -> task<> {
      bool opened = false;
      auto const writer = [&](iowq_test::scratch& there) -> task<> {
        iowq::fd end = co_await iowq::open(there / "fifo", O_WRONLY);
        opened = static_cast<bool>(end);
      };
      iowq::executor::current().spawn(writer(in));
      co_await iowq_test::until_waiting("open");
      CHECK_FALSE(opened);
      reader = std::thread{[&] { iowq::fd{::open((in / "fifo").c_str(), O_RDONLY)}; }};
      co_await iowq_test::until([&] { return opened; });
    };
    iowq::run(body(dir));
    reader.join();
  }

  TEST_CASE("close reports a bad descriptor once, and closes what is never awaited") {
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      auto const body = [](way w) -> task<> {
        auto const none = co_await iowq::as_result(as(w, iowq::close(1'000'000)));
        CHECK(none.error() == std::errc::bad_file_descriptor);
        auto const nothing = co_await iowq::as_result(as(w, iowq::close(iowq::fd{})));
        CHECK(nothing.error() == std::errc::bad_file_descriptor);
        iowq_test::pipe_pair pipe;
        int const number = pipe.out.get();
        {
          auto const dropped = as(w, iowq::close(std::move(pipe.out)));
        }
        CHECK(::fcntl(number, F_GETFD) == -1);
      };
      iowq::run(body(go));
    }
  }
}
