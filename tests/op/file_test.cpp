// SPDX-License-Identifier: BSL-1.0
#include <iowq/op/file.hpp>  // first and alone

#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <array>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <iowq/exec/executor.hpp>
#include <iowq/flow/for_each.hpp>
#include <iowq/op/open.hpp>

#include "leak_check.hpp"
#include "manual.hpp"
#include "waiting.hpp"
#include "ways.hpp"

namespace {
using iowq::task;
using iowq_test::way;
constexpr int new_file = O_RDWR | O_CREAT | O_TRUNC;
}  // namespace

TEST_SUITE("op/file") {
  TEST_CASE("reads and writes go where read(2), pread(2) and theirs would") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      iowq_test::scratch dir;
      auto const body = [](way w, iowq_test::scratch& in) -> task<> {
        iowq::fd file = co_await iowq::open(in / "file", new_file);
        std::array<char, 16> buffer{};
        CHECK(co_await as(w, iowq::write(file, "hello ")) == 6);
        CHECK(co_await as(w, iowq::write(file, std::string_view{"world"})) == 5);
        CHECK(co_await as(w, iowq::pwrite(file, "W", 6)) == 1);
        CHECK(co_await as(w, iowq::pread(file, buffer, 6)) == 5);
        CHECK(std::string_view{buffer.data(), 5} == "World");
        CHECK(co_await as(w, iowq::read(file, buffer)) == 0);  // end of file is no error
        CHECK(::lseek(file.get(), 2, SEEK_SET) == 2);
        CHECK(co_await as(w, iowq::read(file, std::span(buffer).first(3))) == 3);
        CHECK(std::string_view{buffer.data(), 3} == "llo");
        CHECK(::lseek(file.get(), 0, SEEK_CUR) == 5);
        CHECK(co_await as(w, iowq::pread(file, buffer, 1'000'000)) == 0);
        CHECK(co_await as(w, iowq::read(file, std::span<char>{})) == 0);
        co_await as(w, iowq::fsync(file));
        co_await as(w, iowq::fdatasync(file));
        iowq::fd append = co_await iowq::open(in / "file", O_WRONLY | O_APPEND);
        CHECK(co_await as(w, iowq::pwrite(append, "!", 0)) == 1);  // hazard-79
        CHECK(co_await iowq::pread(file, buffer, 0) == 12);
        CHECK(buffer[11] == '!');
      };
      iowq::run(body(go, dir));
    }
  }

  TEST_CASE("bad arguments and bad descriptors are errors of the await") {
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      auto const body = [](way w) -> task<> {
        char byte = 0;
        iowq::mutable_bytes const one{&byte, 1};
        auto const negative = co_await iowq::as_result(as(w, iowq::pread(0, one, -1)));
        CHECK(negative.error() == std::errc::invalid_argument);  // hazard-78
        auto const closed = co_await iowq::as_result(as(w, iowq::read(-1, one)));
        CHECK(closed.error() == std::errc::bad_file_descriptor);
        auto const unsynced = co_await iowq::as_result(as(w, iowq::fsync(1'000'000)));
        CHECK(unsynced.error() == std::errc::bad_file_descriptor);
        iowq::fd full = co_await iowq::open("/dev/full", O_WRONLY);
        auto const no_space = co_await iowq::as_result(as(w, iowq::write(full, "x")));
        CHECK(no_space.error() == std::errc::no_space_on_device);  // hazard-86
      };
      iowq::run(body(go));
    }
  }

  TEST_CASE("hazard-85: an empty pipe, eventfd or O_NONBLOCK descriptor is waited for") {
    iowq_test::leak_check books;
    for (way go : iowq_test::all_ways)
      for (int const flags : {O_CLOEXEC, O_CLOEXEC | O_NONBLOCK}) {
        CAPTURE(go);
        CAPTURE(flags);
        auto const body = [](way w, int f) -> task<> {
          iowq_test::pipe_pair pipe{f};
          iowq::fd counter{::eventfd(0, EFD_CLOEXEC | ((f & O_NONBLOCK) != 0 ? EFD_NONBLOCK : 0))};
          int arrived = 0;
          auto const reader = [](way v, int file, std::size_t size, int& n) -> task<> {
            std::array<char, 8> buffer;
            n += static_cast<int>(co_await as(v, iowq::read(file, std::span(buffer).first(size))));
          };
          iowq::executor::current().spawn(reader(w, pipe.in.get(), 1, arrived));
          iowq::executor::current().spawn(reader(w, counter.get(), 8, arrived));
          co_await iowq_test::until_waiting("read", 2);
          CHECK(arrived == 0);
          co_await as(w, iowq::write(pipe.out, "x"));
          std::uint64_t const one = 1;
          co_await as(w, iowq::write(counter, iowq::const_bytes{&one, sizeof one}));
          co_await iowq_test::until([&] { return arrived == 9; });
        };
        iowq::run(body(go, flags));
      }
  }

  TEST_CASE("hazard-75: read_exactly and write_all go on until it is all there") {
    std::string const sent(1 << 20, 'z');
    auto const body = [](const std::string& text) -> task<> {
      iowq_test::pipe_pair pipe;  // holds 64 KiB
      auto const writer = [](iowq::fd& to, const std::string& all) -> task<> {
        CHECK(co_await iowq::write_all(to, all) == all.size());
        to.reset();
      };
      iowq::executor::current().spawn(writer(pipe.out, text));
      std::string got(text.size() + 10, '\0');
      CHECK(co_await iowq::read_exactly(pipe.in, got) == text.size());  // then the end of file
      got.resize(text.size());
      CHECK(got == text);
    };
    iowq::run(body(sent));
  }

  TEST_CASE("hazard-76: a write_all that is stopped midway says how much was written") {
    auto const body = []() -> task<> {
      iowq_test::pipe_pair pipe;
      std::string const text(1 << 20, 'z');
      iowq::stop_source source;
      std::size_t written = 0;
      auto const writer = [](int to, const std::string& all, iowq::stop_token token,
                             std::size_t& n) -> task<> {
        co_await iowq_test::under{token};
        n = co_await iowq::write_all(to, all);
      };
      iowq::executor::current().spawn(writer(pipe.out.get(), text, source.get_token(), written));
      int const size = ::fcntl(pipe.in.get(), F_GETPIPE_SZ);
      co_await iowq_test::until([&] {
        int full = 0;
        REQUIRE(::ioctl(pipe.in.get(), FIONREAD, &full) == 0);
        return full == size;
      });
      co_await iowq_test::until_waiting("write");
      source.request_stop();
      co_await iowq_test::until([&] { return written != 0; });
      CHECK(written == static_cast<std::size_t>(size));
    };
    iowq::run(body());
  }

  TEST_CASE("hazard-81: writing to a pipe that nobody reads is EPIPE and no signal") {
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      auto const body = [](way w) -> task<> {
        iowq_test::pipe_pair pipe;
        pipe.in.reset();
        auto const broken = co_await iowq::as_result(as(w, iowq::write(pipe.out, "x")));
        CHECK(broken.error() == std::errc::broken_pipe);
      };
      iowq::run(body(go));
      sigset_t pending;
      ::sigpending(&pending);
      CHECK(::sigismember(&pending, SIGPIPE) == 0);
    }
  }

  TEST_CASE("hazard-77: more than 2 GiB at once is cut by the kernel's rule, not to 32 bits") {
    std::size_t const size = std::size_t{5} << 30;
    void* const memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(memory != MAP_FAILED);
    for (way go : iowq_test::all_ways) {
      CAPTURE(go);
      auto const body = [](way w, iowq::const_bytes all) -> task<> {
        iowq::fd null = co_await iowq::open("/dev/null", O_WRONLY);
        CHECK(co_await as(w, iowq::write(null, all)) == 0x7ffff000);
      };
      iowq::run(body(go, {memory, size}));
    }
    ::munmap(memory, size);
  }

  TEST_CASE("punted writes to one file keep their order, whichever descriptor they take") {
    iowq_test::scratch dir;
    auto const body = [](iowq_test::scratch& in) -> task<> {
      iowq::fd one = co_await iowq::open(in / "log", new_file | O_APPEND);
      iowq::fd two = co_await iowq::open(in / "log", O_WRONLY | O_APPEND);
      std::vector<std::uint32_t> numbers(4000);
      std::iota(numbers.begin(), numbers.end(), 0U);
      std::vector<std::uint32_t> awaited;
      auto const append = [&](std::uint32_t& n) -> task<> {
        awaited.push_back(n);
        iowq::const_bytes const bytes{&n, sizeof n};
        co_await iowq::write(n % 2 == 0 ? one.get() : two.get(), bytes);
      };
      co_await iowq::for_each(numbers, 256, append);
      std::vector<std::uint32_t> back(numbers.size());
      iowq::mutable_bytes const all{back.data(), back.size() * sizeof back[0]};
      CHECK(co_await iowq::pread(one, all, 0) == all.size());
      CHECK(back == awaited);
    };
    iowq::run(body(dir));
  }
}
