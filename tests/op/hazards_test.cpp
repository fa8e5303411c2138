// SPDX-License-Identifier: BSL-1.0
// What can go wrong with a frame, a buffer or the meaning of a call, whichever way it goes: those
// of the numbered hazards that belong to no single operation. tests/hazards.txt has them all.
#include <fcntl.h>
#include <limits.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>
#include <iowq/exec/punt.hpp>
#include <iowq/flow/timeout.hpp>
#include <iowq/op/file.hpp>
#include <iowq/op/message.hpp>
#include <iowq/op/metadata.hpp>
#include <iowq/op/names.hpp>
#include <iowq/op/open.hpp>
#include <iowq/op/poll.hpp>
#include <iowq/op/socket.hpp>
#include <iowq/op/time.hpp>
#include <iowq/op/transfer.hpp>
#include <iowq/op/vector.hpp>

#include "death.hpp"
#include "leak_check.hpp"
#include "manual.hpp"
#include "skip.hpp"
#include "waiting.hpp"
#include "ways.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::task;
using iowq_test::all_ways;
using iowq_test::as;
using iowq_test::moment;
using iowq_test::way;

/// A page of its own, unmapped at the end: what writes to it later is a fault, or an EFAULT.
class guarded {
 public:
  guarded()
      : page_{::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)} {}
  guarded(const guarded&) = delete;
  guarded& operator=(const guarded&) = delete;
  ~guarded() { ::munmap(page_, size); }
  char* data() const { return static_cast<char*>(page_); }
  iowq::mutable_bytes bytes(std::size_t n) const { return {page_, n}; }
  static constexpr std::size_t size = 4096;

 private:
  void* page_;
};

struct socket_pair {
  explicit socket_pair(int type = SOCK_STREAM) {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) == 0);
    here.reset(ends[0]), there.reset(ends[1]);
  }
  iowq::fd here, there;
};

/// A TCP connection by way of this machine.
struct tcp_pair {
  tcp_pair() {
    iowq::fd const listener{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    auto const any = iowq::endpoint::ip("127.0.0.1", 0);
    REQUIRE(::bind(listener.get(), any.address(), any.size()) == 0);
    REQUIRE(::listen(listener.get(), 1) == 0);
    auto const where = iowq::endpoint::local_of(listener.get());
    here.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(::connect(here.get(), where.address(), where.size()) == 0);
    there.reset(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  }
  iowq::fd here, there;
};

/// Awaits `op`: its value, or -errno.
template <class Call>
task<long> number(way go, iowq::operation<Call> op) {
  auto sent = as(go, std::move(op));
  auto const got = co_await iowq::as_result(std::move(sent));
  if (!got) co_return -got.error().value();
  if constexpr (std::is_convertible_v<decltype(*got), long>)
    co_return static_cast<long>(*got);
  else
    co_return 0;
}
long or_errno(long answer) { return answer < 0 ? -errno : answer; }

/// Awaits `op` under a token: its value, or -errno.
template <class Call>
task<> under_token(iowq::stop_token token, way go, iowq::operation<Call> op, long& answer) {
  co_await iowq_test::under{token};
  answer = co_await number(go, std::move(op));
}
constexpr long unset = 123'456;
template <class Call>
task<long> stopped(way go, iowq::operation<Call> op, moment when) {
  iowq::stop_source source;
  long answer = unset;
  std::string_view const name = iowq::detail::operation_access::base(op).row().name;
  iowq::executor::current().spawn(under_token(source.get_token(), go, std::move(op), answer));
  co_await iowq_test::reach(when, name);
  source.request_stop();
  co_await iowq_test::until([&] { return answer != unset; });
  co_return answer;
}
}  // namespace

TEST_SUITE("op/hazards") {
  TEST_CASE("hazard-1: a coroutine destroyed with its operation in flight stops the program") {
    for (way go : all_ways)
      for (moment when : iowq_test::all_moments) {
        CAPTURE(go);
        CAPTURE(when);
        auto const end = iowq_test::death_output([=] {
          auto const body = [](way w, moment m) -> task<> {
            iowq_test::pipe_pair pipe;
            guarded buffer;
            auto const reader = [](way by, int from, iowq::mutable_bytes into) -> task<> {
              auto op = as(by, iowq::read(from, into));
              co_await op;
            };
            std::optional<iowq_test::started> inner;
            inner.emplace(reader(w, pipe.in.get(), buffer.bytes(1)));
            co_await iowq_test::reach(m, "read");
            inner.reset();
          };
          iowq::run(body(go, when));
        });
        CHECK(end.signal == SIGABRT);
        CHECK(end.says("destroyed while"));
      }
  }

  TEST_CASE("hazard-2: a buffer is ours again when its await has ended, cancelled or not") {
    auto const body = [](way go, moment when) -> task<> {
      iowq_test::pipe_pair pipe;
      socket_pair pair;
      for (bool is_pipe : {true, false}) {
        CAPTURE(is_pipe);
        iowq::fd& in = is_pipe ? pipe.in : pair.here;
        iowq::fd& out = is_pipe ? pipe.out : pair.there;
        auto buffer = std::make_unique<guarded>();
        long const end = co_await stopped(go, iowq::read(in, buffer->bytes(8)), when);
        CHECK(end == -ECANCELED);
        std::fill_n(buffer->data(), 8, '#');
        REQUIRE(::write(out.get(), "too late", 8) == 8);
        co_await iowq::poll(in, POLLIN);
        CHECK(std::string(buffer->data(), 8) == "########");
        buffer.reset();  // unmapped: a late write would say EFAULT, and the data would be gone
        std::array<char, 16> rest{};
        CHECK(co_await number(go, iowq::read(in, rest)) == 8);
        CHECK(std::string(rest.data(), 8) == "too late");
      }
    };
    for (way go : all_ways)
      for (moment when : iowq_test::all_moments) {
        CAPTURE(go);
        CAPTURE(when);
        iowq::run(body(go, when));
      }
  }

  TEST_CASE("hazard-3: with room for one SQE, operations wait for it; none is lost or split") {
    auto const body = []() -> task<> {
      std::vector<iowq_test::pipe_pair> pipes(50);
      std::vector<long> answers(pipes.size(), unset);
      std::vector<char> bytes(pipes.size());
      iowq::stop_source source;
      for (std::size_t i = 0; i < pipes.size(); ++i) {
        auto op = iowq::read(pipes[i].in, iowq::mutable_bytes{&bytes[i], 1});
        auto const token = i % 2 == 0 ? source.get_token() : iowq::stop_token{};
        iowq::executor::current().spawn(under_token(token, way::ring, std::move(op), answers[i]));
      }
      co_await iowq::yield();
      source.request_stop();  // some of them still in line
      for (auto& pipe : pipes) REQUIRE(::write(pipe.out.get(), "x", 1) == 1);
      auto const left = [&] { return std::count(answers.begin(), answers.end(), unset); };
      co_await iowq_test::until([&] { return left() == 0; });
      for (std::size_t i = 0; i < answers.size(); ++i)
        CHECK((answers[i] == 1 || (i % 2 == 0 && answers[i] == -ECANCELED)));
    };
    iowq::run(body(), {.entries = 1});
  }

  TEST_CASE("hazard-7: a stop during a call that a signal would interrupt reports a cancellation") {
    // A splice sleeps in one of the kernel's workers, which a cancel wakes as a signal would.
    auto const body = [](way go, moment when) -> task<> {
      iowq_test::pipe_pair from, to;
      CHECK(co_await stopped(go, iowq::splice(from.in, {}, to.out, {}, 1), when) == -ECANCELED);
      CHECK(co_await stopped(go, iowq::tee(from.in, to.out, 1), when) == -ECANCELED);
    };
    for (way go : all_ways)
      for (moment when : iowq_test::all_moments) {
        CAPTURE(go);
        CAPTURE(when);
        iowq::run(body(go, when));
      }
  }

  TEST_CASE("hazard-27: no late answer ends the next operation at the same address") {
    // Goal: the answer of a read that was cancelled, or of the cancel, ends the read after it.
    // Method: both are at one address, one right behind the other, and every byte has its number.
    constexpr int rounds = 500;
    auto const body = [](way go) -> task<> {
      iowq_test::pipe_pair pipe;
      std::set<const void*> places;
      unsigned char sent = 0, expected = 0;
      auto const one = [](way w, int from, std::set<const void*>& at) -> task<int> {
        unsigned char byte = 0;
        auto op = as(w, iowq::read(from, iowq::mutable_bytes{&byte, 1}));
        at.insert(&op);
        std::size_t const n = co_await op;
        co_return n == 1 ? byte : -1;
      };
      auto const write_one = [&] {
        REQUIRE(::write(pipe.out.get(), &sent, 1) == 1);
        ++sent;
      };
      for (int i = 0; i < rounds; ++i) {
        if (i % 3 == 0) write_one();  // then either may win
        auto short_one = iowq::timeout(one(go, pipe.in.get(), places), 0s);
        auto const early = co_await iowq::as_result(std::move(short_one));
        CHECK((early || early.error() == std::errc::timed_out));
        if (early) CHECK(*early == expected++);
        if (sent == expected) write_one();
        CHECK(co_await one(go, pipe.in.get(), places) == expected++);
        CHECK(sent == expected);
      }
      if (!IOWQ_ASAN) CHECK(places.size() < rounds / 10);  // it happened
    };
    for (way go : all_ways) {
      CAPTURE(go);
      iowq_test::leak_check books;
      iowq::run(body(go));
    }
  }

  TEST_CASE("hazard-78: an offset is where, none is the file position, and others are EINVAL") {
    auto const body = [](way go) -> task<> {
      iowq_test::scratch dir;
      iowq::fd file = co_await iowq::open(dir / "x", O_RDWR | O_CREAT);
      REQUIRE(::write(file.get(), "0123456789", 10) == 10);
      REQUIRE(::lseek(file.get(), 4, SEEK_SET) == 4);
      char text[4] = {};
      iowq::mutable_bytes const into{text, 2};
      for (std::int64_t bad :
           {std::int64_t{-1}, std::int64_t{-2}, std::numeric_limits<std::int64_t>::min()}) {
        CHECK(co_await number(go, iowq::pread(file, into, bad)) == -EINVAL);
        CHECK(co_await number(go, iowq::pwrite(file, "x", bad)) == -EINVAL);
        CHECK(co_await number(go, iowq::preadv(file, {into}, bad)) == -EINVAL);
        CHECK(co_await number(go, iowq::pwritev(file, {"x"}, bad)) == -EINVAL);
      }
      CHECK(co_await number(go, iowq::pread(file, into, 8)) == 2);
      CHECK(std::string{text} == "89");
      CHECK(co_await number(go, iowq::pwrite(file, "ab", 0)) == 2);
      CHECK(::lseek(file.get(), 0, SEEK_CUR) == 4);  // neither moved it
      CHECK(co_await number(go, iowq::read(file, into)) == 2);
      CHECK(std::string{text} == "45");
      CHECK(co_await number(go, iowq::write(file, "cd")) == 2);
      CHECK(::lseek(file.get(), 0, SEEK_CUR) == 8);
      char whole[11] = {};
      REQUIRE(::pread(file.get(), whole, 10, 0) == 10);
      CHECK(std::string{whole} == "ab2345cd89");
      auto const far = std::numeric_limits<std::int64_t>::max();
      CHECK(co_await number(go, iowq::pread(file, into, far)) ==
            or_errno(::pread(file.get(), text, 2, far)));
      CHECK(co_await number(go, iowq::pwrite(file, "x", far)) ==
            or_errno(::pwrite(file.get(), "x", 1, far)));
    };
    for (way go : all_ways) {
      CAPTURE(go);
      iowq::run(body(go));
    }
  }

  TEST_CASE("hazard-78: an offset on a file without offsets is ESPIPE at once, and reads nothing") {
    auto const body = [](way go) -> task<> {
      int ends[2];
      REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
      iowq::fd const here{ends[0]}, there{ends[1]};
      iowq_test::pipe_pair const pipe;
      iowq::fd const event{::eventfd(0, EFD_CLOEXEC)};
      char text[4] = {};
      iowq::mutable_bytes const into{text, 2};
      for (const iowq::fd* one : {&here, &pipe.in, &pipe.out, &event}) {
        for (bool by_number : {false, true}) {
          iowq::detail::known_descriptor const file =
              by_number ? iowq::detail::known_descriptor{one->get()}
                        : iowq::detail::known_descriptor{*one};
          // Empty: the ring would wait.
          CHECK(co_await number(go, iowq::pread(file, into, 0)) == -ESPIPE);
          CHECK(co_await number(go, iowq::preadv(file, {into}, 7)) == -ESPIPE);
          CHECK(co_await number(go, iowq::pwrite(file, "x", 0)) == -ESPIPE);
          CHECK(co_await number(go, iowq::pwritev(file, {"x"}, 7)) == -ESPIPE);
        }
      }
      REQUIRE(::write(pipe.out.get(), "ab", 2) == 2);
      CHECK(co_await number(go, iowq::pread(pipe.in, into, 0)) == -ESPIPE);
      CHECK(co_await number(go, iowq::read(pipe.in, into)) == 2);
      CHECK(std::string{text} == "ab");
      // What has them, and what is no file.
      iowq::fd const zero{::open("/dev/zero", O_RDWR | O_CLOEXEC)};
      CHECK(co_await number(go, iowq::pread(zero, into, 5)) == 2);
      CHECK(co_await number(go, iowq::pwrite(zero, "x", 5)) == 1);
      CHECK(co_await number(go, iowq::pread(-1, into, 0)) == -EBADF);
      CHECK(co_await number(go, iowq::pwrite(-1, "x", 0)) == -EBADF);
    };
    for (way go : all_ways) {
      CAPTURE(go);
      iowq::run(body(go));
    }
  }

  TEST_CASE("hazard-78: a number that was a file's and is a pipe's now has no offset any more") {
    auto const body = [](way go) -> task<> {
      iowq_test::scratch dir;
      char text[4] = {};
      iowq::mutable_bytes const into{text, 2};
      for (bool awaited : {false, true}) {
        iowq::fd file{::open((dir / "x").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
        int const was = file.get();
        CHECK(co_await number(go, iowq::pread(file, into, 0)) == 0);
        CHECK(co_await number(go, iowq::pread(was, into, 0)) == 0);
        if (awaited)
          co_await iowq::close(std::move(file));
        else
          file.reset();
        iowq_test::pipe_pair pipe;
        REQUIRE(pipe.in.get() == was);  // the lowest that is free
        CHECK(co_await number(go, iowq::pread(was, into, 0)) == -ESPIPE);
      }
    };
    for (way go : all_ways) {
      CAPTURE(go);
      iowq::run(body(go));
    }
  }

  TEST_CASE("hazard-79: a write to a file with O_APPEND goes to its end, at any offset") {
    auto const body = [](way go) -> task<> {
      iowq_test::scratch dir;
      iowq::fd file = co_await iowq::open(dir / "x", O_RDWR | O_CREAT | O_APPEND);
      REQUIRE(::write(file.get(), "0123456789", 10) == 10);
      CHECK(co_await number(go, iowq::pwrite(file, "ab", 0)) == 2);
      CHECK(co_await number(go, iowq::pwritev(file, {"c", "d"}, 3)) == 2);
      CHECK(co_await number(go, iowq::write(file, "e")) == 1);
      char whole[32] = {};
      REQUIRE(::pread(file.get(), whole, 31, 0) == 15);
      CHECK(std::string{whole} == "0123456789abcde");
    };
    for (way go : all_ways) {
      CAPTURE(go);
      iowq::run(body(go));
    }
  }

  TEST_CASE("hazard-80: O_DIRECT that is not aligned is what the system call says it is") {
    {
      iowq_test::scratch dir;
      iowq::fd const file{
          ::open((dir / "x").c_str(), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600)};
      if (!file && errno == EINVAL) SKIP_CASE("no O_DIRECT here: tmpfs before Linux 6.6");
    }
    auto const body = [](way go) -> task<> {
      iowq_test::scratch dir;
      iowq::fd const file{
          ::open((dir / "x").c_str(), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600)};
      REQUIRE(file);
      alignas(4096) static char block[3 * 4096];
      CHECK(co_await number(go, iowq::pwrite(file, iowq::const_bytes{block, 8192}, 0)) ==
            or_errno(::pwrite(file.get(), block, 8192, 0)));
      struct place {
        std::size_t shift, size;
        std::int64_t offset;
      };
      for (auto [shift, size, offset] :
           {place{0, 4096, 4096}, {1, 4096, 0}, {0, 100, 0}, {0, 4096, 7}, {512, 512, 512}}) {
        CAPTURE(shift);
        CAPTURE(size);
        CAPTURE(offset);
        CHECK(co_await number(
                  go, iowq::pread(file, iowq::mutable_bytes{block + shift, size}, offset)) ==
              or_errno(::pread(file.get(), block + shift, size, offset)));
        CHECK(co_await number(go,
                              iowq::pwrite(file, iowq::const_bytes{block + shift, size}, offset)) ==
              or_errno(::pwrite(file.get(), block + shift, size, offset)));
      }
    };
    for (way go : all_ways) {
      CAPTURE(go);
      iowq::run(body(go));
    }
  }

  TEST_CASE("hazard-84: an end is 0, a reset an error, and a peer that says nothing a timeout") {
    auto const body = [](way go) -> task<> {
      char byte;
      iowq::mutable_bytes const into{&byte, 1};
      {
        tcp_pair half;
        REQUIRE(::shutdown(half.there.get(), SHUT_WR) == 0);
        CHECK(co_await number(go, iowq::recv(half.here, into)) == 0);
        CHECK(co_await number(go, iowq::send(half.here, "x")) == 1);  // it still listens
        CHECK(co_await number(go, iowq::recv(half.there, into)) == 1);
      }
      {
        tcp_pair gone;
        ::linger const at_once{.l_onoff = 1, .l_linger = 0};
        REQUIRE(::setsockopt(gone.there.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) ==
                0);
        gone.there.reset();
        CHECK(co_await number(go, iowq::recv(gone.here, into)) == -ECONNRESET);
        CHECK(co_await number(go, iowq::send(gone.here, "x")) == -EPIPE);
      }
      {
        tcp_pair silent;
        auto op = as(go, iowq::recv(silent.here, into));
        auto limited = iowq::timeout(std::move(op), 5ms);
        auto const end = co_await iowq::as_result(std::move(limited));
        CHECK(end.error() == std::errc::timed_out);
        CHECK(co_await number(go, iowq::send(silent.there, "x")) == 1);
        CHECK(co_await number(go, iowq::recv(silent.here, into)) == 1);  // nothing was taken
      }
    };
    for (way go : all_ways) {
      CAPTURE(go);
      iowq::run(body(go));
    }
  }

  TEST_CASE(
      "hazard-86: a full disk and a broken disk are reported once, by the operation that failed") {
    auto const body = [](way go) -> task<> {
      iowq::fd full = co_await iowq::open("/dev/full", O_RDWR);
      CHECK(co_await number(go, iowq::write(full, "x")) == -ENOSPC);
      CHECK(co_await number(go, iowq::writev(full, {"x", "y"})) == -ENOSPC);
      auto const all = co_await iowq::as_result(iowq::write_all(full, "x"));
      CHECK(all.error() == std::errc::no_space_on_device);
      CHECK(co_await number(go, iowq::close(std::move(full))) == 0);
      // What no process has mapped cannot be read from its memory.
      iowq::fd broken = co_await iowq::open("/proc/self/mem", O_RDONLY);
      std::array<char, 8> text{};
      CHECK(co_await number(go, iowq::pread(broken, text, 0)) == -EIO);
      iowq_test::pipe_pair pipe;
      CHECK(co_await number(go, iowq::fsync(pipe.out)) == -EINVAL);
      CHECK(co_await number(go, iowq::close(-1)) == -EBADF);
      CHECK(co_await number(go, iowq::close(9999)) == -EBADF);
    };
    for (way go : all_ways) {
      CAPTURE(go);
      iowq::run(body(go));
    }
  }

  TEST_CASE("hazard-86: a file that may not grow says so, in part and then altogether") {
    // In a child: the limit is the process's, and SIGXFSZ ignored in it.
    for (way go : all_ways) {
      CAPTURE(go);
      auto const end = iowq_test::death_output([go] {
        std::signal(SIGXFSZ, SIG_IGN);
        ::rlimit const small{4096, 4096};
        if (::setrlimit(RLIMIT_FSIZE, &small) != 0) ::_exit(1);
        iowq_test::scratch dir;
        auto const body = [](way w, std::string path) -> task<> {
          iowq::fd file = co_await iowq::open(path, O_RDWR | O_CREAT);
          std::vector<char> const much(10'000, 'x');
          long const part = co_await number(w, iowq::pwrite(file, much, 0));
          long const none = co_await number(w, iowq::pwrite(file, much, 4096));
          if (part != 4096 || none != -EFBIG) ::_exit(2);
        };
        iowq::run(body(go, dir / "x"));
      });
      CHECK(end.exit_code == 0);
    }
  }

  TEST_CASE("hazard-87: a path is copied when it is given; a NUL in it, or too much, is an error") {
    auto const body = [](way go) -> task<> {
      iowq_test::scratch dir;
      std::string const nul{"/tmp/a\0b", 8};
      std::string const longest(PATH_MAX, 'x');
      CHECK(co_await number(go, iowq::open(nul, O_RDONLY)) == -EINVAL);
      CHECK(co_await number(go, iowq::stat(nul)) == -EINVAL);
      CHECK(co_await number(go, iowq::mkdir(nul)) == -EINVAL);
      CHECK(co_await number(go, iowq::rename(dir.path(), nul)) == -EINVAL);
      CHECK(co_await number(go, iowq::open(longest, O_RDONLY)) == -ENAMETOOLONG);
      CHECK(co_await number(go, iowq::unlink(longest)) == -ENAMETOOLONG);
      CHECK(co_await number(go, iowq::open("", O_RDONLY)) == -ENOENT);
      for (std::size_t size : {3U, 200U}) {  // within the operation, and not
        CAPTURE(size);
        std::string const name = dir / std::string(size, 'n');
        auto text = std::make_unique<std::string>(name);
        auto making = as(go, iowq::mkdir(*text));
        auto looking = as(go, iowq::stat(*text));
        std::fill(text->begin(), text->end(), '?');
        text.reset();
        auto moved = std::move(making);
        co_await moved;
        auto const status = co_await looking;
        CHECK(status.is_directory());
        CHECK(co_await number(go, iowq::rmdir(name)) == 0);
      }
    };
    for (way go : all_ways) {
      CAPTURE(go);
      iowq::run(body(go));
    }
  }

  TEST_CASE("hazard-89: lengths and counts that mean harm are the kernel's errors, never ours") {
    auto const body = [](way go) -> task<> {
      iowq_test::scratch dir;
      iowq::fd file = co_await iowq::open(dir / "x", O_RDWR | O_CREAT);
      iowq::fd const nothing{::open("/dev/null", O_WRONLY | O_CLOEXEC)};
      char byte = 'x';
      std::vector<::iovec> const many(IOV_MAX + 1, {&byte, 1});
      CHECK(co_await number(go, iowq::writev(file, many)) == -EINVAL);
      CHECK(co_await number(go, iowq::readv(file, many)) == -EINVAL);
      std::vector<::iovec> const most(IOV_MAX, {&byte, 1});
      CHECK(co_await number(go, iowq::writev(file, most)) == IOV_MAX);
      // Together they are longer than a number can say.
      ::iovec const huge[] = {{&byte, std::numeric_limits<std::ptrdiff_t>::max()}, {&byte, 2}};
      CHECK(co_await number(go, iowq::writev(file, huge)) ==
            or_errno(::writev(file.get(), huge, 2)));
      // 4 GiB and a byte are not one byte.
      iowq::const_bytes const large{&byte, (std::size_t{1} << 32) + 1};
      CHECK(co_await number(go, iowq::write(nothing, large)) == 0x7ffff000);
      // Nobody has so much memory: as much as there is, or EFAULT; never more than asked for.
      iowq::mutable_bytes const none{nullptr, 10};
      REQUIRE(::pwrite(file.get(), "0123456789", 10, 0) == 10);
      CHECK(co_await number(go, iowq::pread(file, none, 0)) == -EFAULT);
      CHECK(co_await number(go, iowq::pread(file, iowq::mutable_bytes{nullptr, 0}, 0)) == 0);
    };
    for (way go : all_ways) {
      CAPTURE(go);
      iowq::run(body(go));
    }
  }

  TEST_CASE(
      "hazard-90: no byte of a buffer is written beyond the data received, or sent beyond its "
      "size") {
    auto const body = [](way go) -> task<> {
      iowq_test::scratch dir;
      iowq::fd file = co_await iowq::open(dir / "x", O_RDWR | O_CREAT);
      REQUIRE(::write(file.get(), "short", 5) == 5);
      socket_pair pair;
      std::array<char, 64> room;
      auto const is_untouched_from = [&](std::size_t n) {
        return std::all_of(room.begin() + static_cast<long>(n), room.end(),
                           [](char c) { return c == '#'; });
      };
      room.fill('#');
      CHECK(co_await number(go, iowq::pread(file, room, 0)) == 5);
      CHECK(is_untouched_from(5));
      REQUIRE(::send(pair.there.get(), "abc", 3, 0) == 3);
      room.fill('#');
      CHECK(co_await number(go, iowq::recv(pair.here, room)) == 3);
      CHECK(is_untouched_from(3));
      REQUIRE(::lseek(file.get(), 0, SEEK_SET) == 0);
      room.fill('#');
      CHECK(co_await iowq::read_exactly(file, room) == 5);
      CHECK(is_untouched_from(5));
      REQUIRE(::lseek(file.get(), 0, SEEK_SET) == 0);
      CHECK(co_await iowq::read_all(file) == "short");
      room.fill('y');
      CHECK(co_await number(go, iowq::send(pair.here, std::span{room}.first(2))) == 2);
      CHECK(co_await number(go, iowq::send(pair.here, "literal")) == 7);  // without its NUL
      char got[64];
      CHECK(::recv(pair.there.get(), got, sizeof got, MSG_DONTWAIT) == 9);
      CHECK(std::string(got, 9) == "yyliteral");
    };
    for (way go : all_ways) {
      CAPTURE(go);
      iowq::run(body(go));
    }
  }
}
