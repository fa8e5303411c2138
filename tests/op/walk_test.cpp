// SPDX-License-Identifier: BSL-1.0
#include <iowq/op/walk.hpp>  // first and alone

#include <malloc.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <latch>
#include <map>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>
#include <iowq/exec/punt.hpp>
#include <iowq/exec/runtime.hpp>
#include <iowq/flow/with_stop.hpp>
#include <iowq/op/time.hpp>

#include "leak_check.hpp"
#include "waiting.hpp"
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
    struct ::stat about{};
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

/// Where many files cost little.
std::string in_memory() {
  return ::access("/dev/shm", W_OK | X_OK) == 0 ? "/dev/shm" : fs::temp_directory_path();
}

/// `each` directories in each, `levels` of them, and a file in each.
void make_tree(const std::string& path, int each, int levels) {
  make(path + "/file");
  for (int i = 0; levels != 0 && i < each; ++i) {
    std::string const below = path + "/d" + std::to_string(i);
    fs::create_directory(below);
    make_tree(below, each, levels - 1);
  }
}

iowq::operation_stats walks() {
  for (const auto& line : iowq::executor::current().stats().operations)
    if (std::string_view{line.name} == "walk") return line;
  return {};
}

iowq::executor_options one_worker() {
  iowq::executor_options options;
  options.pool.max_workers.bound = 1;
  return options;
}

/// Keeps the only worker until it is released. Await in_hand() before anything is said of it.
class busy_worker {
 public:
  task<> work() {
    auto const call = [this] {
      held_.count_down();
      release_.wait();
    };
    co_await iowq::punt(call);
  }
  /// The owner must not sleep before what it punted is the pool's.
  task<> in_hand() {
    co_await iowq_test::until([&] { return held_.try_wait(); });
  }
  void release() { release_.count_down(); }

 private:
  std::latch held_{1}, release_{1};
};
}  // namespace

TEST_SUITE("op/walk") {
  TEST_CASE("a walk sees what std::filesystem sees, and follows no link") {
    iowq_test::leak_check books;
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
    iowq_test::leak_check books;
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

  TEST_CASE("the walk names a directory that cannot be entered, and continues") {
    iowq_test::leak_check books;
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
    iowq_test::leak_check books;
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

  TEST_CASE("directories are read before their turn: eight, and no more; all in bounded memory") {
    iowq_test::leak_check books;
    iowq_test::scratch dir{in_memory()};
    static constexpr int directories = 60, files = 100;
    std::string const long_name(240, 'n');
    for (int i = 0; i < directories; ++i) {
      std::string const sub = dir / ("d" + std::to_string(i));
      fs::create_directory(sub);
      for (int k = 0; k < files; ++k) make(sub + '/' + std::to_string(k) + long_name);
    }
    auto const body = [](std::string path) -> task<> {
      co_await iowq::punt([] {});  // now there is a worker, and what it opens for itself
      int const before = iowq_test::open_descriptors();
      auto const memory = static_cast<long>(::mallinfo2().uordblks);
      auto all = iowq::walk(path);
      REQUIRE(co_await all.next());
      // The top one, the first, and the seven behind it, for which nobody has asked.
      int const ahead = before + 9;
      CHECK(iowq_test::within(5, [ahead] { return iowq_test::open_descriptors() == ahead; }));
      int entries = 1, most = 0;
      long most_memory = 0;
      while (auto entry = co_await all.next()) {
        ++entries;
        if (entry->depth() != 0) continue;
        most = std::max(most, iowq_test::open_descriptors());
        most_memory = std::max(most_memory, static_cast<long>(::mallinfo2().uordblks) - memory);
      }
      CHECK(entries == directories * (files + 1));
      CHECK(most <= ahead + 1);
      CHECK(most_memory < 600'000);  // of which all would be 1.6 million bytes
    };
    iowq::run(body(dir.path()), one_worker());
  }

  TEST_CASE("in a deep and broad tree at most 32 directories are read ahead") {
    iowq_test::leak_check books;
    iowq_test::scratch dir{in_memory()};
    make_tree(dir.path(), 2, 9);
    std::string spine = dir.path();
    for (int i = 0; i < 12; ++i) {
      for (int k = 0; k < 10; ++k) fs::create_directory(spine + "/x" + std::to_string(k));
      spine += "/y";
      fs::create_directory(spine);
    }
    auto const body = [](std::string path) -> task<> {
      int const before = iowq_test::open_descriptors();
      int most = 0;
      auto all = iowq::walk(path);
      while (auto entry = co_await all.next()) {
        int const above = static_cast<int>(entry->depth()) + 2;  // and itself
        most = std::max(most, iowq_test::open_descriptors() - before - above);
      }
      CHECK(most <= 32 + 24);  // the pool's workers and its manager have some of their own
      CHECK(most >= 8);
    };
    tree const theirs = by_the_standard(dir.path());
    CHECK(iowq::run(walked(dir.path())) == theirs);
    iowq::run(body(dir.path()));
  }

  TEST_CASE("a chain of 5,000 directories takes a few descriptors") {
    iowq_test::leak_check books;
    iowq_test::scratch dir{in_memory()};
    static constexpr int levels = 5000;
    {
      iowq::fd at{::open(dir.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
      for (int i = 0; i < levels; ++i) {
        REQUIRE(::mkdirat(at.get(), "d", 0700) == 0);
        at.reset(::openat(at.get(), "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        REQUIRE(at);
      }
    }
    auto const body = [](std::string path) -> task<> {
      int const before = iowq_test::open_descriptors();
      std::size_t deepest = 0;
      int most = 0;
      auto all = iowq::walk(path);
      while (auto entry = co_await all.next()) {
        deepest = entry->depth();
        CHECK_FALSE(entry->error());
        if (deepest % 500 == 0) most = std::max(most, iowq_test::open_descriptors() - before);
      }
      CHECK(deepest == levels - 1);
      CHECK(most < 64);
    };
    iowq::run(body(dir.path()));
    // Not by recursion, which takes a descriptor a level.
    std::string const top = dir / "d", below = dir / "d/d", next = dir / "next";
    while (::rename(below.c_str(), next.c_str()) == 0) {
      REQUIRE(::rmdir(top.c_str()) == 0);
      REQUIRE(::rename(next.c_str(), top.c_str()) == 0);
    }
  }

  TEST_CASE("100,000 entries of one directory, by large batches") {
    iowq_test::leak_check books;
    iowq_test::scratch dir{in_memory()};
    static constexpr std::uint64_t files = 100'000;
    iowq::fd const at{::open(dir.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    for (std::uint64_t i = 0; i < files; ++i)
      if (::mknodat(at.get(), std::to_string(i).c_str(), S_IFREG | 0600, 0) != 0) FAIL("mknodat");
    auto const body = [](std::string path) -> task<> {
      std::uint64_t entries = 0, sum = 0;
      auto all = iowq::walk(path);
      while (auto entry = co_await all.next()) {
        ++entries;
        sum += std::stoull(std::string{entry->name()});
      }
      CHECK(entries == files);
      CHECK(sum == files * (files - 1) / 2);
      CHECK(walks().punted_ops < files / 1000);
    };
    iowq::run(body(dir.path()));
    for (std::uint64_t i = 0; i < files; ++i) ::unlinkat(at.get(), std::to_string(i).c_str(), 0);
  }

  TEST_CASE("a directory removed after it was seen is not entered, although it was read ahead") {
    iowq_test::leak_check books;
    iowq_test::scratch dir;
    make_tree(dir.path(), 6, 2);
    auto const body = [](std::string path) -> task<> {
      int directories = 0;
      auto all = iowq::walk(path);
      while (auto entry = co_await all.next()) {
        CHECK(entry->depth() == 0);
        if (entry->type() != iowq::file_type::directory) continue;
        ++directories;
        fs::remove_all(entry->path());
      }
      CHECK(directories == 6);
      make_tree(path, 6, 2);
      auto doomed = iowq::walk(path);
      REQUIRE(co_await doomed.next());
      fs::remove_all(path);
      // Only what was read of the directory that is gone: its own entries, as they were then.
      while (auto entry = co_await doomed.next()) CHECK(entry->depth() == 0);
    };
    fs::remove(dir / "file");
    iowq::run(body(dir.path()));
  }

  TEST_CASE("descriptors run out: it reads fewer ahead, and ends as one that reads none would") {
    iowq_test::scratch dir;
    make_tree(dir.path(), 3, 4);
    tree const theirs = by_the_standard(dir.path());
    auto const body = [](std::string path, std::size_t expected, int descriptors) -> task<> {
      auto const count = [](std::string where) -> task<std::size_t> {
        std::size_t entries = 0;
        auto all = iowq::walk(where);
        while (auto entry = co_await all.next()) {
          ++entries;
          CHECK_FALSE(entry->error());
        }
        co_return entries;
      };
      CHECK(co_await count(path) == expected);  // now the worker has what it needs
      std::vector<iowq::fd> free;
      for (int i = 0; i < descriptors; ++i) free.emplace_back(::open("/dev/null", O_CLOEXEC));
      ::rlimit before, few;
      REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
      few = before;
      few.rlim_cur = static_cast<::rlim_t>(free.back().get()) + 1;
      free.clear();
      REQUIRE(::setrlimit(RLIMIT_NOFILE, &few) == 0);
      std::error_code error;
      std::size_t found = 0;
      try {
        found = co_await count(path);
      } catch (const std::system_error& e) {
        error = e.code();
      }
      ::setrlimit(RLIMIT_NOFILE, &before);
      if (descriptors < 5) {
        CHECK(error == std::errc::too_many_files_open);
      } else {
        CHECK_FALSE(error);
        CHECK(found == expected);
      }
    };
    // One a level, the top one's among them.
    for (int descriptors : {4, 5, 6, 8, 11}) {
      CAPTURE(descriptors);
      iowq_test::leak_check books;
      iowq::run(body(dir.path(), theirs.size(), descriptors), one_worker());
    }
  }

  TEST_CASE("a destroyed stream cancels its read-aheads; the running ones end before the run") {
    iowq_test::leak_check books;
    iowq_test::scratch dir;
    make_tree(dir.path(), 20, 1);
    fs::remove(dir / "file");
    busy_worker busy;
    auto const body = [](busy_worker& worker, std::string path) -> task<> {
      auto all = std::make_unique<iowq::stream<iowq::walk_entry>>(iowq::walk(path));
      REQUIRE(co_await all->next());
      co_await iowq_test::until(
          [&] { return walks().punted_ops == 9; });  // the top, and eight more
      auto& here = iowq::executor::current();
      here.spawn(worker.work());
      co_await worker.in_hand();
      while (here.stats().pool.bound.queued == 0) REQUIRE(co_await all->next());
      CHECK(here.stats().pool.bound.queued == 4);  // when four of the eight have had their turn
      all.reset();
      co_await iowq_test::until([&] { return walks().cancelled == 4; });
      CHECK(here.stats().pool.bound.queued == 0);
      worker.release();
    };
    iowq::run(body(busy, dir.path()), one_worker());
    // And wherever they are.
    auto const some = [](std::string path, int entries) -> task<> {
      auto all = iowq::walk(path);
      for (int i = 0; i < entries; ++i) (void)co_await all.next();
    };
    for (int i = 0; i < 40; ++i) {
      iowq::run(some(dir.path(), i));
      auto kept = iowq::walk(dir.path());  // also where the stream outlives the executor
      auto const first = [](iowq::stream<iowq::walk_entry>& all) -> task<> {
        (void)co_await all.next();
      };
      iowq::run(first(kept));
    }
  }

  TEST_CASE("a stop ends the wait for a directory that is read ahead, from wherever it comes") {
    iowq_test::leak_check books;
    iowq_test::scratch dir;
    make_tree(dir.path(), 20, 1);
    busy_worker busy;
    auto const body = [](busy_worker& worker, std::string path) -> task<> {
      iowq::stop_source source;
      auto all = iowq::walk(path);
      REQUIRE(co_await all.next());
      iowq::executor::current().spawn(worker.work());
      co_await worker.in_hand();
      std::thread other;
      auto const rest = [&]() -> task<> {
        while (auto entry = co_await all.next())
          if (walks().punted_ops >= 9 && !other.joinable())
            other = std::thread{[&source] { source.request_stop(); }};
      };
      auto guarded = iowq::as_result(iowq::with_stop(source.get_token(), rest()));
      auto const ended = co_await guarded;
      other.join();
      worker.release();
      CHECK(ended.error() == std::errc::operation_canceled);
      CHECK_FALSE(co_await all.next());  // it is over, and says so
    };
    iowq::run(body(busy, dir.path()), one_worker());
    auto const stopped = [](std::string path) -> task<> {
      auto all = iowq::walk(path);
      REQUIRE(co_await all.next());
      iowq::executor::current().request_stop();
      co_await iowq::yield();
      while (co_await all.next()) {
      }
      CHECK(false);
    };
    iowq::run(stopped(dir.path()));
  }

  TEST_CASE("a walk continues on another executor, and may end there") {
    iowq_test::leak_check books;
    iowq_test::scratch dir;
    make_tree(dir.path(), 5, 3);
    tree const theirs = by_the_standard(dir.path());
    iowq::runtime both{{.threads = 2}};
    std::atomic<std::size_t> counted{0};
    std::latch done{1};
    auto const body = [](iowq::runtime& r, std::string path, std::atomic<std::size_t>& sum,
                         std::latch& end) -> task<> {
      {
        std::size_t entries = 0;
        auto all = iowq::walk(path);
        while (auto entry = co_await all.next())
          if (++entries % 7 == 0) co_await iowq::resume_on(r.at(entries / 7 % 2));
        sum = entries;
        auto half = iowq::walk(path);
        (void)co_await half.next();
        co_await iowq::resume_on(r.at(1));
        (void)co_await half.next();
        co_await iowq::resume_on(r.at(0));
      }
      end.count_down();
    };
    both.spawn(body(both, dir.path(), counted, done));
    done.wait();
    CHECK(counted == theirs.size());
  }
}
