// SPDX-License-Identifier: BSL-1.0
// op/path, op/attribute, op/directory, op/text: names and what is known about files.
#include <iowq/op/directory.hpp>

#include <sys/stat.h>

#include <set>
#include <string>

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/op/metadata.hpp>
#include <iowq/op/names.hpp>

#include "leak_check.hpp"
#include "ways.hpp"

namespace {
using iowq::task;
using iowq_test::way;

void same(const iowq::file_status& ours, const struct stat& theirs) {
  CHECK(ours.size() == static_cast<std::uint64_t>(theirs.st_size));
  CHECK(ours.mode() == theirs.st_mode);
  CHECK(ours.uid() == theirs.st_uid);
  CHECK(ours.gid() == theirs.st_gid);
  CHECK(ours.links() == theirs.st_nlink);
  CHECK(ours.inode() == theirs.st_ino);
  CHECK(ours.device() == theirs.st_dev);
  auto const ns = ours.modified().time_since_epoch().count();
  CHECK(ns == theirs.st_mtim.tv_sec * 1'000'000'000L + theirs.st_mtim.tv_nsec);
  CHECK(ours.is_regular() == S_ISREG(theirs.st_mode));
  CHECK(ours.is_directory() == S_ISDIR(theirs.st_mode));
  CHECK(ours.is_symlink() == S_ISLNK(theirs.st_mode));
}
}  // namespace

TEST_SUITE("op/names") {
  TEST_CASE("names come, move and go as by mkdir(2), rename(2), unlink(2), rmdir(2)") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::scratch dir;
      auto const body = [](way w, iowq_test::scratch& in) -> task<> {
        co_await as(w, iowq::mkdir(in / "a", 0750));
        auto const again = co_await iowq::as_result(as(w, iowq::mkdir(in / "a")));
        CHECK(again.error() == std::errc::file_exists);
        co_await as(w, iowq::rename(in / "a", in / "b"));
        auto const gone = co_await iowq::as_result(as(w, iowq::rename(in / "a", in / "b")));
        CHECK(gone.error() == std::errc::no_such_file_or_directory);
        iowq::fd made = co_await iowq::open(in / "b/file", O_CREAT | O_WRONLY);
        iowq::fd inside = co_await iowq::open(in / "b", O_RDONLY | O_DIRECTORY);
        auto const full = co_await iowq::as_result(as(w, iowq::rmdir(in / "b")));
        CHECK(full.error() == std::errc::directory_not_empty);
        auto const kind = co_await iowq::as_result(as(w, iowq::unlink(in / "b")));
        CHECK(kind.error() == std::errc::is_a_directory);
        co_await as(w, iowq::renameat(inside, "file", inside, "other"));
        co_await as(w, iowq::mkdirat(inside, "sub"));
        co_await as(w, iowq::unlinkat(inside, "sub", AT_REMOVEDIR));
        co_await as(w, iowq::unlinkat(inside, "other"));
        co_await as(w, iowq::rmdir(in / "b"));
        auto const nul = co_await iowq::as_result(as(w, iowq::unlink(std::string_view{"a\0b", 3})));
        CHECK(nul.error() == std::errc::invalid_argument);
      };
      iowq::run(body(go, dir));
    }
  }

  TEST_CASE("stat, lstat and fstat say what theirs say, however long the path") {
    iowq_test::scratch dir;
    std::string const deep = dir / std::string(200, 'd');
    REQUIRE(::mkdir(deep.c_str(), 0700) == 0);
    REQUIRE(::symlink("/etc/passwd", (deep + "/link").c_str()) == 0);
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      auto const body = [](way w, std::string link) -> task<> {
        struct stat theirs{};
        REQUIRE(::stat(link.c_str(), &theirs) == 0);
        same(co_await as(w, iowq::stat(link)), theirs);
        REQUIRE(::lstat(link.c_str(), &theirs) == 0);
        same(co_await as(w, iowq::lstat(link)), theirs);
        iowq::fd file = co_await iowq::open(link, O_RDONLY);
        REQUIRE(::fstat(file.get(), &theirs) == 0);
        same(co_await as(w, iowq::fstat(file)), theirs);
        same(co_await as(w, iowq::fstat(file)), theirs);  // now that its device is known
        auto const none = co_await iowq::as_result(as(w, iowq::stat("/nowhere")));
        CHECK(none.error() == std::errc::no_such_file_or_directory);
        auto const bad = co_await iowq::as_result(as(w, iowq::fstat(1'000'000)));
        CHECK(bad.error() == std::errc::bad_file_descriptor);
      };
      iowq::run(body(go, deep + "/link"));
    }
  }

  TEST_CASE("a known local file's fstat is made inline") {
    auto const body = []() -> task<std::uint64_t> {
      iowq::fd file = co_await iowq::open("/proc/self/status", O_RDONLY);
      for (int i = 0; i < 10; ++i) (void)co_await iowq::fstat(file);
      co_return iowq::executor::current().stats().inline_ops;
    };
    CHECK(iowq::run(body()) >= 9);
  }

  TEST_CASE("read_directory yields each of ten thousand names once, without . and ..") {
    iowq_test::leak_check books;
    iowq_test::scratch dir;
    std::set<std::string> made;
    for (int i = 0; i < 10'000; ++i) {
      made.insert("entry-" + std::to_string(i));
      REQUIRE(::mknod((dir / ("entry-" + std::to_string(i))).c_str(), S_IFREG | 0600, 0) == 0);
    }
    auto const body = [](const std::string& path) -> task<std::set<std::string>> {
      std::set<std::string> names;
      auto entries = iowq::read_directory(path);
      while (auto entry = co_await entries.next()) {
        CHECK(names.insert(std::string{entry->name()}).second);
        CHECK(entry->type() == iowq::file_type::regular);
      }
      auto half = iowq::read_directory(path);
      (void)co_await half.next();  // dropped half-way
      co_return names;
    };
    CHECK(iowq::run(body(dir.path())) == made);
    auto const missing = [](std::string path) -> task<> {
      auto entries = iowq::read_directory(path);
      (void)co_await entries.next();
    };
    CHECK_THROWS_AS(iowq::run(missing(dir / "none")), std::system_error);
  }
}
