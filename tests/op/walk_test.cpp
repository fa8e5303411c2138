// SPDX-License-Identifier: BSL-1.0
#include <iowq/op/walk.hpp>  // first and alone

#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <map>
#include <random>
#include <set>
#include <string>
#include <thread>

#include <doctest/doctest.h>

#include <iowq/exec/run.hpp>

#include "ledger.hpp"
#include "ways.hpp"

namespace {
using iowq::task;
namespace fs = std::filesystem;

struct seen {
  iowq::file_type type;
  std::size_t depth;
  bool operator==(const seen&) const = default;
};
using tree = std::map<std::string, seen>;

task<tree> walked(std::string path) {
  tree all;
  auto entries = iowq::walk(path);
  while (auto entry = co_await entries.next()) {
    CHECK(entry->path().ends_with(entry->name()));
    CHECK_FALSE(entry->error());
    auto const parent = entry->path().substr(0, entry->path().rfind('/'));
    // Each directory before what is in it.
    if (entry->depth() > 0) CHECK(all.contains(std::string{parent}));
    bool const fresh =
        all.insert({std::string{entry->path()}, {entry->type(), entry->depth()}}).second;
    CHECK(fresh);
  }
  co_return all;
}

tree by_the_standard(const std::string& path) {
  tree all;
  for (auto i = fs::recursive_directory_iterator{path}; i != fs::recursive_directory_iterator{};
       ++i) {
    struct ::stat about {};
    REQUIRE(::lstat(i->path().c_str(), &about) == 0);
    auto const type = S_ISDIR(about.st_mode)    ? iowq::file_type::directory
                      : S_ISLNK(about.st_mode)  ? iowq::file_type::symlink
                      : S_ISREG(about.st_mode)  ? iowq::file_type::regular
                      : S_ISFIFO(about.st_mode) ? iowq::file_type::fifo
                                                : iowq::file_type::unknown;
    all.insert({i->path().string(), {type, static_cast<std::size_t>(i.depth())}});
  }
  return all;
}
void make(const std::string& path) { REQUIRE(::mknod(path.c_str(), S_IFREG | 0600, 0) == 0); }
}  // namespace

TEST_SUITE("op/walk") {
  TEST_CASE("a walk sees what std::filesystem sees, and follows no link") {
    iowq_test::ledger books;
    iowq_test::scratch dir;
    for (int i = 0; i < 20; ++i) {
      std::string const sub = dir / ("sub" + std::to_string(i));
      fs::create_directories(sub + "/a/b/c");
      for (int k = 0; k < 100; ++k) make(sub + "/a/file" + std::to_string(k));
      make(sub + "/a/b/c/deep");
      fs::create_directory_symlink(dir.path(), sub + "/around");  // a circle, if followed
    }
    fs::create_directory(dir / "empty");
    fs::create_symlink("nowhere", dir / "dangling");
    REQUIRE(::mkfifo((dir / "fifo").c_str(), 0600) == 0);  // opening it would wait
    tree const theirs = by_the_standard(dir.path());
    CHECK(theirs.size() == 20 * 106 + 3);
    CHECK(iowq::run(walked(dir.path())) == theirs);

    fs::create_directory_symlink(dir.path(), dir / "link");
    CHECK_THROWS_AS(iowq::run(walked(dir / "link")), std::system_error);
    tree const through = iowq::run(walked((dir / "link") + '/'));
    CHECK(through.size() == theirs.size() + 1);
    CHECK_THROWS_WITH(iowq::run(walked(dir / "none")), "open: No such file or directory");
    CHECK_THROWS_AS(iowq::run(walked(dir / "fifo")), std::system_error);
  }

  TEST_CASE("a large directory and a deep tree, of paths longer than PATH_MAX") {
    iowq_test::ledger books;
    iowq_test::scratch dir;
    for (int i = 0; i < 20'000; ++i) make(dir / ("entry-" + std::to_string(i)));
    std::string const name(200, 'd');
    constexpr int levels = 100;
    iowq::fd at{::open(dir.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    for (int i = 0; i < levels; ++i) {
      REQUIRE(::mkdirat(at.get(), name.c_str(), 0700) == 0);
      at.reset(::openat(at.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      REQUIRE(at);
    }
    at.reset();
    auto const body = [](std::string path) -> task<> {
      std::size_t entries = 0, deepest = 0, longest = 0;
      auto all = iowq::walk(path);
      while (auto entry = co_await all.next()) {
        ++entries;
        deepest = std::max(deepest, entry->depth());
        longest = std::max(longest, entry->path().size());
      }
      CHECK(entries == 20'000 + levels);
      CHECK(deepest == levels - 1);
      CHECK(longest > PATH_MAX);
      auto half = iowq::walk(path);
      for (int i = 0; i < 100; ++i) (void)co_await half.next();  // dropped half-way
    };
    iowq::run(body(dir.path()));
  }

  TEST_CASE("a directory that cannot be entered says so, and the walk goes on") {
    iowq_test::ledger books;
    iowq_test::scratch dir;
    fs::create_directories(dir / "one/inside");
    fs::create_directories(dir / "two/inside");
    auto const body = [](iowq_test::scratch& in) -> task<> {
      std::set<std::string> names;
      auto all = iowq::walk(in.path());
      int errors = 0;
      while (auto entry = co_await all.next()) {
        names.insert(std::string{entry->name()});
        // Whichever comes first, the other is gone, or another kind, when its turn comes.
        if (names.size() == 1) {
          std::string const other = in / (entry->name() == "one" ? "two" : "one");
          fs::remove_all(other);
          fs::create_symlink("/", other);
        }
        if (entry->error()) {
          ++errors;
          CHECK((entry->error() == std::errc::not_a_directory ||
                 entry->error() == std::errc::too_many_symbolic_link_levels));
        }
      }
      CHECK(names == std::set<std::string>{"one", "two", "inside"});
      CHECK(errors == 1);
    };
    iowq::run(body(dir));
  }

  TEST_CASE("hazard-88: a tree that changes under the walk leads it nowhere else") {
    iowq_test::ledger books;
    iowq_test::scratch outside, dir;
    make(outside / "secret");
    for (int i = 0; i < 8; ++i) fs::create_directories(dir / ("d" + std::to_string(i) + "/e/f"));
    std::atomic<bool> end{false};
    std::thread attacker{[&] {
      std::minstd_rand random{1};
      std::error_code ignored;
      while (!end) {
        std::string const name = dir / ("d" + std::to_string(random() % 8));
        fs::rename(name, dir / "away", ignored);
        fs::create_directory_symlink(outside.path(), name, ignored);
        fs::remove(name, ignored);
        fs::rename(dir / "away", name, ignored);
        fs::remove_all(name + "/e", ignored);
        fs::create_directories(name + "/e/f", ignored);
      }
    }};
    auto const body = [](std::string path) -> task<> {
      for (int round = 0; round < 300; ++round) {
        auto all = iowq::walk(path);
        while (auto entry = co_await all.next()) CHECK(entry->name() != "secret");
      }
    };
    iowq::run(body(dir.path()));
    end = true;
    attacker.join();
  }
}
