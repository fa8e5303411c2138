// SPDX-License-Identifier: BSL-1.0
// op/change, op/xattr, and the file systems of op/attribute.
#include <iowq/op/metadata.hpp>  // first and alone

#include <sys/stat.h>
#include <sys/vfs.h>

#include <array>
#include <chrono>
#include <string>

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/op/open.hpp>
#include <iowq/op/xattr.hpp>

#include "leak_check.hpp"
#include "skip.hpp"
#include "ways.hpp"

namespace {
using iowq::task;
using iowq_test::way;

struct ::stat about(const std::string& path) {
  struct ::stat now{};
  CHECK(::lstat(path.c_str(), &now) == 0);
  return now;
}
bool same(const ::timespec& one, const ::timespec& other) {
  return one.tv_sec == other.tv_sec && one.tv_nsec == other.tv_nsec;
}
constexpr std::string_view nul{"a\0b", 3};
}  // namespace

TEST_SUITE("op/metadata_change") {
  TEST_CASE("chmod, chown and theirs of a descriptor change what their system calls change") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::scratch dir;
      auto const body = [](way w, iowq_test::scratch& in) -> task<> {
        std::string const name = in / "file";
        iowq::fd file = co_await iowq::open(name, O_CREAT | O_RDWR, 0600);
        co_await as(w, iowq::chmod(name, 0640));
        CHECK((about(name).st_mode & 07777) == 0640);
        co_await as(w, iowq::fchmod(file, 04711));
        CHECK((about(name).st_mode & 07777) == 04711);
        auto const user = about(name).st_uid;
        auto const group = about(name).st_gid;
        co_await as(w, iowq::chown(name, user, static_cast<::gid_t>(-1)));
        co_await as(w, iowq::fchown(file, user, group));
        CHECK(about(name).st_uid == user);
        CHECK(about(name).st_gid == group);
        if (::geteuid() == 0) {
          co_await as(w, iowq::chown(name, 12, 34));
          CHECK(about(name).st_uid == 12);
          CHECK(about(name).st_gid == 34);
          co_await as(w, iowq::fchown(file, static_cast<::uid_t>(-1), 56));
          CHECK(about(name).st_uid == 12);
          CHECK(about(name).st_gid == 56);
          REQUIRE(::symlink("file", (in / "link").c_str()) == 0);
          co_await as(w, iowq::chown(in / "link", 78, 78, AT_SYMLINK_NOFOLLOW));
          CHECK(about(in / "link").st_uid == 78);
          CHECK(about(name).st_uid == 12);
        }
        auto const none = co_await iowq::as_result(as(w, iowq::chmod(in / "none", 0600)));
        CHECK(none.error() == std::errc::no_such_file_or_directory);
        auto const cut = co_await iowq::as_result(as(w, iowq::chown(nul, 0, 0)));
        CHECK(cut.error() == std::errc::invalid_argument);
        auto const bad = co_await iowq::as_result(as(w, iowq::fchmod(1'000'000, 0600)));
        CHECK(bad.error() == std::errc::bad_file_descriptor);
        auto const worse = co_await iowq::as_result(as(w, iowq::fchown(1'000'000, 0, 0)));
        CHECK(worse.error() == std::errc::bad_file_descriptor);
      };
      iowq::run(body(go, dir));
    }
  }

  TEST_CASE("utimens sets either time to the nanosecond, to now, or leaves it") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::scratch dir;
      auto const body = [](way w, iowq_test::scratch& in) -> task<> {
        using std::chrono::system_clock;
        std::string const name = in / "file";
        iowq::fd file = co_await iowq::open(name, O_CREAT | O_RDWR);
        auto const early = system_clock::time_point{} + std::chrono::nanoseconds{1'000'000'007};
        co_await as(w, iowq::utimens(name, early, ::timespec{1'234'567'890, 987'654'321}));
        CHECK(same(about(name).st_atim, ::timespec{1, 7}));
        CHECK(same(about(name).st_mtim, ::timespec{1'234'567'890, 987'654'321}));
        CHECK((co_await iowq::stat(name)).accessed() == early);
        co_await as(w, iowq::futimens(file, iowq::file_time::omit(), iowq::file_time::now()));
        CHECK(same(about(name).st_atim, ::timespec{1, 7}));
        CHECK(about(name).st_mtim.tv_sec > 1'234'567'890);
        // Half a second before 1970 is the second before, and a half.
        auto const before = system_clock::time_point{} - std::chrono::milliseconds{500};
        CHECK(same(iowq::file_time{before}.raw(), ::timespec{-1, 500'000'000}));
        REQUIRE(::symlink("file", (in / "link").c_str()) == 0);
        co_await as(w, iowq::utimens(in / "link", early, early, AT_SYMLINK_NOFOLLOW));
        CHECK(same(about(in / "link").st_mtim, ::timespec{1, 7}));
        CHECK(about(name).st_mtim.tv_sec > 1'234'567'890);
        auto const odd = co_await iowq::as_result(
            as(w, iowq::utimens(name, early, ::timespec{0, 1'000'000'000})));
        CHECK(odd.error() == std::errc::invalid_argument);
        auto const cut = co_await iowq::as_result(as(w, iowq::utimens(nul, early, early)));
        CHECK(cut.error() == std::errc::invalid_argument);
      };
      iowq::run(body(go, dir));
    }
  }

  TEST_CASE("extended attributes are set, read, listed and removed as by their system calls") {
    iowq_test::scratch probe;
    if (::setxattr(probe.path().c_str(), "user.iowq", "x", 1, 0) != 0)
      SKIP_CASE("the file system of the temporary directory has no user attributes");
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::scratch dir;
      auto const body = [](way w, iowq_test::scratch& in) -> task<> {
        std::string const name = in / "file";
        iowq::fd file = co_await iowq::open(name, O_CREAT | O_RDWR);
        co_await as(w, iowq::setxattr(name, "user.one", "first"));
        co_await as(w, iowq::fsetxattr(file, "user.two", std::string(100, '2'), XATTR_CREATE));
        std::array<char, 200> room{};
        CHECK(co_await as(w, iowq::getxattr(name, "user.one", room)) == 5);
        CHECK(std::string_view{room.data(), 5} == "first");
        CHECK(co_await as(w, iowq::fgetxattr(file, "user.two", room)) == 100);
        CHECK(room[99] == '2');
        CHECK(co_await as(w, iowq::getxattr(name, "user.two", std::span<char>{})) == 100);
        auto const small = co_await iowq::as_result(
            as(w, iowq::getxattr(name, "user.two", std::span(room).first(10))));
        CHECK(small.error() == std::errc::result_out_of_range);
        auto const exists = co_await iowq::as_result(
            as(w, iowq::setxattr(name, "user.one", "again", XATTR_CREATE)));
        CHECK(exists.error() == std::errc::file_exists);
        auto const too_much = co_await iowq::as_result(
            as(w, iowq::setxattr(name, "user.one", std::string(100'000, 'x'))));
        CHECK(too_much.error() == std::errc::argument_list_too_long);
        CHECK(co_await as(w, iowq::listxattr(name, std::span<char>{})) == 18);
        CHECK(co_await as(w, iowq::listxattr(name, room)) == 18);
        std::string const names(room.data(), 18);
        CHECK(names.find(std::string{"user.one\0", 9}) != names.npos);
        CHECK(names.find(std::string{"user.two\0", 9}) != names.npos);
        co_await as(w, iowq::removexattr(name, "user.one"));
        auto const gone = co_await iowq::as_result(as(w, iowq::removexattr(name, "user.one")));
        CHECK(gone.error() == std::errc::no_message_available);  // ENODATA
        auto const unnamed = co_await iowq::as_result(as(w, iowq::fgetxattr(file, nul, room)));
        CHECK(unnamed.error() == std::errc::invalid_argument);
        auto const cut = co_await iowq::as_result(as(w, iowq::setxattr(nul, "user.a", "")));
        CHECK(cut.error() == std::errc::invalid_argument);
        auto const bad = co_await iowq::as_result(as(w, iowq::fsetxattr(-1, "user.a", "")));
        CHECK(bad.error() == std::errc::bad_file_descriptor);
      };
      iowq::run(body(go, dir));
    }
  }

  TEST_CASE("statfs and fstatfs say what theirs say") {
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      auto const body = [](way w) -> task<> {
        struct ::statfs theirs;
        REQUIRE(::statfs("/proc", &theirs) == 0);
        struct ::statfs const ours = co_await as(w, iowq::statfs("/proc"));
        CHECK(ours.f_type == theirs.f_type);
        CHECK(ours.f_namelen == theirs.f_namelen);
        iowq::fd file = co_await iowq::open("/proc/self/status", O_RDONLY);
        CHECK((co_await as(w, iowq::fstatfs(file))).f_type == theirs.f_type);
        auto const none = co_await iowq::as_result(as(w, iowq::statfs("/nowhere")));
        CHECK(none.error() == std::errc::no_such_file_or_directory);
        auto const cut = co_await iowq::as_result(as(w, iowq::statfs(nul)));
        CHECK(cut.error() == std::errc::invalid_argument);
        auto const bad = co_await iowq::as_result(as(w, iowq::fstatfs(1'000'000)));
        CHECK(bad.error() == std::errc::bad_file_descriptor);
      };
      iowq::run(body(go));
    }
  }
}
