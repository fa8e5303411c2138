// SPDX-License-Identifier: BSL-1.0
#include <iowq/op/names.hpp>  // first and alone

#include <sys/stat.h>

#include <string>

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/op/open.hpp>

#include "leak_check.hpp"
#include "ways.hpp"

namespace {
using iowq::task;
using iowq_test::way;

struct ::stat about(const std::string& path) {
  struct ::stat now{};
  CHECK(::lstat(path.c_str(), &now) == 0);
  return now;
}
}  // namespace

TEST_SUITE("op/names_links") {
  TEST_CASE("link and linkat give a file more names") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::scratch dir;
      auto const body = [](way w, iowq_test::scratch& in) -> task<> {
        iowq::fd file = co_await iowq::open(in / "one", O_CREAT | O_WRONLY);
        iowq::fd top = co_await iowq::open(in.path(), O_RDONLY | O_DIRECTORY);
        co_await as(w, iowq::link(in / "one", in / "two"));
        co_await as(w, iowq::linkat(top, "two", top, "three"));
        CHECK(about(in / "three").st_ino == about(in / "one").st_ino);
        CHECK(about(in / "one").st_nlink == 3);
        auto const taken = co_await iowq::as_result(as(w, iowq::link(in / "one", in / "two")));
        CHECK(taken.error() == std::errc::file_exists);
        auto const none = co_await iowq::as_result(as(w, iowq::link(in / "no", in / "yes")));
        CHECK(none.error() == std::errc::no_such_file_or_directory);
        // Of a symbolic link: the link itself, unless it is to be followed.
        REQUIRE(::symlink("one", (in / "soft").c_str()) == 0);
        co_await as(w, iowq::link(in / "soft", in / "soft-too"));
        CHECK(S_ISLNK(about(in / "soft-too").st_mode));
        co_await as(w, iowq::linkat(top, "soft", top, "four", AT_SYMLINK_FOLLOW));
        CHECK(about(in / "four").st_ino == about(in / "one").st_ino);
        auto const odd = co_await iowq::as_result(as(w, iowq::linkat(top, "one", top, "z", 1)));
        CHECK(odd.error() == std::errc::invalid_argument);
      };
      iowq::run(body(go, dir));
    }
  }

  TEST_CASE("symbolic links say what they were told, however long") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::scratch dir;
      auto const body = [](way w, iowq_test::scratch& in) -> task<> {
        iowq::fd top = co_await iowq::open(in.path(), O_RDONLY | O_DIRECTORY);
        std::string const target(PATH_MAX - 1, 't');
        co_await as(w, iowq::symlink("nowhere", in / "short"));
        co_await as(w, iowq::symlinkat("a b", top, "at"));
        CHECK(co_await as(w, iowq::readlink(in / "short")) == "nowhere");
        CHECK(co_await as(w, iowq::readlinkat(top, "at")) == "a b");
        CHECK(co_await as(w, iowq::readlink("/proc/self/cwd")) ==
              std::filesystem::current_path().string());
        bool const fits = ::symlink(target.c_str(), (in / "plain").c_str()) == 0;
        auto const made = co_await iowq::as_result(as(w, iowq::symlink(target, in / "long")));
        CHECK(made.has_value() == fits);  // btrfs and xfs have less room
        if (fits) CHECK(co_await as(w, iowq::readlink(in / "long")) == target);
        auto const again = co_await iowq::as_result(as(w, iowq::symlink("x", in / "short")));
        CHECK(again.error() == std::errc::file_exists);
        auto const none = co_await iowq::as_result(as(w, iowq::symlink("", in / "empty")));
        CHECK(none.error() == std::errc::no_such_file_or_directory);
        auto const no_link = co_await iowq::as_result(as(w, iowq::readlink(in.path())));
        CHECK(no_link.error() == std::errc::invalid_argument);
        std::string_view const nul{"a\0b", 3};  // hazard-87
        auto const from = co_await iowq::as_result(as(w, iowq::symlink(nul, in / "nul")));
        CHECK(from.error() == std::errc::invalid_argument);
        auto const to = co_await iowq::as_result(as(w, iowq::link(in / "short", nul)));
        CHECK(to.error() == std::errc::invalid_argument);
        auto const of = co_await iowq::as_result(as(w, iowq::readlink(nul)));
        CHECK(of.error() == std::errc::invalid_argument);
      };
      iowq::run(body(go, dir));
    }
  }

  TEST_CASE("mkstemp and mkdtemp make what nobody had") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::scratch dir;
      auto const body = [](way w, iowq_test::scratch& in) -> task<> {
        auto [file, name] = co_await as(w, iowq::mkstemp(in / "file-XXXXXX"));
        auto const other = co_await as(w, iowq::mkstemp(in / "file-XXXXXX"));
        CHECK(name != other.second);
        CHECK(name.starts_with(in / "file-"));
        CHECK((::fcntl(file.get(), F_GETFD) & FD_CLOEXEC) != 0);
        struct ::stat opened{};
        REQUIRE(::fstat(file.get(), &opened) == 0);
        CHECK(opened.st_ino == about(name).st_ino);
        CHECK(about(name).st_mode == (S_IFREG | 0600));
        std::string const made = co_await as(w, iowq::mkdtemp(in / "dir-XXXXXX"));
        CHECK(about(made).st_mode == (S_IFDIR | 0700));
        auto const no_place = co_await iowq::as_result(as(w, iowq::mkdtemp("/nowhere/XXXXXX")));
        CHECK(no_place.error() == std::errc::no_such_file_or_directory);
        auto const plain = co_await iowq::as_result(as(w, iowq::mkstemp(in / "file")));
        CHECK(plain.error() == std::errc::invalid_argument);
        std::string_view const nul{"a\0XXXXXX", 8};
        auto const cut = co_await iowq::as_result(as(w, iowq::mkstemp(nul)));
        CHECK(cut.error() == std::errc::invalid_argument);
      };
      iowq::run(body(go, dir));
    }
  }
}
