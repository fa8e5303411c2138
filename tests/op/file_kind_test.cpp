// SPDX-License-Identifier: BSL-1.0
#include <iowq/op/detail/file_kind.hpp>

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/magic.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cstddef>
#include <string>
#include <utility>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>
#include <iowq/op/allocate.hpp>
#include <iowq/op/file.hpp>
#include <iowq/op/open.hpp>
#include <iowq/op/transfer.hpp>
#include <iowq/op/vector.hpp>

#include "death.hpp"
#include "skip.hpp"
#include "ways.hpp"

namespace {
using iowq::task;

/// From now on this system call ends this process, on whichever thread. False: no filter can be
/// had.
bool forbid(unsigned call) {
  sock_filter rules[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog const program{.len = std::size(rules), .filter = rules};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) == 0;
}

constexpr int no_filter = 3;

/// Writes, forbids, writes again.
template <class Again>
iowq_test::death after_the_first(Again again) {
  return iowq_test::death_output([again] {
    iowq_test::scratch dir;
    auto const body = [](std::string path, Again more) -> task<> {
      iowq::fd file = co_await iowq::open(path, O_RDWR | O_CREAT);
      co_await iowq::write(file, "first");
      if (!forbid(SYS_statx)) ::_exit(no_filter);
      co_await more(std::move(file));
    };
    iowq::run(body(dir / "x", again));
    // The directory is removed by statx.
    ::_exit(0);
  });
}

struct made {
  std::uint64_t stream = 0, pool = 0;  // as it goes with a stream, as with a stored file
};
made writes() {
  made sum;
  for (auto const& line : iowq::executor::current().stats().operations)
    if (std::string_view{line.name} == "write")
      sum.stream += line.ring_ops + line.inline_ops, sum.pool += line.punted_ops;
  return sum;
}
}  // namespace

TEST_SUITE("op/file_kind") {
  TEST_CASE("a file is looked at by the first that must know it, and then no more") {
    auto const end = after_the_first([](iowq::fd file) -> task<> {
      for (int i = 0; i < 3; ++i) {
        co_await iowq::write(file, "x");
        co_await iowq::pwrite(file, "x", 9);
        co_await iowq::writev(file, {"x", "y"});
        co_await iowq::write_all(file, "x");
        co_await iowq::on_pool(iowq::write(file, "x"));
        co_await iowq::on_pool(iowq::read(file, iowq::mutable_bytes{nullptr, 0}));
        co_await iowq::ftruncate(file, 100);
        co_await iowq::fallocate(file, 0, 0, 200);
        iowq::fd moved = std::move(file);
        co_await iowq::write(moved, "x");
        file = std::move(moved);
      }
    });
    if (end.exit_code == no_filter) SKIP_CASE("no seccomp filter can be installed");
    CAPTURE(end.text);
    CHECK(end.survived());
  }

  TEST_CASE("a bare number is looked at each time") {
    auto const end =
        after_the_first([](iowq::fd file) -> task<> { co_await iowq::write(file.get(), "x"); });
    if (end.exit_code == no_filter) SKIP_CASE("no seccomp filter can be installed");
    CHECK(end.signal == SIGSYS);
  }

  TEST_CASE("a number that is another file's now is written to as that one") {
    auto const body = []() -> task<> {
      iowq_test::scratch dir;
      iowq::fd low = co_await iowq::open(dir / "x", O_RDWR | O_CREAT);
      constexpr int number = 300;  // which nobody else is given
      REQUIRE(::dup2(low.get(), number) == number);
      iowq::fd file{number};
      co_await iowq::write(file, "x");
      CHECK(writes().pool == 1);
      co_await iowq::close(std::move(file));
      CHECK_FALSE(file);
      int ends[2];  // a socket's, as no kernel needs a worker to write to one
      REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
      iowq::fd const stream{ends[0]}, peer{ends[1]};
      REQUIRE(::dup2(stream.get(), number) == number);
      file.reset(number);  // the same number, the same fd
      co_await iowq::write(file, "y");
      CHECK(writes().stream == 1);
      // Behind its back, which it is told.
      iowq::fd other = co_await iowq::open(dir / "y", O_RDWR | O_CREAT);
      REQUIRE(::dup2(other.get(), number) == number);
      file.reset(file.release());
      co_await iowq::write(file, "z");
      CHECK(writes().pool == 2);
      co_await iowq::write(number, "z");
      CHECK(writes().pool == 3);
      char text[4] = {};
      CHECK(co_await iowq::pread(other, text, 0) == 2);
      CHECK(std::string_view{text} == "zz");
      iowq::fd taken = std::move(file);
      taken = iowq::fd{::dup(stream.get())};
      co_await iowq::write(taken, "w");
      CHECK(writes().stream == 2);
    };
    iowq::run(body());
  }

  TEST_CASE("a file system that does not know RWF_NOWAIT is asked once a descriptor") {
    struct ::statfs about;
    if (::statfs("/dev/shm", &about) != 0 || about.f_type != TMPFS_MAGIC ||
        ::access("/dev/shm", W_OK) != 0)
      SKIP_CASE("no tmpfs in /dev/shm");
    iowq_test::scratch const dir{"/dev/shm"};
    auto const reads = [&dir](bool again) {
      return iowq_test::death_output([again, &dir] {
        auto const body = [](std::string path, bool another) -> task<> {
          iowq::fd file = co_await iowq::open(path, O_RDWR | O_CREAT);
          co_await iowq::write(file, "text");
          char text[4];
          CHECK(co_await iowq::pread(file, text, 0) == 4);
          if (!forbid(SYS_preadv2)) ::_exit(no_filter);
          for (int i = 0; i < 3; ++i)
            if (co_await iowq::pread(file, text, 0) != 4) ::_exit(1);
          if (!another) ::_exit(0);
          int const number = file.get();
          co_await iowq::close(std::move(file));
          file = co_await iowq::open(path, O_RDWR);
          if (file.get() != number) ::_exit(1);
          co_await iowq::pread(file, text, 0);
        };
        iowq::run(body(dir / "x", again), {.backend = iowq::backend_kind::poll});
      });
    };
    auto const same = reads(false);
    if (same.exit_code == no_filter) SKIP_CASE("no seccomp filter can be installed");
    CAPTURE(same.text);
    CHECK(same.survived());
    CHECK(reads(true).signal == SIGSYS);  // the same number is another descriptor
  }

  TEST_CASE("punted writes to one file have one key, whether by fd, number or another fd") {
    iowq_test::scratch dir;
    iowq::fd one{::open((dir / "x").c_str(), O_RDWR | O_CREAT, 0600)};
    iowq::fd two{::open((dir / "x").c_str(), O_RDWR)};
    iowq::fd other{::open((dir / "y").c_str(), O_RDWR | O_CREAT, 0600)};
    auto const key = [](iowq::detail::known_descriptor file) {
      iowq::detail::known_file const known{file};
      CHECK(known.is_stored());
      return known.key();
    };
    CHECK(key(one) == key(two));
    CHECK(key(one) == key(two.get()));
    CHECK(key(one) == key(one));
    CHECK(key(one) != key(other));
    iowq::detail::known_file const nothing{iowq::detail::known_descriptor{-1}};
    CHECK(nothing.type() == 0);
    CHECK_FALSE(nothing.is_stored());
  }
}
